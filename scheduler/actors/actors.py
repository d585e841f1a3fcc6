"""Actors: states, names, restarts, ends.

Theory of operation
-------------------
An actor has a *state*, which callers see, and at most one *body*: the process (or the attempt to
start one) that is, or was, its newest incarnation. `TRANSITIONS` is the only place where states
change. Resources belong to the body and go with it: an actor that was killed is DEAD for its
callers at once, while its body is waited for; and a restart is placed only when the old body is
gone, so that no incarnation lives twice.

Bodies are taken for the *placement demand* (one CPU by default); once the constructor has returned
only the *running demand* (nothing by default) is kept.

An actor restarts after its process or node was lost, or after ``kill(no_restart=False)``, while
``max_restarts`` allows; each restart is a new incarnation (the first is 1), and what old
incarnations still say is dropped. It ends for good by an intended exit (`FINAL`), by the death of
its owner unless it is detached, with its job, or when its last strong handle goes (`HoldTable`).
Its name is free again as soon as its end is decided.

What an actor was created with (``spec.contains``) is held until it is DEAD, since a restart needs
it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ract.core.causes import text_of
from ract.core.messages import (
    ActorExited,
    ActorInitFailed,
    ActorSpec,
    ActorStarted,
    ExitCause,
    RemoveState,
    StartActor,
    StopActor,
)
from ract.scheduler.actors.actor_states import (
    ALIVE,
    DEAD,
    FINAL,
    PENDING,
    RESTARTING,
    TRANSITIONS,
    Actor,
    Body,
)
from ract.scheduler.actors.watching import Watching
from ract.scheduler.books.chronicle import ERROR, INFO, WARNING
from ract.scheduler.books.nodes import Node
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn
from ract.scheduler.leases.ageing import Ageing
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.leases.recalls import Recalls
from ract.scheduler.objects.holds import HoldTable
from ract.scheduler.placement.ask import Ask
from ract.scheduler.placement.group_records import Group
from ract.scheduler.placement.placement import Placement, Spot
from ract.scheduler.placement.reports import Reports

ROUTINE = frozenset({"exited", "out_of_scope", "job_finished", "killed", "shutdown", "node_left"})
"""Kinds of ends that somebody asked for."""

REFUSALS = {"refused": "unschedulable", "removed": "group_removed"}


@dataclass(slots=True, eq=False)
class ActorLine:
    """Actors that wait for the same, in the order of their turns."""

    since: float  #: when it began to wait, or was served last
    actors: dict[bytes, Actor] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Actors:
    """All actors, their names, and those that wait for a node."""

    turn: Turn
    processes: Processes
    placement: Placement
    holds: HoldTable
    leases: LeaseTable
    recalls: Recalls
    reports: Reports
    table: dict[bytes, Actor] = field(default_factory=dict)
    #: (namespace, name) -> actor, for named actors whose end is not decided.
    names: dict[tuple[str, str], bytes] = field(default_factory=dict)
    #: Ask key -> all and only those of that ask for which `Actor.waits`.
    waiting: dict[str, ActorLine] = field(default_factory=dict)
    #: The actors that are not DEAD, by owner, and by placement group if they name one.
    by_owner: dict[int, dict[bytes, None]] = field(default_factory=dict)
    by_group: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    #: Executor -> the actor whose body it is.
    by_executor: dict[int, bytes] = field(default_factory=dict)
    #: Detached actors that are DEAD, until somebody takes note.
    detached_ended: deque[bytes] = field(default_factory=deque)
    _dead: deque[bytes] = field(default_factory=deque)
    watching: Watching = field(init=False)

    def __post_init__(self) -> None:
        self.watching = Watching(self.turn, self.processes)

    # ------------------------------------------------------------------ creation and names

    def create(self, spec: ActorSpec) -> Actor | None:
        """Create an actor whose name, if any, is free. None if it exists already."""
        if spec.actor_id in self.table:
            self.turn.drop("actor created again")
            return None
        spec = replace(spec, contains=[each for each in spec.contains if each.count > 0])
        refused = ""
        try:
            ask = Ask.of(spec.placement_demand, _spread_if_weightless(spec), spec.label_selector)
        except (ValueError, TypeError) as error:
            refused = str(error)
            ask = Ask.of(spec.placement_demand, {}, {})
        actor = Actor(spec, ask, created_at=self.turn.epoch_s)
        actor.tell(actor.created_at, "created")
        self.table[spec.actor_id] = actor
        self.by_owner.setdefault(spec.owner, {})[spec.actor_id] = None
        if ask.group_id:
            self.by_group.setdefault(ask.group_id, {})[spec.actor_id] = None
        if spec.name:
            self.names[spec.namespace, spec.name] = spec.actor_id
        self.holds.contain(spec.contains)
        self.watching.created(actor)
        self._wait(actor)
        if refused:
            self._finish(actor, ExitCause("unschedulable", refused))
        elif spec.owner not in self.processes.alive and not spec.detached:
            self._finish(actor, ExitCause("owner_died", "its creator is dead"))
        elif self._judge(actor):
            self.watching.tell(actor)
        return actor

    def named(self, namespace: str, name: str) -> Actor | None:
        """Return the actor of that name, if there is one that is not about to end."""
        actor_id = self.names.get((namespace, name))
        return self.table[actor_id] if actor_id is not None else None

    # ------------------------------------------------------------------ what nodes say

    def started(self, event: ActorStarted) -> None:
        """The constructor returned."""
        actor = self._current(event.node_id, event.actor_id, event.incarnation)
        if actor is None:
            return
        body = actor.body
        assert body is not None
        if body.executor:
            self.turn.drop("actor started again")
            return
        body.executor, body.address, body.pid = event.executor, event.address, event.pid
        actor.repr_name = event.repr_name
        self.by_executor[event.executor] = event.actor_id
        if actor.spec.durable:
            actor.saved_on = body.node.short
        self.processes.assign_job(event.executor, actor.spec.job_id)
        body.allocation.ledger.shrink(body.allocation, actor.spec.running_demand)
        self.turn.retry = True
        if actor.state in (PENDING, RESTARTING) and body.incarnation == actor.incarnation:
            self._step(actor, "started")

    def init_failed(self, event: ActorInitFailed) -> None:
        """The constructor raised: DEAD with its error; the process ends."""
        actor = self._current(event.node_id, event.actor_id, event.incarnation)
        if actor is None:
            return
        actor.error = event.error
        cause = ExitCause(
            "init_failed", "the constructor raised", node_id=event.node_id, pid=event.pid
        )
        self._body_gone(actor, cause)

    def exited(self, event: ActorExited) -> None:
        """The actor's process is gone."""
        actor = self._current(event.node_id, event.actor_id, event.incarnation)
        if actor is not None:
            if event.cause.kind == "crashed" and actor.body is not None:
                self.reports.crashed(actor.body.executor, event.cause)
            self._body_gone(actor, event.cause)

    # ------------------------------------------------------------------ ends

    def process_exited(self, number: int, cause: ExitCause) -> None:
        """A process is gone: the actor it was, those it owned, and its watching."""
        is_routine = cause.kind in ("idle", "max_calls")  # nothing went wrong with its work
        actor_id = self.by_executor.get(number)
        if actor_id is not None:
            self._body_gone(self.table[actor_id], cause)
        self.watching.process_exited(number, self.table)
        for actor_id in list(self.by_owner.get(number, {})):
            actor = self.table[actor_id]
            if not actor.spec.detached and not is_routine:
                why = f"its owner, process {number}, is gone ({cause.detail or cause.kind})"
                self.end(actor, ExitCause("owner_died", why))

    def job_finished(self, job_id: bytes) -> None:
        """End what the job leaves behind."""
        mine = [actor for actor in self.table.values() if actor.spec.job_id == job_id]
        staying = {a.body.executor for a in mine if a.spec.detached and a.body is not None}
        # What a detached actor has created lives on with it.
        for actor in mine:
            if actor.spec.owner in staying and actor.body is not None:
                staying.add(actor.body.executor)
        for actor in mine:
            if not actor.spec.detached and actor.spec.owner not in staying:
                self.end(actor, ExitCause("job_finished", "its job is over"))

    def node_lost(self, node: Node, cause: ExitCause) -> None:
        """The bodies on the node are gone; who must run there cannot wait any longer."""
        for actor in list(self.table.values()):
            if actor.body is not None and actor.body.node is node:
                self._body_gone(actor, cause)
        for line in list(self.waiting.values()):
            if self.placement.verdict(next(iter(line.actors.values())).ask).kind != "wait":
                for actor in list(line.actors.values()):
                    self._judge(actor)

    def group_removed(self, group: Group, cause: ExitCause) -> None:
        """End who waits to live in the group, or does."""
        for actor_id in list(self.by_group.get(group.spec.group_id, {})):
            self.end(self.table[actor_id], cause)

    def out_of_scope(self, actor_id: bytes) -> None:
        """The last strong handle is gone: end after the calls that it has accepted.

        The process may stay without resources, for what it has promised (`ProcessLeaving`).
        """
        actor = self.table.get(actor_id)
        if actor is None or actor.state == DEAD or actor.spec.detached or actor.is_ending:
            return
        cause = _located(ExitCause("out_of_scope", "all handles to it are gone"), actor.body)
        if actor.body is None or actor.body.incarnation < actor.incarnation:
            self._finish(actor, cause)
            return
        self._free_name(actor)
        actor.body.ending = cause
        actor.tell(self.turn.epoch_s, f"{cause.detail}: it ends after its calls")
        self._stop(actor, cause, graceful=True)

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """``ract.kill``: DEAD at once, or a restart if one is allowed and left."""
        actor = self.table.get(actor_id)
        if actor is None or actor.state == DEAD:
            self.turn.drop("kill of an unknown or dead actor")
            return
        cause = _located(ExitCause("killed"), actor.body)
        if no_restart or actor.restarts_left <= 0 or actor.is_ending:
            self.end(actor, cause)
        elif actor.body is not None:
            self._stop(actor, cause, graceful=False)
            self._restart(actor, cause)

    def end(self, actor: Actor, cause: ExitCause) -> None:
        """End an actor now and for good."""
        if actor.state == DEAD:
            return
        cause = _located(cause, actor.body)
        if actor.body is not None:
            actor.body.ending = cause
            self._stop(actor, cause, graceful=False)
        self._finish(actor, cause)

    def on(self, node: Node) -> Iterator[Actor]:
        """The actors whose bodies are on a node."""
        for actor in self.table.values():
            if actor.body is not None and actor.body.node is node:
                yield actor

    def move(self, actor: Actor, cause: ExitCause) -> None:
        """Have an actor end after the call that it is in and start elsewhere, if it may restart."""
        body = actor.body
        if body is None or body.is_moving or body.ending is not None or actor.state != ALIVE:
            return
        # Of a group, the bundle moves along.
        has_place = actor.ask.group_id or self.placement.verdict(actor.ask).kind == "wait"
        if actor.spec.max_restarts != 0 and has_place:
            body.is_moving = True
            self._stop(actor, cause, graceful=True)

    # ------------------------------------------------------------------ placing

    def place(self, ageing: Ageing) -> None:
        """Start those that wait and find a node, first come first served per demand."""
        for key in list(self.waiting):
            while key in self.waiting and self._place_first(self.waiting[key], ageing):
                pass

    def _place_first(self, line: ActorLine, ageing: Ageing) -> bool:
        """Start, or refuse, the first of a line; False if it has to wait."""
        actor = next(iter(line.actors.values()))
        owner = self.processes.alive.get(actor.spec.owner)
        spot = self.placement.choose(actor.ask, owner.node_id if owner else b"")
        if spot is not None:
            line.since = self.turn.now
            self._start(actor, spot)
            ageing.placed(actor.ask.queue)
            return True
        if actor.ask.must_fail and not self._judge(actor):
            return True
        if actor.recalled not in self.leases.table:
            actor.recalled = self.recalls.ask_for(actor.ask)
        ageing.claim_for(actor.ask, line.since)
        return False

    def blocked(self, executor: int, is_blocked: bool) -> None:
        """The actor's only call waits, or goes on."""
        actor_id = self.by_executor.get(executor)
        body = self.table[actor_id].body if actor_id is not None else None
        if body is None:
            self.turn.drop("Blocked of an executor without a lease")
        elif is_blocked:
            body.allocation.ledger.lend(body.allocation)
            self.turn.retry = True
        else:
            body.allocation.ledger.reclaim(body.allocation)

    def check(self) -> None:
        """Assert the invariants."""
        executors = {}
        assert all(line.actors for line in self.waiting.values())
        for actor_id, actor in self.table.items():
            line = self.waiting.get(actor.ask.key)
            assert actor.waits == (line is not None and actor_id in line.actors), actor
            assert (actor.state != DEAD) == (actor_id in self.by_owner.get(actor.spec.owner, {}))
            actor.check()
            if actor.body is not None and actor.body.executor:
                executors[actor.body.executor] = actor_id
        assert executors == self.by_executor
        for key, actor_id in self.names.items():
            actor = self.table[actor_id]
            assert key == (actor.spec.namespace, actor.spec.name)
            assert actor.state != DEAD

    # ------------------------------------------------------------------ inside

    def _current(self, node_id: bytes, actor_id: bytes, incarnation: int) -> Actor | None:
        actor = self.table.get(actor_id)
        body = actor.body if actor is not None else None
        if body is None or body.incarnation != incarnation or body.node.node_id != node_id:
            self.turn.drop("message of an old incarnation")
            return None
        return actor

    def _step(self, actor: Actor, what: str) -> None:
        actor.state = TRANSITIONS[actor.state, what]
        actor.tell(self.turn.epoch_s, _chapter(actor, what))
        self._wait(actor)
        self.watching.tell(actor)

    def _wait(self, actor: Actor) -> None:
        line = self.waiting.get(actor.ask.key)
        if actor.waits:
            if line is None:
                line = self.waiting[actor.ask.key] = ActorLine(self.turn.now)
            line.actors.setdefault(actor.spec.actor_id, actor)
            self.turn.retry = True
        elif line is not None and line.actors.pop(actor.spec.actor_id, None) is not None:
            if not line.actors:
                del self.waiting[actor.ask.key]
                self.reports.forget(actor.ask.queue)

    def _judge(self, actor: Actor) -> bool:
        """End or report an actor that no node can take; return whether it stays."""
        verdict = self.placement.verdict(actor.ask)
        if verdict.kind in REFUSALS:
            self._finish(actor, ExitCause(REFUSALS[verdict.kind], verdict.text))
            return False
        if verdict.kind == "infeasible":
            names = [f"actor {actor.spec.class_name}"]
            self.reports.infeasible(actor.spec.owner, actor.ask, names)
        return True

    def _start(self, actor: Actor, spot: Spot) -> None:
        node, allocation = spot.node, spot.ledger.take(actor.ask.demand)
        actor.body = Body(node, actor.incarnation, allocation)
        actor.state_node = node.node_id
        actor.recalled = 0
        actor.tell(self.turn.epoch_s, f"placed on node {node.short}")
        self._wait(actor)
        message = StartActor(actor.spec, actor.incarnation, {**allocation.assigned}, actor.saved_on)
        self.turn.send(node.node_id, message)

    def _stop(self, actor: Actor, cause: ExitCause, *, graceful: bool) -> None:
        body = actor.body
        assert body is not None
        message = StopActor(actor.spec.actor_id, body.incarnation, graceful, cause)
        self.turn.send(body.node.node_id, message)

    def _body_gone(self, actor: Actor, cause: ExitCause) -> None:
        """The process is gone: give its resources back; the actor ends or restarts."""
        body = actor.body
        assert body is not None
        cause = _located(cause, body)  # a node that is lost knows nothing of its processes
        actor.body = None
        self.by_executor.pop(body.executor, None)
        body.allocation.ledger.give_back(body.allocation)
        self.turn.retry = True
        if actor.state == DEAD or body.incarnation < actor.incarnation:
            self._wait(actor)  # its story went on without this body
            self._remove_state(actor)
        elif body.ending is not None:
            self._finish(actor, body.ending)
        elif cause.kind == "drained" and body.is_moving:
            actor.restarts -= 1  # this one was not its fault
            self._restart(actor, cause)
        elif cause.kind in FINAL or actor.restarts_left <= 0:
            self._finish(actor, _with_restarts(actor, cause))
        else:
            self._restart(actor, cause)
        if actor.waits:
            self._judge(actor)

    def _restart(self, actor: Actor, cause: ExitCause) -> None:
        actor.restarts += 1
        actor.incarnation += 1
        actor.cause = cause
        _note(
            self.turn,
            WARNING,
            "ACTOR_RESTARTING",
            actor,
            f"starts again ({actor.restarts}.): ",
            cause,
        )
        self._step(actor, "restart")

    def _finish(self, actor: Actor, cause: ExitCause) -> None:
        """DEAD, for good."""
        if actor.state == DEAD:
            return
        actor.died_at = self.turn.epoch_s
        actor.cause = cause if cause.at else replace(cause, at=actor.died_at)
        if actor.spec.detached:
            self.detached_ended.append(actor.spec.actor_id)
            self.turn.retry = True
        severity = INFO if cause.kind in ROUTINE else ERROR
        _note(self.turn, severity, "ACTOR_DIED", actor, "is dead: ", cause)
        self._free_name(actor)
        self._step(actor, "end")
        _forget(self.by_owner, actor.spec.owner, actor.spec.actor_id)
        _forget(self.by_group, actor.ask.group_id, actor.spec.actor_id)
        self.holds.release(actor.spec.contains)
        self._remove_state(actor)
        self._dead.append(actor.spec.actor_id)
        if len(self._dead) > self.turn.settings.dead_max:
            self._forget_oldest()

    def _remove_state(self, actor: Actor) -> None:
        """Have the saved state of a dead actor removed, once no process of it can save any more."""
        if not actor.spec.durable or actor.state != DEAD or actor.body is not None:
            return
        nodes = [node.node_id for node in self.placement.nodes.alive]
        if nodes:  # where it is, or at least where it can be reached if that is a shared place
            node_id = actor.state_node if actor.state_node in nodes else nodes[0]
            remove = RemoveState(actor.spec.actor_id, actor.spec.durable_path)
            self.turn.send(node_id, remove)

    def _forget_oldest(self) -> None:
        actor_id = self._dead.popleft()
        if self.table[actor_id].body is not None:
            self._dead.append(actor_id)  # its process is not gone yet
        else:
            del self.table[actor_id]

    def _free_name(self, actor: Actor) -> None:
        key = (actor.spec.namespace, actor.spec.name)
        if self.names.get(key) == actor.spec.actor_id:
            del self.names[key]


def _chapter(actor: Actor, what: str) -> str:
    """How a transition is told in the actor's story."""
    body, cause = actor.body, actor.cause
    if what == "started" and body is not None:
        return f"its constructor returned: process {body.pid} on node {body.node.short}"
    if cause is None:
        return what
    why = text_of(cause)
    return f"restart {actor.restarts} ({why})" if what == "restart" else why


def _with_restarts(actor: Actor, cause: ExitCause) -> ExitCause:
    """Say in the cause how many restarts were used, if there were any to use."""
    if not actor.spec.max_restarts or cause.kind in FINAL:
        return cause
    used = f"{actor.restarts} of {actor.spec.max_restarts} restarts used"
    return replace(cause, detail=f"{cause.detail}; {used}" if cause.detail else used)


def _note(turn: Turn, severity: str, kind: str, actor: Actor, what: str, cause: ExitCause) -> None:
    spec = actor.spec
    name = f" {spec.name!r}" if spec.name else ""
    text = f"actor {spec.class_name}{name}({spec.actor_id.hex()}) {what}{text_of(cause)}"
    turn.note(severity, "ACTOR", kind, text, actor_id=spec.actor_id.hex())


def _spread_if_weightless(spec: ActorSpec) -> dict[str, Any]:
    """Its strategy; actors that ask for nothing would else all be packed onto one node."""
    is_default = spec.strategy.get("kind", "DEFAULT") == "DEFAULT"
    if any(spec.placement_demand.values()) or not is_default:
        return spec.strategy
    return {**spec.strategy, "kind": "SPREAD"}


def _forget(index: dict[Any, dict[bytes, None]], key: Any, actor_id: bytes) -> None:
    same = index.get(key, {})
    same.pop(actor_id, None)
    if key in index and not same:
        del index[key]


def _located(cause: ExitCause, body: Body | None) -> ExitCause:
    """The cause with the process that it hits."""
    if body is None or cause.pid:
        return cause
    node = body.node
    return replace(cause, pid=body.pid, node_id=node.node_id, host=node.host)
