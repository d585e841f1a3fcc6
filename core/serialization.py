"""User values to bytes and back: one pickle, out-of-band buffers, and the refs met on the way.

Theory of operation
-------------------
`pack` runs the C pickler with protocol 5; contiguous buffers (numpy arrays, ...) are handed over
without a copy. cloudpickle is five times slower, so it runs only when the C pickler fails (lambdas,
local classes) or when its small frame names a module that other processes cannot import
(``__main__`` and modules registered with `cloudpickle.register_pickle_by_value`).

Object refs and actor handles announce themselves while they are pickled (`note_ref`), so that the
caller of `pack` knows what a value contains. A ref pickled outside `pack` finds no collector: it
went out of band, and whoever pickles it pins it (see `ract.client.objects.refs`).

In shared memory a value is one block: ``<u32 head bytes> <u32 n> <u64 size> * n``, the head, then
each buffer at a multiple of 64 bytes.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle

from ract.core import pickle_trace, tensors
from ract.core.errors import RactSystemError
from ract.core.root_error import RactError

ALIGNMENT = 64
"""Buffers start at multiples of this, in bytes (a cache line; what SIMD loads and Arrow want)."""

_HEADER = struct.Struct("<II")
_local = threading.local()


class Packed:
    """A serialized value.

    Attributes:
        head: The pickle, without its out-of-band buffers.
        buffers: The buffers, as bytes-like objects (views of the value's own memory).
        refs: Refs and actor handles that the value contains, in order, with repetitions.
    """

    __slots__ = ("buffers", "head", "refs")

    def __init__(self, head: bytes, buffers: list[Any], refs: list[Any]) -> None:
        self.head = head
        self.buffers = buffers
        self.refs = refs

    @property
    def size(self) -> int:
        """Bytes that the value takes in shared memory."""
        return block_size(len(self.head), [b.nbytes for b in self.buffers])

    def copied_buffers(self) -> list[bytes]:
        """The buffers as bytes of their own, so that the value may change afterwards."""
        return [b.tobytes() for b in self.buffers]


def collecting() -> list[Any] | None:
    """The list that takes the refs of the value being packed in this thread, or None."""
    return getattr(_local, "refs", None)


def pack(value: Any) -> Packed:
    """Serialize ``value``.

    Raises:
        TypeError: it cannot be pickled; `ract.core.diagnose` can say which part of it.
    """
    outer = getattr(_local, "refs", None)
    refs: list[Any] = []
    _local.refs = refs
    buffers: list[pickle.PickleBuffer] = []
    try:
        try:
            if pickle_trace.level:
                return Packed(pickle_trace.dumps(value, buffers), [b.raw() for b in buffers], refs)
            if "torch" in sys.modules:
                head = _dump_tensors(value, pickle.Pickler, buffers)
            else:
                head = pickle.dumps(value, 5, buffer_callback=buffers.append)
            by_value = any(marker in head for marker in _by_value_markers())
        except Exception:  # whatever a __reduce__ raises: cloudpickle tries once more and reports
            by_value = True
        if by_value:
            refs.clear()
            buffers.clear()
            if "torch" in sys.modules:
                head = _dump_tensors(value, cloudpickle.Pickler, buffers)
            else:
                head = cloudpickle.dumps(value, 5, buffer_callback=buffers.append)
    finally:
        _local.refs = outer
    return Packed(head, [b.raw() for b in buffers], refs)


def _dump_tensors(value: Any, kind: Any, buffers: list[Any]) -> bytes:
    """Pickle a value in which there may be tensors of PyTorch (`ract.core.tensors`)."""
    file = io.BytesIO()
    pickler = kind(file, 5, buffer_callback=buffers.append)
    table = getattr(pickler, "dispatch_table", copyreg.dispatch_table)
    pickler.dispatch_table = {**table, **tensors.reducers()}
    pickler.dump(value)
    return file.getvalue()


def pack_by_value(value: Any) -> Packed:
    """Serialize a function or class with cloudpickle (by value where it cannot be imported)."""
    outer = getattr(_local, "refs", None)
    refs: list[Any] = []
    _local.refs = refs
    try:
        head = cloudpickle.dumps(value, 5)
    finally:
        _local.refs = outer
    return Packed(head, [], refs)


def unpack(head: Any, buffers: Sequence[Any] = ()) -> Any:
    """Return the value. Arrays are views of ``buffers``: read-only if those are."""
    return pickle.loads(head, buffers=buffers)


def unpack_users(head: Any, buffers: Sequence[Any] = ()) -> Any:
    """As `unpack`, of a value that a program has made.

    Raises:
        RactSystemError: the code that reads it has raised, which is the cause.
    """
    try:
        return pickle.loads(head, buffers=buffers)
    except RactError:
        raise
    except Exception as error:  # code of the program runs here, and modules are imported
        raise RactSystemError(error, traceback.format_exc()) from error


_REGISTERED: tuple[frozenset[str], tuple[bytes, ...]] = (frozenset(), (b"__main__",))


def _by_value_markers() -> tuple[bytes, ...]:
    global _REGISTERED
    modules = cloudpickle.list_registry_pickle_by_value()
    if modules != _REGISTERED[0]:
        markers = (b"__main__", *(name.encode() for name in sorted(modules)))
        _REGISTERED = (frozenset(modules), markers)
    return _REGISTERED[1]


# --------------------------------------------------------------------------- plain values

_PLAIN_SCALARS = frozenset({int, float, bool, str, bytes, type(None), complex})
PLAIN_BYTES_MAX = 4096


def is_plain(value: Any) -> bool:
    """Whether ``value`` is an immutable builtin that may be pickled late and shared."""
    kind = type(value)
    if kind in _PLAIN_SCALARS:
        return (kind is not str and kind is not bytes) or len(value) <= PLAIN_BYTES_MAX
    if kind is tuple and len(value) <= 16:
        return all(map(is_plain, value))
    return False


# --------------------------------------------------------------------------- shared-memory blocks


def _aligned(offset: int) -> int:
    return (offset + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


def block_size(head_size: int, buffer_sizes: Sequence[int]) -> int:
    """Bytes of the block for a head and buffers of these sizes."""
    end = _HEADER.size + 8 * len(buffer_sizes) + head_size
    for size in buffer_sizes:
        end = _aligned(end) + size
    return end


def write_block(packed: Packed, target: memoryview) -> None:
    """Write the value into mapped memory of at least ``packed.size`` bytes."""
    import numpy as np  # here: a driver that has no use for it starts faster

    for offset, part in _block_parts(packed):
        # np.copyto releases the GIL; slice assignment of a memoryview would not.
        source = np.frombuffer(part, np.uint8)
        np.copyto(np.frombuffer(target[offset : offset + source.nbytes], np.uint8), source)


def write_block_to(packed: Packed, pwrite: Callable[[Any, int], int]) -> None:
    """Write the value with ``pwrite(bytes, offset)``: the fast way onto pages never touched."""
    for offset, part in _block_parts(packed):
        view = memoryview(part)
        while view.nbytes:
            written = pwrite(view, offset)
            view, offset = view[written:], offset + written


def _block_parts(packed: Packed) -> list[tuple[int, Any]]:
    sizes = [b.nbytes for b in packed.buffers]
    table = io.BytesIO()
    table.write(_HEADER.pack(len(packed.head), len(sizes)))
    table.write(struct.pack(f"<{len(sizes)}Q", *sizes))
    parts: list[tuple[int, Any]] = [(0, table.getvalue())]
    end = table.tell()
    if packed.head:
        parts.append((end, packed.head))
        end += len(packed.head)
    for size, buffer in zip(sizes, packed.buffers, strict=True):
        end = _aligned(end)
        if size:
            parts.append((end, buffer))
        end += size
    return parts


def read_block(block: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Return (head, buffers) as views of the block."""
    head_size, n = _HEADER.unpack_from(block)
    sizes = struct.unpack_from(f"<{n}Q", block, _HEADER.size)
    end = _HEADER.size + 8 * n
    head = block[end : end + head_size]
    end += head_size
    buffers = []
    for size in sizes:
        end = _aligned(end)
        buffers.append(block[end : end + size])
        end += size
    return head, buffers
