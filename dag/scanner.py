"""Finding and replacing objects wherever they are in a value: in lists, dicts, user's objects.

Theory of operation
-------------------
Pickle knows how to look into every object that can be an argument of a call at all, and asks for
each one it meets whether it is to be kept out (`persistent_id`). What is looked for is kept out and
noted, and so are functions, classes, refs and handles, which are not to be copied. Unpickling puts
back what was noted, or something else in its place. Buffers of arrays are passed by, not copied.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable
from typing import Any

from ract.client.actors.handles import ActorHandle, ActorMethod
from ract.client.api.actor_class import ActorClass
from ract.client.api.remote_function import RemoteFunction
from ract.client.objects.refs import ObjectRef
from ract.core.serialization import is_plain

_WHOLE = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    ActorClass,
    ActorHandle,
    ActorMethod,
    ObjectRef,
    RemoteFunction,
)
"""Objects that are not looked into."""

Test = Callable[[Any], bool]


def find(value: Any, wanted: Test) -> list[Any]:
    """The objects in ``value`` for which ``wanted`` is true, each once, in the order met.

    Raises:
        TypeError, pickle.PicklingError: a part of the value cannot be pickled.
    """
    return _Scan(value, wanted).found


def replaced(value: Any, wanted: Test, instead: Callable[[Any], Any]) -> Any:
    """``value`` with ``instead(x)`` for every ``x`` in it that is wanted.

    What holds such an ``x`` is copied, what does not may be; ``value`` itself does not change.
    """
    scan = _Scan(value, wanted)
    return scan.rebuilt(instead) if scan.found else value


class _Scan(pickle.Pickler):
    """What is in one value."""

    def __init__(self, value: Any, wanted: Test) -> None:
        self._wanted = wanted
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}  # id of a kept object -> where it is in ``_kept``
        self._written = io.BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self.found: list[Any] = []
        super().__init__(self._written, 5, buffer_callback=self._buffers.append)
        if not is_plain(value) or wanted(value):
            self.dump(value)

    def persistent_id(self, obj: Any) -> Any:
        """The number of an object that stays out; None for what pickle is to look into."""
        number = self._numbers.get(id(obj))
        if number is not None:
            return number
        is_wanted = self._wanted(obj)
        if not is_wanted and not isinstance(obj, _WHOLE):
            return None
        if is_wanted:
            self.found.append(obj)
        self._numbers[id(obj)] = len(self._kept)
        self._kept.append(obj)
        return len(self._kept) - 1

    def rebuilt(self, instead: Callable[[Any], Any]) -> Any:
        """The value, with other objects for those that were found."""
        found = set(map(id, self.found))
        put_back = [instead(obj) if id(obj) in found else obj for obj in self._kept]
        return _Rebuild(io.BytesIO(self._written.getvalue()), put_back, self._buffers).load()


class _Rebuild(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, put_back: list[Any], buffers: list[Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._put_back = put_back

    def persistent_load(self, number: Any) -> Any:
        return self._put_back[number]
