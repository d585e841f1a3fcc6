"""The scheduler: a pure machine that decides where things run and what lives.

Theory of operation
-------------------
`SchedulerMachine.handle` takes one event and the time, and returns commands. It does no IO, reads
no clock, draws only from the generator it was given, and takes no order from sets: the same events
give the same commands. It never opens user payloads.

The work is done by the parts of a `ract.scheduler.cluster.Cluster`, one module each, that share one
`Turn`. This module only
routes: events to parts (`_ROUTES`), deaths to all who are concerned, ids that nothing holds any
more to what they stand for. After each event it looks once again at what waits, if the turn has
changed anything that could let it run.

What comes too late (from dead processes or nodes, old incarnations, for unknown leases) is counted
in ``turn.dropped`` and changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ract.core import messages as m
from ract.core.causes import text_of
from ract.core.ids import process_of
from ract.scheduler import requests
from ract.scheduler.books.chronicle import ERROR, INFO, WARNING
from ract.scheduler.books.nodes import ORDERLY
from ract.scheduler.books.processes import FAILURES, Process
from ract.scheduler.books.turn import (
    AllBack,
    DashboardServed,
    NodeLost,
    NodesLeft,
    NodesWanted,
    Restarted,
    Send,
    Tick,
)
from ract.scheduler.capacity.groups import with_namespace
from ract.scheduler.cluster import Cluster
from ract.scheduler.queries.rows import worker_id

LOCAL = (DashboardServed, NodeLost, NodesLeft, NodesWanted, Restarted, AllBack, Tick)
"""Events that come from no node."""


class SchedulerMachine:
    """The decisions of the central scheduler.

    Args:
        cluster_id: names the cluster for its life.
        rng: the only source of randomness.
        config: overrides of `Settings`, by name.
    """

    def __init__(self, cluster_id: bytes, rng: random.Random, config: dict[str, Any]) -> None:
        self.cluster = cluster = Cluster(cluster_id, rng, config)
        # The parts that events go to.
        self.turn = cluster.turn
        self.nodes = cluster.nodes
        self.processes = cluster.processes
        self.placement = cluster.placement
        self.reports = cluster.reports
        self.holds = cluster.holds
        self.handed = cluster.handed
        self.objects = cluster.objects
        self.leases = cluster.leases
        self.lessor = cluster.lessor
        self.ageing = cluster.ageing
        self.actors = cluster.actors
        self.groups = cluster.groups
        self.drains = cluster.drains
        self.scaling = cluster.scaling
        self.tasks = cluster.tasks
        self.mailboxes = cluster.mailboxes
        self.metrics = cluster.metrics
        self.spans = cluster.spans
        #: When holds are looked for that were lost with a node; None until they may be.
        self._lost_holds_at: float | None = None
        #: The nodes that may be ended since the newest `NodesLeft`: they hold nothing.
        self.may_go: list[bytes] = []

    def handle(self, event: Any, now: float) -> list[Send]:
        """Take one event; return what to send, in order."""
        self.turn.now = now
        route = _ROUTES.get(type(event))
        if route is None:
            self.turn.drop(f"unexpected {type(event).__name__}")
        elif self._is_from_somebody(event):
            route(self, event)
        self._let_go()
        self.drains.step()
        while self.turn.retry:
            self.turn.retry = False
            self.cluster.recalls.begin()
            self.ageing.begin()
            self.groups.place(self.ageing)
            self.actors.place(self.ageing)
            self.lessor.grant(self.ageing)
            self.ageing.end()
            self._let_go()
        commands, self.turn.commands = self.turn.commands, []
        return commands

    def note(self, event: Any, now: float) -> list[Send]:
        """Take one event of those that only people look at (`ract.core.messages.PASSING`).

        Nothing is decided from it, so that the decisions are the same if it is lost.
        """
        self.turn.now = now
        if self._is_from_somebody(event):
            _ROUTES[type(event)](self, event)
        commands, self.turn.commands = self.turn.commands, []
        return commands

    def next_deadline(self) -> float | None:
        """Return when a `Tick` is needed, if nothing else happens before."""
        is_patient = self.turn.is_patient
        deadlines = (
            None if is_patient else self.objects.next_deadline(),
            None if is_patient else self.actors.watching.next_deadline(),
            None if is_patient or not self.holds.negative else self._lost_holds_at,
            self.cluster.recalls.next_at,
            self.ageing.next_deadline(),
            self.drains.next_deadline(),
            self.groups.next_deadline(),
        )
        return min((at for at in deadlines if at is not None), default=None)

    def check(self) -> None:
        """Assert the invariants of all parts, and those between them."""
        self.cluster.check()

    # ------------------------------------------------------------------ nodes and processes

    def _tick(self, event: Tick) -> None:
        if not self.turn.is_patient:
            self.objects.tick()
            self.actors.watching.tick()
            if self._lost_holds_at is not None and self._lost_holds_at <= self.turn.now:
                self.holds.drop_negative()
                self._look_for_lost_holds()
        self.turn.retry = True  # a recall may be due

    def _restarted(self, event: Restarted) -> None:
        self.turn.epoch_offset_s = event.epoch_offset_s
        self.turn.is_patient = True

    def _all_back(self, event: AllBack) -> None:
        self.turn.is_patient = False
        self.objects.postpone()
        self.actors.watching.postpone()
        self.holds.wait_anew()

    def _look_for_lost_holds(self) -> None:
        self._lost_holds_at = self.turn.now + self.turn.settings.lost_hold_s

    def _served(self, event: DashboardServed) -> None:
        self.cluster.dashboard_address = event.address

    def _nodes_left(self, event: NodesLeft) -> None:
        self.may_go = [node.node_id for node in self.scaling.shrink_to(event.count)]

    def _is_from_somebody(self, event: Any) -> bool:
        """Drop what comes from nodes and processes that are not alive (any more)."""
        if isinstance(event, (m.NodeJoined, *LOCAL)):
            return True
        node_id = getattr(event, "node_id", None)
        if node_id is not None:
            known = self.nodes.get(node_id) is not None
        else:
            known = event.process in self.processes.alive
        if not known:
            self.turn.drop(f"{type(event).__name__} from the dead or unknown")
        return known

    def _node_joined(self, event: m.NodeJoined) -> None:
        if self.nodes.join(event) is None:
            return
        first, count = self.processes.next_block()
        name = event.name or event.host
        self.turn.note(
            INFO, "NODE", "NODE_JOINED", f"node {name} has joined", node_id=event.node_id.hex()
        )
        reconnect_s = self.turn.settings.reconnect_s
        accepted = m.NodeAccepted(event.node_id, self.cluster.cluster_id, first, count, reconnect_s)
        self.turn.send(event.node_id, accepted)
        self.nodes.announce()

    def _block_wanted(self, event: m.ProcessBlockWanted) -> None:
        self.turn.send(event.node_id, m.ProcessBlock(*self.processes.next_block()))

    def _node_lost(self, event: NodeLost) -> None:
        node = self.nodes.lose(event.node_id, event.cause)
        if node is None:
            return
        cause = node.cause
        assert cause is not None, "it is lost"
        if cause.kind in ORDERLY:
            severity, kind, what = INFO, "NODE_LEFT", "has left"
        else:
            severity, kind, what = ERROR, "NODE_DIED", "is gone"
        why = f"node {node.short} {what}: {text_of(cause)}"
        self.turn.note(severity, "NODE", kind, why, node_id=node.node_id.hex())
        # The processes first: they must neither be told anything nor be counted as holders.
        for process in self.processes.on_node(event.node_id):
            self._process_gone(process.number, cause)
        if severity == ERROR:
            self.reports.node_lost(node, text_of(cause))
        self.lessor.node_lost(node, cause)
        self.actors.node_lost(node, cause)
        self.groups.node_lost(node)
        self.objects.node_lost(event.node_id)
        self.drains.node_lost(event.node_id)
        self.metrics.node_lost(event.node_id)
        if self._lost_holds_at is None:
            self._look_for_lost_holds()
        self.nodes.announce()

    def _node_leaving(self, event: m.NodeLeaving) -> None:
        node = self.nodes.get(event.node_id)
        assert node is not None, "checked before routing"
        node.farewell = event.cause

    def _process_joined(self, event: m.ProcessJoined) -> None:
        if event.process in self.processes.alive:
            self.turn.drop("process joined again")
            return
        process = self.processes.join(event)
        if process.kind == "driver":
            what = f"job {process.job_id.hex()} has begun: {process.entrypoint}"
            self.turn.note(INFO, "JOB", "JOB_STARTED", what, job_id=process.job_id.hex())
        accepted = m.ProcessAccepted(process.number, process.job_id, process.namespace)
        self.turn.send(event.node_id, accepted)

    def _process_exited(self, event: m.ProcessExited) -> None:
        process = self.processes.alive.get(event.process)
        if process is None or process.node_id != event.node_id:
            self.turn.drop("unknown process exited")
            return
        runs = event.process in self.leases.by_executor or event.process in self.actors.by_executor
        if runs and event.cause.kind == "crashed":
            self.reports.crashed(event.process, event.cause)
        self._process_gone(event.process, event.cause)

    def _process_leaving(self, event: m.ProcessLeaving) -> None:
        self.processes.alive[event.process].leaving = event.cause
        self.lessor.executor_left(event.process, event.cause)

    def _process_gone(self, number: int, cause: m.ExitCause) -> None:
        process = self.processes.exit(number, cause)
        if process is None:
            return
        self._note_end(process, cause)
        self.holds.drop_process(number)
        self.handed.process_exited(number)
        self.lessor.process_exited(number, cause)
        self.actors.process_exited(number, cause)
        self.groups.process_exited(number)
        self.objects.process_exited(number, cause)
        self.tasks.process_exited(process)
        self.mailboxes.process_exited(number)
        self.metrics.process_exited(number)
        if process.kind == "driver":
            self.actors.job_finished(process.job_id)
            self.groups.job_finished(process.job_id)
            why = m.ExitCause("job_finished", f"its driver ended ({cause.detail or cause.kind})")
            for node in self.nodes.alive:
                self.turn.send(node.node_id, m.JobFinished(process.job_id, why))

    def _note_end(self, process: Process, cause: m.ExitCause) -> None:
        """Tell people of the end of a process, if it is worth telling."""
        if process.kind == "driver":
            what = f"job {process.job_id.hex()} has ended: {text_of(cause)}"
            severity = ERROR if cause.kind in FAILURES else INFO
            self.turn.note(severity, "JOB", "JOB_FINISHED", what, job_id=process.job_id.hex())
        elif cause.kind in ("crashed", "out_of_memory"):
            kind = "OUT_OF_MEMORY" if cause.kind == "out_of_memory" else "WORKER_DIED"
            self.turn.note(
                ERROR,
                "WORKER",
                kind,
                f"process {process.number} (pid {process.pid}) ended: {text_of(cause)}",
                worker_id=worker_id(process.number),
                node_id=process.node_id.hex(),
                pid=process.pid,
            )

    def _blocked(self, event: m.Blocked) -> None:
        if not self.lessor.blocked(event.process):
            self.actors.blocked(event.process, True)

    def _unblocked(self, event: m.Unblocked) -> None:
        if not self.lessor.unblocked(event.process):
            self.actors.blocked(event.process, False)

    def _cancel_wanted(self, event: m.CancelWanted) -> None:
        # As it is: the node of the executor ends it if forced, else makes it a `CancelCall`.
        self.processes.tell(event.executor, event)

    def _cancel_asked(self, event: m.CancelAsked) -> None:
        maker = process_of(event.object_id)
        self.processes.tell(maker, replace(event, process=maker))

    def _stats(self, event: m.NodeStats) -> None:
        node = self.nodes.get(event.node_id)
        assert node is not None, "checked before routing"
        if event.stats.get("store_spilled") and not node.stats.get("store_spilled"):
            what = f"node {node.short} has no room in its store: objects go to disk"
            self.turn.note(WARNING, "STORE", "SPILLING", what, node_id=node.node_id.hex())
        node.stats = event.stats

    # ------------------------------------------------------------------ groups

    def _group_wanted(self, event: m.GroupWanted) -> None:
        namespace = self.processes.namespace_of(event.process)
        self.groups.create(with_namespace(event.spec, namespace))
        self.groups.watch(event.process, event.spec.group_id)

    # ------------------------------------------------------------------ actors, objects, holds

    def _actor_wanted(self, event: m.ActorWanted) -> None:
        spec = requests.with_namespace(self.cluster, event.process, event.spec)
        self.actors.create(spec)

    def _published(self, event: m.ObjectPublished) -> None:
        self._hold(event.holds)
        self.objects.published(event)

    def _stored(self, event: m.ObjectStored) -> None:
        self._hold(event.holds)
        self.handed.stored(event)
        self.objects.stored(event)

    def _kept(self, event: m.ObjectKept) -> None:
        self.objects.kept(event)
        self.drains.kept(event.object_id)

    def _holds_changed(self, event: m.HoldsChanged) -> None:
        self._hold(event.holds)
        if event.call:
            self.handed.announced(event)

    def _hold(self, holds: list[m.Hold]) -> None:
        for hold in holds:
            if hold.process not in self.processes.alive:
                self.turn.drop("hold of a dead process")
            elif hold.change:
                self.holds.change(hold.id, hold.process, hold.change)

    def _let_go(self) -> None:
        """Let go of what nothing holds any more; that may release what it contained."""
        while (id_ := self.holds.next_released()) is not None:
            if id_ in self.actors.table:
                self.actors.out_of_scope(id_)
            else:
                self.objects.release(id_)


_ROUTES: dict[type, Callable[[SchedulerMachine, Any], None]] = {
    NodeLost: SchedulerMachine._node_lost,
    NodesLeft: SchedulerMachine._nodes_left,
    NodesWanted: lambda s, e: s.scaling.keep(e.count),
    Restarted: SchedulerMachine._restarted,
    AllBack: SchedulerMachine._all_back,
    DashboardServed: SchedulerMachine._served,
    Tick: SchedulerMachine._tick,
    m.NodeJoined: SchedulerMachine._node_joined,
    m.NodeLeaving: SchedulerMachine._node_leaving,
    m.NodeStats: SchedulerMachine._stats,
    m.ProcessBlockWanted: SchedulerMachine._block_wanted,
    m.ProcessJoined: SchedulerMachine._process_joined,
    m.ProcessExited: SchedulerMachine._process_exited,
    m.ProcessLeaving: SchedulerMachine._process_leaving,
    m.NodeMetrics: lambda s, e: s.metrics.reported(e),
    m.LogLines: lambda s, e: s.reports.log_lines(e),
    m.Warned: lambda s, e: s.reports.warned(e),
    m.Request: lambda s, e: requests.answer(s.cluster, e),
    m.TaskEvents: lambda s, e: s.tasks.report(s.processes.alive[e.process], e.events, e.runs),
    m.UserSpans: lambda s, e: s.spans.report(s.processes.alive[e.process], e),
    m.CallsWaiting: lambda s, e: s.mailboxes.report(e),
    m.TasksWaiting: lambda s, e: s.tasks.waiting(
        s.processes.alive[e.process], e.queues, e.left_out
    ),
    m.LeasesWanted: lambda s, e: s.lessor.wanted(e),
    m.LeaseReleased: lambda s, e: s.lessor.released(e),
    m.LeaseStarted: lambda s, e: s.lessor.started(e),
    m.LeaseOver: lambda s, e: s.lessor.over(e),
    m.LeaseFailed: lambda s, e: s.lessor.failed(e),
    m.Blocked: SchedulerMachine._blocked,
    m.Unblocked: SchedulerMachine._unblocked,
    m.CancelAsked: SchedulerMachine._cancel_asked,
    m.CancelWanted: SchedulerMachine._cancel_wanted,
    m.ActorWanted: SchedulerMachine._actor_wanted,
    m.ActorWatched: lambda s, e: s.actors.watching.watch(
        e.process, e.actor_id, s.actors.table.get(e.actor_id)
    ),
    m.ActorKillWanted: lambda s, e: s.actors.kill(e.actor_id, e.no_restart),
    m.ActorStarted: lambda s, e: s.actors.started(e),
    m.ActorInitFailed: lambda s, e: s.actors.init_failed(e),
    m.ActorExited: lambda s, e: s.actors.exited(e),
    m.GroupWanted: SchedulerMachine._group_wanted,
    m.GroupWatched: lambda s, e: s.groups.watch(e.process, e.group_id),
    m.GroupRemoveWanted: lambda s, e: s.groups.remove(e.group_id, "remove_placement_group()"),
    m.HoldsChanged: SchedulerMachine._holds_changed,
    m.CallsLost: lambda s, e: s._hold(s.handed.take_back(e)),
    m.ObjectPublished: SchedulerMachine._published,
    m.ObjectStored: SchedulerMachine._stored,
    m.ObjectKept: SchedulerMachine._kept,
    m.ObjectMissing: lambda s, e: s.objects.missing(e),
    m.ObjectUnrecoverable: lambda s, e: s.objects.unrecoverable(e),
    m.LineageKept: lambda s, e: s.objects.lineage_kept(e),
    m.ObjectsFreed: lambda s, e: s.objects.freed(e.object_ids),
    m.ObjectSought: lambda s, e: s.objects.sought(e.node_id, e.object_id, e.seen_on),
    m.ObjectUnsought: lambda s, e: s.objects.unsought(e.node_id, e.object_id),
}
