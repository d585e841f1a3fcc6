"""The rules of the code base: who imports whom, what is packaged, what touches private names."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = set(PYPROJECT["tool"]["setuptools"]["packages"])
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package.removeprefix("ract").replace(".", "/").lstrip("/")).glob("*.py")
)
#: What browsers get, as it is.
ASSETS = sorted((ROOT / "dashboard" / "static").iterdir())

CORE = {"core"}
SIDES = {"scheduler", "worker", "client"}
TOOLS = {
    "autoscaler",
    "commands",
    "util",
    "dag",
    "dashboard",
    "benchmarks",
    "compat",
    "experimental",
}

#: What each package may import; a module's own package is always allowed.
ALLOWED = {
    "core": set(),
    **dict.fromkeys(SIDES, CORE),
    **dict.fromkeys(TOOLS, CORE | SIDES | TOOLS),
}
#: Modules, or packages within a part, that may import more, and why.
EXCEPTIONS = {
    "client/start/": SIDES | TOOLS,  # makes, joins and leaves a cluster: wires all sides
    "worker/executor/": {"client"},  # installs the client runtime, so that tasks submit tasks
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def parse(path):
    return ast.parse(path.read_text(), filename=str(path))


def imports(path):
    """(line, imported module, imported name or "") of every import, wherever it stands."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name


def parts_imported(path):
    """(line, top-level part of ract) for every import of a part of ract."""
    folders = CORE | SIDES | TOOLS
    for line, module, name in imports(path):
        words = module.split(".")
        if words[0] != "ract":
            continue
        part = words[1] if len(words) > 1 else name
        yield line, part if part in folders else f"ract.{part}".rstrip(".")


def problems(found):
    assert not (listed := list(found)), "\n".join(listed)


# --------------------------------------------------------------------------- imports


def test_parts_import_only_what_lies_below_them():
    def offences():
        for path in SOURCES:
            if path.parent == ROOT:
                continue  # the top level offers everything
            part = path.relative_to(ROOT).parts[0]
            allowed = ALLOWED[part] | {part}
            for place, more in EXCEPTIONS.items():
                allowed |= more if name_of(path).startswith(place) else set()
            for line, imported in parts_imported(path):
                # Tools are written against the public API.
                if imported not in allowed and not (part in TOOLS and imported.startswith("ract")):
                    yield f"{name_of(path)}:{line}: {part} may not import {imported}"

    problems(offences())


def test_imports_are_absolute_and_by_the_name_of_the_package():
    def offences():
        for path in SOURCES:
            for line, module, _ in imports(path):
                if module.startswith("."):
                    yield f"{name_of(path)}:{line}: relative import"
                if module.split(".")[0] in CORE | SIDES | TOOLS:
                    yield f"{name_of(path)}:{line}: import ract.{module}: this is a second copy"

    problems(offences())


def test_nothing_from_tests_or_benchmarks_is_imported():
    def offences():
        for path in SOURCES:
            for line, module, _ in imports(path):
                if module.split(".")[0] in {"tests", "benchmarks", "conftest", "pytest"}:
                    yield f"{name_of(path)}:{line}: {module}"

    problems(offences())


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def engine_names(tree):
    """Names bound by imports from distributed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "distributed":
                    yield alias.asname or alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distributed"):
            for alias in node.names:
                yield alias.asname or alias.name


#: What holds an object of distributed in the adapters, by convention.
ENGINE_OBJECTS = {"dask_scheduler", "dask_worker", "worker_state", "batched_send"}


def test_only_compatibility_files_touch_private_names_of_distributed():
    def offences():
        for path in SOURCES:
            if path.name.endswith("compat.py"):
                continue
            tree = parse(path)
            names = set(engine_names(tree)) | ENGINE_OBJECTS
            for line, module, name in imports(path):
                words = [*module.split("."), name]
                if words[0] == "distributed" and any(map(is_private, words)):
                    yield f"{name_of(path)}:{line}: imports {module}.{name}"
            for node in ast.walk(tree):
                if not isinstance(node, ast.Attribute) or not is_private(node.attr):
                    continue
                holder = node.value
                word = getattr(holder, "id", None) or getattr(holder, "attr", None)
                if word in names:
                    yield f"{name_of(path)}:{node.lineno}: {word}.{node.attr}"

    problems(offences())


HEAVY = {
    *("distributed", "dask", "tornado", "bokeh", "cryptography", "pynvml"),
    *("prometheus_client", "opentelemetry"),
}


def test_importing_the_api_does_not_import_the_engine():
    """`import ract` is on the path of every script and executor: distributed costs 0.36 s."""
    script = (
        "import sys, ract, ract.core.messages, ract.core.security\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# --------------------------------------------------------------------------- packaging

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
