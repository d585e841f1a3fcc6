"""A process' view of its node's shared memory: writing objects, and reading them without a copy.

The node owns the segments. To write, a process asks for one: large objects get a segment of their
own, small ones share one that the process fills from the front. To read, it maps the segment
read-only and keeps the mapping. A view of an object keeps the object's ref, and with it the hold,
so the node cannot reuse the memory under a living array.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ract.core import serialization
from ract.core.messages import (
    Contained,
    Hold,
    ObjectSealed,
    SegmentClosed,
    SegmentGranted,
    SegmentWanted,
)
from ract.core.serialization import Packed

if TYPE_CHECKING:
    from ract.client.process.node_link import NodeLink

INLINE_BYTES_MAX = 100 * 1024
"""Larger values go through shared memory."""

OWN_SEGMENT_BYTES_MIN = 2**20
"""Objects from this size on get a segment of their own."""

MAPPINGS_MAX = 512
STORE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Location:
    """Where a sealed object lies on this node."""

    path: str
    offset: int
    size: int
    is_error: bool = False


class StoreClient:
    """Reads and writes objects in the node's shared memory."""

    def __init__(self, link: NodeLink) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._segment: SegmentGranted | None = None
        self._used = 0
        self._readable: dict[str, mmap.mmap] = {}
        self._writable: dict[str, mmap.mmap] = {}

    # ------------------------------------------------------------------ writing

    def write(
        self,
        object_id: bytes,
        packed: Packed,
        contains: list[Contained],
        holds: list[Hold],
        is_error: bool = False,
        call_site: str = "",
    ) -> Location:
        """Write a value and seal it.

        Raises:
            ObjectStoreFullError: no room, after what could be spilled or dropped was.
        """
        size = max(packed.size, 1)
        try:
            if size >= OWN_SEGMENT_BYTES_MIN:
                segment = self._want(size)
                offset = 0
                self._copy(packed, segment, offset)
            else:
                with self._lock:
                    segment, offset = self._bump(size)
                    self._copy(packed, segment, offset)
        except FileNotFoundError:  # the store is gone; if so because this process has left, say so
            self._link.check_open()
            raise
        self._link.send(
            ObjectSealed(
                self._link.process,
                object_id,
                segment.segment,
                offset,
                size,
                contains,
                holds,
                is_error,
                call_site,
            )
        )
        if size >= OWN_SEGMENT_BYTES_MIN:
            self._link.send(SegmentClosed(self._link.process, segment.segment))
        return Location(segment.path, offset, size, is_error)

    def _want(self, size: int) -> SegmentGranted:
        number = self._link.next_request()
        message = SegmentWanted(self._link.process, number, size)
        what = f"{size} bytes of shared memory"
        return self._link.ask(number, message, STORE_TIMEOUT_S, what=what)

    def _bump(self, size: int) -> tuple[SegmentGranted, int]:
        if self._segment is None or self._used + size > self._segment.size:
            if self._segment is not None:
                self._link.send(SegmentClosed(self._link.process, self._segment.segment))
                self._segment = None
            self._segment = self._want(size)
            self._used = 0
        offset = self._used
        aligned = (size + serialization.ALIGNMENT - 1) & ~(serialization.ALIGNMENT - 1)
        self._used = offset + aligned
        return self._segment, offset

    def _copy(self, packed: Packed, segment: SegmentGranted, offset: int) -> None:
        if segment.recycled:
            mapping = self._mapping(self._writable, segment.path, mmap.PROT_READ | mmap.PROT_WRITE)
            view = memoryview(mapping)
            serialization.write_block(packed, view[offset:])
            return
        fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            serialization.write_block_to(packed, lambda data, at: os.pwrite(fd, data, offset + at))
        finally:
            os.close(fd)

    # ------------------------------------------------------------------ reading

    def read(self, location: Location, pin: Any) -> tuple[memoryview, list[memoryview]]:
        """Return (head, buffers) as read-only views that keep ``pin`` alive."""
        from ract.client.objects.pinned import (
            pinned_view,  # here: it needs numpy, which a start does not
        )

        mapping = self._mapping(self._readable, location.path, mmap.PROT_READ)
        return serialization.read_block(
            pinned_view(mapping, location.path, location.offset, location.size, pin)
        )

    def _mapping(self, cache: dict[str, mmap.mmap], path: str, protection: int) -> mmap.mmap:
        mapping = cache.get(path)
        if mapping is None:
            self._trim(cache)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                mapping = mmap.mmap(fd, 0, mmap.MAP_SHARED, protection)
            finally:
                os.close(fd)
            cache[path] = mapping
        return mapping

    def forget(self, paths: list[str]) -> None:
        """Map these anew when they are needed; memory goes when no array looks at it any more."""
        for cache in (self._readable, self._writable):
            for path in paths:
                cache.pop(path, None)

    @staticmethod
    def _trim(cache: dict[str, mmap.mmap]) -> None:
        if len(cache) < MAPPINGS_MAX:
            return
        for path in list(cache):
            try:
                cache[path].close()
            except BufferError:  # an array still looks at it
                continue
            del cache[path]
            if len(cache) < MAPPINGS_MAX // 2:
                return
