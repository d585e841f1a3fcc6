"""Segments of shared memory, what lies in them, and the pool of those that may be used again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SMALL_SEGMENT_BYTES = 8 * 2**20
OWN_SEGMENT_BYTES_MIN = 2**20
PAGE = 4096

BACKGROUND_BYTES_MIN = 32 * 2**20
"""Files of larger segments are made in the background: that takes 10 ms, and more."""


class StoreFull(Exception):
    """No room for a segment; the text has the sizes.

    Attributes:
        is_final: It would not fit into an empty store.
    """

    is_final = False


@dataclass(slots=True)
class Segment:
    """One shared-memory file."""

    id: int
    size: int
    writer: int  #: process that may write it, or wrote it last
    is_open: bool = True  #: somebody may still write objects into it
    is_creating: bool = False  #: its file is not there yet
    is_spilling: bool = False  #: it is being copied to disk
    is_spilled: bool = False  #: it takes no shared memory: its file is on disk, or it is away
    is_remote: bool = False  #: there is a copy of it behind a URL
    is_away: bool = False  #: there is nothing else of it: it cannot be read as it is
    is_restoring: bool = False  #: it is being copied back from there
    objects: dict[bytes, None] = field(default_factory=dict)  #: in the order of their coming
    originals: int = 0  #: how many of them are no copies
    reclaimable: int = 0  #: what it counts for in `StoreIndex._reclaimable`


@dataclass(slots=True)
class Stored:
    """Where an object lies."""

    segment: int
    offset: int
    size: int
    is_copy: bool = False
    is_error: bool = False
    edition: int = 0  #: the same for all copies of what was written once
    also: list[int] = field(default_factory=list)  #: segments where it lies too, perhaps in view


def size_class(size: int) -> int:
    """Round up to one of four sizes per power of two, so that segments can be reused."""
    size = max(size, PAGE)
    step = max(PAGE, 1 << max(0, size.bit_length() - 3))
    return (size + step - 1) // step * step


class Pool:
    """Segments without objects that nobody writes.

    Attributes:
        bytes: What they take together.
    """

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}  # by id, oldest first
        #: By size, and by size and writer; oldest first.
        self._fitting: dict[Any, dict[int, Segment]] = {}
        self.bytes = 0

    def put(self, segment: Segment) -> None:
        """A segment is free."""
        self._segments[segment.id] = segment
        for key in _keys(segment):
            self._fitting.setdefault(key, {})[segment.id] = segment
        self.bytes += segment.size

    def take(self, segment: Segment) -> None:
        """It is used again, or removed."""
        del self._segments[segment.id]
        for key in _keys(segment):
            same = self._fitting[key]
            del same[segment.id]
            if not same:
                del self._fitting[key]
        self.bytes -= segment.size

    def find(self, size: int, process: int) -> Segment | None:
        """One of that size, of the process if it has written one; the oldest first."""
        fitting = self._fitting.get((size, process)) or self._fitting.get(size)
        return next(iter(fitting.values())) if fitting else None

    def oldest(self) -> Segment:
        """The one that is unused for longest; there is one."""
        return next(iter(self._segments.values()))

    def __contains__(self, segment_id: int) -> bool:
        return segment_id in self._segments

    def __iter__(self) -> Iterator[int]:
        return iter(self._segments)

    def __len__(self) -> int:
        return len(self._segments)

    def values(self) -> list[Segment]:
        """The segments, oldest first."""
        return list(self._segments.values())

    def check(self) -> None:
        """Assert the invariants."""
        assert self.bytes == sum(segment.size for segment in self._segments.values())
        assert all(not s.objects and not s.is_open for s in self._segments.values())
        found = {s.id for same in self._fitting.values() for s in same.values()}
        assert found == set(self._segments)


def _keys(segment: Segment) -> tuple[Any, ...]:
    return segment.size, (segment.size, segment.writer)
