"""What is packaged, and what a wheel of it is worth elsewhere."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from structure import PACKAGES, PYPROJECT, ROOT, SOURCES, name_of, parse

#: What browsers get, as it is.
ASSETS = sorted((ROOT / "dashboard" / "static").iterdir())


def problems(found):
    assert not (listed := list(found)), "\n".join(listed)


NOT_PACKAGES = {"tests", "docs", "notebooks", "build", "dist"}


def test_every_folder_with_python_files_is_a_listed_package():
    folders = {
        "ract." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in ROOT.glob("*/**/*.py")
        if not any(
            word.startswith(".") or word in NOT_PACKAGES or word == "__pycache__"
            for word in path.relative_to(ROOT).parts
        )
    }
    assert folders | {"ract"} == PACKAGES
    missing = [p for p in PACKAGES if not (ROOT / p[4:].strip(".").replace(".", "/")).is_dir()]
    assert not missing


def test_version_is_the_same_in_the_package_and_its_metadata():
    tree = parse(ROOT / "core" / "version.py")
    [version] = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    ]
    assert version == PYPROJECT["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_tests_have_no_packages():
    """With one, pytest would import test modules under a second name."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_file_names_a_place_on_a_machine():
    """What is written here must hold wherever it is cloned."""
    suspicious = re.compile(r"/(?:home|root|Users)/\w")

    def offences():
        others = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile"]
        for path in [*SOURCES, *others, ROOT / "pyproject.toml", ROOT / "constraints.txt"]:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if suspicious.search(line):
                    yield f"{name_of(path)}:{number}: {line.strip()}"

    problems(offences())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline from a copy of what git would ship."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for path in [
        *SOURCES,
        *ASSETS,
        *(ROOT / n for n in ("pyproject.toml", "README.md", "LICENSE", "py.typed")),
    ]:
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    # What must not get in is there to be left out.
    (source / "tests").mkdir()
    (source / "tests" / "test_nothing.py").write_text("")
    (source / "core" / "__pycache__").mkdir()
    (source / "core" / "__pycache__" / "stale.py").write_text("")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", str(source), "--wheel-dir", str(folder)),
            *("--no-deps", "--no-build-isolation", "--no-index"),
            *("--disable-pip-version-check", "--quiet"),
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


def test_wheel_is_pure_and_holds_the_packages_and_nothing_else(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    code = {name for name in names if ".dist-info/" not in name}
    ours = {f"ract/{name_of(path)}" for path in (*SOURCES, *ASSETS)}
    assert code == ours | {"ract/py.typed"}
    metadata = [name for name in names if name.endswith("/entry_points.txt")]
    scripts = zipfile.ZipFile(wheel).read(metadata[0]).decode()
    assert all(f"{name} = " in scripts for name in ("ract", "rscheduler", "rworker"))


def test_wheel_imports_in_a_fresh_environment_elsewhere(wheel, tmp_path):
    environment = tmp_path / "env"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60
    )
    python = environment / "bin" / "python"
    packages = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.strip()
    )
    # What pip does with a pure wheel; the dependencies come from this environment, by path only,
    # so that the .pth file of an editable install does not count.
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    script = (
        "import importlib, ract\n"
        f"for name in {sorted(PACKAGES)!r}: importlib.import_module(name)\n"
        "print(ract.__file__)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", script], capture_output=True, text=True, cwd="/", timeout=60, env=clean
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(packages / "ract" / "__init__.py")
