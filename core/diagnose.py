"""Why a value cannot be pickled: the path to the smallest part that fails, in words."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import cloudpickle

DEPTH_MAX = 6
PARTS_MAX = 200
"""Looked at before giving up: a diagnosis must not take longer than the mistake is worth."""


def explain_unpicklable(value: Any, what: str, error: BaseException) -> str:
    """A message that names the object, the path to the part that fails, and the remedy."""
    path, part = find_unpicklable(value)
    where = f" at {path}" if path else ""
    return (
        f"Could not serialize {what}: {type(part).__name__} object{where} cannot be pickled "
        f"({type(error).__name__}: {error}). Create it inside the task or actor instead, leave it "
        f"out in __getstate__, or see ract.util.inspect_serializability."
    )


def find_unpicklable(value: Any) -> tuple[str, Any]:
    """Return (path, part): the smallest part found that cannot be pickled by itself."""
    path, part = "", value
    budget = PARTS_MAX
    for _ in range(DEPTH_MAX):
        for name, inner in _parts(part):
            budget -= 1
            if budget < 0:
                return path, part
            if not _pickles(inner):
                path, part = path + name, inner
                break
        else:
            return path, part
    return path, part


def _pickles(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # any __reduce__ may raise anything; the answer is just no
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"[{key!r}]", inner
    elif isinstance(value, (list, tuple, set, frozenset)):
        for i, inner in enumerate(value):
            yield f"[{i}]", inner
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            yield f".<closure>.{name}", cell.cell_contents
        for name in value.__code__.co_names:
            if name in value.__globals__:
                yield f".<global>.{name}", value.__globals__[name]
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    else:
        state = getattr(value, "__dict__", None)
        if isinstance(state, dict) or isinstance(value, type):
            for name, inner in dict(state or {}).items():
                if not (name.startswith("__") and name.endswith("__")):
                    yield f".{name}", inner
