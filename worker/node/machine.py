"""The node machine: who is connected to a node, and who hears of what. Pure.

Theory of operation
-------------------
Drivers, tools and executors of a node have process numbers, which the scheduler gives in blocks;
each says hello and is welcomed. What becomes of executors is `ract.worker.node.executors`; what is
stored, waited for and copied is `ract.worker.node.objects`. What a process says that concerns the
scheduler is relayed in order; a message that names another process than its sender is dropped.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ract.core import messages as m
from ract.core import metrics
from ract.core.ids import worker_id_bytes
from ract.core.messages import ExitCause
from ract.worker.node import events as ev
from ract.worker.node.executors import Executor, Executors
from ract.worker.node.objects import Objects

BLOCK_LOW = 512
"""Ask for a further block of process numbers when fewer are left."""


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
        self.drivers: dict[int, Driver] = {}
        self.supervised = Executors(config, self._command, self._new_executor, self._gone)
        self.objects = Objects(config, rng, self._command, self._connected_processes)
        self._commands: list[Any] = []
        self._numbers: list[tuple[int, int]] = []  # (next, end) blocks
        self._block_asked = False
        #: What processes have measured and the scheduler was not told yet.
        self.metrics = metrics.Table()
        self._refused_told = 0

    @property
    def executors(self) -> dict[int, Executor]:
        """The executors of the node, by process number."""
        return self.supervised.table

    # ------------------------------------------------------------------ in and out

    def handle(self, event: Any, now: float) -> list[Any]:
        """Take an event; return the commands that follow from it."""
        self._commands = []
        self.objects.commands = self._commands
        self.objects.now = self.supervised.now = now
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
        times = self.supervised.next_deadlines()
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

    def _new_executor(self) -> int | None:
        process = self.new_process()
        self._ask_for_numbers()
        return process

    def _accepted(self, event: m.NodeAccepted) -> None:
        self.cluster_id = event.cluster_id
        self._numbers.append((event.first_process, event.first_process + event.process_count))
        if self.config.prestart:
            for _ in range(self.config.num_cpus):
                self.supervised.fork(None)

    def _more_numbers(self, event: m.ProcessBlock) -> None:
        self._block_asked = False
        self._numbers.append((event.first_process, event.first_process + event.process_count))

    # ------------------------------------------------------------------ processes come and go

    def _connected_processes(self) -> list[int]:
        executors = [e.process for e in self.executors.values() if e.connected]
        return [*self.drivers, *executors]

    def _connected(self, event: ev.Connected) -> None:
        hello, process = event.hello, event.process
        is_executor = hello.kind == "executor"
        if not is_executor:
            self.drivers[process] = Driver(process, hello)
            self._ask_for_numbers()
        elif not self.supervised.connected(event):
            refused = m.Refused("AuthenticationError", "not an executor here")
            self._command(ev.ToProcess(process, refused))
            return
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
        if is_executor:
            # It need not wait for the scheduler: its number is known, and its job comes with work.
            self._welcome(process, b"", "")
            self.supervised.up(process)

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
        driver = self.drivers.pop(event.process, None)
        if driver is None:
            self.supervised.disconnected(event.process)
            return
        self._gone(event.process)
        cause = ExitCause("exited", "the driver has left", pid=driver.hello.pid)
        self._tell(m.ProcessExited(self.node_id, event.process, cause))

    def _gone(self, process: int) -> None:
        """A process is over; nobody has been told yet."""
        self.objects.process_gone(process)
        self._report_metrics()  # before its end is known: then its gauges go

    def _end_node(self, event: m.EndNode) -> None:
        self._command(ev.Shutdown(event.cause.detail or event.cause.kind))

    # ------------------------------------------------------------------ what processes say

    def _from_process(self, event: ev.FromProcess) -> None:
        message = event.message
        named = getattr(message, "process", None)
        if isinstance(message, m.ActorStarted):
            named = message.executor
        elif isinstance(message, m.ActorInitFailed):
            executor = self.supervised.actor(message.actor_id)
            named = executor.process if executor is not None else None
        if named != event.process:
            return  # it speaks for somebody else
        if isinstance(message, m.EndProcess):
            self.supervised.ends(message)
        elif isinstance(message, m.StillOwes):
            self.supervised.declines(message)
        elif isinstance(message, m.ProcessLeaving):
            self.supervised.leaves(message)
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
        self.supervised.check()


_Handler = Callable[[NodeMachine, Any], None]

_HANDLERS: dict[type, _Handler] = {
    m.NodeAccepted: NodeMachine._accepted,
    m.ProcessBlock: NodeMachine._more_numbers,
    m.ProcessAccepted: NodeMachine._process_accepted,
    m.StartLease: lambda machine, event: machine.supervised.start(event),
    m.StartActor: lambda machine, event: machine.supervised.start(event),
    m.EndLease: lambda machine, event: machine.supervised.end_lease(event),
    m.StopActor: lambda machine, event: machine.supervised.stop_actor(event),
    m.CancelWanted: lambda machine, event: machine.supervised.cancel(event),
    m.JobFinished: lambda machine, event: machine.supervised.job_finished(event),
    m.EndNode: NodeMachine._end_node,
    m.RemoveState: lambda machine, event: machine.supervised.remove_state(event),
    m.ObjectLocated: lambda machine, event: machine.objects.located(event),
    m.KeepObject: lambda machine, event: machine.objects.keep(event),
    m.FreeObject: lambda machine, event: machine.objects.free(event),
    m.NodesChanged: lambda machine, event: None,
    ev.Connected: NodeMachine._connected,
    ev.Disconnected: NodeMachine._disconnected,
    ev.FromProcess: NodeMachine._from_process,
    ev.ExecutorForked: lambda machine, event: machine.supervised.forked(event),
    ev.ExecutorExited: lambda machine, event: machine.supervised.exited(event),
    ev.SegmentCreated: lambda machine, event: machine.objects.store.created(event.segment),
    ev.SegmentFailed: lambda machine, event: machine.objects.segment_failed(event),
    ev.SpillDone: lambda machine, event: machine.objects.spill_done(event),
    ev.SpillFailed: lambda machine, event: machine.objects.spill_failed(event),
    ev.RestoreDone: lambda machine, event: machine.objects.restore_done(event),
    ev.RestoreFailed: lambda machine, event: machine.objects.restore_failed(event),
    ev.PullDone: lambda machine, event: machine.objects.pull_done(event),
    ev.PullFailed: lambda machine, event: machine.objects.pull_failed(event),
    ev.MemoryHigh: lambda machine, event: machine.supervised.memory_high(event),
    ev.ReportDue: lambda machine, event: machine._report_metrics(),
    ev.Tick: lambda machine, event: machine.supervised.tick(),
}
