"""The codec of control messages: frozen dataclasses to msgpack arrays and back, by schema.

A class decorated with `message` is encoded as ``[class name, field, field, ...]``. `decode` accepts
only known classes, the right number of fields and the annotated types, so bytes from a peer never
reach pickle. Annotations may be plain types, ``X | None``, ``list[X]``, ``dict[...]``, ``Any`` and
other messages.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import msgpack

FRAME_BYTES_MAX = 256 * 2**20
"""A control frame larger than this is refused before it is decoded."""

T = TypeVar("T")

_BY_TAG: dict[str, type] = {}


class ProtocolError(ValueError):
    """A peer sent bytes that are not a well-formed control message."""


@dataclass_transform(frozen_default=True)
def message(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that `encode` and `decode` know by its name.

    No two classes may have one name, in whichever modules they are.
    """
    assert cls.__name__ not in _BY_TAG, f"two messages are called {cls.__name__}"
    for name, method in _SHARED.items():
        setattr(cls, name, method)
    made = dataclass(init=False, slots=True, eq=False, repr=False)(cls)
    _BY_TAG[made.__name__] = made
    return made


# Methods of all messages. `dataclass` would generate them for each of the 70 classes: of what it
# costs a process to import ract that was the largest part, 20 of 65 ms.


def _first_init(self: Any, *args: Any, **kwargs: Any) -> None:
    """Generate ``__init__`` when a process makes its first message of a class, if it ever does."""
    cls: Any = type(self)
    fields = [(field.name, field.type, field) for field in dataclasses.fields(cls)]
    twin: Any = dataclasses.make_dataclass(cls.__name__, fields, frozen=True)
    cls.__init__ = twin.__init__
    cls.__init__(self, *args, **kwargs)


def _frozen(self: Any, name: str, *value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"a message cannot change: {name!r}")


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), _values(self)


def _values(msg: Any) -> tuple[Any, ...]:
    return tuple(getattr(msg, name) for name in msg.__slots__)


def _equals(self: Any, other: object) -> bool:
    return self.__class__ is other.__class__ and _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash(_values(self))


def _text(self: Any) -> str:
    values = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({', '.join(values)})"


_SHARED: dict[str, Callable[..., Any]] = {
    "__init__": _first_init,
    "__setattr__": _frozen,
    "__delattr__": _frozen,
    "__reduce__": _reduce,
    "__eq__": _equals,
    "__hash__": _hash,
    "__repr__": _text,
}


def encode(msg: Any) -> bytes:
    """Return the msgpack bytes of a message.

    Raises:
        ProtocolError: ``msg`` is not a message, or holds values that are not plain.
    """
    try:
        return msgpack.packb(_to_plain(msg), use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"cannot encode {type(msg).__name__}: {error}") from error


def decode(data: bytes | memoryview) -> Any:
    """Return the message in ``data``, checked against the annotations of its class.

    Raises:
        ProtocolError: not msgpack, an unknown message, or a field of a wrong type.
    """
    try:
        plain = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=False)
    except Exception as error:  # msgpack raises half a dozen unrelated types on bad bytes
        raise ProtocolError(f"not a control message: {error}") from error
    if not (isinstance(plain, list) and plain and isinstance(plain[0], str)):
        raise ProtocolError("not a control message: expected [tag, ...]")
    cls = _BY_TAG.get(plain[0])
    if cls is None:
        raise ProtocolError(f"unknown message {plain[0][:80]!r}")
    return _from_plain(plain, cls)


def _to_plain(msg: Any) -> list[Any]:
    fields = _fields(type(msg))
    return [
        type(msg).__name__,
        *(
            _nested(getattr(msg, f.name)) if f.holds_messages else getattr(msg, f.name)
            for f in fields
        ),
    ]


def _nested(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_to_plain(v) for v in value]
    return _to_plain(value)


def _from_plain(plain: list[Any], cls: type) -> Any:
    fields = _fields(cls)
    if len(plain) != len(fields) + 1:
        raise ProtocolError(f"{cls.__name__}: {len(plain) - 1} fields instead of {len(fields)}")
    values = []
    for value, field in zip(plain[1:], fields, strict=True):
        if field.allowed and type(value) not in field.allowed:
            raise ProtocolError(f"{cls.__name__}.{field.name}: unexpected {type(value).__name__}")
        if field.open is not None and value is not None:
            value = field.open(value)
        values.append(value)
    return cls(*values)


# --------------------------------------------------------------------------- annotations, compiled


class _Field(NamedTuple):
    """How one field, or one item of a list or dict, looks on the wire."""

    name: str
    holds_messages: bool
    allowed: tuple[type, ...]  #: types on the wire; () for any
    open: Callable[[Any], Any] | None  #: checks and decodes what is inside; None: nothing to do


_FIELDS: dict[type, list[_Field]] = {}


def _fields(cls: type) -> list[_Field]:
    known = _FIELDS.get(cls)
    if known is None:
        if cls not in _BY_TAG.values():
            raise ProtocolError(f"{cls.__name__} is not a message")
        hints = typing.get_type_hints(cls)
        known = [
            _field(f.name, hints[f.name], f"{cls.__name__}.{f.name}")
            for f in dataclasses.fields(cls)
        ]
        _FIELDS[cls] = known
    return known


def _field(name: str, hint: Any, where: str) -> _Field:
    origin = typing.get_origin(hint)
    if hint is Any:
        return _Field(name, False, (), None)
    if isinstance(hint, types.UnionType):
        parts = [_field(name, a, where) for a in typing.get_args(hint)]
        opens = [p.open for p in parts if p.open is not None]
        assert len(opens) <= 1, f"{where}: which part of the union is it?"
        allowed = tuple(t for p in parts for t in p.allowed)
        return _Field(name, any(p.holds_messages for p in parts), allowed, next(iter(opens), None))
    if origin is list:
        item = _field(name, typing.get_args(hint)[0], where)
        return _Field(name, item.holds_messages, (list,), _list_opener(item, where))
    if origin is dict:
        key, item = (_field(name, a, where) for a in typing.get_args(hint))
        assert not item.holds_messages, f"{where}: messages in dicts are not supported"
        return _Field(name, False, (dict,), _dict_opener(key, item, where))
    if hint in _BY_TAG.values():
        return _Field(name, True, (list,), _message_opener(hint, where))
    return _Field(name, False, (float, int) if hint is float else (hint,), None)


def _list_opener(item: _Field, where: str) -> Callable[[Any], Any] | None:
    if not item.allowed:
        return None

    def open_list(value: list[Any]) -> list[Any]:
        _check_items(value, item.allowed, where)
        return value if item.open is None else [item.open(v) for v in value]

    return open_list


def _dict_opener(key: _Field, item: _Field, where: str) -> Callable[[Any], Any]:
    def open_dict(value: dict[Any, Any]) -> dict[Any, Any]:
        _check_items(value, key.allowed, where)
        if item.allowed:
            _check_items(value.values(), item.allowed, where)
        return value

    return open_dict


def _message_opener(cls: type, where: str) -> Callable[[Any], Any]:
    # The tag is compared before anything is opened: a peer cannot nest deeper than the schema.
    def open_message(value: list[Any]) -> Any:
        if value[:1] != [cls.__name__]:
            raise ProtocolError(f"{where}: expected a {cls.__name__}")
        return _from_plain(value, cls)

    return open_message


def _check_items(items: Iterable[Any], allowed: tuple[type, ...], where: str) -> None:
    for item in items:
        if type(item) not in allowed:
            raise ProtocolError(f"{where}: unexpected {type(item).__name__} inside")
