"""The directory of escaped objects.

Theory of operation
-------------------
States of an entry, the only table is `TRANSITIONS`:

* UNKNOWN — somebody asks for it, nobody published it (yet: publishes can be overtaken);
* PENDING — published without a value; its publisher will say;
* READY — inline here, or stored on nodes;
* REBUILDING — the last copy is gone; the process whose call made it was asked to run that again;
* LOST — its publisher died before the value came, or it cannot be made again;
* FREED — ``free()`` dropped the value though refs remain.

Nodes that wait for a value are *seekers*; each gets one `ObjectLocated` as soon as the entry is
READY and a copy is free to serve it (`ract.scheduler.objects.pulls`), or an error blob whose head
starts with ``lost:``, ``owner_died:``, ``freed:`` or one of `UNRECOVERABLE`. An entry that is
UNKNOWN, or that nothing holds and nobody has promised, keeps seekers waiting no longer than
``unknown_timeout_s``, or ``untold_timeout_s`` while the node that is said to store it lives.

An entry goes when `HoldTable` says that nothing holds it: copies are freed, what it contained is
released. A copy that is reported afterwards is freed at once. Values stay opaque.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ract.core.ids import process_of
from ract.core.messages import (
    Blob,
    Contained,
    ExitCause,
    FreeObject,
    LineageKept,
    LineageOver,
    ObjectKept,
    ObjectLocated,
    ObjectLost,
    ObjectMissing,
    ObjectPublished,
    ObjectStored,
    ObjectUnrecoverable,
    ObjectUntold,
)
from ract.scheduler.books.nodes import Nodes
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn
from ract.scheduler.objects.holds import HoldTable
from ract.scheduler.objects.pulls import Pulls

UNKNOWN, PENDING, READY, LOST, FREED = "UNKNOWN", "PENDING", "READY", "LOST", "FREED"
REBUILDING = "REBUILDING"

UNRECOVERABLE = frozenset({"unrecoverable", "attempts", "evicted"})
"""Why a lost object cannot be made again, as heads of error blobs begin."""

TRANSITIONS = {
    (UNKNOWN, "announced"): PENDING,
    (UNKNOWN, "valued"): READY,
    (UNKNOWN, "lost"): LOST,
    (UNKNOWN, "freed"): FREED,
    (UNKNOWN, "asked for"): REBUILDING,
    (PENDING, "announced"): PENDING,
    (PENDING, "valued"): READY,
    (PENDING, "lost"): LOST,
    (PENDING, "freed"): FREED,
    (PENDING, "asked for"): REBUILDING,  # the value was there, and went before it was told
    (READY, "announced"): READY,  # an overtaken announcement: the value stays
    (READY, "valued"): READY,  # a further copy
    (READY, "lost"): LOST,
    (READY, "freed"): FREED,
    (READY, "asked for"): REBUILDING,
    (REBUILDING, "announced"): REBUILDING,
    (REBUILDING, "valued"): READY,
    (REBUILDING, "lost"): LOST,
    (REBUILDING, "freed"): FREED,
    (REBUILDING, "asked for"): REBUILDING,
    (LOST, "announced"): PENDING,  # its task runs again
    (LOST, "valued"): READY,
    (LOST, "lost"): LOST,
    (LOST, "freed"): FREED,
    (FREED, "announced"): FREED,
    (FREED, "valued"): FREED,  # the value came too late
    (FREED, "lost"): FREED,
    (FREED, "freed"): FREED,
}


PROMISED = (PENDING, REBUILDING)
"""States in which a process is to bring the value."""


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of one escaped object."""

    object_id: bytes
    state: str = UNKNOWN
    publisher: int = 0  #: who will bring the value, while PENDING or REBUILDING
    seen_on: bytes = b""  #: who stores it, as others say; itself it has not told
    owed: int = 0  #: the process whose hold comes with what that node will tell
    told: bytes = b""  #: the node that told last that it stores what a call made
    is_maker_asked: bool = False  #: who made it has been asked what became of it
    rebuilder: int = 0  #: a process without a hold that could make it again, and waits for its end
    blob: Blob | None = None
    #: Those that store it, oldest first, and whether they keep it: mere copies may be evicted.
    nodes: dict[bytes, bool] = field(default_factory=dict)
    size: int = 0
    is_error: bool = False
    contains: list[Contained] = field(default_factory=list)
    seekers: dict[bytes, None] = field(default_factory=dict)
    answer: bytes = b""  #: head of the error blob for seekers, once LOST or FREED
    task_name: str = ""
    call_site: str = ""  #: where the ref was made, if that is recorded
    deadline: float | None = None  #: when seekers are told that it is unknown


@dataclass(slots=True, eq=False)
class Directory:
    """All entries, with indexes by node and by publisher."""

    turn: Turn
    nodes: Nodes
    processes: Processes
    holds: HoldTable
    rng: random.Random
    table: dict[bytes, Entry] = field(default_factory=dict)
    #: Node -> the entries that list it in `Entry.nodes`.
    by_node: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    #: Node -> how many bytes these take.
    bytes_on: dict[bytes, int] = field(default_factory=dict)
    #: Process -> the PENDING and REBUILDING entries that it publishes.
    by_publisher: dict[int, dict[bytes, None]] = field(default_factory=dict)
    #: All and only the entries with a deadline, in no particular order.
    deadlines: dict[bytes, float] = field(default_factory=dict)
    pulls: Pulls = field(init=False)

    def __post_init__(self) -> None:
        self.pulls = Pulls(self.rng)

    # ------------------------------------------------------------------ publishing

    def published(self, event: ObjectPublished) -> None:
        """An object escaped, with its value or with the promise of one."""
        entry = self._entry(event.object_id)
        entry.task_name = event.task_name or entry.task_name
        entry.call_site = event.call_site or entry.call_site
        if event.blob is not None:
            self._value(entry, event.contains, event.blob.is_error)
            if entry.state == READY and not entry.nodes:
                entry.blob = entry.blob or event.blob
                entry.size = entry.size or _size(event.blob)
        else:
            if entry.state in (UNKNOWN, LOST):
                self._step(entry, "announced")
                self._promise(entry, event.process)
            if event.seen_on and event.seen_on != entry.told:
                entry.seen_on, entry.owed = event.seen_on, event.process
                self._lose_if_untold(entry)
        self._settle(entry)

    def stored(self, event: ObjectStored) -> None:
        """A node has a copy, the first or a further one."""
        node_id = event.node_id
        self.pulls.ended(event.object_id, node_id)
        entry = self.table.get(event.object_id)
        if event.is_copy and (entry is None or entry.state not in (READY, LOST, REBUILDING)):
            # A pull that finished after the object went: nobody would ever free this copy.
            self.turn.send(node_id, FreeObject(event.object_id))
            return
        entry = self._entry(event.object_id)
        if event.is_copy:
            self._step(entry, "valued")  # it may be the last one, made before its source died
        else:
            entry.told = node_id
            if entry.seen_on == node_id:
                entry.owed = 0
            self._value(entry, event.contains, event.is_error)
        is_other = bool(entry.nodes) and entry.size != event.size  # a second run made another value
        if entry.state != READY or (is_other and node_id not in entry.nodes):
            self.turn.send(node_id, FreeObject(event.object_id))
        else:
            if not entry.nodes:
                entry.size = event.size
            if node_id not in entry.nodes:
                self.bytes_on[node_id] = self.bytes_on.get(node_id, 0) + entry.size
            entry.nodes[node_id] = entry.nodes.get(node_id, False) or not event.is_copy
            entry.call_site = event.call_site or entry.call_site
            self.by_node.setdefault(node_id, {})[entry.object_id] = None
        self._settle(entry)

    def freed(self, object_ids: list[bytes]) -> None:
        """``free``: drop values though refs remain."""
        for object_id in object_ids:
            entry = self.table.get(object_id)
            if entry is None:
                self.turn.drop("unknown object freed")
                continue
            self._drop_value(entry)
            self._step(entry, "freed")
            entry.answer = b"freed:"
            self._settle(entry)

    # ------------------------------------------------------------------ seeking

    def sought(self, node_id: bytes, object_id: bytes, seen_on: bytes = b"") -> None:
        """Processes of a node wait for the object, which a node stores, as far as they know."""
        entry = self._entry(object_id)
        self.pulls.ended(object_id, node_id)  # who pulls does not ask
        entry.seekers[node_id] = None
        if seen_on and entry.state == UNKNOWN:
            entry.seen_on = seen_on
            self._lose_if_untold(entry)
        self._settle(entry)

    def unsought(self, node_id: bytes, object_id: bytes) -> None:
        """Nobody on the node waits any more, or it does without a copy."""
        entry = self.table.get(object_id)
        was_pulling = self.pulls.ended(object_id, node_id)
        if entry is not None and (entry.seekers.pop(node_id, 0) is None or was_pulling):
            self._settle(entry)

    def missing(self, event: ObjectMissing) -> None:
        """A pull failed: try another copy, or it is lost."""
        object_id, source = event.object_id, event.source
        entry = self.table.get(object_id)
        self.pulls.ended(object_id, event.node_id)
        if entry is not None and source in entry.nodes and not event.is_gone:
            self.pulls.avoid(object_id, event.node_id, source, self.turn.now)
        elif entry is not None and source in entry.nodes:
            self._forget_copy(entry, source)
            if source != event.node_id and self.nodes.get(source) is not None:
                self.turn.send(source, FreeObject(object_id))
            self._lose_if_gone(entry, "its last copy is gone from the node that stored it")
        if event.is_wanted:
            self.sought(event.node_id, object_id)
        elif entry is not None:
            entry.seekers.pop(event.node_id, None)
            self._settle(entry)

    # ------------------------------------------------------------------ losing

    def unrecoverable(self, event: ObjectUnrecoverable) -> None:
        """Who was asked to make the object again cannot."""
        entry = self.table.get(event.object_id)
        if entry is None or entry.state != REBUILDING or event.kind not in UNRECOVERABLE:
            self.turn.drop("object that nobody asked for is unrecoverable")
            return
        self._step(entry, "lost")
        entry.answer = f"{event.kind}:{event.reason}".encode()
        self._settle(entry)

    def lineage_kept(self, event: LineageKept) -> None:
        """A process that holds these no more wants to hear when nobody does."""
        over = []
        for object_id in event.object_ids:
            entry = self.table.get(object_id)
            if entry is None:
                over.append(object_id)
            else:
                entry.rebuilder = event.process
        if over:
            self.processes.tell(event.process, LineageOver(event.process, over))

    def release(self, object_id: bytes) -> None:
        """Nothing holds the object any more."""
        entry = self.table.get(object_id)
        if entry is not None:
            self._settle(entry)

    def process_exited(self, number: int, cause: ExitCause) -> None:
        """What the process promised will not come."""
        for object_id in list(self.by_publisher.get(number, ())):
            entry = self.table[object_id]
            self._step(entry, "lost")
            detail = cause.detail or cause.kind
            entry.answer = f"owner_died:process {number} died ({detail})".encode()
            self._settle(entry)

    def node_lost(self, node_id: bytes) -> None:
        """The copies on the node are gone, and so are its seekers."""
        for object_id in list(self.by_node.get(node_id, ())):
            entry = self.table[object_id]
            self._forget_copy(entry, node_id)
            self._lose_if_gone(entry, f"node {node_id.hex()[:8]} that stored it died")
            self._settle(entry)
        concerned = (e for e in self.table.values() if node_id in e.seekers or e.seen_on == node_id)
        for entry in list(concerned):
            entry.seekers.pop(node_id, None)
            self._lose_if_untold(entry)
            self._settle(entry)
        self._go_on(self.pulls.node_lost(node_id))

    def sole_on(self, node_id: bytes) -> list[bytes]:
        """Return the objects that no node keeps but this one, or others that are drained."""
        here = self.by_node.get(node_id, ())
        return [object_id for object_id in here if self.is_sole_on(object_id, node_id)]

    def is_sole_on(self, object_id: bytes, node_id: bytes) -> bool:
        """Whether the object is stored there and no node that stays keeps it."""
        entry = self.table.get(object_id)
        if entry is None or entry.blob is not None or node_id not in entry.nodes:
            return False
        keepers = [self.nodes.get(each) for each, keeps in entry.nodes.items() if keeps]
        return not any(node is not None and not node.is_draining for node in keepers)

    def kept(self, event: ObjectKept) -> None:
        """A node keeps its copy from now on."""
        entry = self.table.get(event.object_id)
        if entry is not None and event.node_id in entry.nodes:
            entry.nodes[event.node_id] = True

    def tick(self) -> None:
        """Answer the seekers of what nobody published in time; who made it is asked first."""
        due = [each for each, at in self.deadlines.items() if at <= self.turn.now]
        for object_id in due:
            entry = self.table[object_id]
            self._set_deadline(entry, False)
            maker = process_of(object_id)
            if (
                entry.state == UNKNOWN
                and not entry.is_maker_asked
                and maker in self.processes.alive
            ):
                entry.is_maker_asked = True
                self.processes.tell(maker, ObjectUntold(maker, object_id))
            else:
                self._answer(entry, _error(b"lost:unknown object"))
            self._settle(entry)
        self._go_on(self.pulls.expire(self.turn.now))

    def postpone(self) -> None:
        """Messages were much later than usual: wait anew for whoever publishes what is sought."""
        at = self.turn.now + self.turn.settings.unknown_timeout_s
        for object_id in self.deadlines:
            self.deadlines[object_id] = self.table[object_id].deadline = at

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        at = self.pulls.next_deadline()
        return min(
            self.deadlines.values() if at is None else (*self.deadlines.values(), at), default=None
        )

    def check(self) -> None:
        """Assert the invariants."""
        for node_id, copies in self.by_node.items():
            assert self.bytes_on[node_id] == sum(self.table[each].size for each in copies)
        for object_id, entry in self.table.items():
            assert self.holds.is_held(object_id) or entry.seekers, object_id.hex()
            assert (entry.state == READY) == bool(entry.nodes or entry.blob is not None)
            assert not (entry.seekers and entry.state in (LOST, FREED))
            for seeker in entry.seekers if entry.state == READY else ():
                assert entry.blob is None
                assert self.pulls.must_wait(object_id, seeker, entry.nodes)
            assert (entry.deadline is not None) == (object_id in self.deadlines)
            for node_id in entry.nodes:
                assert object_id in self.by_node[node_id]
                assert self.nodes.get(node_id)
            pending = object_id in self.by_publisher.get(entry.publisher, {})
            assert pending == (entry.state in PROMISED)
        self.pulls.check()
        for object_id in self.pulls.table:
            assert self.table[object_id].state == READY

    # ------------------------------------------------------------------ inside

    def _entry(self, object_id: bytes) -> Entry:
        entry = self.table.get(object_id)
        if entry is None:
            entry = self.table[object_id] = Entry(object_id)
        return entry

    def _step(self, entry: Entry, what: str) -> None:
        was, entry.state = entry.state, TRANSITIONS[entry.state, what]
        if was in PROMISED and (entry.state not in PROMISED or what == "asked for"):
            mine = self.by_publisher[entry.publisher]
            del mine[entry.object_id]
            if not mine:
                del self.by_publisher[entry.publisher]

    def _value(self, entry: Entry, contains: list[Contained], is_error: bool) -> None:
        """A value came; the first one counts."""
        is_first = entry.state != READY
        self._step(entry, "valued")
        if is_first and entry.state == READY:
            old, entry.contains = entry.contains, [each for each in contains if each.count > 0]
            entry.is_error = is_error
            self.holds.contain(entry.contains)
            self.holds.release(old)  # of a value that was lost and made again

    def _drop_value(self, entry: Entry) -> None:
        """Free the copies and let go of what the value contains."""
        self.pulls.forget(entry.object_id)
        for node_id in list(entry.nodes):
            self._forget_copy(entry, node_id)
            self.turn.send(node_id, FreeObject(entry.object_id))
        entry.blob = None
        self.holds.release(entry.contains)
        entry.contains = []

    def _forget_copy(self, entry: Entry, node_id: bytes) -> None:
        del entry.nodes[node_id]
        copies = self.by_node[node_id]
        del copies[entry.object_id]
        self.bytes_on[node_id] -= entry.size
        if not copies:
            del self.by_node[node_id], self.bytes_on[node_id]

    def _promise(self, entry: Entry, process: int) -> None:
        entry.publisher = process
        self.by_publisher.setdefault(process, {})[entry.object_id] = None

    def _lose_if_gone(self, entry: Entry, reason: str) -> None:
        if entry.nodes or entry.blob is not None:
            return
        # What it contains stays held: a copy that is on its way may revive it.
        self.pulls.forget(entry.object_id)
        is_wanted = self.holds.is_held(entry.object_id) or entry.seekers
        if not (is_wanted and self._ask_maker(entry, reason)):
            self._step(entry, "lost")
            entry.answer = b"lost:" + reason.encode()

    def _lose_if_untold(self, entry: Entry) -> None:
        """A node that stored the object may have died before it could tell of it."""
        if not entry.seen_on or self.nodes.get(entry.seen_on) is not None:
            return
        owed, entry.owed = entry.owed, 0
        if owed in self.processes.alive:
            self.holds.change(entry.object_id, owed, 1)
        if entry.state == UNKNOWN or (owed and entry.state in PROMISED):
            self._lose_if_gone(entry, f"node {entry.seen_on.hex()[:8]} that stored it died")

    def _ask_maker(self, entry: Entry, reason: str) -> bool:
        """Have the process whose call made an object run it again; False if it is dead."""
        object_id, maker = entry.object_id, process_of(entry.object_id)
        if maker not in self.processes.alive:
            return False
        self._step(entry, "asked for")
        self._promise(entry, maker)
        is_held = self.holds.by_id.get(object_id, {}).get(maker, 0) > 0
        self.processes.tell(maker, ObjectLost(maker, object_id, reason, is_held))
        return True

    def _go_on(self, object_ids: list[bytes]) -> None:
        """Pulls of these are over, and others may have waited for that."""
        for object_id in object_ids:
            entry = self.table.get(object_id)
            if entry is not None:
                self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        """Answer who can be answered, and let the entry go if nothing keeps it."""
        is_held = self.holds.is_held(entry.object_id)
        if entry.seekers and entry.state == READY:
            if entry.blob is not None:
                self._answer(entry, entry.blob)
            else:
                self._locate(entry, is_held)
        elif entry.seekers and entry.state in (LOST, FREED):
            self._answer(entry, _error(entry.answer))
        if is_held or entry.seekers:
            is_sure = entry.state in PROMISED or (is_held and entry.state != UNKNOWN)
            self._set_deadline(entry, bool(entry.seekers) and not is_sure)
        else:
            self._remove(entry)

    def _set_deadline(self, entry: Entry, must_end: bool) -> None:
        if not must_end:
            entry.deadline = None
            self.deadlines.pop(entry.object_id, None)
        elif entry.deadline is None:
            settings = self.turn.settings
            patience = settings.untold_timeout_s if entry.seen_on else settings.unknown_timeout_s
            entry.deadline = self.turn.now + patience
            self.deadlines[entry.object_id] = entry.deadline

    def _remove(self, entry: Entry) -> None:
        self._drop_value(entry)
        self._set_deadline(entry, False)
        if entry.state in PROMISED:
            self._step(entry, "freed")
        del self.table[entry.object_id]
        if entry.rebuilder in self.processes.alive:
            over = LineageOver(entry.rebuilder, [entry.object_id])
            self.processes.tell(entry.rebuilder, over)

    def _answer(self, entry: Entry, blob: Blob) -> None:
        """Give every seeker the value, or the error that stands for it."""
        seekers, entry.seekers = entry.seekers, {}
        for node_id in seekers:
            located = ObjectLocated(entry.object_id, blob, [], [], entry.size, blob.is_error)
            self.turn.send(node_id, located)

    def _locate(self, entry: Entry, is_held: bool) -> None:
        """Tell seekers where a copy is, as many as the copies can serve now."""
        for node_id in [each for each in entry.seekers if each in entry.nodes]:
            self._tell(entry, node_id, [node_id])  # it finds it there, or says that it is gone
        # Where nothing holds the object, there is no time to wait for each other.
        size = entry.size if is_held else 0
        copies = [each for each in entry.nodes if self.nodes.get(each) is not None]
        found = self.pulls.assign(entry.object_id, entry.seekers, copies, size, self.turn.now)
        for node_id, sources in found.items():
            self._tell(entry, node_id, sources)

    def _tell(self, entry: Entry, node_id: bytes, sources: list[bytes]) -> None:
        del entry.seekers[node_id]
        located = ObjectLocated(
            object_id=entry.object_id,
            blob=None,
            node_ids=sources,
            addresses=[self.nodes.table[each].address for each in sources],
            size=entry.size,
            is_error=entry.is_error,
        )
        self.turn.send(node_id, located)


def _error(head: bytes) -> Blob:
    return Blob(head, [], True)


def _size(blob: Blob) -> int:
    return len(blob.head) + sum(map(len, blob.buffers))
