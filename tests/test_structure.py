"""The rules of the code base: who imports whom, what is pure, how large a part may be.

`structure.py` says what each rule asks for, `offences.toml` lists what still breaks it.
"""

import ast
import re
import subprocess
import sys
from functools import cache

import pytest
import structure
from structure import ORDER, ROOT, RULES, SIDES, SOURCES, TOOLS, imports, name_of, parse

from ract.client.process import locks


def problems(found):
    assert not (listed := list(found)), "\n".join(listed)


# --------------------------------------------------------------------------- rules with a list


@cache
def offences(rule):
    return set(RULES[rule]())


@pytest.mark.parametrize("rule", RULES)
def test_no_offence_is_new(rule):
    problems(sorted(offences(rule) - set(structure.listed()[rule])))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_mended_is_no_longer_listed(rule):
    """Else it could come back: `python tests/structure.py` shortens the list."""
    problems(sorted(set(structure.listed()[rule]) - offences(rule)))


def test_a_circle_is_found_through_other_files():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert sorted(map(sorted, structure._components(edges))) == [["a", "b", "c"], ["d"]]


def test_an_import_by_string_counts(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        'importlib.import_module("ract.dag")\n'
        'loop.run_in_executor(None, import_module, "ract.util")\n'
        'import_module(f"ract.{name}")\n'
        'import_module("ractor")\n'
    )
    found = [module for _, module in structure.imports_by_string(path)]
    assert found == ["ract.dag", "ract.util", "ract."]


@pytest.mark.parametrize(
    ("code", "is_offence"),
    [
        ("for x in self.ids: pass", True),
        ("for x in list(self.ids): pass", True),
        ("for x in other.ids: pass", True),
        ("[x for x in self.by_node[3]]", True),
        ("for x in self.by_node.pop(3, ()): pass", True),
        ("self.ids.pop()", True),
        ("for x in sorted(self.ids): pass", False),
        ("any(x for x in self.ids)", False),
        ("{x for x in self.ids}", False),
        ("for x in self.names: pass", False),
        ("3 in self.ids", False),
    ],
)
def test_an_order_out_of_a_set_is_found(monkeypatch, tmp_path, code, is_offence):
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(
        "class Machine:\n"
        "    def __init__(self):\n"
        "        self.ids: set[int] = set()\n"
        "        self.by_node: dict[int, set[int]] = {}\n"
        "        self.names: list[str] = []\n"
        "    def handle(self, other):\n"
        f"        {code}\n"
    )
    found = list(structure._SetAttributes([path]).ordered_uses(path))
    assert {name for name, _ in found} == ({"handle"} if is_offence else set())


@pytest.mark.parametrize(
    ("code", "is_offence"),
    [
        ("cluster.actors.kill(id_)", True),
        ("self._source.cluster.kv.put(a, b)", True),
        ("cluster.scaling.requested = []", True),
        ("cluster.nodes.get(id_)", False),
        ("requested = cluster.scaling.requested", False),
    ],
)
def test_telling_a_cluster_something_is_found(monkeypatch, tmp_path, code, is_offence):
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    path = tmp_path / "dashboard" / "view.py"
    path.parent.mkdir()
    path.write_text(code)
    monkeypatch.setattr(structure, "SOURCES", [path])
    assert bool(list(structure.told())) == is_offence


# --------------------------------------------------------------------------- rules without


def test_each_place_of_a_side_is_in_the_order():
    """A name in `ORDER` that is gone would say something about nothing."""
    gone = [
        f"{side}/{word}"
        for side in ORDER
        for word in structure.places(side)
        if not (ROOT / side / word).is_dir() and not (ROOT / side / f"{word}.py").exists()
    ]
    assert gone == []


@pytest.mark.parametrize("side", ORDER)
def test_the_table_of_the_architecture_has_each_folder_in_its_order(side):
    page = (ROOT / "docs" / "architecture.md").read_text()
    told = re.findall(rf"^\| `{side}/(\w+)/` \| (\d+) \|", page, re.MULTILINE)
    ranks = structure.places(side)
    folders = [word for word in ranks if (ROOT / side / word).is_dir()]
    assert sorted(name for name, _ in told) == sorted(folders)
    assert [name for name, _ in told] == sorted(folders, key=lambda word: ranks[word][0])
    numbers = {name: int(number) for name, number in told}
    for one in folders:
        for other in folders:
            assert (numbers[one] < numbers[other]) == (ranks[one][0] < ranks[other][0])


def test_the_locks_of_the_architecture_are_in_their_order():
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("## Lock order")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| (\w+) \| [A-Z]", table, re.MULTILINE)) == locks.ORDER


def test_imports_are_absolute_and_by_the_name_of_the_package():
    def offences():
        for path in SOURCES:
            for line, module, _ in imports(path):
                if module.startswith("."):
                    yield f"{name_of(path)}:{line}: relative import"
                if module.split(".")[0] in {"core", *SIDES, *TOOLS}:
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
