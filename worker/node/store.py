"""The index of a node's shared-memory store: segments, the objects in them, what may be reused.

Theory of operation
-------------------
A *segment* is one file in /dev/shm. Large objects have one each; small ones share one that a
process fills from the front until it closes it. A segment whose objects are all freed, and which
nobody writes, goes to the pool: its pages are there already, and writing to them again is ten times
faster than to fresh ones, so an equal request gets it back, best of all in the process that has it
mapped. Pooled segments count against the capacity, but are the first to go when room is needed;
then copies of objects that live on other nodes too, the least recently used first. Segments of
other objects can be on disk, or behind a URL, instead: then they do not count. What has come back
from a URL can be given up at once, because it is still there.

The index is pure: it says which files to create and remove; the adapter does it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SMALL_SEGMENT_BYTES = 8 * 2**20
OWN_SEGMENT_BYTES_MIN = 2**20
PAGE = 4096


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
    is_spilling: bool = False  #: it is being copied to disk
    is_spilled: bool = False  #: it takes no shared memory: its file is on disk, or it is away
    is_remote: bool = False  #: there is a copy of it behind a URL
    is_away: bool = False  #: there is nothing else of it: it cannot be read as it is
    is_restoring: bool = False  #: it is being copied back from there
    objects: set[bytes] = field(default_factory=set)


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


class StoreIndex:
    """Segments and objects of one node.

    Args:
        capacity: Bytes that all segments together may take.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        #: Segments in use (being written, or with living objects), by id.
        self.segments: dict[int, Segment] = {}
        #: Segments without objects that nobody writes, by id; oldest first.
        self.pool: OrderedDict[int, Segment] = OrderedDict()
        #: Objects by id, least recently used first.
        self.objects: OrderedDict[bytes, Stored] = OrderedDict()
        #: Of those the ones in memory and not on their way to disk, in the same order.
        self._in_memory: OrderedDict[bytes, None] = OrderedDict()
        #: How often something became free, or could be evicted from then on.
        self.releases = 0
        #: Segments on disk, or on their way there, that nobody needs: their files are to go.
        self.leaving: list[Segment] = []
        #: Segments that are behind a URL and whose files here are to go.
        self.dropped: list[Segment] = []
        self.spilled_bytes = 0  #: of segments in use that are on disk or away
        self.spilling_bytes = 0  #: of segments that are being copied to disk
        self._next = 1
        self._bytes = 0  # of segments and pool together, without those on disk

    @property
    def used_bytes(self) -> int:
        """Bytes of shared memory in use."""
        return self._bytes - sum(s.size for s in self.pool.values())

    @property
    def pinned_bytes(self) -> int:
        """Bytes of shared memory in use that cannot be given up: they hold no mere copies."""
        return self._bytes - self._reclaimable()

    @property
    def object_bytes(self) -> int:
        """Bytes of living objects."""
        return sum(stored.size for stored in self.objects.values())

    def described(self, most: int) -> dict[str, Any]:
        """The objects, the largest first: by id (hex), where they are; and how many there are."""
        largest = heapq.nlargest(most, self.objects.items(), key=lambda each: each[1].size)
        found = {}
        for object_id, stored in largest:
            segment = self.segments.get(stored.segment)
            found[object_id.hex()] = {
                "size": stored.size,
                "is_copy": stored.is_copy,
                "is_spilled": segment is not None and segment.is_spilled,
            }
        return {
            "objects": found,
            "count": len(self.objects),
            "bytes": self.object_bytes,
            "count_in_memory": sum(
                len(segment.objects) for segment in self.segments.values() if not segment.is_spilled
            ),
            "used": self.used_bytes,
            "pinned": self.pinned_bytes,
            "capacity": self.capacity,
            "spilled": self.spilled_bytes,
        }

    def spilled_among(self, ids: Iterable[bytes]) -> list[bytes]:
        """Those of these objects that are on disk or away."""
        found = ((id_, self.objects.get(id_)) for id_ in ids)
        return [id_ for id_, at in found if at is not None and self.segments[at.segment].is_spilled]

    def sizes_in(self, segment_id: int) -> list[int]:
        """The sizes of the objects in a segment."""
        segment = self.segments.get(segment_id)
        return [self.objects[each].size for each in segment.objects] if segment else []

    def described_one(self, object_id: bytes) -> dict[str, Any]:
        """One object: how large it is, and in which segment. Raises ValueError if it is not here.

        Unlike `find` it only looks: the object does not count as used.
        """
        stored = self.objects.get(object_id)
        segment = self.segments.get(stored.segment) if stored is not None else None
        if stored is None or segment is None:
            raise ValueError(f"object {object_id.hex()} is not in the store (any more)")
        return {
            "size": stored.size,
            "is_copy": stored.is_copy,
            "is_spilled": segment.is_spilled,
            "is_away": segment.is_away,
            "segment": segment.id,
        }

    def allocate(self, process: int, size: int) -> tuple[Segment, bool, list[Segment], list[bytes]]:
        """A segment for ``size`` bytes.

        Returns:
            (segment, recycled, segments to remove first, copies evicted). For ``process`` 0, which
            is the node itself, the segment is for one copy.

        Raises:
            StoreFull: there is no room and nothing that may go.
        """
        wanted = (
            size_class(size)
            if size >= OWN_SEGMENT_BYTES_MIN or not process  # a copy has a segment of its own
            else min(SMALL_SEGMENT_BYTES, max(size_class(size), self.capacity // 16))
        )
        found = self._pooled(process, wanted)
        if found is not None:
            del self.pool[found.id]
            found.writer, found.is_open = process, True
            self.segments[found.id] = found
            return found, True, [], []
        removed, evicted = self._make_room(wanted, size)
        segment = Segment(self._next, wanted, process)
        self._next += 1
        self.segments[segment.id] = segment
        self._bytes += wanted
        return segment, False, removed, evicted

    def _pooled(self, process: int, size: int) -> Segment | None:
        best = None
        for segment in self.pool.values():
            if segment.size == size:
                if segment.writer == process:
                    return segment
                best = best or segment
        return best

    def _make_room(self, wanted: int, asked: int) -> tuple[list[Segment], list[bytes]]:
        removed: list[Segment] = []
        evicted: list[bytes] = []
        # Decided before anything is given up: what is removed here must be reported.
        if self._bytes + wanted - self.capacity > self._reclaimable():
            full = StoreFull(
                f"{asked} bytes do not fit: {self.used_bytes} of {self.capacity} bytes of "
                "the object store are in use by objects that are referenced"
            )
            full.is_final = wanted > self.capacity
            raise full
        while self._bytes + wanted > self.capacity:
            if not self.pool:
                if self._drop_one():
                    continue
                copy = next(
                    i
                    for i, s in self.objects.items()
                    if s.is_copy and not self.segments[s.segment].is_spilled
                )
                evicted.append(copy)
                self.free(copy)
                continue
            _, segment = self.pool.popitem(last=False)
            self._bytes -= segment.size
            removed.append(segment)
        return removed, evicted

    def _drop_one(self) -> bool:
        """Give up the memory of a segment that is behind a URL too, the one used longest ago."""
        for object_id in self._in_memory:
            segment = self.segments[self.objects[object_id].segment]
            if segment.is_remote:
                for each in segment.objects:
                    self._in_memory.pop(each, None)
                segment.is_spilled = segment.is_away = True
                self._bytes -= segment.size
                self.spilled_bytes += segment.size
                self.dropped.append(segment)
                return True
        return False

    def restore(self, segment_id: int, *, on_disk: bool = False) -> list[Segment]:
        """Begin to copy a segment back from behind its URL.

        Args:
            segment_id: The segment; it is away.
            on_disk: It is to come to the disk, since there is no room in memory.

        Returns:
            Segments to remove first.

        Raises:
            StoreFull: there is no room, and nothing that may go.
        """
        segment = self.segments[segment_id]
        removed: list[Segment] = []
        if not on_disk:
            removed, _ = self._make_room(segment.size, segment.size)
            segment.is_spilled = False
            self.spilled_bytes -= segment.size
            self._bytes += segment.size
        segment.is_restoring = True
        return removed

    def restored(self, segment_id: int, *, is_done: bool) -> bool:
        """A segment was copied back, or could not be; returns whether it is still needed."""
        segment = self.segments.get(segment_id)
        if segment is None:  # freed meanwhile
            segment = next(each for each in self.leaving if each.id == segment_id)
            self.leaving.remove(segment)
            self._bytes -= 0 if segment.is_spilled else segment.size
            self.releases += 1
            return False
        segment.is_restoring = False
        if is_done:
            segment.is_away = False
            if not segment.is_spilled:
                for object_id in segment.objects:
                    self._in_memory[object_id] = None
        elif not segment.is_spilled:
            segment.is_spilled = True
            self.spilled_bytes += segment.size
            self._bytes -= segment.size
        self.releases += 1
        return True

    def _reclaimable(self) -> int:
        """Bytes that go if the pool is emptied and all copies are evicted."""
        return sum(s.size for s in self.pool.values()) + sum(
            segment.size
            for segment in self.segments.values()
            if not (segment.is_open or segment.is_spilled or segment.is_spilling)
            and not segment.is_restoring
            and (segment.is_remote or all(self.objects[i].is_copy for i in segment.objects))
        )

    def allocate_on_disk(self, process: int, size: int) -> Segment:
        """A segment on disk, for what is larger than the whole store."""
        segment = Segment(self._next, size_class(size), process, is_spilled=True)
        self._next += 1
        self.segments[segment.id] = segment
        self.spilled_bytes += segment.size
        return segment

    def spill(self, wanted: int) -> list[Segment]:
        """Choose segments to be copied to disk: the objects used longest ago, until it is enough.

        Args:
            wanted: Bytes that are to become free, with what is on its way to disk already.

        Returns:
            The segments; they count as in memory until `spilled`.
        """
        chosen: list[Segment] = []
        for object_id in self._in_memory:
            if self.spilling_bytes >= wanted:
                break
            stored = self.objects[object_id]
            segment = self.segments[stored.segment]
            must_stay = segment.is_open or segment.is_spilling or segment.is_remote
            if not (stored.is_copy or must_stay):
                segment.is_spilling = True
                self.spilling_bytes += segment.size
                chosen.append(segment)
        for segment in chosen:
            for object_id in segment.objects:
                self._in_memory.pop(object_id, None)
        return chosen

    def spilled(self, segment_id: int, *, is_done: bool) -> bool:
        """A segment was copied to disk, or could not be; returns whether it is still needed."""
        segment = self.segments.get(segment_id)
        is_needed = segment is not None
        if segment is None:  # freed meanwhile
            segment = next(each for each in self.leaving if each.id == segment_id)
            self.leaving.remove(segment)
        segment.is_spilling = False
        self.spilling_bytes -= segment.size
        if is_done or not is_needed:
            self._bytes -= segment.size
            self.releases += 1
        if is_done and is_needed:
            segment.is_spilled = True
            self.spilled_bytes += segment.size
        elif is_needed:
            for object_id in segment.objects:
                self._in_memory[object_id] = None
        return is_needed

    def abandon(self, segment_id: int) -> None:
        """The segment's file could not be created."""
        self.releases += 1
        segment = self.segments.pop(segment_id)
        if segment.is_spilled:
            self.spilled_bytes -= segment.size
        else:
            self._bytes -= segment.size

    def seal(
        self,
        object_id: bytes,
        segment_id: int,
        offset: int,
        size: int,
        is_copy: bool = False,
        is_error: bool = False,
        edition: int = 0,
    ) -> None:
        """An object was written into a segment; perhaps again, by a task that was repeated."""
        before = self.objects.get(object_id)
        also = [] if before is None else [*before.also, before.segment]
        is_copy = is_copy and (before is None or before.is_copy)
        self.objects[object_id] = Stored(segment_id, offset, size, is_copy, is_error, edition, also)
        segment = self.segments[segment_id]
        segment.objects.add(object_id)
        if not segment.is_spilled:
            self._in_memory[object_id] = None

    def close(self, segment_id: int) -> None:
        """Nobody writes into the segment any more."""
        segment = self.segments.get(segment_id)
        if segment is not None:
            segment.is_open = False
            self.releases += 1
            self._maybe_pool(segment)

    def process_gone(self, process: int) -> None:
        """Close what the process was writing."""
        for segment in list(self.segments.values()):
            if segment.writer == process and segment.is_open:
                self.close(segment.id)

    def find(self, object_id: bytes) -> Stored | None:
        """Where the object lies; it counts as used now."""
        stored = self.objects.get(object_id)
        if stored is not None:
            self.objects.move_to_end(object_id)
            if object_id in self._in_memory:
                self._in_memory.move_to_end(object_id)
        return stored

    def keep(self, object_id: bytes) -> bool:
        """Never evict the copy; returns whether the object is here."""
        stored = self.objects.get(object_id)
        if stored is not None:
            stored.is_copy = False
        return stored is not None

    def free(self, object_id: bytes) -> bool:
        """Forget an object; returns whether it was here."""
        stored = self.objects.pop(object_id, None)
        if stored is None:
            return False
        self.releases += 1
        self._in_memory.pop(object_id, None)
        for segment_id in dict.fromkeys((stored.segment, *stored.also)):
            segment = self.segments[segment_id]
            segment.objects.discard(object_id)
            self._maybe_pool(segment)
        return True

    def _maybe_pool(self, segment: Segment) -> None:
        if segment.is_open or segment.objects:
            return
        del self.segments[segment.id]
        if segment.is_spilled or segment.is_spilling or segment.is_restoring:
            self.leaving.append(segment)
            self.spilled_bytes -= segment.size if segment.is_spilled else 0
        elif segment.is_remote:  # what is behind the URL has to go with it
            segment.is_spilled = True
            self._bytes -= segment.size
            self.leaving.append(segment)
        else:
            self.pool[segment.id] = segment

    def check(self) -> None:
        """Assert the invariants."""
        leaving = [s for s in self.leaving if not s.is_spilled]
        everything = [*self.segments.values(), *self.pool.values(), *leaving]
        in_memory = [segment for segment in everything if not segment.is_spilled]
        assert self._bytes == sum(s.size for s in in_memory) <= self.capacity
        spilled = [s.size for s in self.segments.values() if s.is_spilled]
        assert self.spilled_bytes == sum(spilled)
        assert self.spilling_bytes == sum(s.size for s in everything if s.is_spilling)
        for object_id, stored in self.objects.items():
            segment = self.segments[stored.segment]
            assert object_id in segment.objects
            assert stored.offset + stored.size <= segment.size
            assert all(object_id in self.segments[i].objects for i in stored.also)
        for object_id in self._in_memory:
            segment = self.segments[self.objects[object_id].segment]
            assert not segment.is_spilled
            assert not segment.is_spilling
            assert not segment.is_away
        for segment in self.segments.values():
            assert segment.is_remote or not segment.is_away
            assert segment.is_away or not segment.is_restoring
            assert not segment.is_away or segment.is_spilled or segment.is_restoring
        assert all(s.objects or s.is_open for s in self.segments.values())
        assert all(i in self.objects for s in self.segments.values() for i in s.objects)
        assert all(not s.objects and not s.is_open for s in self.pool.values())
