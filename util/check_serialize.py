"""`inspect_serializability`: which parts of an object keep it from being pickled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ract.core import serialization
from ract.core.diagnose import parts

PARTS_MAX = 2000
"""Parts that are tried: pickling each of a large object takes as long as that is large."""

UNNAMED = "unknown"


class FailureTuple:
    """A part that cannot be pickled and has no such part itself.

    Attributes:
        obj: The part.
        path: How it is reached from the object that was inspected, as in ``"work -> model -> 0"``.
        name: The last name of the path: a variable, an attribute, an index or a key.
        parent: What it is a part of; None for the inspected object itself.
    """

    def __init__(self, obj: Any, path: str, parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    @property
    def name(self) -> str:
        return self.path.rpartition(" -> ")[2] or UNNAMED

    def __repr__(self) -> str:
        obj, parent = _text(self.obj), _text(self.parent)
        return f"FailTuple({self.name} [path={self.path}, obj={obj}, parent={parent}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: Any = None
) -> tuple[bool, set[FailureTuple]]:
    """Say whether an object can be pickled and, if not, which of its parts are at fault.

    What was looked at is printed as a tree: variables of functions, attributes, items.

    Args:
        base_obj: Any object.
        name: What to call it in paths.
        depth: How many levels of parts to look into.
        print_file: A text file to print into; None for stdout.

    Returns:
        (whether it can be pickled, the smallest parts found that cannot).
    """
    inspection = _Inspection(print_file)
    title = f"Checking Serializability of {_text(base_obj)}"
    line = "=" * min(len(title), 80)
    inspection.print(line, title, line)
    error = _error_of(base_obj)
    if error is None:
        return True, set()
    inspection.print(f"!!! FAIL serialization: {error}")
    inspection.look_into(base_obj, None, [name] if name else [], depth, "")
    inspection.print(line, "Variable:", "")
    for failure in inspection.failures:
        inspection.print(f"\t{failure}")
    inspection.print(
        "",
        "was found to be non-serializable. There may be others that were not found.",
        "Consider creating it within the function or class that uses it.",
        line,
    )
    return False, set(inspection.failures)


class _Inspection:
    """The failures found so far, and where to print."""

    def __init__(self, file: Any) -> None:
        self.failures: list[FailureTuple] = []
        self._file = file
        #: By id; kept, because the id of a part that is gone would be used again.
        self._seen: dict[int, Any] = {}
        self._budget = PARTS_MAX

    def print(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self._file)

    def look_into(self, value: Any, parent: Any, path: list[str], depth: int, indent: str) -> None:
        """Find the failing parts of a value that fails; without any, it is the failure itself."""
        self._seen[id(value)] = value
        is_found = False
        for step, part in self.parts(value) if depth > 0 else ():
            self._budget -= 1
            if self._budget < 0:
                break
            error = _error_of(part)
            if error is None:
                continue
            is_found = True
            if id(part) in self._seen:  # a cycle, or a part that several others share
                continue
            self.print(
                f"{indent}    Serializing {step!r} {_text(part)}...",
                f"{indent}    !!! FAIL serialization: {error}",
            )
            self.look_into(part, value, [*path, step], depth - 1, indent + "    ")
        if not is_found:
            self.failures.append(FailureTuple(value, " -> ".join(path), parent))

    def parts(self, value: Any) -> Iterator[tuple[str, Any]]:
        for step, part in parts(value):
            yield _plain(step), part
        # A class that cannot be imported elsewhere is pickled with its instances.
        if not isinstance(value, type):
            yield "__class__", type(value)


def _plain(step: str) -> str:
    """The name in a step like ``.<closure>.lock``, ``.lock`` or ``['lock']``."""
    if step.startswith("["):
        return step[1:-1].strip("'")
    return step.rpartition(".")[2]


def _error_of(value: Any) -> str | None:
    try:
        serialization.pack(value)  # as for ract.put: a ref within is not pinned
    except Exception as error:  # any __reduce__ may raise anything
        return _text(error, str)
    return None


def _text(value: Any, how: Any = repr) -> str:
    try:
        return how(value)
    except Exception:  # raised by user code
        return f"<{type(value).__name__}>"
