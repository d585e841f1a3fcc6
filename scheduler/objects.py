"""The directory of escaped objects.

Theory of operation
-------------------
States of an entry, the only table is `TRANSITIONS`:

* UNKNOWN — somebody asks for it, nobody published it (yet: publishes can be overtaken);
* PENDING — published without a value; its publisher will say;
* READY — inline here, or stored on nodes;
* LOST — its publisher died before the value came, or the last copy is gone;
* FREED — ``free()`` dropped the value though refs remain.

Nodes that wait for a value are *seekers*; each gets one `ObjectLocated` as soon as the entry is
READY, or an error blob whose head starts with ``lost:``, ``owner_died:`` or ``freed:``. An entry
that is UNKNOWN, or that nothing holds, keeps seekers waiting no longer than
``unknown_timeout_s``.

An entry goes when `HoldTable` says that nothing holds it: copies are freed, what it contained is
released. A copy that is reported afterwards is freed at once. Values stay opaque.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ract.core.messages import (
    Blob,
    Contained,
    ExitCause,
    FreeObject,
    ObjectKept,
    ObjectLocated,
    ObjectMissing,
    ObjectPublished,
    ObjectStored,
)
from ract.scheduler.holds import HoldTable
from ract.scheduler.nodes import Nodes
from ract.scheduler.turn import Turn

UNKNOWN, PENDING, READY, LOST, FREED = "UNKNOWN", "PENDING", "READY", "LOST", "FREED"

TRANSITIONS = {
    (UNKNOWN, "announced"): PENDING,
    (UNKNOWN, "valued"): READY,
    (UNKNOWN, "lost"): LOST,
    (UNKNOWN, "freed"): FREED,
    (PENDING, "announced"): PENDING,
    (PENDING, "valued"): READY,
    (PENDING, "lost"): LOST,
    (PENDING, "freed"): FREED,
    (READY, "announced"): READY,  # an overtaken announcement: the value stays
    (READY, "valued"): READY,  # a further copy
    (READY, "lost"): LOST,
    (READY, "freed"): FREED,
    (LOST, "announced"): PENDING,  # its task runs again
    (LOST, "valued"): READY,
    (LOST, "lost"): LOST,
    (LOST, "freed"): FREED,
    (FREED, "announced"): FREED,
    (FREED, "valued"): FREED,  # the value came too late
    (FREED, "lost"): FREED,
    (FREED, "freed"): FREED,
}


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of one escaped object."""

    object_id: bytes
    state: str = UNKNOWN
    publisher: int = 0  #: who will bring the value, while PENDING
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
    holds: HoldTable
    rng: random.Random
    table: dict[bytes, Entry] = field(default_factory=dict)
    #: Node -> the entries that list it in `Entry.nodes`.
    by_node: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    #: Process -> the PENDING entries that it publishes.
    by_publisher: dict[int, dict[bytes, None]] = field(default_factory=dict)
    #: All and only the entries with a deadline, in no particular order.
    deadlines: dict[bytes, float] = field(default_factory=dict)

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
        elif entry.state in (UNKNOWN, LOST):
            self._step(entry, "announced")
            entry.publisher = event.process
            self.by_publisher.setdefault(event.process, {})[entry.object_id] = None
        self._settle(entry)

    def stored(self, event: ObjectStored) -> None:
        """A node has a copy, the first or a further one."""
        node_id = event.node_id
        entry = self.table.get(event.object_id)
        if event.is_copy and (entry is None or entry.state not in (READY, LOST)):
            # A pull that finished after the object went: nobody would ever free this copy.
            self.turn.send(node_id, FreeObject(event.object_id))
            return
        entry = self._entry(event.object_id)
        if event.is_copy:
            self._step(entry, "valued")  # it may be the last one, made before its source died
        else:
            self._value(entry, event.contains, event.is_error)
        if entry.state != READY:
            self.turn.send(node_id, FreeObject(event.object_id))
        else:
            entry.nodes[node_id] = entry.nodes.get(node_id, False) or not event.is_copy
            entry.size = event.size
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

    def sought(self, node_id: bytes, object_id: bytes) -> None:
        """Processes of a node wait for the object."""
        entry = self._entry(object_id)
        entry.seekers[node_id] = None
        self._settle(entry)

    def unsought(self, node_id: bytes, object_id: bytes) -> None:
        """Nobody on the node waits any more."""
        entry = self.table.get(object_id)
        if entry is not None and entry.seekers.pop(node_id, 0) is None:
            self._settle(entry)

    def missing(self, event: ObjectMissing) -> None:
        """A pull found nothing at ``source``: try another copy, or it is lost."""
        entry = self.table.get(event.object_id)
        if entry is None:
            self.sought(event.node_id, event.object_id)
            return
        if event.source in entry.nodes:
            self._forget_copy(entry, event.source)
            if self.nodes.get(event.source) is not None:
                self.turn.send(event.source, FreeObject(event.object_id))
            self._lose_if_gone(entry, "its last copy is gone from the node that stored it")
        self.sought(event.node_id, event.object_id)

    # ------------------------------------------------------------------ losing

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
        for entry in [e for e in self.table.values() if node_id in e.seekers]:
            del entry.seekers[node_id]
            self._settle(entry)

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
        """Answer the seekers of what nobody published in time."""
        due = [each for each, at in self.deadlines.items() if at <= self.turn.now]
        for object_id in due:
            entry = self.table[object_id]
            entry.deadline = None
            del self.deadlines[object_id]
            self._answer(entry, _error(b"lost:unknown object"))
            self._settle(entry)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return min(self.deadlines.values(), default=None)

    def check(self) -> None:
        """Assert the invariants."""
        for object_id, entry in self.table.items():
            assert self.holds.is_held(object_id) or entry.seekers, object_id.hex()
            assert (entry.state == READY) == bool(entry.nodes or entry.blob is not None)
            assert not (entry.seekers and entry.state in (READY, LOST, FREED))
            assert (entry.deadline is not None) == (object_id in self.deadlines)
            for node_id in entry.nodes:
                assert object_id in self.by_node[node_id]
                assert self.nodes.get(node_id)
            pending = object_id in self.by_publisher.get(entry.publisher, {})
            assert pending == (entry.state == PENDING)

    # ------------------------------------------------------------------ inside

    def _entry(self, object_id: bytes) -> Entry:
        entry = self.table.get(object_id)
        if entry is None:
            entry = self.table[object_id] = Entry(object_id)
        return entry

    def _step(self, entry: Entry, what: str) -> None:
        was, entry.state = entry.state, TRANSITIONS[entry.state, what]
        if was == PENDING != entry.state:
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
        if not copies:
            del self.by_node[node_id]

    def _lose_if_gone(self, entry: Entry, reason: str) -> None:
        if entry.nodes or entry.blob is not None:
            return
        # What it contains stays held: a copy that is on its way may revive it.
        self._step(entry, "lost")
        entry.answer = b"lost:" + reason.encode()

    def _settle(self, entry: Entry) -> None:
        """Answer who can be answered, and let the entry go if nothing keeps it."""
        if entry.seekers and entry.state == READY:
            self._answer(entry, None)
        elif entry.seekers and entry.state in (LOST, FREED):
            self._answer(entry, _error(entry.answer))
        is_held = self.holds.is_held(entry.object_id)
        if is_held or entry.seekers:
            must_end = bool(entry.seekers) and (entry.state == UNKNOWN or not is_held)
            self._set_deadline(entry, must_end)
        else:
            self._remove(entry)

    def _set_deadline(self, entry: Entry, must_end: bool) -> None:
        if not must_end:
            entry.deadline = None
            self.deadlines.pop(entry.object_id, None)
        elif entry.deadline is None:
            entry.deadline = self.turn.now + self.turn.settings.unknown_timeout_s
            self.deadlines[entry.object_id] = entry.deadline

    def _remove(self, entry: Entry) -> None:
        self._drop_value(entry)
        self._set_deadline(entry, False)
        if entry.state == PENDING:
            self._step(entry, "freed")
        del self.table[entry.object_id]

    def _answer(self, entry: Entry, error: Blob | None) -> None:
        """Tell every seeker where the value is, or that there will be none."""
        seekers, entry.seekers = entry.seekers, {}
        for node_id in seekers:
            others = [n for n in entry.nodes if n != node_id]
            self.rng.shuffle(others)  # copies share the load
            nodes = [node for n in others if (node := self.nodes.get(n)) is not None]
            if node_id in entry.nodes:
                nodes.insert(0, self.nodes.table[node_id])
            blob = error or entry.blob
            message = ObjectLocated(
                object_id=entry.object_id,
                blob=blob,
                node_ids=[] if blob else [node.node_id for node in nodes],
                addresses=[] if blob else [node.address for node in nodes],
                size=entry.size,
                is_error=blob.is_error if blob else entry.is_error,
            )
            self.turn.send(node_id, message)


def _error(head: bytes) -> Blob:
    return Blob(head, [], True)


def _size(blob: Blob) -> int:
    return len(blob.head) + sum(map(len, blob.buffers))
