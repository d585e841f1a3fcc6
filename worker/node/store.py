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

No step looks at all segments: what an allocation must know (how much could be given up, which
pooled segment has the size, which copy was used longest ago) is kept up to date with each change.
The only place that says what a segment counts for is `StoreIndex._recount`.

The index is pure: it says which files to create and remove; the adapter does it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ract.worker.node.segments import (
    BACKGROUND_BYTES_MIN,
    OWN_SEGMENT_BYTES_MIN,
    SMALL_SEGMENT_BYTES,
    Pool,
    Segment,
    Stored,
    StoreFull,
    size_class,
)


class StoreIndex:
    """Segments and objects of one node.

    Args:
        capacity: Bytes that all segments together may take.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        #: Segments in use (being written, or with living objects), by id.
        self.segments: dict[int, Segment] = {}
        self.pool = Pool()
        #: Objects by id, least recently used first.
        self.objects: OrderedDict[bytes, Stored] = OrderedDict()
        #: Of those the ones in memory and not on their way to disk, in the same order.
        self._in_memory: OrderedDict[bytes, None] = OrderedDict()
        #: Of `objects` the copies, in the same order.
        self._copies: OrderedDict[bytes, None] = OrderedDict()
        #: Of `_in_memory` those that are behind a URL too, in the same order.
        self._remote: OrderedDict[bytes, None] = OrderedDict()
        #: By process, the open segments that it writes.
        self._open_of: dict[int, dict[int, None]] = {}
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
        self._reclaimable = 0  # bytes that go if the pool is emptied and all copies are evicted

    @property
    def used_bytes(self) -> int:
        """Bytes of shared memory in use."""
        return self._bytes - self.pool.bytes

    @property
    def pinned_bytes(self) -> int:
        """Bytes of shared memory in use that cannot be given up: they hold no mere copies."""
        return self._bytes - self._reclaimable

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
        found = self.pool.find(wanted, process)
        if found is not None:
            self.pool.take(found)
            found.writer = process
            self._open(found)
            return found, True, [], []
        removed, evicted = self._make_room(wanted, size)
        segment = Segment(self._next, wanted, process)
        segment.is_creating = wanted >= BACKGROUND_BYTES_MIN
        self._next += 1
        self._bytes += wanted
        self._open(segment)
        return segment, False, removed, evicted

    def _open(self, segment: Segment) -> None:
        segment.is_open = True
        self.segments[segment.id] = segment
        self._open_of.setdefault(segment.writer, {})[segment.id] = None
        self._recount(segment)

    def _closed(self, segment: Segment) -> None:
        segment.is_open = False
        mine = self._open_of.get(segment.writer, {})
        mine.pop(segment.id, None)
        if not mine:
            self._open_of.pop(segment.writer, None)

    def _recount(self, segment: Segment) -> None:
        """Something about the segment has changed: so may have what it could give up."""
        counts = self._could_go(segment)
        self._reclaimable += counts - segment.reclaimable
        segment.reclaimable = counts

    def _could_go(self, segment: Segment) -> int:
        if segment.id in self.pool:
            return segment.size
        is_busy = segment.is_open or segment.is_spilling or segment.is_restoring
        is_busy |= segment.is_creating
        if is_busy or segment.is_spilled or segment.id not in self.segments:
            return 0
        return segment.size if segment.is_remote or not segment.originals else 0

    def _make_room(self, wanted: int, asked: int) -> tuple[list[Segment], list[bytes]]:
        removed: list[Segment] = []
        evicted: list[bytes] = []
        if self._bytes + wanted <= self.capacity:
            return removed, evicted
        # Decided before anything is given up: what is removed here must be reported.
        if self._bytes + wanted - self.capacity > self._reclaimable:
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
                copy = next(iter(self._copies))
                evicted.append(copy)
                self.free(copy)
                continue
            segment = self.pool.oldest()
            self.pool.take(segment)
            self._recount(segment)
            self._bytes -= segment.size
            removed.append(segment)
        return removed, evicted

    def _drop_one(self) -> bool:
        """Give up the memory of a segment that is behind a URL too, the one used longest ago."""
        object_id = next(iter(self._remote), None)
        if object_id is None:
            return False
        segment = self.segments[self.objects[object_id].segment]
        for each in segment.objects:
            self._in_memory.pop(each, None)
            self._remote.pop(each, None)
        segment.is_spilled = segment.is_away = True
        self._bytes -= segment.size
        self.spilled_bytes += segment.size
        self._recount(segment)
        self.dropped.append(segment)
        return True

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
        self._recount(segment)
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
                    self._in_memory[object_id] = self._remote[object_id] = None
        elif not segment.is_spilled:
            segment.is_spilled = True
            self.spilled_bytes += segment.size
            self._bytes -= segment.size
        self._recount(segment)
        self.releases += 1
        return True

    def allocate_on_disk(self, process: int, size: int) -> Segment:
        """A segment on disk, for what is larger than the whole store."""
        segment = Segment(self._next, size_class(size), process, is_spilled=True)
        segment.is_creating = True
        self._next += 1
        self._open(segment)
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
                self._recount(segment)
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
        self._recount(segment)
        return is_needed

    def created(self, segment_id: int) -> None:
        """The segment's file is there, which was made in the background."""
        segment = self.segments[segment_id]
        segment.is_creating = False
        self._recount(segment)
        self.releases += 1
        self._maybe_pool(segment)

    def abandon(self, segment_id: int) -> None:
        """The segment's file could not be created."""
        self.releases += 1
        segment = self.segments.pop(segment_id)
        self._closed(segment)
        self._recount(segment)
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
        if before is not None and before.is_copy and not is_copy:
            self.keep(object_id)
        is_copy = is_copy and (before is None or before.is_copy)
        self.objects[object_id] = Stored(segment_id, offset, size, is_copy, is_error, edition, also)
        if is_copy:
            self._copies[object_id] = None
        segment = self.segments[segment_id]
        segment.originals += not is_copy and object_id not in segment.objects
        segment.objects[object_id] = None
        self._recount(segment)
        if not segment.is_spilled:
            self._in_memory[object_id] = None

    def close(self, segment_id: int) -> None:
        """Nobody writes into the segment any more."""
        segment = self.segments.get(segment_id)
        if segment is not None:
            self._closed(segment)
            self._recount(segment)
            self.releases += 1
            self._maybe_pool(segment)

    def process_gone(self, process: int) -> None:
        """Close what the process was writing."""
        for segment_id in list(self._open_of.get(process, ())):
            self.close(segment_id)

    def find(self, object_id: bytes) -> Stored | None:
        """Where the object lies; it counts as used now."""
        stored = self.objects.get(object_id)
        if stored is not None:
            self.objects.move_to_end(object_id)
            for some in (self._in_memory, self._copies, self._remote):
                if object_id in some:
                    some.move_to_end(object_id)
        return stored

    def keep(self, object_id: bytes) -> bool:
        """Never evict the copy; returns whether the object is here."""
        stored = self.objects.get(object_id)
        if stored is not None and stored.is_copy:
            stored.is_copy = False
            del self._copies[object_id]
            for segment in self._segments_of(object_id, stored):
                segment.originals += 1
                self._recount(segment)
        return stored is not None

    def _segments_of(self, object_id: bytes, stored: Stored) -> Iterator[Segment]:
        for segment_id in dict.fromkeys((stored.segment, *stored.also)):
            segment = self.segments[segment_id]
            if object_id in segment.objects:
                yield segment

    def free(self, object_id: bytes) -> bool:
        """Forget an object; returns whether it was here."""
        stored = self.objects.pop(object_id, None)
        if stored is None:
            return False
        self.releases += 1
        for some in (self._in_memory, self._copies, self._remote):
            some.pop(object_id, None)
        for segment in list(self._segments_of(object_id, stored)):
            del segment.objects[object_id]
            segment.originals -= not stored.is_copy
            self._recount(segment)
            self._maybe_pool(segment)
        return True

    def _maybe_pool(self, segment: Segment) -> None:
        if segment.is_open or segment.objects or segment.is_creating:
            return
        del self.segments[segment.id]
        self._recount(segment)
        if segment.is_spilled or segment.is_spilling or segment.is_restoring:
            self.leaving.append(segment)
            self.spilled_bytes -= segment.size if segment.is_spilled else 0
        elif segment.is_remote:  # what is behind the URL has to go with it
            segment.is_spilled = True
            self._bytes -= segment.size
            self.leaving.append(segment)
        else:
            self.pool.put(segment)
            self._recount(segment)

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
        assert all(s.objects or s.is_open or s.is_creating for s in self.segments.values())
        assert all(i in self.objects for s in self.segments.values() for i in s.objects)
        self.pool.check()
        _check_indexes(self)


def _check_indexes(store: StoreIndex) -> None:
    """What is kept up to date is as if it were counted now."""
    assert list(store._copies) == [i for i, s in store.objects.items() if s.is_copy]
    here = [(i, store.segments[store.objects[i].segment]) for i in store._in_memory]
    assert list(store._remote) == [i for i, segment in here if segment.is_remote]
    everything = [*store.segments.values(), *store.pool.values()]
    assert store._reclaimable == sum(map(store._could_go, everything))
    for segment in everything:
        assert segment.originals == sum(not store.objects[i].is_copy for i in segment.objects)
    is_open = {i for mine in store._open_of.values() for i in mine}
    assert is_open == {s.id for s in store.segments.values() if s.is_open}
