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
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

import msgpack

FRAME_BYTES_MAX = 256 * 2**20
"""A control frame larger than this is refused before it is decoded."""

T = TypeVar("T")

_BY_TAG: dict[str, type] = {}


class ProtocolError(ValueError):
    """A peer sent bytes that are not a well-formed control message."""


@dataclass_transform(frozen_default=True)
def message(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that `encode` and `decode` know by its name."""
    made = dataclass(frozen=True, slots=True)(cls)
    _BY_TAG[made.__name__] = made
    return made




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
        plain = msgpack.unpackb(
            data, raw=False, use_list=True, strict_map_key=False
        )
    except Exception as error:  # msgpack raises half a dozen unrelated types on bad bytes
        raise ProtocolError(f"not a control message: {error}") from error
    return _from_plain(plain)


def _to_plain(msg: Any) -> list[Any]:
    fields = _fields(type(msg))
    return [
        type(msg).__name__,
        *(
            _nested(getattr(msg, name)) if is_nested else getattr(msg, name)
            for name, is_nested, _ in fields
        ),
    ]


def _nested(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_to_plain(v) for v in value]
    return _to_plain(value)


def _from_plain(plain: Any) -> Any:
    if not (isinstance(plain, list) and plain and isinstance(plain[0], str)):
        raise ProtocolError("not a control message: expected [tag, ...]")
    cls = _BY_TAG.get(plain[0])
    if cls is None:
        raise ProtocolError(f"unknown message {plain[0]!r:.80}")
    fields = _fields(cls)
    if len(plain) != len(fields) + 1:
        raise ProtocolError(f"{cls.__name__}: {len(plain) - 1} fields instead of {len(fields)}")
    values = []
    for value, (name, is_nested, allowed) in zip(plain[1:], fields, strict=False):
        if is_nested and value is not None:
            value = [_from_plain(v) for v in value] if list in allowed else _from_plain(value)
        if allowed and type(value) not in allowed:
            raise ProtocolError(f"{cls.__name__}.{name}: unexpected {type(value).__name__}")
        values.append(value)
    return cls(*values)


_FIELDS: dict[type, list[tuple[str, bool, tuple[type, ...]]]] = {}


def _fields(cls: type) -> list[tuple[str, bool, tuple[type, ...]]]:
    """Return (name, holds messages, types allowed; () for any) per field of a message class."""
    known = _FIELDS.get(cls)
    if known is None:
        if cls not in _BY_TAG.values():
            raise ProtocolError(f"{cls.__name__} is not a message")
        hints = typing.get_type_hints(cls)
        known = [(f.name, *_allowed(hints[f.name])) for f in dataclasses.fields(cls)]
        _FIELDS[cls] = known
    return known


def _allowed(hint: Any) -> tuple[bool, tuple[type, ...]]:
    if hint is Any:
        return False, ()
    if isinstance(hint, types.UnionType):
        parts = [_allowed(a) for a in typing.get_args(hint)]
        return any(n for n, _ in parts), tuple(t for _, ts in parts for t in ts)
    origin = typing.get_origin(hint)
    if origin is list:
        (item,) = typing.get_args(hint)
        return item in _BY_TAG.values(), (list,)
    if origin is dict:
        return False, (dict,)
    if hint is float:
        return False, (float, int)
    return hint in _BY_TAG.values(), (hint,)
