"""Leases: executors lent to whoever has tasks of a shape.

Theory of operation
-------------------
A process says how many tasks of a shape wait (`LeasesWanted`): a `Want`, one per (process, shape
key), absolute. Wants that ask the same of a node (resources, strategy, labels) share a *queue*; if
the first of a queue finds no node, nobody in it does. Each round grants one lease per queue, to the
want with the fewest leases, which then goes to the back: round robin between queues and between
processes.

A lease is STARTING from `StartLease` until the node answers with `LeaseStarted` (then HELD by its
requester) or `LeaseFailed`; ENDING after its requester died while the executor may still be busy
with its tasks, until the executor's exit is reported. Its resources are taken from STARTING to the
end. While STARTING it is never withdrawn, so that node and scheduler cannot disagree; if nobody
wants it any more once it is up, it ends at once.

How many more a want gets: its backlog, minus what was granted since it was last stated, minus what
is STARTING. So never more than the newest backlog beyond those held, however late it is.

When a queue finds no room, whoever keeps clearly more than the waiting want is asked to give a
lease back after what runs there is done (`ract.scheduler.recalls`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.core.messages import (
    EndLease,
    ExitCause,
    LeaseFailed,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    LeaseReleased,
    LeaseStarted,
    LeasesWanted,
    StartLease,
)
from ract.scheduler.lease_records import ENDING, HELD, STARTING, Lease, Want, WantKey
from ract.scheduler.ledger import UNIT
from ract.scheduler.nodes import Node, Nodes
from ract.scheduler.placement import Ask, Placement
from ract.scheduler.processes import Processes
from ract.scheduler.recalls import Recalls
from ract.scheduler.reports import Reports
from ract.scheduler.turn import Turn

STARTING_MAX_PER_CPU = 2
"""Executors that may be starting on a node, per CPU, for demands that need no CPU."""


@dataclass(slots=True, eq=False)
class Leases:
    """Wants, queues and leases."""

    turn: Turn
    nodes: Nodes
    processes: Processes
    placement: Placement
    reports: Reports
    table: dict[int, Lease] = field(default_factory=dict)
    wants: dict[WantKey, Want] = field(default_factory=dict)
    #: Ask key -> the wants with a need > 0, in the order of their turns.
    queues: dict[str, dict[WantKey, None]] = field(default_factory=dict)
    #: Executor -> its lease in HELD or ENDING.
    by_executor: dict[int, Lease] = field(default_factory=dict)
    _next_lease: int = 1
    recalls: Recalls = field(init=False)

    def __post_init__(self) -> None:
        self.recalls = Recalls(self)

    # ------------------------------------------------------------------ what processes say

    def wanted(self, event: LeasesWanted) -> None:
        """A process states its backlog of a shape."""
        if event.process not in self.processes.alive:
            self.turn.drop("LeasesWanted of a dead process")
            return
        key = (event.process, event.shape_key)
        want = self.wants.get(key)
        if want is None:
            want = self._new_want(key, event)
            if want is None:
                return
        if not want.need:
            want.since = self.turn.now
        want.backlog, want.granted = max(0, event.backlog), 0
        want.names = event.names or want.names
        self._enqueue(want)
        self.turn.retry = True  # whoever has nothing more to do may have to give leases back
        self._forget_if_idle(want)

    def released(self, event: LeaseReleased) -> None:
        """A process gives a lease back: its executor is idle at once."""
        lease = self.table.get(event.lease)
        if lease is None or lease.state != HELD or lease.want_key[0] != event.process:
            self.turn.drop("unknown lease released")
            return
        self._end(lease, kill=False, cause=ExitCause("idle"))

    # ------------------------------------------------------------------ what nodes say

    def started(self, event: LeaseStarted) -> None:
        """The executor is up: grant it, unless nobody wants it any more."""
        lease = self._starting(event.lease, event.node_id)
        if lease is None:
            return
        self.processes.assign_job(event.executor, lease.shape.job_id)
        want = self._answered(lease)
        if want is None or want.backlog <= want.granted:
            self._end(lease, kill=False, cause=ExitCause("idle", "no longer wanted"))
            return
        lease.state, lease.executor, lease.held_since = HELD, event.executor, self.turn.now
        self.by_executor[event.executor] = lease
        want.granted += 1
        want.held += 1
        self._enqueue(want)
        self.processes.tell(
            want.key[0],
            LeaseGranted(
                process=want.key[0],
                shape_key=want.key[1],
                lease=lease.lease,
                executor=event.executor,
                node_id=event.node_id,
                address=event.address,
            ),
        )

    def failed(self, event: LeaseFailed) -> None:
        """No executor can be made: the tasks of the shape fail."""
        lease = self._starting(event.lease, event.node_id)
        if lease is None:
            return
        want = self._answered(lease)
        self._remove(lease)
        if want is not None:
            self._refuse(want, event.error, event.detail)

    # ------------------------------------------------------------------ deaths

    def process_exited(self, number: int, cause: ExitCause) -> None:
        """Drop what the process wanted, held, and ran."""
        for key in [key for key in self.wants if key[0] == number]:
            want = self.wants.pop(key)
            want.backlog = 0
            self._dequeue(want)
            self.reports.forget(key)
        for lease in list(self.table.values()):
            if lease.want_key[0] == number and lease.state == HELD:
                lease.state = ENDING
                why = ExitCause("owner_died", "the process that submitted its tasks is gone")
                self.turn.send(lease.node.node_id, EndLease(lease.lease, True, why))
        ran = self.by_executor.get(number)
        if ran is not None:
            self._lose(ran, cause)

    def node_lost(self, node: Node, cause: ExitCause) -> None:
        """Every lease on the node is lost; wants for it may have become impossible."""
        for lease in [each for each in self.table.values() if each.node is node]:
            if lease.state == STARTING:
                self._answered(lease)
            self._lose(lease, cause)
        for want in list(self.wants.values()):
            if want.need:
                self._judge(want)

    def blocked(self, executor: int) -> bool:
        """The executor's task waits: lend its CPUs. False if it has no lease."""
        lease = self.by_executor.get(executor)
        if lease is None:
            return False
        lease.node.ledger.lend(lease.allocation)
        self.turn.retry = True
        return True

    def unblocked(self, executor: int) -> bool:
        """The executor's task goes on."""
        lease = self.by_executor.get(executor)
        if lease is None:
            return False
        ledger = lease.node.ledger
        ledger.reclaim(lease.allocation)
        if ledger.free.get("CPU", 0) < 0 and lease.state == HELD and not lease.is_recalled:
            self.recalls.recall(lease)  # more tasks on it would prolong the oversubscription
        return True

    # ------------------------------------------------------------------ granting

    def grant(self) -> None:
        """Start leases, one per queue and round, until no queue finds a node."""
        full: dict[str, None] = {}
        progress = True
        while progress:
            progress = False
            for key in [key for key in self.queues if key not in full]:
                if self._grant_one(key):
                    progress = True
                else:
                    full[key] = None
        for queue in self.queues.values():
            want = self._first(queue)
            if want.recalled not in self.table:
                want.recalled = self.recalls.ask_for(want.ask, want.active, want.key)

    def check(self) -> None:
        """Assert the invariants."""
        for want in self.wants.values():
            mine = [lease for lease in self.table.values() if lease.want_key == want.key]
            assert want.starting == sum(lease.state == STARTING for lease in mine)
            assert want.held == sum(lease.state == HELD for lease in mine)
            queued = want.key in self.queues.get(want.ask.key, {})
            assert queued == (want.need > 0), (want, queued)
        for queue in self.queues.values():
            assert queue
            assert all(key in self.wants for key in queue)
        for lease in self.table.values():
            assert lease.node.is_alive
            assert (lease.state == STARTING) == (not lease.executor), lease
            assert lease.state == ENDING or lease.want_key in self.wants or lease.state == STARTING
        held = {lease.executor: lease for lease in self.table.values() if lease.executor}
        assert held == self.by_executor
        for node in self.nodes.alive:
            here = [lease for lease in self.table.values() if lease.node is node]
            assert node.starting == sum(lease.state == STARTING for lease in here)

    # ------------------------------------------------------------------ inside

    def _new_want(self, key: WantKey, event: LeasesWanted) -> Want | None:
        if event.backlog <= 0:
            return None
        shape = event.shape
        try:
            ask = Ask.of(shape.demand, shape.strategy, shape.label_selector)
        except (ValueError, TypeError) as error:
            refusal = LeaseRefused(*key, "ValueError", str(error))
            self.processes.tell(event.process, refusal)
            return None
        want = Want(key, shape, ask, event.names, self.turn.now, backlog=event.backlog)
        self.wants[key] = want
        return want if self._judge(want) else None

    def _judge(self, want: Want) -> bool:
        """Refuse or report a want that can never be granted; return whether it stays."""
        verdict = self.placement.verdict(want.ask)
        if verdict.kind == "refused":
            self._refuse(want, "TaskUnschedulableError", verdict.text)
            return False
        if verdict.kind == "infeasible":
            self.reports.infeasible(want.key[0], want.key, want.ask, want.names)
        return True

    def _refuse(self, want: Want, error: str, detail: str) -> None:
        want.backlog = want.granted = 0
        self._dequeue(want)
        self._forget_if_idle(want)
        self.processes.tell(want.key[0], LeaseRefused(*want.key, error, detail))

    def _enqueue(self, want: Want) -> None:
        if want.need:
            self.queues.setdefault(want.ask.key, {}).setdefault(want.key)
            self.turn.retry = True
        else:
            self._dequeue(want)

    def _dequeue(self, want: Want) -> None:
        queue = self.queues.get(want.ask.key)
        if queue is not None:
            queue.pop(want.key, None)
            if not queue:
                del self.queues[want.ask.key]

    def _first(self, queue: dict[WantKey, None]) -> Want:
        """Whose turn it is: who has the fewest leases, of several the one in front."""
        return min((self.wants[key] for key in queue), key=lambda want: want.active)

    def _grant_one(self, ask_key: str) -> bool:
        queue = self.queues[ask_key]
        want = self._first(queue)
        process = self.processes.alive[want.key[0]]
        node = self.placement.choose(want.ask, process.node_id)
        if node is None or self._starts_enough(node, want):
            if node is None and want.ask.must_fail and not self._judge(want):
                return ask_key in self.queues
            return False
        self._start(want, node)
        self._dequeue(want)
        self._enqueue(want)  # to the back of its queue, if it needs more
        return ask_key in self.queues

    def _starts_enough(self, node: Node, want: Want) -> bool:
        if want.ask.demand.get("CPU"):
            return False
        cpus = max(1, node.ledger.total.get("CPU", 0) // UNIT)
        return node.starting >= STARTING_MAX_PER_CPU * cpus

    def _start(self, want: Want, node: Node) -> None:
        allocation = node.ledger.take(want.ask.demand)
        lease = Lease(self._next_lease, want.key, want.shape, node, allocation)
        self._next_lease += 1
        self.table[lease.lease] = lease
        want.starting += 1
        want.recalled = 0
        want.since = self.turn.now
        node.starting += 1
        message = StartLease(lease.lease, want.shape, want.key[0], {**allocation.assigned})
        self.turn.send(node.node_id, message)

    def _starting(self, number: int, node_id: bytes) -> Lease | None:
        lease = self.table.get(number)
        if lease is None or lease.state != STARTING or lease.node.node_id != node_id:
            self.turn.drop("answer for an unknown lease")
            return None
        return lease

    def _answered(self, lease: Lease) -> Want | None:
        """The lease is no longer on its way; return who wanted it, if it still exists."""
        lease.node.starting -= 1
        self.turn.retry = True
        want = self.wants.get(lease.want_key)
        if want is not None:
            want.starting -= 1
            self._enqueue(want)
        return want

    def _end(self, lease: Lease, *, kill: bool, cause: ExitCause) -> None:
        self.turn.send(lease.node.node_id, EndLease(lease.lease, kill, cause))
        self._remove(lease)

    def _lose(self, lease: Lease, cause: ExitCause) -> None:
        requester = lease.want_key[0]
        if lease.state == HELD:
            self.processes.tell(requester, LeaseLost(requester, lease.lease, cause))
        self._remove(lease)

    def _remove(self, lease: Lease) -> None:
        del self.table[lease.lease]
        self.by_executor.pop(lease.executor, None)
        lease.node.ledger.give_back(lease.allocation)
        self.turn.retry = True
        want = self.wants.get(lease.want_key)
        if want is not None:
            want.held -= lease.state == HELD
            self._enqueue(want)
            self._forget_if_idle(want)

    def _forget_if_idle(self, want: Want) -> None:
        if not (want.need or want.starting or want.held):
            self.wants.pop(want.key, None)
            self.reports.forget(want.key)
