"""The node machine: executors, and who waits for which object. Pure.

Theory of operation
-------------------
An executor is STARTING (forked, has not said hello), IDLE, LEASED (runs tasks of one shape), ACTOR
(is one actor for life) or ENDING; ``_MOVES`` has every change of state. It belongs to the job whose
work it did first, never to another. Work that finds no idle executor gets a forked one, and waits
for its hello in ``Executor.work``.

A process is over when its exit status is known *and* its connection has ended, because what it said
last may still be on the way. Then the scheduler hears `ActorExited` and `ProcessExited` with the
cause: what we did to it, what it announced itself, or the crash that its status tells.

When memory is short (`MemoryHigh`), one executor ends at a time (`ract.worker.node.memory`
chooses); the next is chosen by what was measured after its end.

Objects: see `ract.worker.node.objects`. Whatever a process says that concerns the scheduler is
relayed in order; a message that names another process than its sender is dropped.
"""

from __future__ import annotations

import os
import random
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ract.core import messages as m
from ract.core import metrics
from ract.core.ids import worker_id_bytes
from ract.core.messages import ExitCause
from ract.worker.node import events as ev
from ract.worker.node import memory
from ract.worker.node.objects import Objects

STARTING, IDLE, LEASED, ACTOR, ENDING = "STARTING", "IDLE", "LEASED", "ACTOR", "ENDING"

_MOVES = {
    STARTING: {IDLE, LEASED, ACTOR, ENDING},
    IDLE: {LEASED, ACTOR, ENDING},
    LEASED: {IDLE, ENDING},
    ACTOR: {ENDING},
    ENDING: set(),
}

IDLE_S = 1.0
"""Idle executors beyond the node's CPUs end after this time."""

FAREWELL_S = 1.0
"""How long the exit of a process is waited for after the end of its connection, and vice versa."""

FINISHED_JOBS_MAX = 1000
"""So many jobs that are over are remembered: what is left of them keeps no idle executors."""

BLOCK_LOW = 512
"""Ask for a further block of process numbers when fewer are left."""


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
    ending: ExitCause | None = None  #: why we end it
    announced: ExitCause | None = None  #: why it says that it ends
    idle_since: float = 0.0
    work_since: float = 0.0

    def move(self, state: str) -> None:
        """Change state, along `_MOVES` only."""
        assert state in _MOVES[self.state], f"executor {self.process}: {self.state} -> {state}"
        self.state = state


@dataclass(slots=True)
class Driver:
    """A driver or tool connected to this node."""

    process: int
    hello: m.Hello
    welcomed: bool = False


@dataclass(slots=True)
class Config:
    """What the machine must know of its node."""

    node_id: bytes
    session_dir: str
    shm_prefix: str
    num_cpus: int
    capacity: int
    host: str = "127.0.0.1"
    scheduler_address: str = ""
    token_fingerprint: str = ""
    version: str = ""
    python_version: str = ""
    prestart: bool = True
    spills: bool = True  #: objects may be moved to disk when the store is full
    spills_away: bool = False  #: not to disk, but to where it cannot be read from
    spill_above: float = 0.8  #: so much of the store is used before the oldest are moved
    system_config: dict[str, Any] = field(default_factory=dict)  #: what the head was given
    fetch_timeout_s: float = 600.0  #: an object of which nothing comes for so long is given up
    options: dict[str, Any] = field(default_factory=dict)


class NodeMachine:
    """Decides for one node.

    Args:
        config: Facts about the node.
        rng: Source of randomness.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        self.node_id = config.node_id
        self.cluster_id = b""
        self.rng = rng
        self.executors: dict[int, Executor] = {}
        self.drivers: dict[int, Driver] = {}
        #: Durable actors that were here and are not over, with the place of their states.
        self.states: dict[bytes, str] = {}
        self._finished_jobs: deque[bytes] = deque(maxlen=FINISHED_JOBS_MAX)
        self.objects = Objects(config, rng, self._command, self._connected_processes)
        self._commands: list[Any] = []
        self._numbers: list[tuple[int, int]] = []  # (next, end) blocks
        self._block_asked = False
        #: What processes have measured and the scheduler was not told yet.
        self.metrics = metrics.Table()
        self._refused_told = 0
        self.forks = 0  #: executors that were asked of the zygote, ever
        self.oom_kills = 0  #: executors with work that were ended for lack of memory, ever
        self._relieved_at = 0.0  #: when an executor was gone last, with what it held
        self._now = 0.0

    # ------------------------------------------------------------------ in and out

    def handle(self, event: Any, now: float) -> list[Any]:
        """Take an event; return the commands that follow from it."""
        self._now = now
        self._commands = []
        self.objects.commands = self._commands
        self.objects.now = now
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)
        elif (process := getattr(event, "process", None)) is not None:
            # From the scheduler, for a process of this node.
            if process in self.executors or process in self.drivers:
                self._command(ev.ToProcess(process, event))
        self.objects.after_event(is_tick=type(event) is ev.Tick)
        return self._commands

    def next_deadline(self) -> float | None:
        """When `Tick` should come next, or None."""
        times = [e.exited_at + FAREWELL_S for e in self.executors.values() if e.exited is not None]
        times += [
            e.disconnected_at + FAREWELL_S
            for e in self.executors.values()
            if e.disconnected_at is not None and e.exited is None
        ]
        idle = [e for e in self.executors.values() if e.state == IDLE]
        if len(idle) > self.config.num_cpus:
            times.append(min(e.idle_since for e in idle) + IDLE_S)
        for_room = self.objects.next_deadline()
        if for_room is not None:
            times.append(for_room)
        return min(times, default=None)

    def _command(self, command: Any) -> None:
        self._commands.append(command)

    def _tell(self, message: Any) -> None:
        self._commands.append(ev.ToScheduler(message))

    # ------------------------------------------------------------------ process numbers

    def new_process(self) -> int | None:
        """A fresh process number; None before the scheduler has given any."""
        while self._numbers:
            first, end = self._numbers[0]
            if first < end:
                self._numbers[0] = (first + 1, end)
                return first
            self._numbers.pop(0)
        return None

    def unwelcome(self) -> list[Driver]:
        """Drivers and tools that have said hello, which the scheduler has not answered yet."""
        return [driver for driver in self.drivers.values() if not driver.welcomed]

    def _ask_for_numbers(self) -> None:
        left = sum(end - first for first, end in self._numbers)
        if left < BLOCK_LOW and not self._block_asked:
            self._block_asked = True
            self._tell(m.ProcessBlockWanted(self.node_id))

    def _accepted(self, event: m.NodeAccepted) -> None:
        self.cluster_id = event.cluster_id
        self._numbers.append((event.first_process, event.first_process + event.process_count))
        if self.config.prestart:
            for _ in range(self.config.num_cpus):
                self._fork(None)

    def _more_numbers(self, event: m.ProcessBlock) -> None:
        self._block_asked = False
        self._numbers.append((event.first_process, event.first_process + event.process_count))

    # ------------------------------------------------------------------ processes come and go

    def _connected_processes(self) -> list[int]:
        executors = [e.process for e in self.executors.values() if e.connected]
        return [*self.drivers, *executors]

    def _connected(self, event: ev.Connected) -> None:
        hello, process = event.hello, event.process
        if hello.kind == "executor":
            executor = self.executors.get(process)
            if executor is None or executor.connected:
                self._command(
                    ev.ToProcess(process, m.Refused("AuthenticationError", "not an executor here"))
                )
                return
            executor.connected = True
            executor.pid = hello.pid
            if executor.state == ENDING:  # since before anybody knew its pid
                self._command(ev.Signal(process, hello.pid, signal.SIGKILL))
        else:
            self.drivers[process] = Driver(process, hello)
            self._ask_for_numbers()
        self._tell(
            m.ProcessJoined(
                self.node_id,
                process,
                hello.kind,
                hello.pid,
                hello.namespace,
                hello.entrypoint,
                hello.runtime_env,
                hello.metadata,
            )
        )
        if hello.kind == "executor":
            # It need not wait for the scheduler: its number is known, and its job comes with work.
            self._welcome(process, b"", "")
            executor = self.executors[process]
            if executor.state == STARTING:
                self._up(executor)

    def _process_accepted(self, event: m.ProcessAccepted) -> None:
        driver = self.drivers.get(event.process)
        if driver is not None and not driver.welcomed:
            driver.welcomed = True
            self._welcome(event.process, event.job_id, event.namespace)

    def _welcome(self, process: int, job_id: bytes, namespace: str) -> None:
        config = self.config
        self._command(
            ev.ToProcess(
                process,
                m.Welcome(
                    process,
                    self.node_id,
                    job_id,
                    self.cluster_id,
                    namespace,
                    config.session_dir,
                    config.scheduler_address,
                    {"host": config.host, "system_config": config.system_config},
                ),
            )
        )

    def _disconnected(self, event: ev.Disconnected) -> None:
        process = event.process
        driver = self.drivers.pop(process, None)
        if driver is not None:
            self.objects.process_gone(process)
            self._report_metrics()
            cause = ExitCause("exited", "the driver has left", pid=driver.hello.pid)
            self._tell(m.ProcessExited(self.node_id, process, cause))
            return
        executor = self.executors.get(process)
        if executor is not None:
            executor.disconnected = True
            if executor.exited is not None:
                self._over(executor)
            else:
                # Its exit status will follow. If not, it lives but cannot be used any more.
                executor.disconnected_at = self._now
                if executor.state != ENDING:
                    executor.move(ENDING)

    def _forked(self, event: ev.ExecutorForked) -> None:
        executor = self.executors.get(event.process)
        if executor is not None:
            executor.pid = event.pid
            if executor.ending is not None and executor.state == ENDING and not executor.connected:
                self._command(ev.Signal(executor.process, event.pid, signal.SIGKILL))

    def _exited(self, event: ev.ExecutorExited) -> None:
        executor = self.executors.get(event.process)
        if executor is None or executor.exited is not None:
            return
        executor.exited = event
        executor.exited_at = self._relieved_at = self._now
        if executor.disconnected or not executor.connected:
            self._over(executor)

    def _over(self, executor: Executor) -> None:
        """The process is gone and has said its last."""
        del self.executors[executor.process]
        self.objects.process_gone(executor.process)
        self._report_metrics()  # before its end is known: then its gauges go
        cause = self._cause(executor)
        work = executor.work
        if isinstance(work, m.StartActor):
            self._tell(m.ActorExited(self.node_id, work.spec.actor_id, work.incarnation, cause))
        if executor.connected:
            self._tell(m.ProcessExited(self.node_id, executor.process, cause))
        if isinstance(work, m.StartLease) and not executor.began:
            detail = f"its process ended while it started: {cause.stderr_tail}"
            was_killed = cause.signal == signal.SIGKILL
            self._tell(
                m.LeaseFailed(self.node_id, work.lease, "WorkerCrashedError", detail, was_killed)
            )

    def _cause(self, executor: Executor) -> ExitCause:
        exited = executor.exited
        assert exited is not None
        status = exited.status
        code = os.waitstatus_to_exitcode(status) if status >= 0 else None
        facts: dict[str, Any] = {
            "exit_code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "node_id": self.node_id,
            "pid": exited.pid,
            "at": exited.at,
            "task": exited.task,
            "host": self.config.host,
        }
        announced = executor.announced
        if announced is not None and code == 0:
            return replace(announced, **facts)
        if executor.ending is not None:
            return replace(executor.ending, **facts)
        return ExitCause("crashed", stderr_tail=exited.stderr_tail, **facts)

    # ------------------------------------------------------------------ executors and work

    def _fork(self, work: m.StartLease | m.StartActor | None) -> Executor | None:
        process = self.new_process()
        self._ask_for_numbers()
        if process is None:
            return None
        executor = self.executors[process] = Executor(process, work=work)
        if work is not None:
            self._bind(executor, work)
        self.forks += 1
        self._command(ev.Fork(process, {}))
        return executor

    def _bind(self, executor: Executor, work: m.StartLease | m.StartActor) -> None:
        source = work.shape if isinstance(work, m.StartLease) else work.spec
        executor.work = work
        executor.work_since = self._now
        executor.job_id = source.job_id
        executor.runtime_env = source.runtime_env

    def _up(self, executor: Executor) -> None:
        if executor.work is None:
            executor.move(IDLE)
            executor.idle_since = self._now
        else:
            self._begin(executor)

    def _begin(self, executor: Executor) -> None:
        work = executor.work
        executor.began = True
        if isinstance(work, m.StartLease):
            executor.move(LEASED)
            use = m.UseLease(executor.process, work.lease, work.shape, work.assigned)
            self._command(ev.ToProcess(executor.process, use))
            self._tell(
                m.LeaseStarted(
                    self.node_id,
                    work.lease,
                    executor.process,
                    self.address_of(executor.process),
                    executor.pid,
                )
            )
        else:
            assert work is not None
            executor.move(ACTOR)
            create = m.CreateActor(
                executor.process, work.spec, work.incarnation, work.assigned, work.saved_on
            )
            self._command(ev.ToProcess(executor.process, create))
            if executor.ending is not None:
                self._command(
                    ev.ToProcess(executor.process, m.EndProcess(executor.process, executor.ending))
                )

    def address_of(self, process: int) -> str:
        """Where an executor of this node listens."""
        return f"{self.config.session_dir}/e{process}.sock"

    def _find(self, job_id: bytes, runtime_env: str, *, fresh: bool) -> Executor | None:
        """An executor without work: of this job and environment, or of none yet."""
        generic = None
        for executor in self.executors.values():
            if executor.work is None and executor.state in (IDLE, STARTING):
                if not executor.job_id:
                    if generic is None or (generic.state == STARTING and executor.state == IDLE):
                        generic = executor
                elif not fresh and executor.job_id == job_id:
                    if executor.runtime_env == runtime_env:
                        return executor
        return generic

    def _start(self, work: m.StartLease | m.StartActor) -> None:
        is_lease = isinstance(work, m.StartLease)
        if isinstance(work, m.StartActor) and work.spec.durable:
            self.states[work.spec.actor_id] = work.spec.durable_path
        source = work.shape if isinstance(work, m.StartLease) else work.spec
        executor = self._find(source.job_id, source.runtime_env, fresh=not is_lease)
        if executor is None:
            if self._fork(work) is None:
                detail = "the node has no process numbers left"
                if isinstance(work, m.StartLease):
                    self._tell(m.LeaseFailed(self.node_id, work.lease, "RuntimeError", detail))
                else:
                    cause = ExitCause("crashed", detail, node_id=self.node_id)
                    spec = work.spec
                    self._tell(m.ActorExited(self.node_id, spec.actor_id, work.incarnation, cause))
            return
        self._bind(executor, work)
        if executor.state == IDLE:
            self._begin(executor)

    def _remove_state(self, event: m.RemoveState) -> None:
        self.states.pop(event.actor_id, None)
        self._command(ev.RemoveState(event.actor_id, event.path))

    def _end_lease(self, event: m.EndLease) -> None:
        for executor in self.executors.values():
            work = executor.work
            if isinstance(work, m.StartLease) and work.lease == event.lease:
                if event.kill or executor.job_id in self._finished_jobs:
                    self._kill(executor, event.cause)
                elif executor.state == LEASED:
                    executor.work = None
                    executor.move(IDLE)
                    executor.idle_since = self._now
                elif executor.state == STARTING:
                    executor.work = None
                return

    def _stop_actor(self, event: m.StopActor) -> None:
        executor = self._actor(event.actor_id)
        work = executor.work if executor is not None else None
        if executor is None or not isinstance(work, m.StartActor):
            self._tell(m.ActorExited(self.node_id, event.actor_id, event.incarnation, event.cause))
            return
        if work.incarnation != event.incarnation:
            return
        if not event.graceful:
            self._kill(executor, event.cause)
            return
        executor.ending = event.cause
        if executor.state == ACTOR:
            self._command(
                ev.ToProcess(executor.process, m.EndProcess(executor.process, event.cause))
            )

    def _actor(self, actor_id: bytes) -> Executor | None:
        for executor in self.executors.values():
            work = executor.work
            if isinstance(work, m.StartActor) and work.spec.actor_id == actor_id:
                return executor
        return None

    def _kill(self, executor: Executor, cause: ExitCause) -> None:
        executor.ending = cause
        if executor.state != ENDING:
            executor.move(ENDING)
        if executor.pid and executor.exited is None:
            self._command(ev.Signal(executor.process, executor.pid, signal.SIGKILL))

    def _memory_high(self, event: ev.MemoryHigh) -> None:
        living = [e for e in self.executors.values() if e.exited is None]
        is_relieved = self._relieved_at >= event.at
        if is_relieved or any(e.state == ENDING and e.ending is not None for e in living):
            return  # it will be measured again without them
        held = event.held_bytes
        found = [_candidate(e, held[e.pid]) for e in living if e.pid in held]
        victim = memory.choose(found, event.total_bytes)
        if victim is None:
            return
        executor = self.executors[victim.process]
        detail = memory.explain(
            event.used_bytes,
            event.total_bytes,
            event.threshold,
            event.held_bytes[executor.pid],
            event.peak_bytes.get(executor.pid, 0),
            event.consumers,
        )
        kind = "out_of_memory" if executor.work is not None else "idle"
        self._command(ev.Warn(f"{_describe(executor)} ends for lack of memory: {detail}"))
        self.oom_kills += executor.work is not None
        self._kill(executor, ExitCause(kind, detail, is_final=victim.is_final))

    def _cancel(self, event: m.CancelWanted) -> None:
        executor = self.executors.get(event.executor)
        if executor is None:
            return
        if event.force:
            self._kill(executor, ExitCause("killed", "the task was cancelled with force=True"))
        else:
            cancel = m.CancelCall(event.executor, event.task, event.force, event.recursive)
            self._command(ev.ToProcess(event.executor, cancel))

    def _job_finished(self, event: m.JobFinished) -> None:
        self._finished_jobs.append(event.job_id)  # leases for what is left of it end with a process
        for executor in list(self.executors.values()):
            is_actor = isinstance(executor.work, m.StartActor)
            if executor.job_id == event.job_id and not is_actor:
                self._kill(executor, event.cause)

    def _end_node(self, event: m.EndNode) -> None:
        self._command(ev.Shutdown(event.cause.detail or event.cause.kind))

    def _tick(self, _: ev.Tick) -> None:
        for executor in list(self.executors.values()):
            if executor.exited is not None and self._now >= executor.exited_at + FAREWELL_S:
                self._over(executor)
            elif (
                executor.disconnected_at is not None
                and self._now >= executor.disconnected_at + FAREWELL_S
            ):
                executor.disconnected_at = None
                cause = ExitCause("crashed", "it closed the connection to its node and lived on")
                self._kill(executor, executor.ending or cause)
        idle = sorted(
            (e for e in self.executors.values() if e.state == IDLE), key=lambda e: e.idle_since
        )
        for executor in idle[: max(0, len(idle) - self.config.num_cpus)]:
            if self._now >= executor.idle_since + IDLE_S:
                self._kill(executor, ExitCause("idle", "it was idle"))

    # ------------------------------------------------------------------ what processes say

    def _from_process(self, event: ev.FromProcess) -> None:
        message = event.message
        named = getattr(message, "process", None)
        if isinstance(message, m.ActorStarted):
            named = message.executor
        elif isinstance(message, m.ActorInitFailed):
            executor = self._actor(message.actor_id)
            named = executor.process if executor is not None else None
        if named != event.process:
            return  # it speaks for somebody else
        if isinstance(message, m.EndProcess):
            executor = self.executors.get(event.process)
            if executor is not None:
                executor.announced = message.cause
                if executor.state != ENDING:
                    executor.move(ENDING)
        elif isinstance(message, m.MetricsReported):
            self._metrics_reported(message)
        elif not self.objects.from_process(event.process, message):
            self._tell(message)

    # ------------------------------------------------------------------ metrics

    def _metrics_reported(self, message: m.MetricsReported) -> None:
        of_all = ("JobId", message.job_id.hex(), "NodeId", self.node_id.hex())
        of_gauges = (metrics.WORKER, worker_id_bytes(message.process).hex())
        self.metrics.merge(message.metrics, of_all, of_gauges)
        self.metrics.refused += max(0, message.refused)

    def _report_metrics(self) -> None:
        if self.metrics.count or self.metrics.refused != self._refused_told:
            self._refused_told = self.metrics.refused
            self._tell(m.NodeMetrics(self.node_id, self.metrics.take(), self._refused_told))

    # ------------------------------------------------------------------ invariants

    def check(self) -> None:
        """Assert the invariants."""
        self.objects.check()
        self.metrics.check()
        leases = [e.work.lease for e in self.executors.values() if isinstance(e.work, m.StartLease)]
        assert len(leases) == len(set(leases)), "one executor per lease"
        for executor in self.executors.values():
            if executor.state == IDLE:
                assert executor.work is None
            if executor.state in (LEASED, ACTOR):
                assert executor.work is not None
                assert executor.connected


def _candidate(executor: Executor, held_bytes: int) -> memory.Candidate:
    work = executor.work
    process, since = executor.process, executor.work_since
    if isinstance(work, m.StartActor):
        restarts = work.spec.max_restarts != 0
        return memory.Candidate(process, work.spec.owner, since, held_bytes, restarts, True)
    if work is None:
        return memory.Candidate(process, 0, executor.idle_since, held_bytes)
    return memory.Candidate(process, work.requester, since, held_bytes, work.shape.is_retriable)


def _describe(executor: Executor) -> str:
    work = executor.work
    if isinstance(work, m.StartActor):
        what = f"actor {work.spec.class_name}({work.spec.actor_id.hex()})"
    else:
        what = "an idle executor" if work is None else f"a task of process {work.requester}"
    return f"{what} (pid {executor.pid})"


_Handler = Callable[[NodeMachine, Any], None]

_HANDLERS: dict[type, _Handler] = {
    m.NodeAccepted: NodeMachine._accepted,
    m.ProcessBlock: NodeMachine._more_numbers,
    m.ProcessAccepted: NodeMachine._process_accepted,
    m.StartLease: NodeMachine._start,
    m.StartActor: NodeMachine._start,
    m.EndLease: NodeMachine._end_lease,
    m.StopActor: NodeMachine._stop_actor,
    m.CancelWanted: NodeMachine._cancel,
    m.JobFinished: NodeMachine._job_finished,
    m.EndNode: NodeMachine._end_node,
    m.RemoveState: NodeMachine._remove_state,
    m.ObjectLocated: lambda machine, event: machine.objects.located(event),
    m.KeepObject: lambda machine, event: machine.objects.keep(event),
    m.FreeObject: lambda machine, event: machine.objects.free(event),
    m.NodesChanged: lambda machine, event: None,
    ev.Connected: NodeMachine._connected,
    ev.Disconnected: NodeMachine._disconnected,
    ev.FromProcess: NodeMachine._from_process,
    ev.ExecutorForked: NodeMachine._forked,
    ev.ExecutorExited: NodeMachine._exited,
    ev.SegmentFailed: lambda machine, event: machine.objects.segment_failed(event),
    ev.SpillDone: lambda machine, event: machine.objects.spill_done(event),
    ev.SpillFailed: lambda machine, event: machine.objects.spill_failed(event),
    ev.RestoreDone: lambda machine, event: machine.objects.restore_done(event),
    ev.RestoreFailed: lambda machine, event: machine.objects.restore_failed(event),
    ev.PullDone: lambda machine, event: machine.objects.pull_done(event),
    ev.PullFailed: lambda machine, event: machine.objects.pull_failed(event),
    ev.MemoryHigh: NodeMachine._memory_high,
    ev.ReportDue: lambda machine, event: machine._report_metrics(),
    ev.Tick: NodeMachine._tick,
}
