"""Objects of a node: what is stored here, who waits for what, what is being copied here.

An object that a process waits for is either here, or sought at the scheduler (once, for all who
wait), or being pulled from another node (once). When a pull fails, the scheduler is told; it knows
another copy, from which the pull goes on, or that the object is lost (`ract.worker.node.fetches`).

What finds no room in the store waits for it, because the release of what fills the store may be on
its way here. Room goes to whoever has waited longest, of those whom it is enough for.

When the store is nearly full, what was used longest ago is *spilled*: its segment is copied to disk
and its path made to lead there, so that whoever maps it from then on maps the file, through the
kernel's page cache. Nothing has to be restored, and no location changes. Who has it mapped keeps
the memory until its views go. An object that is larger than the store is written to disk at once.

Or it is copied to a URL and is *away*: nobody can map it any more, so whoever wants it asks, and it
is restored first, to memory, or to disk if what is there cannot make room. Its file is then as
before, so that locations stay true for those who find it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ract.core import messages as m
from ract.worker.node import events as ev
from ract.worker.node.fetches import Fetch, Fetches
from ract.worker.node.store import Segment, StoreFull, StoreIndex

ROOM_S = 2.0
"""Who finds no room in the store is refused after this time."""

SPILL_S = 60.0
"""The same while something is being spilled."""

KEEPER = 0
"""Stands among the processes that wait for an object: the scheduler wants it to be kept here."""


@dataclass(frozen=True, slots=True)
class _Away:
    """A segment that is to be restored when there is room."""

    segment: int
    size: int


_Wanted = m.SegmentWanted | m.ObjectLocated | _Away


class Objects:
    """The object side of the node machine."""

    def __init__(
        self,
        config: Any,
        rng: random.Random,
        command: Callable[[Any], None],
        processes: Callable[[], Iterable[int]],
    ) -> None:
        self._processes = processes
        self.store = StoreIndex(config.capacity)
        self.commands: list[Any] = []
        self._config = config
        self._rng = rng
        self._command = command
        #: Processes that wait, in order, by object.
        self.waiting: dict[bytes, dict[int, None]] = {}
        #: Objects asked for at the scheduler and not yet answered.
        self._sought: set[bytes] = set()
        #: Segments that are being filled from another node, or half full, by object.
        self._fetches = Fetches(config.fetch_timeout_s)
        #: Pulls of objects that were freed meanwhile.
        self._unwanted_pulls: set[bytes] = set()
        #: What waits for room, longest first: (until when, process or 0, what is to be repeated).
        self._roomless: list[tuple[float, int, _Wanted]] = []
        self._releases = 0  # of the store, when they were looked at last
        self._disk_error = ""  # why the newest spill failed; empty if it did not
        self.now = 0.0

    def path(self, segment: int) -> str:
        """The file of a segment."""
        return f"{self._config.shm_prefix}{segment}"

    # ------------------------------------------------------------------ what processes say

    def from_process(self, process: int, message: Any) -> bool:
        """Handle a message about objects; returns whether it was one."""
        if isinstance(message, m.SegmentWanted):
            self._segment_wanted(process, message)
        elif isinstance(message, m.ObjectSealed):
            self._sealed(message)
        elif isinstance(message, m.SegmentClosed):
            segment = self.store.segments.get(message.segment)
            if segment is not None and segment.writer == process:
                self.store.close(message.segment)
        elif isinstance(message, m.ObjectWanted):
            self._wanted(process, message.object_id, message.seen_on)
        elif isinstance(message, m.ObjectUnwanted):
            self._unwanted(process, message.object_id)
        else:
            return False
        return True

    def _segment_wanted(
        self, process: int, message: m.SegmentWanted, until: float | None = None
    ) -> None:
        try:
            segment, recycled = self._allocate(process, message.size)
        except StoreFull as error:
            self._no_room(process, message, until, error)
            return
        granted = m.SegmentGranted(
            process,
            message.request,
            segment.id,
            self.path(segment.id),
            segment.size,
            recycled,
        )
        if recycled:
            self._command(ev.ToProcess(process, granted))
        else:
            self._create(segment, process, message.request, granted)

    def _no_room(
        self, process: int, wanted: _Wanted, until: float | None, error: StoreFull
    ) -> None:
        """Let it wait for room until then, if that can help."""
        if isinstance(wanted, m.ObjectLocated) and until is None:
            self._unseek(wanted.object_id)  # others may use the source meanwhile
        if self._config.spills and error.is_final and isinstance(wanted, m.SegmentWanted):
            self._grant_on_disk(process, wanted)
            return
        if until is None:
            self._disk_error = ""  # of an attempt before: by now there may be room on the disk
        if not self._disk_error:
            self._spill(wanted.size)
        is_spilling = self.store.spilling_bytes > 0
        until = self.now + (SPILL_S if is_spilling else ROOM_S) if until is None else until
        if until > self.now and not error.is_final and not (self._disk_error and not is_spilling):
            self._roomless.append((until, process, wanted))
        elif isinstance(wanted, _Away):
            self._restore_to(wanted, on_disk=True)
        else:
            self._refuse_room(process, wanted, error)

    def _refuse_room(
        self, process: int, wanted: m.SegmentWanted | m.ObjectLocated, error: StoreFull
    ) -> None:
        name, why = "ObjectStoreFullError", str(error)
        if self._disk_error:
            name, why = "OutOfDiskError", f"{error}; spilling failed: {self._disk_error}"
        if isinstance(wanted, m.SegmentWanted):
            refused = m.SegmentRefused(process, wanted.request, name, why)
            self._command(ev.ToProcess(process, refused))
        else:
            self._refuse(wanted.object_id, b"full:", why)
        self._disk_error = ""  # who asks next may be luckier

    def _grant_on_disk(self, process: int, wanted: m.SegmentWanted) -> None:
        segment = self.store.allocate_on_disk(process, wanted.size)
        path = self.path(segment.id)
        granted = m.SegmentGranted(process, wanted.request, segment.id, path, segment.size, False)
        self._create(segment, process, wanted.request, granted, on_disk=True)

    def _create(
        self, segment: Segment, process: int, request: int, then: Any, on_disk: bool = False
    ) -> None:
        create = ev.CreateSegment(
            segment.id, segment.size, process, request, then, on_disk, segment.is_creating
        )
        self._command(create)

    # ------------------------------------------------------------------ spilling

    def _spill(self, wanted: int) -> None:
        """Begin to copy as much to disk as is wanted, if that is allowed."""
        if self._config.spills:
            for segment in self.store.spill(wanted):
                self._command(ev.Spill(segment.id))

    def _spill_early(self) -> None:
        """Keep some room, so that nobody has to wait for the disk."""
        excess = self.store.used_bytes - int(self.store.capacity * self._config.spill_above)
        if excess > 0 and not self._disk_error:
            self._spill(excess)

    def spill_done(self, event: ev.SpillDone) -> None:
        """A segment is on disk: it takes no memory as soon as nobody has it mapped."""
        self._disk_error = ""
        if not self.store.spilled(event.segment, is_done=True):
            self._command(ev.RemoveSegment(event.segment))
            return
        if self._config.spills_away:
            segment = self.store.segments[event.segment]
            segment.is_remote = segment.is_away = True
            self._command(ev.DropSegment(event.segment))
        self._tell_moved([event.segment])

    def _tell_moved(self, segments: list[int]) -> None:
        paths = [self.path(segment) for segment in segments]
        for process in self._processes() if paths else ():
            self._command(ev.ToProcess(process, m.SegmentsMoved(process, paths)))

    def spill_failed(self, event: ev.SpillFailed) -> None:
        """The disk is full, or broken."""
        self._disk_error = event.detail
        if not self.store.spilled(event.segment, is_done=False):
            self._command(ev.RemoveSegment(event.segment))
        self.store.releases += 1  # who waits for room is to hear of it

    def after_event(self, is_tick: bool) -> None:
        """Give room to those who wait for it, if there may be some now."""
        if is_tick:
            for object_id in self._fetches.overdue(self.now):
                self._give_up(object_id)
        gone = [s for s in self.store.leaving if s.is_spilled and not s.is_restoring]
        for segment in gone:
            self.store.leaving.remove(segment)
            self._command(ev.RemoveSegment(segment.id))
        if not self._roomless or (self.store.releases == self._releases and not is_tick):
            return
        self._releases = self.store.releases
        waiting, self._roomless = self._roomless, []
        for until, process, wanted in waiting:
            if isinstance(wanted, m.SegmentWanted):
                self._segment_wanted(process, wanted, until)
            elif isinstance(wanted, _Away):
                self._restore(wanted, until)
            else:
                self.located(wanted, until)

    def next_deadline(self) -> float | None:
        """When somebody has waited long enough, for room or for an object; or None."""
        times = [until for until, _, _ in self._roomless]
        overdue_at = self._fetches.next_deadline()
        return min(times if overdue_at is None else (*times, overdue_at), default=None)

    def _allocate(self, process: int, size: int) -> tuple[Any, bool]:
        segment, recycled, removed, _ = self.store.allocate(process, size)
        self._clear(removed)
        return segment, recycled

    def _clear(self, removed: Iterable[Segment]) -> None:
        """Make room in fact: files go whose memory was given to others."""
        for old in removed:
            self._command(ev.RemoveSegment(old.id))
        dropped = [segment.id for segment in self.store.dropped]
        self.store.dropped.clear()
        for segment in dropped:
            self._command(ev.DropSegment(segment))
        self._tell_moved(dropped)

    # ------------------------------------------------------------------ restoring

    def _give(self, object_id: bytes) -> None:
        """Give an object of the store to those who wait for it, or restore it first."""
        segment = self.store.segments[self.store.objects[object_id].segment]
        if segment.is_away:
            self._restore(_Away(segment.id, segment.size), None)
        else:
            self._answer(object_id)

    def _restore(self, away: _Away, until: float | None) -> None:
        segment = self.store.segments.get(away.segment)
        is_wanted = segment is not None and any(i in self.waiting for i in segment.objects)
        if segment is None or not is_wanted or not segment.is_away or segment.is_restoring:
            return
        if until is None and any(wanted == away for _, _, wanted in self._roomless):
            return
        try:
            self._restore_to(away, on_disk=False)
        except StoreFull as error:
            self._no_room(0, away, until, error)

    def _restore_to(self, away: _Away, on_disk: bool) -> None:
        self._clear(self.store.restore(away.segment, on_disk=on_disk))
        self._command(ev.Restore(away.segment, away.size, on_disk))

    def restore_done(self, event: ev.RestoreDone) -> None:
        """A segment can be read again."""
        if not self.store.restored(event.segment, is_done=True):
            self._command(ev.RemoveSegment(event.segment))
            return
        for object_id in sorted(self.store.segments[event.segment].objects):
            if object_id in self.waiting:
                self._answer(object_id)

    def restore_failed(self, event: ev.RestoreFailed) -> None:
        """Where it is cannot be reached, or there is no room after all."""
        if not self.store.restored(event.segment, is_done=False):
            self._command(ev.RemoveSegment(event.segment))
            return
        for object_id in sorted(self.store.segments[event.segment].objects):
            if object_id in self.waiting:
                self._refuse(object_id, b"lost:", f"it cannot be restored: {event.detail}")

    def segment_failed(self, event: ev.SegmentFailed) -> None:
        """The file could not be created: the machine has less memory than the quota says."""
        self.store.abandon(event.segment)
        if event.process:
            name = "OutOfDiskError" if event.on_disk else "ObjectStoreFullError"
            refused = m.SegmentRefused(event.process, event.request, name, event.detail)
            self._command(ev.ToProcess(event.process, refused))
            return
        for object_id, fetch in list(self._fetches.table.items()):
            if fetch.segment == event.segment:
                # Not for want of a source: it must not be told that it has nothing.
                del self._fetches.table[object_id]
                self._unwanted_pulls.discard(object_id)
                self._unseek(object_id)
                self._refuse(object_id, b"full:", event.detail)

    def _sealed(self, message: m.ObjectSealed) -> None:
        segment = self.store.segments.get(message.segment)
        if segment is None or segment.writer != message.process:
            return
        if message.offset + message.size > segment.size:
            return
        self.store.seal(
            message.object_id,
            message.segment,
            message.offset,
            message.size,
            is_error=message.is_error,
            edition=self._rng.randrange(1, 2**63),
        )
        self._tell_stored(
            message.object_id,
            message.size,
            message.contains,
            message.holds,
            message.is_error,
            maker=message.process,
            call_site=message.call_site,
        )
        self._answer(message.object_id)
        self._spill_early()

    def _tell_stored(
        self,
        object_id: bytes,
        size: int,
        contains: list[m.Contained],
        holds: list[m.Hold],
        is_error: bool,
        is_copy: bool = False,
        maker: int = 0,
        call_site: str = "",
    ) -> None:
        stored = m.ObjectStored(
            self._config.node_id,
            object_id,
            size,
            contains,
            holds,
            is_copy,
            is_error,
            maker,
            call_site,
        )
        self._command(ev.ToScheduler(stored))

    # ------------------------------------------------------------------ waiting

    def _wanted(self, process: int, object_id: bytes, seen_on: bytes = b"") -> None:
        self.waiting.setdefault(object_id, {})[process] = None
        if self.store.find(object_id) is not None:
            self._give(object_id)
        elif not self._is_asked(object_id) or (seen_on and object_id in self._sought):
            self._seek(object_id, seen_on)

    def _is_asked(self, object_id: bytes) -> bool:
        """Whether the object is on its way here, or will be when there is room."""
        if object_id in self._sought or self._fetches.is_running(object_id):
            return True
        if any(getattr(w, "object_id", None) == object_id for _, _, w in self._roomless):
            return True
        stored = self.store.objects.get(object_id)
        if stored is None:
            return False
        return self.store.segments[stored.segment].is_restoring or any(
            isinstance(w, _Away) and w.segment == stored.segment for _, _, w in self._roomless
        )

    def _seek(self, object_id: bytes, seen_on: bytes = b"") -> None:
        self._sought.add(object_id)
        self._command(ev.ToScheduler(m.ObjectSought(self._config.node_id, object_id, seen_on)))

    def _unwanted(self, process: int, object_id: bytes) -> None:
        waiting = self.waiting.get(object_id)
        if waiting is None:
            return
        waiting.pop(process, None)
        if not waiting:
            del self.waiting[object_id]
            self._roomless = [
                each for each in self._roomless if getattr(each[2], "object_id", None) != object_id
            ]
            self._drop_interrupted(object_id)
            if object_id in self._sought:
                self._sought.discard(object_id)
                self._unseek(object_id)

    def _unseek(self, object_id: bytes) -> None:
        self._command(ev.ToScheduler(m.ObjectUnsought(self._config.node_id, object_id)))

    def process_gone(self, process: int) -> None:
        """A process of this node has ended."""
        self.store.process_gone(process)
        self._roomless = [each for each in self._roomless if each[1] != process]
        for object_id in [i for i, waiting in self.waiting.items() if process in waiting]:
            self._unwanted(process, object_id)

    def _answer(self, object_id: bytes, blob: m.Blob | None = None) -> None:
        """Give everybody who waits for the object what there is."""
        for process in self.waiting.pop(object_id, {}):
            if process == KEEPER:
                if blob is None and self.store.keep(object_id):
                    kept = m.ObjectKept(self._config.node_id, object_id)
                    self._command(ev.ToScheduler(kept))
                continue
            if blob is not None:
                here = m.ObjectHere(process, object_id, blob)
            else:
                stored = self.store.objects[object_id]
                here = m.ObjectHere(
                    process,
                    object_id,
                    None,
                    self.path(stored.segment),
                    stored.offset,
                    stored.size,
                    stored.is_error,
                )
            self._command(ev.ToProcess(process, here))

    # ------------------------------------------------------------------ what the scheduler says

    def located(self, event: m.ObjectLocated, until: float | None = None) -> None:
        """The scheduler knows the value, or where it is."""
        object_id = event.object_id
        self._sought.discard(object_id)
        is_running = self._fetches.is_running(object_id)
        if object_id not in self.waiting:  # it was made here meanwhile, or nobody waits any more
            if not is_running:
                self._drop_interrupted(object_id)
                if event.blob is None:
                    self._unseek(object_id)
        elif event.blob is not None:
            self._drop_interrupted(object_id)
            self._answer(object_id, event.blob)
        elif self.store.find(object_id) is not None:
            self._drop_interrupted(object_id)
            self._unseek(object_id)
            self._give(object_id)
        elif not is_running:
            self._pull(event, until)

    def _pull(self, event: m.ObjectLocated, until: float | None) -> None:
        object_id = event.object_id
        sources = [
            (node_id, address)
            for node_id, address in zip(event.node_ids, event.addresses, strict=True)
            if node_id != self._config.node_id
        ]
        if not sources:
            # The directory believes that it is here: it was evicted as a copy.
            self._missing(object_id, self._config.node_id)
            return
        source, address = self._rng.choice(sources)
        fetch = self._fetches.interrupted(object_id)
        if fetch is not None and fetch.size == event.size:
            fetch.is_running, fetch.source = True, source
            self._command(self._attempt(object_id, fetch, address))
            return
        self._drop_interrupted(object_id)  # it was made again, with another size
        try:
            segment, recycled = self._allocate(0, event.size)
        except StoreFull as error:
            self._no_room(0, event, until, error)
            return
        fetch = Fetch(segment.id, event.size, event.is_error, source, self.now)
        self._fetches.table[object_id] = fetch
        pull = self._attempt(object_id, fetch, address)
        if recycled:
            self._command(pull)
        else:
            self._create(segment, 0, 0, pull)

    def _attempt(self, object_id: bytes, fetch: Fetch, address: str) -> ev.Pull:
        return ev.Pull(
            object_id,
            fetch.source,
            address,
            fetch.segment,
            fetch.size,
            fetch.arrived,
            fetch.edition,
        )

    def _refuse(self, object_id: bytes, kind: bytes, detail: str) -> None:
        self._answer(object_id, m.Blob(kind + detail.encode(), [], True))

    def pull_done(self, event: ev.PullDone) -> None:
        """A copy has arrived."""
        object_id = event.object_id
        fetch = self._fetches.table.pop(object_id)
        if object_id in self._unwanted_pulls:
            self._unwanted_pulls.discard(object_id)
            self.store.close(fetch.segment)
            if object_id in self.waiting:
                self._seek(object_id)
            else:
                self._unseek(object_id)
            return
        self.store.seal(
            object_id,
            fetch.segment,
            0,
            fetch.size,
            is_copy=True,
            is_error=fetch.is_error,
            edition=event.edition,
        )
        self.store.close(fetch.segment)
        self._tell_stored(object_id, fetch.size, [], [], fetch.is_error, is_copy=True)
        self._answer(object_id)

    def pull_failed(self, event: ev.PullFailed) -> None:
        """Ask the scheduler for another copy, to go on from there."""
        object_id = event.object_id
        fetch = self._fetches.failed(
            object_id, event.arrived, event.edition, event.reason, self.now
        )
        if object_id in self._unwanted_pulls or object_id not in self.waiting:
            self._unwanted_pulls.discard(object_id)
            self._drop_interrupted(object_id)
        self._missing(object_id, fetch.source, event.is_gone)
        if object_id in self._fetches.overdue(self.now):
            self._give_up(object_id)

    def _missing(self, object_id: bytes, source: bytes, is_gone: bool = True) -> None:
        is_wanted = object_id in self.waiting
        if is_wanted:
            self._sought.add(object_id)
        missing = m.ObjectMissing(self._config.node_id, object_id, source, is_gone, is_wanted)
        self._command(ev.ToScheduler(missing))

    def _drop_interrupted(self, object_id: bytes) -> None:
        """What has arrived of it so far is of no use any more."""
        fetch = self._fetches.interrupted(object_id)
        if fetch is not None:
            del self._fetches.table[object_id]
            self.store.close(fetch.segment)

    def _give_up(self, object_id: bytes) -> None:
        """Nothing came from anybody who has the object, for too long."""
        fetch = self._fetches.table[object_id]
        waited, reason = self._fetches.timeout_s, fetch.reason or "no source was free"
        detail = (
            f"nothing came for {waited:g} s ({fetch.arrived} of {fetch.size} bytes are here); "
            f"the last attempt: {reason}"
        )
        self._drop_interrupted(object_id)
        if object_id in self._sought:
            self._sought.discard(object_id)
            self._unseek(object_id)
        self._refuse(object_id, b"fetch_timed_out:", detail)

    def keep(self, event: m.KeepObject) -> None:
        """The copy elsewhere will go: have one here that is not evicted."""
        self._wanted(KEEPER, event.object_id)

    def free(self, event: m.FreeObject) -> None:
        """Nobody holds the object."""
        if self._fetches.is_running(event.object_id):
            self._unwanted_pulls.add(event.object_id)
        self._drop_interrupted(event.object_id)
        self.store.free(event.object_id)
        if event.object_id in self.waiting and not self._is_asked(event.object_id):
            self._seek(event.object_id)  # it was to be restored; the scheduler knows what to say

    def check(self) -> None:
        """Assert the invariants."""
        self.store.check()
        for object_id in self.waiting:
            assert self._is_asked(object_id), (
                f"somebody waits for {object_id.hex()} and nobody was asked"
            )
        for object_id, fetch in self._fetches.table.items():
            segment = self.store.segments[fetch.segment]
            assert segment.is_open
            assert not segment.objects
            assert fetch.is_running or object_id in self._sought, "half a copy that nobody asks for"
