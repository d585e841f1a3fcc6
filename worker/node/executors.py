"""The executors of a node: forked, given work, asked to end, killed, gone. Pure.

Theory of operation
-------------------
An executor is STARTING (forked, has not said hello), IDLE, LEASED (runs tasks of one shape), ACTOR
(is one actor for life), LEAVING or ENDING; ``_MOVES`` has every change of state. It belongs to the
job whose work it did first, never to another. Work that finds no idle executor gets a forked one,
and waits for its hello in ``Executor.work``.

A process ends in one of two ways. *Leaving* is its own doing: it was asked to (it is idle, or the
actor that it is moves or is out of scope), or its program wants it (``max_calls``, ``exit_actor``).
It takes no new work, finishes what it has, and then stays for what it owes: others may wait for
values of calls that it has made. From the moment that it only stays (`ProcessLeaving`) it has no
work: its actor has exited, its lease is over, and what they had in use is free. An idle executor
that is asked may decline (`StillOwes`), and is then asked again later. *Ending* is done to it: a
signal, because its job is over, somebody kills what it is, or memory is short. What it owes then
is lost.

A process is over when its exit status is known *and* its connection has ended, because what it
said last may still be on the way. Then the scheduler hears `ProcessExited` (and `ActorExited`, if
it has not before) with the cause: what we did to it, what it announced itself, or the crash that
its status tells.

When memory is short (`MemoryHigh`), one executor ends at a time (`ract.worker.node.memory`
chooses); the next is chosen by what was measured after its end.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ract.core import messages as m
from ract.core.messages import ExitCause
from ract.worker.node import events as ev
from ract.worker.node import memory

STARTING, IDLE, LEASED, ACTOR = "STARTING", "IDLE", "LEASED", "ACTOR"
LEAVING, ENDING = "LEAVING", "ENDING"

_MOVES = {
    STARTING: {IDLE, LEASED, ACTOR, ENDING},
    IDLE: {LEASED, ACTOR, LEAVING, ENDING},
    LEASED: {IDLE, LEAVING, ENDING},
    ACTOR: {LEAVING, ENDING},
    LEAVING: {IDLE, ENDING},
    ENDING: set(),
}

ABANDONED_S = 5.0
"""So long an executor may take to stop what it runs for a process that is gone."""

IDLE_S = 1.0
"""Idle executors beyond the node's CPUs are asked to end after this time."""

FAREWELL_S = 1.0
"""How long the exit of a process is waited for after the end of its connection, and vice versa."""

FINISHED_JOBS_MAX = 1000
"""So many jobs that are over are remembered: what is left of them keeps no idle executors."""


@dataclass(slots=True)
class Executor:
    """One executor process."""

    process: int
    state: str = STARTING
    pid: int = 0
    job_id: bytes = b""
    runtime_env: str = ""
    work: m.StartLease | m.StartActor | None = None  #: what it does, or will once it is up
    connected: bool = False
    began: bool = False  #: it was given its work, and the scheduler told
    disconnected: bool = False
    exited: ev.ExecutorExited | None = None
    exited_at: float = 0.0
    disconnected_at: float | None = None  #: since when its exit is waited for
    ending: ExitCause | None = None  #: why we end it, or have asked it to end
    is_killed: bool = False  #: it was not asked
    announced: ExitCause | None = None  #: why it says that it ends
    owes: bool = False  #: without work: others may wait for calls that it has made
    #: Since when it works for a process that is gone, and is asked to end.
    abandoned_at: float | None = None
    idle_since: float = 0.0
    work_since: float = 0.0

    @property
    def stops_by(self) -> float | None:
        """When it is killed, if it still works for a process that is gone."""
        if self.abandoned_at is None or self.state != LEAVING or self.work is None:
            return None
        return self.abandoned_at + ABANDONED_S

    def move(self, state: str) -> None:
        """Change state, along `_MOVES` only."""
        assert state in _MOVES[self.state], f"executor {self.process}: {self.state} -> {state}"
        self.state = state


class Executors:
    """All executors of one node.

    Args:
        config: Facts about the node (`ract.worker.node.machine.Config`).
        command: Takes what the adapter is to do.
        new_process: Returns a fresh process number, or None.
        on_gone: Called with the number of a process that is over, before anybody is told.
    """

    def __init__(
        self,
        config: Any,
        command: Callable[[Any], None],
        new_process: Callable[[], int | None],
        on_gone: Callable[[int], None],
    ) -> None:
        self._config = config
        self._node_id = config.node_id
        self._command = command
        self._new_process = new_process
        self._on_gone = on_gone
        self.table: dict[int, Executor] = {}  #: by process number
        #: Durable actors that were here and are not over, with the place of their states.
        self.states: dict[bytes, str] = {}
        self._finished_jobs: deque[bytes] = deque(maxlen=FINISHED_JOBS_MAX)
        self.forks = 0  #: executors that were asked of the zygote, ever
        self.oom_kills = 0  #: executors with work that were ended for lack of memory, ever
        self._relieved_at = 0.0  #: when an executor was gone last, with what it held
        self.now = 0.0

    def _tell(self, message: Any) -> None:
        self._command(ev.ToScheduler(message))

    def _say(self, executor: Executor, message: Any) -> None:
        self._command(ev.ToProcess(executor.process, message))

    # ------------------------------------------------------------------ coming and going

    def fork(self, work: m.StartLease | m.StartActor | None) -> Executor | None:
        """Have an executor made, for work that waits or for what may come."""
        process = self._new_process()
        if process is None:
            return None
        executor = self.table[process] = Executor(process, work=work)
        if work is not None:
            self._bind(executor, work)
        self.forks += 1
        self._command(ev.Fork(process, {}))
        return executor

    def connected(self, event: ev.Connected) -> bool:
        """An executor says hello; returns whether it is one of ours."""
        executor = self.table.get(event.process)
        if executor is None or executor.connected:
            return False
        executor.connected = True
        executor.pid = event.hello.pid
        if executor.state == ENDING:  # since before anybody knew its pid
            self._command(ev.Signal(event.process, executor.pid, signal.SIGKILL))
        return True

    def up(self, process: int) -> None:
        """It was welcomed."""
        executor = self.table[process]
        if executor.state != STARTING:
            return
        if executor.work is None:
            self._idle(executor)
        else:
            self._begin(executor)

    def disconnected(self, process: int) -> None:
        """Its connection has ended, and everything it said was handled."""
        executor = self.table.get(process)
        if executor is None:
            return
        executor.disconnected = True
        if executor.exited is not None:
            self._over(executor)
        else:
            # Its exit status will follow. If not, it lives but cannot be used any more.
            executor.disconnected_at = self.now
            if executor.state != ENDING:
                executor.move(ENDING)

    def forked(self, event: ev.ExecutorForked) -> None:
        """The zygote knows its pid."""
        executor = self.table.get(event.process)
        if executor is not None:
            executor.pid = event.pid
            if executor.ending is not None and executor.state == ENDING and not executor.connected:
                self._command(ev.Signal(executor.process, event.pid, signal.SIGKILL))

    def exited(self, event: ev.ExecutorExited) -> None:
        """The zygote knows its exit status."""
        executor = self.table.get(event.process)
        if executor is None or executor.exited is not None:
            return
        executor.exited = event
        executor.exited_at = self._relieved_at = self.now
        if executor.disconnected or not executor.connected:
            self._over(executor)

    def _over(self, executor: Executor) -> None:
        """The process is gone and has said its last."""
        del self.table[executor.process]
        self._on_gone(executor.process)
        cause = _cause(executor, self._node_id, self._config.host)
        work = executor.work
        if isinstance(work, m.StartActor):
            self._tell(m.ActorExited(self._node_id, work.spec.actor_id, work.incarnation, cause))
        if executor.connected:
            self._tell(m.ProcessExited(self._node_id, executor.process, cause))
        if isinstance(work, m.StartLease) and not executor.began:
            detail = f"its process ended while it started: {cause.stderr_tail}"
            was_killed = cause.signal == signal.SIGKILL
            self._tell(
                m.LeaseFailed(self._node_id, work.lease, "WorkerCrashedError", detail, was_killed)
            )

    # ------------------------------------------------------------------ work

    def _bind(self, executor: Executor, work: m.StartLease | m.StartActor) -> None:
        source = work.shape if isinstance(work, m.StartLease) else work.spec
        executor.work = work
        executor.work_since = self.now
        executor.job_id = source.job_id
        executor.runtime_env = source.runtime_env

    def _idle(self, executor: Executor) -> None:
        executor.work, executor.abandoned_at = None, None
        executor.move(IDLE)
        executor.idle_since = self.now

    def _begin(self, executor: Executor) -> None:
        work = executor.work
        executor.began, executor.owes = True, False
        if isinstance(work, m.StartLease):
            executor.move(LEASED)
            self._say(executor, m.UseLease(executor.process, work.lease, work.shape, work.assigned))
            self._tell(
                m.LeaseStarted(
                    self._node_id,
                    work.lease,
                    executor.process,
                    self.address_of(executor.process),
                    executor.pid,
                )
            )
        else:
            assert work is not None
            executor.move(ACTOR)
            self._say(
                executor,
                m.CreateActor(
                    executor.process, work.spec, work.incarnation, work.assigned, work.saved_on
                ),
            )
            if executor.ending is not None:
                self._say(executor, m.EndProcess(executor.process, executor.ending))

    def address_of(self, process: int) -> str:
        """Where an executor of this node listens."""
        return f"{self._config.session_dir}/e{process}.sock"

    def _find(self, job_id: bytes, runtime_env: str, *, fresh: bool) -> Executor | None:
        """An executor without work: of this job and environment, or of none yet."""
        generic = None
        for executor in self.table.values():
            if executor.work is None and executor.state in (IDLE, STARTING):
                if not executor.job_id:
                    if generic is None or (generic.state == STARTING and executor.state == IDLE):
                        generic = executor
                elif not fresh and executor.job_id == job_id:
                    if executor.runtime_env == runtime_env:
                        return executor
        return generic

    def start(self, work: m.StartLease | m.StartActor) -> None:
        """The scheduler gives work: to an executor that has none, or to a new one."""
        is_lease = isinstance(work, m.StartLease)
        if isinstance(work, m.StartActor) and work.spec.durable:
            self.states[work.spec.actor_id] = work.spec.durable_path
        source = work.shape if isinstance(work, m.StartLease) else work.spec
        executor = self._find(source.job_id, source.runtime_env, fresh=not is_lease)
        if executor is None:
            if self.fork(work) is None:
                detail = "the node has no process numbers left"
                if isinstance(work, m.StartLease):
                    self._tell(m.LeaseFailed(self._node_id, work.lease, "RuntimeError", detail))
                else:
                    cause = ExitCause("crashed", detail, node_id=self._node_id)
                    spec = work.spec
                    self._tell(m.ActorExited(self._node_id, spec.actor_id, work.incarnation, cause))
            return
        self._bind(executor, work)
        if executor.state == IDLE:
            self._begin(executor)

    def end_lease(self, event: m.EndLease) -> None:
        """The scheduler ends a lease: its executor is idle, or is to be killed."""
        for executor in self.table.values():
            work = executor.work
            if isinstance(work, m.StartLease) and work.lease == event.lease:
                if event.cause.kind == "owner_died" and executor.state == LEASED:
                    self._abandon(executor, event.cause)
                elif event.kill or executor.job_id in self._finished_jobs:
                    self.kill(executor, event.cause)
                elif executor.state == LEASED:
                    self._idle(executor)
                elif executor.state == STARTING:
                    executor.work = None
                return

    def _abandon(self, executor: Executor, cause: ExitCause) -> None:
        """The process that an executor worked for is gone.

        Nobody wants what the executor runs. But it may have made actors and calls for others
        before, so it is not killed, unless it does not stop.
        """
        executor.abandoned_at = self.now
        executor.move(LEAVING)
        assert isinstance(executor.work, m.StartLease)
        idle, gone = ExitCause("idle", cause.detail), executor.work.requester
        self._say(executor, m.EndProcess(executor.process, idle, gone))

    def stop_actor(self, event: m.StopActor) -> None:
        """The scheduler ends an actor."""
        executor = self.actor(event.actor_id)
        work = executor.work if executor is not None else None
        if executor is None or not isinstance(work, m.StartActor):
            self._tell(m.ActorExited(self._node_id, event.actor_id, event.incarnation, event.cause))
            return
        if work.incarnation != event.incarnation:
            return
        if not event.graceful:
            self.kill(executor, event.cause)
            return
        executor.ending = event.cause
        if executor.state == ACTOR:
            self._say(executor, m.EndProcess(executor.process, event.cause))

    def actor(self, actor_id: bytes) -> Executor | None:
        """The executor that is an actor, or will be."""
        for executor in self.table.values():
            work = executor.work
            if isinstance(work, m.StartActor) and work.spec.actor_id == actor_id:
                return executor
        return None

    def remove_state(self, event: m.RemoveState) -> None:
        """A durable actor is dead for good."""
        self.states.pop(event.actor_id, None)
        self._command(ev.RemoveState(event.actor_id, event.path))

    # ------------------------------------------------------------------ leaving

    def ends(self, message: m.EndProcess) -> None:
        """An executor says that it takes no new work."""
        executor = self.table.get(message.process)
        if executor is not None:
            executor.announced = message.cause
            if executor.state in (IDLE, LEASED, ACTOR):
                executor.move(LEAVING)

    def declines(self, message: m.StillOwes) -> None:
        """An idle executor that was asked to end has calls under way, or results to answer for."""
        executor = self.table.get(message.process)
        if executor is not None and executor.state == LEAVING and executor.announced is None:
            executor.owes = True
            if isinstance(executor.work, m.StartLease):
                self._tell(m.LeaseOver(self._node_id, executor.work.lease))
            self._idle(executor)

    def leaves(self, message: m.ProcessLeaving) -> None:
        """An executor has done its work for good, and stays for what it owes."""
        executor = self.table.get(message.process)
        if executor is None or executor.state != LEAVING:
            return  # it is being killed: its exit will be told
        facts = {"node_id": self._node_id, "pid": executor.pid, "host": self._config.host}
        cause = replace(message.cause, exit_code=0, **facts)
        work, executor.work = executor.work, None
        executor.owes, executor.idle_since = True, self.now
        if isinstance(work, m.StartActor):
            self._tell(m.ActorExited(self._node_id, work.spec.actor_id, work.incarnation, cause))
        self._tell(m.ProcessLeaving(executor.process, cause))

    # ------------------------------------------------------------------ killing

    def kill(self, executor: Executor, cause: ExitCause) -> None:
        """End an executor at once, whatever it does or owes."""
        executor.ending, executor.is_killed = cause, True
        if executor.state != ENDING:
            executor.move(ENDING)
        if executor.pid and executor.exited is None:
            self._command(ev.Signal(executor.process, executor.pid, signal.SIGKILL))

    def cancel(self, event: m.CancelWanted) -> None:
        """A call that was sent to an executor is to be cancelled."""
        executor = self.table.get(event.executor)
        if executor is None or executor.work is None:  # it runs nothing any more
            return
        if event.force:
            self.kill(executor, ExitCause("killed", "the task was cancelled with force=True"))
        else:
            self._say(
                executor,
                m.CancelCall(event.executor, event.task, event.force, event.recursive),
            )

    def job_finished(self, event: m.JobFinished) -> None:
        """A job is over, with all its executors."""
        self._finished_jobs.append(event.job_id)  # leases for what is left of it end with a process
        for executor in list(self.table.values()):
            is_actor = isinstance(executor.work, m.StartActor)
            if executor.job_id == event.job_id and not is_actor:
                self.kill(executor, event.cause)

    def memory_high(self, event: ev.MemoryHigh) -> None:
        """Memory is short: one executor ends, unless one is about to."""
        living = [e for e in self.table.values() if e.exited is None]
        is_relieved = self._relieved_at >= event.at
        if is_relieved or any(e.state == ENDING and e.ending is not None for e in living):
            return  # it will be measured again without them
        held = event.held_bytes
        found = [_candidate(e, held[e.pid]) for e in living if e.pid in held]
        victim = memory.choose(found, event.total_bytes)
        if victim is None:
            return
        executor = self.table[victim.process]
        detail = memory.explain(
            event.used_bytes,
            event.total_bytes,
            event.threshold,
            event.held_bytes[executor.pid],
            event.peak_bytes.get(executor.pid, 0),
            event.consumers,
        )
        works = executor.work is not None
        kind = "out_of_memory" if works or executor.owes else "idle"
        self._command(ev.Warn(f"{_describe(executor)} ends for lack of memory: {detail}"))
        self.oom_kills += works
        self.kill(executor, ExitCause(kind, detail, is_final=victim.is_final))

    # ------------------------------------------------------------------ time

    def tick(self) -> None:
        """Look at who is late, and who is too much."""
        for executor in list(self.table.values()):
            if executor.exited is not None and self.now >= executor.exited_at + FAREWELL_S:
                self._over(executor)
            elif (
                executor.disconnected_at is not None
                and self.now >= executor.disconnected_at + FAREWELL_S
            ):
                executor.disconnected_at = None
                cause = ExitCause("crashed", "it closed the connection to its node and lived on")
                self.kill(executor, executor.ending or cause)
            elif executor.stops_by is not None and self.now >= executor.stops_by:
                detail = "it did not stop what it ran for a process that is gone"
                self.kill(executor, ExitCause("owner_died", detail))
        for executor in self._surplus():
            if self.now >= executor.idle_since + IDLE_S:
                executor.move(LEAVING)
                idle = ExitCause("idle", "it was idle")
                self._say(executor, m.EndProcess(executor.process, idle))

    def _surplus(self) -> list[Executor]:
        """Idle executors beyond the node's CPUs; those that are not known to owe anything first."""
        idle = [e for e in self.table.values() if e.state == IDLE]
        idle.sort(key=lambda e: (e.owes, e.idle_since))
        return idle[: max(0, len(idle) - self._config.num_cpus)]

    def next_deadlines(self) -> list[float]:
        """When `tick` has something to do."""
        times = [e.exited_at + FAREWELL_S for e in self.table.values() if e.exited is not None]
        times += [
            e.disconnected_at + FAREWELL_S
            for e in self.table.values()
            if e.disconnected_at is not None and e.exited is None
        ]
        times += [e.stops_by for e in self.table.values() if e.stops_by is not None]
        times += [e.idle_since + IDLE_S for e in self._surplus()]
        return times

    def check(self) -> None:
        """Assert the invariants."""
        leases = [e.work.lease for e in self.table.values() if isinstance(e.work, m.StartLease)]
        assert len(leases) == len(set(leases)), "one executor per lease"
        for executor in self.table.values():
            if executor.state == IDLE:
                assert executor.work is None
            if executor.state in (LEASED, ACTOR):
                assert executor.work is not None
                assert executor.connected
            if executor.state == LEAVING:
                assert executor.connected


def _cause(executor: Executor, node_id: bytes, host: str) -> ExitCause:
    """Why an executor that has exited did so: what we did, what it announced, or a crash."""
    exited = executor.exited
    assert exited is not None
    status = exited.status
    code = os.waitstatus_to_exitcode(status) if status >= 0 else None
    facts: dict[str, Any] = {
        "exit_code": code if code is not None and code >= 0 else None,
        "signal": -code if code is not None and code < 0 else None,
        "node_id": node_id,
        "pid": exited.pid,
        "at": exited.at,
        "task": exited.task,
        "host": host,
    }
    announced = executor.announced
    if announced is not None and code == 0:
        return replace(announced, **facts)
    if executor.ending is not None and (executor.is_killed or code == 0):
        return replace(executor.ending, **facts)
    # Even if it was asked to end: it may have died in a call, which must not run twice.
    return ExitCause("crashed", stderr_tail=exited.stderr_tail, **facts)


def _candidate(executor: Executor, held_bytes: int) -> memory.Candidate:
    work = executor.work
    process, since = executor.process, executor.work_since
    if isinstance(work, m.StartActor):
        restarts = work.spec.max_restarts != 0
        return memory.Candidate(process, work.spec.owner, since, held_bytes, restarts, True)
    if work is None:
        owner = process if executor.owes else 0  # its own: what it owes is lost with it
        return memory.Candidate(process, owner, executor.idle_since, held_bytes, not owner)
    return memory.Candidate(process, work.requester, since, held_bytes, work.shape.is_retriable)


def _describe(executor: Executor) -> str:
    work = executor.work
    if isinstance(work, m.StartActor):
        what = f"actor {work.spec.class_name}({work.spec.actor_id.hex()})"
    elif work is not None:
        what = f"a task of process {work.requester}"
    else:
        what = "an executor that stays for its calls" if executor.owes else "an idle executor"
    return f"{what} (pid {executor.pid})"
