"""Why a value cannot be pickled: the path to the smallest part that fails, in words."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from ract.core import serialization

DEPTH_MAX = 6
PARTS_MAX = 200
"""Looked at before giving up: a diagnosis must not take longer than the mistake is worth."""

KEY_CHARACTERS_MAX = 60


def explain_unpicklable(value: Any, what: str, error: BaseException) -> str:
    """A message that names the object, the path to the part that fails, and the remedy."""
    path, part = find_unpicklable(value)
    where = f" at {path}" if path else ""
    try:
        why = f"{type(error).__name__}: {error}"
    except Exception:  # raised by user code, as likely as not
        why = type(error).__name__
    return (
        f"Could not serialize {what}: {type(part).__name__} object{where} cannot be pickled "
        f"({why}). Create it inside the task or actor instead, leave it "
        f"out in __getstate__, or see ract.util.inspect_serializability."
    )


def find_unpicklable(value: Any) -> tuple[str, Any]:
    """Return (path, part): the smallest part found that cannot be pickled by itself."""
    path, part = "", value
    budget = PARTS_MAX
    for _ in range(DEPTH_MAX):
        for name, inner in parts(part):
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
        serialization.pack(value)  # which does not take its refs for escaped
    except Exception:  # any __reduce__ may raise anything; the answer is just no
        return False
    return True


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """(how to get there, part) of what is pickled together with ``value``."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"[{_short(key)}]", inner
    elif isinstance(value, (list, tuple, set, frozenset)):
        for i, inner in enumerate(value):
            yield f"[{i}]", inner
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    else:
        for name, inner in _attributes(value):
            is_dunder = name.startswith("__") and name.endswith("__")
            if not is_dunder or isinstance(inner, types.FunctionType):
                yield f".{name}", inner
        if not isinstance(value, type) and type(value).__module__ == "__main__":
            yield ".__class__", type(value)  # it is pickled by value


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".<closure>.{name}", cell.cell_contents
        except ValueError:  # not assigned yet, or deleted
            pass
    for name in code.co_names:
        if name in function.__globals__:
            yield f".<global>.{name}", function.__globals__[name]
    defaults = function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    named = zip(positional[len(positional) - len(defaults) :], defaults, strict=True)
    for name, inner in (*named, *(function.__kwdefaults__ or {}).items()):
        yield f".<default>.{name}", inner


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict) or isinstance(value, type):
        yield from dict(state or {}).items()
    if isinstance(value, type):
        return
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield name, slot.__get__(value)
                except AttributeError:  # never set
                    pass


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:  # a __repr__ of user code may raise anything
        text = f"<{type(key).__name__}>"
    return text if len(text) <= KEY_CHARACTERS_MAX else text[: KEY_CHARACTERS_MAX - 1] + "…"
