"""Nodes that are to go without loss: work finished or moved, objects moved, then the end.

Theory of operation
-------------------
A node that is drained takes nothing new. Its leases are recalled and end when what runs there is
done. Actors that may restart end after the call that they are in, and start elsewhere (their
callers' other calls follow them); the others are waited for, since they could not be made again.
Bundles of placement groups are moved when nobody uses them. Objects of which no other node has a
copy are fetched by one that stays. Drivers are waited for, and so is every process that has
promised values to others (its calls have not come back). When nothing is left the node is told to
end, unless somebody else (Dask's adaptive scaling) is to end it.

A drain may have a deadline; then the node ends with what is left. `Drains.step` looks at all drains
a few times per second; it starts what is not under way yet, and repeats what took too long. It
keeps no more than it needs to do so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.core.messages import EndNode, ExitCause, KeepObject
from ract.scheduler.actors.actors import Actors
from ract.scheduler.books.nodes import Node, Nodes
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn
from ract.scheduler.capacity.groups import Groups
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.leases.recalls import Recalls
from ract.scheduler.objects.directory import Directory
from ract.scheduler.objects.promises import owes

LOOK_S = 0.1
FETCH_TIMEOUT_S = 10.0
"""An object that has not arrived by then is asked of another node."""

FETCHES_MAX = 16
"""So many objects are on their way at a time, per node that is drained."""


@dataclass(slots=True, eq=False)
class Drain:
    """One node on its way out."""

    node: Node
    why: str
    deadline: float | None
    ends: bool  #: the node is told to end when nothing is left
    #: Objects that are to be fetched by others, and those that are: until when.
    to_fetch: list[bytes] = field(default_factory=list)
    fetches: dict[bytes, float] = field(default_factory=dict)
    is_told: bool = False


@dataclass(slots=True, eq=False)
class Drains:
    """All drains under way."""

    turn: Turn
    nodes: Nodes
    processes: Processes
    leases: LeaseTable
    recalls: Recalls
    actors: Actors
    groups: Groups
    objects: Directory
    table: dict[bytes, Drain] = field(default_factory=dict)
    _next_at: float | None = None
    _next_target: int = 0

    def begin(self, node: Node, why: str, deadline_s: float | None, *, ends: bool = True) -> None:
        """Begin to drain a node, or change the deadline."""
        known = self.table.get(node.node_id)
        deadline = None if deadline_s is None else self.turn.now + deadline_s
        if known is not None:
            known.deadline, known.why, known.ends = deadline, why, known.ends or ends
        else:
            self.table[node.node_id] = Drain(node, why, deadline, ends)
            self.nodes.drain(node, True)
        self._next_at = self.turn.now

    def stop(self, node_id: bytes) -> None:
        """Be content with the node again."""
        drain = self.table.pop(node_id, None)
        if drain is not None:
            self.nodes.drain(drain.node, False)

    def node_lost(self, node_id: bytes) -> None:
        """It is gone."""
        self.table.pop(node_id, None)

    def what_is_left(self, node: Node) -> list[str]:
        """Say what a node still has that must not be lost."""
        leases = len(self.leases.on_node.get(node.node_id, {}))
        bodies = sum(1 for _ in self.actors.on(node))
        bundles = sum(1 for _ in self.groups.on(node))
        objects = len(self.objects.sole_on(node.node_id))
        here = self.processes.on_node(node.node_id)
        drivers = sum(process.kind == "driver" for process in here)
        counts = {
            "leases": leases,
            "actors": bodies,
            "bundles of placement groups": bundles,
            "objects that no other node has": objects,
            "drivers": drivers,
            "processes that others wait for": sum(owes(self.objects, each.number) for each in here),
        }
        return [f"{n} {what}" for what, n in counts.items() if n]

    def step(self) -> None:
        """Go on with every drain, if it is time."""
        if self._next_at is None or self.turn.now < self._next_at:
            return
        self._next_at = None
        for drain in list(self.table.values()):
            self._step(drain)
            self._look_at(self.turn.now + LOOK_S)

    def next_deadline(self) -> float | None:
        """When `step` should be called though nothing has happened."""
        return self._next_at

    def check(self) -> None:
        """Assert the invariants."""
        for node in self.nodes.alive:
            assert node.is_draining == (node.node_id in self.table)

    # ------------------------------------------------------------------ inside

    def _step(self, drain: Drain) -> None:
        node = drain.node
        cause = ExitCause("drained", drain.why, node_id=node.node_id, host=node.host)
        self.recalls.recall_all(node)
        for actor in list(self.actors.on(node)):
            self.actors.move(actor, cause)
        self.groups.vacate(node)
        self._fetch(drain)
        is_due = drain.deadline is not None and drain.deadline <= self.turn.now
        is_moving = bool(drain.to_fetch or drain.fetches)
        is_over = is_due or not (is_moving or self.what_is_left(node))
        if is_over and drain.ends and not drain.is_told:
            drain.is_told = True
            self.turn.send(node.node_id, EndNode(ExitCause("shutdown", f"drained: {drain.why}")))

    def kept(self, object_id: bytes) -> None:
        """A node keeps an object now: the next one may follow."""
        for drain in self.table.values():
            if drain.fetches.pop(object_id, None) is not None:
                self._refill(drain)

    def _fetch(self, drain: Drain) -> None:
        """Have other nodes fetch what only this one stores."""
        now = self.turn.now
        late = [object_id for object_id, at in drain.fetches.items() if at <= now]
        for object_id in late:
            del drain.fetches[object_id]
        if not (drain.to_fetch or drain.fetches):  # all of it is looked through only then
            drain.to_fetch = self.objects.sole_on(drain.node.node_id)[::-1]
        self._refill(drain)

    def _refill(self, drain: Drain) -> None:
        targets = [node for node in self.nodes.alive if not node.is_draining]
        while targets and drain.to_fetch and len(drain.fetches) < FETCHES_MAX:
            object_id = drain.to_fetch.pop()
            if not self.objects.is_sole_on(object_id, drain.node.node_id):
                continue
            drain.fetches[object_id] = self.turn.now + FETCH_TIMEOUT_S
            target = targets[self._next_target % len(targets)]
            self._next_target += 1
            self.turn.send(target.node_id, KeepObject(object_id))

    def _look_at(self, at: float) -> None:
        if self._next_at is None or at < self._next_at:
            self._next_at = at
