"""Measures the structure of the code for `test_structure.py`.

Each rule is a function that returns its offences as short texts without line numbers, so that an
offence keeps its text while the file around it changes. `offences.toml` lists the offences that
were there when a rule was written. The list may only shrink::

    python tests/structure.py           # drop from the list what is gone, say what is new
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = set(PYPROJECT["tool"]["setuptools"]["packages"])
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package.removeprefix("ract").replace(".", "/").lstrip("/")).glob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))

#: Within each side: what stands first knows nothing of what stands later. A file imports its own
#: place and the places before it. Places in one tuple do not know each other; places joined by "+"
#: are one place.
ORDER: dict[str, list[str | tuple[str, ...]]] = {
    "client": [
        "process",
        "objects",
        "calls",
        ("tasks", "actors"),
        "people",
        "debts+inbox+runtime",
        "local",
        "start",
        "api",
    ],
    "scheduler": [
        ("books", "compat"),
        ("objects", "placement", "people"),
        "leases",
        "actors",
        "capacity",
        "cluster",
        "queries",
        "requests",
        "machine",
        "durable",
        "host",
        "preload",
        "cli",
    ],
    "worker": [
        ("node", "files", "compat"),
        ("hardware", "links"),
        "executor",
        "host",
        "preload",
        "cli",
    ],
}
SIDES = set(ORDER)
#: Written against the public API, beside each other.
TOOLS = {
    *("autoscaler", "benchmarks", "commands", "compat"),
    *("dag", "dashboard", "experimental", "util"),
}

#: Machines: events and the time go in, commands come out, and nothing else happens.
PURE = (
    "worker/node/",
    *(f"scheduler/{part}/" for part in ("books", "objects", "placement", "people", "leases")),
    *(f"scheduler/{part}/" for part in ("actors", "capacity", "queries")),
    *("scheduler/cluster.py", "scheduler/requests.py", "scheduler/machine.py"),
    *("client/tasks/leases.py", "client/tasks/work.py", "client/actors/line.py"),
    "client/objects/holds.py",
)

FILE_LINES_MAX, CLASS_LINES_MAX, FUNCTION_LINES_MAX = 600, 400, 60

#: Files that may import modules of ract by a string, and why.
BY_STRING = {
    "core/seams.py": "the table of what lower parts may ask of higher ones",
    "compat/ray.py": "the finder: it is asked for modules by their names",
    "compat/lazy.py": "the __getattr__ of the packages in compat/ported/",
    "compat/shim/ray/__init__.py": "installs the finder in a new process",
}


# --------------------------------------------------------------------------- reading


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@cache
def module_files() -> dict[str, str]:
    """Each module of ract, and the file that it is in."""
    files = {}
    for path in SOURCES:
        words = ["ract", *path.relative_to(ROOT).with_suffix("").parts]
        if words[-1] == "__init__":
            words.pop()
        files[".".join(words)] = name_of(path)
    return files


def imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, imported module, imported name or "") of every import, wherever it stands."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name


def imports_by_string(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of each ``import_module`` of ract; of a computed name what is known of it."""
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        # Others call it for us, as ``loop.run_in_executor(None, import_module, "ract.x")``.
        callees = [_last_name(node.func), *(_last_name(arg) for arg in node.args)]
        if not {"import_module", "__import__"} & set(callees):
            continue
        for arg in node.args:
            text = _start_of_text(arg)
            if text == "ract" or text.startswith("ract."):
                yield node.lineno, text


def _last_name(node: ast.AST) -> str:
    return getattr(node, "id", None) or getattr(node, "attr", None) or ""


def _start_of_text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr) and node.values:
        return _start_of_text(node.values[0])
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""


def files_imported(path: Path) -> set[str]:
    """The files of ract that a file imports, in whatever way."""
    files = module_files()
    found = set()
    for _, module, name in imports(path):
        if module.split(".")[0] == "ract":
            found.add(files.get(f"{module}.{name}") or files.get(module))
    for _, module in imports_by_string(path):
        found.add(files.get(module))
    return {file for file in found if file is not None} - {name_of(path)}


@cache
def graph() -> dict[str, set[str]]:
    return {name_of(path): files_imported(path) for path in SOURCES}


# --------------------------------------------------------------------------- the rules


def circles() -> Iterator[str]:
    """Files that import each other, directly or through others: imports within functions, for
    annotations and by string count."""
    for circle in _components(graph()):
        if len(circle) > 1:
            yield from circle


def _components(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components (Tarjan's algorithm, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    components = []
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(sorted(edges[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for target in following:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(sorted(edges[target]))))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    components.append(stack[at:])
                    on_stack -= set(stack[at:])
                    del stack[at:]
    return components


def places(side: str) -> dict[str, tuple[int, str]]:
    """Of each folder or file of a side its rank and the name of its place."""
    found = {}
    for rank, entry in enumerate(ORDER[side]):
        for place in (entry,) if isinstance(entry, str) else entry:
            for word in place.split("+"):
                found[word] = rank, place
    return found


def _part(file: str) -> tuple[str, str]:
    """The side or tool of a file, and its place in it."""
    words = file.removesuffix(".py").split("/")
    return words[0], words[1] if len(words) > 1 else ""


def upward() -> Iterator[str]:
    """Imports within a side of what stands later in `ORDER`, and files without a place there."""
    for file, targets in graph().items():
        side, part = _part(file)
        if side not in ORDER or part == "__init__":
            continue
        ranks = places(side)
        if part not in ranks:
            yield f"{file} has no place in ORDER"
            continue
        rank, place = ranks[part]
        for target in targets:
            other_side, other = _part(target)
            if other_side != side or other not in ranks:
                continue
            other_rank, other_place = ranks[other]
            if other_rank > rank or (other_rank == rank and other_place != place):
                yield f"{file} -> {target}"


def across() -> Iterator[str]:
    """Imports from one part of another that is not below it.

    ``core`` lies below all sides, the sides below the tools. Two folders may more: ``client/start``
    imports all sides and tools, because it makes, joins and leaves clusters; ``worker/executor``
    imports the client up to ``runtime.py``, because tasks submit tasks.
    """
    runtime_rank = places("client")["runtime"][0]
    for file, targets in graph().items():
        part, place = _part(file)
        if not place or part == "testing":
            continue  # the top level offers everything
        for target in targets:
            other, other_place = _part(target)
            if other == part or (part in TOOLS and other in {*SIDES, *TOOLS, "core"}):
                continue
            if part in TOOLS and not other_place:
                continue  # the public API
            if part in SIDES and other == "core":
                continue
            if file.startswith("client/start/") and other in {*SIDES, *TOOLS}:
                continue
            if file.startswith("worker/executor/") and other == "client":
                ranks = places("client")
                if ranks.get(other_place, (99, ""))[0] <= runtime_rank:
                    continue
            yield f"{file} -> {target}"


def by_string() -> Iterator[str]:
    """``import_module`` of ract elsewhere than in `BY_STRING` and in packages' own tables."""
    for path in SOURCES:
        if path.name != "__init__.py" and name_of(path) not in BY_STRING:
            for _, module in imports_by_string(path):
                yield f"{name_of(path)}: {module}"


def impure() -> Iterator[str]:
    """What a machine takes from elsewhere: clocks, threads, sockets, the environment, chance, and
    the order of sets, which differs between two runs of one log."""
    paths = [path for path in SOURCES if name_of(path).startswith(PURE)]
    sets = _SetAttributes(paths)
    for path in paths:
        for _, module, name in imports(path):
            if module.split(".")[0] in {"time", "threading", "socket"}:
                yield f"{name_of(path)} imports {module}"
            if (module, name) in {
                ("os", "environ"),
                ("os", "getenv"),
                ("ract.core.session", "setting"),
            }:
                yield f"{name_of(path)} imports {module}.{name}"
            if module == "random" and name not in {"", "Random"}:
                yield f"{name_of(path)} imports random.{name}"
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                word = f"{node.value.id}.{node.attr}"
                if node.value.id == "random" and node.attr != "Random":
                    yield f"{name_of(path)} uses {word}"
                if word in {"os.environ", "os.getenv", "session.setting"}:
                    yield f"{name_of(path)} uses {word}"
            if isinstance(node, ast.Call) and _last_name(node.func) == "Random" and not node.args:
                yield f"{name_of(path)} makes a Random without a seed"
        for function, attribute in sets.ordered_uses(path):
            yield f"{name_of(path)}: {function} takes an order from the set {attribute}"


#: What comes out the same in whatever order its argument comes.
ORDERLESS = {"sorted", "set", "frozenset", "any", "all", "sum", "len", "min", "max"}


class _SetAttributes:
    """Finds places that take an order from an attribute that is annotated as a set.

    Also from an element of one that is annotated as a dict of sets. What ``self.x`` is, its class
    says; what ``other.x`` is, is taken from all classes of the same side.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.of_class: dict[tuple[str, str], str] = {}
        """By class and attribute: "set", "sets" (a dict of sets), or "" for anything else."""
        self.of_side: dict[tuple[str, str], set[str]] = {}
        for path in paths:
            side = name_of(path).split("/")[0]
            for class_ in ast.walk(parse(path)):
                if not isinstance(class_, ast.ClassDef):
                    continue
                for node in ast.walk(class_):
                    if isinstance(node, ast.AnnAssign):
                        name, kind = _last_name(node.target), self._kind(node.annotation)
                        self.of_class[class_.name, name] = kind
                        self.of_side.setdefault((side, name), set()).add(kind)

    @staticmethod
    def _kind(annotation: ast.AST) -> str:
        text = ast.unparse(annotation)
        if text.split("[")[0] in {"set", "frozenset", "Set"}:
            return "set"
        if text.split("[")[0] in {"dict", "defaultdict", "OrderedDict", "Mapping"} and (
            text.endswith("]]") and ", set[" in text
        ):
            return "sets"
        return ""

    def is_set(self, node: ast.AST, side: str, class_: str) -> str:
        """The attribute that a node reads a set from, or ""."""
        wanted = "set"
        if isinstance(node, ast.Subscript):
            node, wanted = node.value, "sets"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in {"get", "pop", "setdefault"}:
                node, wanted = node.func.value, "sets"
        if not isinstance(node, ast.Attribute):
            return ""
        if _last_name(node.value) == "self":
            return node.attr if self.of_class.get((class_, node.attr)) == wanted else ""
        return node.attr if wanted in self.of_side.get((side, node.attr), ()) else ""

    def ordered_uses(self, path: Path) -> Iterator[tuple[str, str]]:
        """(function, attribute) of each such place in a file."""
        side = name_of(path).split("/")[0]
        for class_ in parse(path).body:
            for function in ast.walk(class_):
                if isinstance(function, ast.FunctionDef):
                    for place in self._ordered(function):
                        if isinstance(place, ast.Call) and place.args:
                            if _last_name(place.func) in {"list", "tuple"}:
                                place = place.args[0]
                        if name := self.is_set(place, side, getattr(class_, "name", "")):
                            yield function.name, name

    def _ordered(self, function: ast.FunctionDef) -> Iterator[ast.AST]:
        """What a function takes elements of in an order that may matter."""
        harmless = {
            id(arg)
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and _last_name(node.func) in ORDERLESS
            for arg in node.args
        }
        for node in ast.walk(function):
            if isinstance(node, ast.For):
                yield node.iter
            elif id(node) in harmless:
                continue
            elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
                yield from (generator.iter for generator in node.generators)
            elif isinstance(node, ast.Starred):
                yield node.value
            elif isinstance(node, ast.Call):
                name = _last_name(node.func)
                if name in {"list", "tuple", "iter", "enumerate", "deque"}:
                    yield from node.args
                elif name == "pop" and not node.args and isinstance(node.func, ast.Attribute):
                    yield node.func.value


#: Who is handed a `ract.scheduler.cluster.Cluster` to look at it.
LOOKERS = ("scheduler/queries/", "scheduler/durable/", "scheduler/host/asking.py", "dashboard/")
#: What may be called on a part of it; and on the dicts that a part is made of.
LOOKING = {
    *("all", "blocks", "bytes_on", "named", "namespace_of", "newest", "of", "of_actor", "summary"),
    *("on_node", "verdict", "view", "wanted", "what_is_left"),
    *("get", "items", "keys", "values", "hex", "rpartition"),
}


def told() -> Iterator[str]:
    """Calls and assignments by which somebody who is to look at a cluster changes it."""
    for path in SOURCES:
        if not name_of(path).startswith(LOOKERS):
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words = ast.unparse(node.func).split(".")
                if "cluster" in words[:-2] and words[-1] not in LOOKING:
                    if words.index("cluster") == len(words) - 3:
                        yield f"{name_of(path)} calls {'.'.join(words[-3:])}"
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if "cluster" in ast.unparse(node.value).split("."):
                    yield f"{name_of(path)} sets {ast.unparse(node)}"


def long_files() -> Iterator[str]:
    for path in [*SOURCES, *TESTS]:
        if len(path.read_text().splitlines()) > FILE_LINES_MAX:
            yield name_of(path)


def long_classes() -> Iterator[str]:
    yield from _long(ast.ClassDef, CLASS_LINES_MAX)


def long_functions() -> Iterator[str]:
    yield from _long((ast.FunctionDef, ast.AsyncFunctionDef), FUNCTION_LINES_MAX)


def _long(kind: type | tuple[type, ...], lines_max: int) -> Iterator[str]:
    def walk(node: ast.AST, where: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            name = f"{where}.{child.name}" if hasattr(child, "name") else where
            if isinstance(child, kind) and child.end_lineno - child.lineno >= lines_max:
                yield f"{name_of(path)}: {name[1:]}"
            yield from walk(child, name)

    for path in SOURCES:
        yield from walk(parse(path), "")


def unused_limits() -> Iterator[str]:
    """Numbers called ``*_MAX`` that nothing reads: a limit that does not limit."""
    made: set[tuple[str, str]] = set()
    read: set[tuple[str, str]] = set()
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
                for target in targets:
                    name = _last_name(target)
                    if name.isupper() and name.endswith("_MAX") and not is_text:
                        made.add((name_of(path), name))
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                read.add((name_of(path), node.id))
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(("", node.attr))
        for _, module, name in imports(path):
            read.add((module_files().get(module, ""), name))
    for file, name in made:
        if (file, name) not in read and ("", name) not in read:
            yield f"{file}: {name}"


RULES: dict[str, Callable[[], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        circles,
        upward,
        across,
        by_string,
        impure,
        told,
        long_files,
        long_classes,
        long_functions,
        unused_limits,
    )
}

# --------------------------------------------------------------------------- the list

LIST = ROOT / "tests" / "offences.toml"
HEADER = """\
# What breaks a rule of tests/structure.py since before the rule was written. The lists may only
# shrink: `python tests/structure.py` drops what is gone. After a conflict take either side, and
# run it.
"""


def listed() -> dict[str, list[str]]:
    return tomllib.loads(LIST.read_text()) if LIST.exists() else {}


def write(offences: dict[str, Iterable[str]]) -> None:
    blocks = [HEADER]
    for rule in RULES:
        lines = "".join(f'    "{text}",\n' for text in sorted(offences.get(rule, ())))
        blocks.append(f"{rule} = [\n{lines}]\n" if lines else f"{rule} = []\n")
    LIST.write_text("\n".join(blocks))


def main() -> int:
    """Shrink the list. Returns 1 if there are offences that are not listed."""
    before, after, new = listed(), {}, []
    for name, rule in RULES.items():
        now = set(rule())
        after[name] = now & set(before.get(name, ()))
        new += [f"{name}: {text}" for text in sorted(now - after[name])]
    write(after)
    print(*new, sep="\n")
    return bool(new)


if __name__ == "__main__":
    sys.exit(main())
