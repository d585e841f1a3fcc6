"""Serializers for classes that cannot be pickled, or not well enough.

Theory of operation
-------------------
A serializer is an entry in `copyreg.dispatch_table`, which the C pickler and cloudpickle look up by
the exact class, before any ``__reduce__``. The pickle names the deserializer, or contains it if it
cannot be imported elsewhere; so whoever reads needs no registration.

The table belongs to the process: `pickle` and `copy` use the serializer, too.
"""

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable
from typing import Any

#: What was in the table before, by the classes that have a serializer.
_replaced: dict[type, Any] = {}

#: Classes that the pickler handles before it looks into the table.
_BUILT_INTO_PICKLE = frozenset(
    {
        *(type(None), bool, int, float, str, bytes, bytearray),
        *(tuple, list, dict, set, frozenset, type, types.FunctionType),
    }
)


def register_serializer(
    cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Serialize instances of exactly this class, in this process, with a function of your own.

    Other processes can read what is written; to write, they must register, too. Registering again
    replaces the functions.

    Args:
        cls: Not a subclass: those need serializers of their own.
        serializer: Takes an instance, returns something that can be pickled.
        deserializer: Takes that, in the process that reads, and returns an instance. It is
            pickled with the value.

    Raises:
        TypeError: not a class, or functions that cannot be called.
        ValueError: a builtin class that pickle always handles itself, like `dict`.
    """
    if not isinstance(cls, type):
        raise TypeError(f"a serializer is for a class, not for {cls!r:.200}")
    for name, given in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(given):
            raise TypeError(f"the {name} must be callable; {type(given).__name__} is not")
    if cls in _BUILT_INTO_PICKLE:
        raise ValueError(f"{cls.__name__} cannot have another serializer: pickle never asks for it")

    def reduce(value: Any) -> tuple[Any, ...]:
        return deserializer, (serializer(value),)

    if cls not in _replaced:
        _replaced[cls] = copyreg.dispatch_table.get(cls)
    copyreg.pickle(cls, reduce)


def deregister_serializer(cls: type) -> None:
    """Pickle instances of the class in the usual way again, if it had a serializer."""
    if cls not in _replaced:
        return
    before = _replaced.pop(cls)
    if before is None:
        copyreg.dispatch_table.pop(cls, None)
    else:
        copyreg.dispatch_table[cls] = before
