"""The lessor: it lends executors to whoever has tasks of a shape.

Theory of operation
-------------------
A process says how many tasks of a shape wait (`LeasesWanted`): a `Want`, one per (process, shape
key), absolute. Wants that ask the same of a node (resources, strategy, labels) share a *queue*; if
the first of a queue finds no node, nobody in it does. Each round grants one lease per queue, to
whoever is next in it (`ract.scheduler.leases.lines`): fair between jobs, then by priority, then
fair between processes. A queue that gets nothing for long claims a node
(`ract.scheduler.leases.ageing`).

A lease is STARTING from `StartLease` until the node answers with `LeaseStarted` (then HELD by its
requester) or `LeaseFailed`; ENDING after its requester died while the executor may still be busy
with its tasks, until the executor's exit is reported. Its resources are taken from STARTING to the
end. While STARTING it is never withdrawn, so that node and scheduler cannot disagree; if nobody
wants it any more once it is up, it ends at once.

How many more a want gets: its backlog, minus what was granted but not known to its process when it
said so (`LeasesWanted.held`), minus what is STARTING. So never more than wait, however late it is.

When a queue finds no room, whoever keeps clearly more than the waiting want is asked to give a
lease back after what runs there is done (`ract.scheduler.leases.recalls`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ract.core.messages import (
    EndLease,
    ExitCause,
    LeaseFailed,
    LeaseGranted,
    LeaseLost,
    LeaseOver,
    LeaseRefused,
    LeaseReleased,
    LeaseStarted,
    LeasesWanted,
    StartLease,
)
from ract.scheduler.books.ledger import UNIT
from ract.scheduler.books.nodes import Node, Nodes
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn
from ract.scheduler.leases.ageing import Ageing
from ract.scheduler.leases.lease_records import ENDING, HELD, STARTING, Lease, Want, WantKey
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.leases.lines import Line
from ract.scheduler.leases.recalls import Recalls
from ract.scheduler.placement.ask import Ask
from ract.scheduler.placement.group_records import Group
from ract.scheduler.placement.placement import Placement, Spot
from ract.scheduler.placement.reports import Reports

REFUSALS = {"refused": "TaskUnschedulableError", "removed": "TaskPlacementGroupRemoved"}

FAILED_STARTS_MAX = 5
"""So many processes in a row may die while they start before the tasks fail."""

KILLED_STARTS_MAX = 100
"""The same for those that somebody kills: it says nothing against the next one."""

STARTING_MAX_PER_CPU = 2
"""Executors that may be starting on a node, per CPU, for demands that need no CPU."""


@dataclass(slots=True, eq=False)
class Lessor:
    """Grants leases, and keeps the table of them."""

    turn: Turn
    nodes: Nodes
    processes: Processes
    placement: Placement
    reports: Reports
    leases: LeaseTable
    recalls: Recalls
    _next_lease: int = 1

    # ------------------------------------------------------------------ what processes say

    def wanted(self, event: LeasesWanted) -> None:
        """A process states its backlog of a shape."""
        if event.process not in self.processes.alive:
            self.turn.drop("LeasesWanted of a dead process")
            return
        key = (event.process, event.shape_key)
        want = self.leases.wants.get(key)
        if want is None:
            want = self._new_want(key, event)
            if want is None:
                return
        is_news = not want.backlog
        want.backlog, want.granted = max(0, event.backlog), max(0, want.held - event.held)
        want.priority, want.near = event.priority, event.near
        want.names = event.names or want.names
        if is_news and want.backlog and not self._judge(want):
            return
        self._enqueue(want)
        self.turn.retry = True  # whoever has nothing more to do may have to give leases back
        self._forget_if_idle(want)

    def released(self, event: LeaseReleased) -> None:
        """A process gives a lease back: its executor is idle at once."""
        lease = self.leases.table.get(event.lease)
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
        if want is not None:
            want.failed_starts = 0
        if want is None or want.backlog <= want.granted:
            self._end(lease, kill=False, cause=ExitCause("idle", "no longer wanted"))
            return
        lease.state, lease.executor, lease.held_since = HELD, event.executor, self.turn.now
        self.leases.by_executor[event.executor] = lease
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
        """No executor could be made: another one is, or the tasks of the shape fail.

        A process that dies while it starts has begun nothing, so that is tried again; but not for
        ever, if none comes up between.
        """
        lease = self._starting(event.lease, event.node_id)
        if lease is None:
            return
        want = self._answered(lease)
        self._remove(lease)
        if want is None:
            return
        want.failed_starts += 1
        most = KILLED_STARTS_MAX if event.was_killed else FAILED_STARTS_MAX
        if event.error != "WorkerCrashedError" or want.failed_starts >= most:
            want.failed_starts = 0
            self._refuse(want, event.error, event.detail)

    # ------------------------------------------------------------------ deaths

    def process_exited(self, number: int, cause: ExitCause) -> None:
        """Drop what the process wanted, held, and ran."""
        for key in self.leases.by_process.pop(number, {}):
            want = self.leases.wants[key]
            want.backlog = 0
            self._dequeue(want)
            self._drop(want)
            for lease in want.leases.values():
                if lease.state != HELD:
                    continue
                lease.state = ENDING
                self._count_less(lease)
                why = ExitCause("owner_died", "the process that submitted its tasks is gone")
                self.turn.send(lease.node.node_id, EndLease(lease.lease, True, why))
        self.executor_left(number, cause)

    def executor_left(self, number: int, cause: ExitCause) -> None:
        """A process runs no tasks any more: the lease that it served is over."""
        ran = self.leases.by_executor.get(number)
        if ran is not None:
            self._lose(ran, cause)

    def over(self, event: LeaseOver) -> None:
        """The executor of a lease whose requester is gone is idle."""
        lease = self.leases.table.get(event.lease)
        if lease is not None and lease.node.node_id == event.node_id and lease.state == ENDING:
            self._remove(lease)

    def node_lost(self, node: Node, cause: ExitCause) -> None:
        """Every lease on the node is lost; wants for it may have become impossible."""
        for lease in list(self.leases.on_node.get(node.node_id, {}).values()):
            if lease.state == STARTING:
                self._answered(lease)
            self._lose(lease, cause)
        for line in list(self.leases.queues.values()):
            for want in list(line.wants.values()):
                self._judge(want)

    def group_removed(self, group: Group, cause: ExitCause) -> None:
        """Refuse what waits to run in the group, and end what runs there."""
        for key in list(self.leases.of_group.get(group.spec.group_id, {})):
            want = self.leases.wants[key]
            for lease in list(want.leases.values()):
                if lease.state == HELD:
                    self._kill(lease, want, cause)
            self._refuse(want, REFUSALS["removed"], cause.detail)

    def _kill(self, lease: Lease, want: Want, cause: ExitCause) -> None:
        """End a lease though its requester needs it. Its executor is waited for."""
        lease.state = ENDING
        want.held -= 1
        del want.leases[lease.lease]
        self._count_less(lease)
        cause = replace(cause, node_id=lease.node.node_id, host=lease.node.host)
        self.processes.tell(want.key[0], LeaseLost(want.key[0], lease.lease, cause))
        self.turn.send(lease.node.node_id, EndLease(lease.lease, True, cause))

    def _count_less(self, lease: Lease) -> None:
        job_id = lease.shape.job_id
        self.leases.of_job[job_id] -= 1
        if not self.leases.of_job[job_id]:
            del self.leases.of_job[job_id]

    def blocked(self, executor: int) -> bool:
        """The executor's task waits: lend its CPUs. False if it has no lease."""
        lease = self.leases.by_executor.get(executor)
        if lease is None:
            return False
        lease.allocation.ledger.lend(lease.allocation)
        self.turn.retry = True
        return True

    def unblocked(self, executor: int) -> bool:
        """The executor's task goes on."""
        lease = self.leases.by_executor.get(executor)
        if lease is None:
            return False
        ledger = lease.allocation.ledger
        ledger.reclaim(lease.allocation)
        if ledger.free.get("CPU", 0) < 0 and lease.state == HELD and not lease.is_recalled:
            self.recalls.recall(lease)  # more tasks on it would prolong the oversubscription
        return True

    # ------------------------------------------------------------------ granting

    def grant(self, ageing: Ageing) -> None:
        """Start leases, one per queue and round, until no queue finds a node."""
        full: dict[str, None] = {}
        progress = True
        while progress:
            progress = False
            for key in [key for key in self.leases.queues if key not in full]:
                if self._grant_one(key):
                    progress = True
                    ageing.placed(key)
                else:
                    full[key] = None
        for line in self.leases.queues.values():
            want = line.first(self.leases.of_job)
            if want.recalled not in self.leases.table:
                want.recalled = self.recalls.ask_for(want.ask, want)
            ageing.claim_for(want.ask, line.since)

    def check(self) -> None:
        """Assert the invariants."""
        leases = self.leases
        leases.check()
        for node in self.nodes.alive:
            here = [lease for lease in leases.table.values() if lease.node is node]
            assert here == list(leases.on_node.get(node.node_id, {}).values())
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
        want = Want(key, shape, ask, event.names)
        self.leases.wants[key] = want
        self.leases.by_process.setdefault(key[0], {})[key] = None
        if ask.group_id:
            self.leases.of_group.setdefault(ask.group_id, {})[key] = None
        return want

    def _judge(self, want: Want) -> bool:
        """Refuse or report a want that can never be granted; return whether it stays."""
        verdict = self.placement.verdict(want.ask)
        if verdict.kind in REFUSALS:
            self._refuse(want, REFUSALS[verdict.kind], verdict.text)
            return False
        if verdict.kind == "infeasible":
            self.reports.infeasible(want.key[0], want.ask, want.names)
        return True

    def _refuse(self, want: Want, error: str, detail: str) -> None:
        want.backlog = want.granted = 0
        self._dequeue(want)
        self._forget_if_idle(want)
        self.processes.tell(want.key[0], LeaseRefused(*want.key, error, detail))

    def _enqueue(self, want: Want) -> None:
        if want.need:
            line = self.leases.queues.get(want.ask.key)
            if line is None:
                line = self.leases.queues[want.ask.key] = Line(self.turn.now)
            line.put(want)
            self.turn.retry = True
        else:
            self._dequeue(want)

    def _dequeue(self, want: Want) -> None:
        line = self.leases.queues.get(want.ask.key)
        if line is not None:
            line.remove(want.key)
            if not line.wants:
                del self.leases.queues[want.ask.key]
                self.reports.forget(want.ask.queue)

    def _grant_one(self, ask_key: str) -> bool:
        line = self.leases.queues[ask_key]
        want = line.first(self.leases.of_job)
        near = want.near or self.processes.alive[want.key[0]].node_id
        spot = self.placement.choose(want.ask, near, has_data=bool(want.near))
        if spot is None or self._starts_enough(spot.node, want):
            if spot is None and want.ask.must_fail and not self._judge(want):
                return ask_key in self.leases.queues
            return False
        self._start(want, spot)
        line.since = self.turn.now
        if want.need:
            line.put(want, to_back=True)
        else:
            self._dequeue(want)
        return ask_key in self.leases.queues

    def _starts_enough(self, node: Node, want: Want) -> bool:
        if want.ask.demand.get("CPU"):
            return False
        cpus = max(1, node.ledger.total.get("CPU", 0) // UNIT)
        return node.starting >= STARTING_MAX_PER_CPU * cpus

    def _start(self, want: Want, spot: Spot) -> None:
        node, allocation = spot.node, spot.ledger.take(want.ask.demand)
        lease = Lease(self._next_lease, want.key, want.shape, node, allocation, want.ask.queue)
        self._next_lease += 1
        self.leases.table[lease.lease] = want.leases[lease.lease] = lease
        self.leases.on_node.setdefault(node.node_id, {})[lease.lease] = lease
        self.leases.of_job[want.shape.job_id] += 1
        want.starting += 1
        want.recalled = 0
        node.starting += 1
        message = StartLease(lease.lease, want.shape, want.key[0], {**allocation.assigned})
        self.turn.send(node.node_id, message)

    def _starting(self, number: int, node_id: bytes) -> Lease | None:
        lease = self.leases.table.get(number)
        if lease is None or lease.state != STARTING or lease.node.node_id != node_id:
            self.turn.drop("answer for an unknown lease")
            return None
        return lease

    def _answered(self, lease: Lease) -> Want | None:
        """The lease is no longer on its way; return who wanted it, if it still exists."""
        lease.node.starting -= 1
        self.turn.retry = True
        want = self.leases.wants.get(lease.want_key)
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
        del self.leases.table[lease.lease]
        here = self.leases.on_node[lease.node.node_id]
        del here[lease.lease]
        if not here:
            del self.leases.on_node[lease.node.node_id]
        self.leases.by_executor.pop(lease.executor, None)
        if lease.state != ENDING:
            self._count_less(lease)
        lease.allocation.ledger.give_back(lease.allocation)
        self.turn.retry = True
        want = self.leases.wants.get(lease.want_key)
        if want is not None and want.leases.pop(lease.lease, None) is not None:
            want.held -= lease.state == HELD
            self._enqueue(want)
            self._forget_if_idle(want)

    def _forget_if_idle(self, want: Want) -> None:
        if not (want.need or want.starting or want.held) and want.key in self.leases.wants:
            mine = self.leases.by_process[want.key[0]]
            del mine[want.key]
            if not mine:
                del self.leases.by_process[want.key[0]]
            self._drop(want)

    def _drop(self, want: Want) -> None:
        """Forget a want that is neither queued nor the key to a lease."""
        del self.leases.wants[want.key]
        same = self.leases.of_group.get(want.ask.group_id)
        if same is not None:
            del same[want.key]
            if not same:
                del self.leases.of_group[want.ask.group_id]
