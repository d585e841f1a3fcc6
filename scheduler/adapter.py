"""The scheduler machine on a stock `distributed.Scheduler`: decode, handle, perform.

Theory of operation
-------------------
A worker whose stream brings `NodeJoined` is one of our nodes; other Dask workers are left alone.
Nodes and workers are mapped one to one while the worker lives; the loss of the worker is the loss
of the node. Control messages come as ``{"op": "ract", "frames": [bytes, …]}``; all frames of one
such message are one turn, and what the machine has to say to a node in that turn leaves as one
message of the same form.

Requests that need the answer of a node are tasks of the event loop (`ract.scheduler.asking`), since
the machine never waits. What has ended is handed to the history (`ract.scheduler.record`).

Nothing here decides. What it checks is who speaks: a frame that names another node than the one its
stream belongs to is dropped. No exception of ours may reach distributed, because it would close the
worker's stream: bugs are logged with the frame's type, and the cluster goes on.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import random
import secrets
import time
from typing import Any

import distributed
from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from ract.core import wire
from ract.core.messages import EndNode, ExitCause, NodeAnswered, NodeJoined, Reply, Request
from ract.core.version import __version__
from ract.scheduler import asking, compat
from ract.scheduler.asking import NodeAsker, NodeError
from ract.scheduler.machine import SchedulerMachine
from ract.scheduler.record import Record
from ract.scheduler.turn import DashboardServed, NodeLost, NodesLeft, NodesWanted, Send, Tick

logger = logging.getLogger("ract.scheduler")

PROTOCOL = 1
"""Changes when nodes of one version cannot talk to a scheduler of another."""

CLUSTER_ID_BYTES = 16


class RactSchedulerPlugin(SchedulerPlugin):
    """Hosts a `SchedulerMachine`; installed by `ract.scheduler.preload`."""

    name = "ract"
    idempotent = True

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.cluster_id = secrets.token_bytes(CLUSTER_ID_BYTES)
        #: Where people look at the cluster; set by `ract.dashboard.preload`, else empty.
        self.dashboard_url = ""
        self._config = dict(config or {})
        self._machine: SchedulerMachine | None = None
        self._scheduler: Scheduler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._worker_of: dict[bytes, str] = {}  # the two are each other's inverse
        self._node_of: dict[str, bytes] = {}
        #: Nodes that were told to end: their loss is no accident.
        self._ending: dict[bytes, ExitCause] = {}
        self._asker = NodeAsker(self._say)
        self._asking: set[asyncio.Task[None]] = set()
        self._record = Record(self.cluster_id)

    # ------------------------------------------------------------------ distributed calls these

    async def start(self, scheduler: Scheduler) -> None:
        """Install the handlers; the machine's time is the event loop's."""
        if self._machine is not None:
            return
        self._scheduler = scheduler
        self._loop = loop = asyncio.get_running_loop()
        config = {"epoch_offset_s": time.time() - loop.time(), **self._config}
        self._machine = SchedulerMachine(self.cluster_id, random.Random(), config)
        compat.add_stream_handler(scheduler, "ract", self._receive)
        compat.add_rpc(scheduler, "ract_ping", self._ping)
        self._dasks_target = compat.rpc(scheduler, "adaptive_target")
        compat.add_rpc(scheduler, "adaptive_target", self._adaptive_target)
        compat.add_rpc(scheduler, "workers_to_close", self._workers_to_close)
        for worker in list(scheduler.workers):
            compat.hurry(scheduler, worker)
        self._record.start(self._machine)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker connected; whether it is a node is known when it says so."""
        compat.hurry(scheduler, worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        """A worker is gone; if it was a node, the node is lost."""
        node_id = self._node_of.pop(worker, None)
        if node_id is None:
            return
        del self._worker_of[node_id]
        cause = self._ending.pop(node_id, None)
        if cause is None:
            cause = ExitCause(
                "node_died", f"its daemon at {worker} is gone", node_id=node_id, at=time.time()
            )
        self._asker.node_lost(node_id)
        self._turn([NodeLost(node_id, cause)])

    async def close(self) -> None:
        """Stop the timer; write the rest of the history."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in list(self._asking):
            task.cancel()
        await asyncio.to_thread(self._record.close)

    # ------------------------------------------------------------------ for the same process

    @property
    def machine(self) -> SchedulerMachine:
        """The machine, for the dashboard and tests: look, don't touch."""
        assert self._machine is not None, "the plugin has not been started"
        return self._machine

    def served_at(self, address: str) -> None:
        """The dashboard can be asked at ``address`` (host:port)."""
        self._turn([DashboardServed(address)])

    async def ask_node(self, node_id: bytes, op: str, timeout: float = 10.0, **args: Any) -> Any:
        """Ask a node what only it knows (`ract.worker.answers`).

        Raises:
            NodeError: it is gone, did not answer in time, or could not.
        """
        return await self._asker.ask(node_id, op, timeout, **args)

    async def look_up(self, op: str, args: dict[str, Any]) -> Any:
        """The answer to a request of `ract.scheduler.asking`: logs, stacks, where objects lie.

        Raises:
            NodeError: the node could not answer.
            ValueError: there is no such thing.
        """
        return await asking.OPS[op](self, args)

    # ------------------------------------------------------------------ inside

    def _adaptive_target(self, target_duration: Any = None) -> int:
        """How many workers Dask's adaptive scaling should have: as ract needs, or Dask's tasks."""
        dasks = self._dasks_target(target_duration=target_duration)
        wanted = max(self.machine.scaling.wanted(), dasks)
        self._turn([NodesWanted(wanted)])
        return wanted

    def _workers_to_close(
        self, target: int | None = None, attribute: str = "address", **_: Any
    ) -> list[Any]:
        """The workers that Dask's adaptive scaling may close: they hold nothing any more."""
        assert self._scheduler is not None
        if target is None:
            return []
        self._turn([NodesLeft(target)])
        found = []
        for node_id in self.machine.may_go:
            worker = self._worker_of.get(node_id)
            if worker is not None and compat.is_idle(self._scheduler, worker):
                cause = ExitCause("shutdown", "the cluster is scaled down", node_id=node_id)
                self._ending[node_id] = cause
                by_name = attribute == "name"
                found.append(compat.name_of(self._scheduler, worker) if by_name else worker)
        return found

    def _receive(self, *, worker: str, frames: list[Any], **_: Any) -> None:
        """Take one message of a worker's stream."""
        events = []
        for frame in frames:
            try:
                event = wire.decode(frame)
                if not self._is_genuine(worker, event):
                    continue
                if isinstance(event, NodeAnswered):
                    self._asker.answered(event)
                elif isinstance(event, Request) and event.op in asking.OPS:
                    self._answer_later(event)
                else:
                    self._record.see(event)
                    events.append(event)
            except Exception:
                logger.exception("bad frame from %s", worker)
        self._turn(events)

    def _is_genuine(self, worker: str, event: Any) -> bool:
        """Whether the event names the node that ``worker`` is."""
        named = getattr(event, "node_id", None)
        if isinstance(event, NodeJoined):
            if worker not in self._node_of and event.node_id not in self._worker_of:
                self._node_of[worker] = event.node_id
                self._worker_of[event.node_id] = worker
                return True
        elif worker in self._node_of and (named is None or named == self._node_of[worker]):
            return True
        logger.warning("dropped a %s that %s may not send", type(event).__name__, worker)
        return False

    def _answer_later(self, request: Request) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._answer(request))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, request: Request) -> None:
        value: Any = None
        error = ""
        try:
            value = await self.look_up(request.op, request.args)
        except NodeError as fault:
            value, error = str(fault), "RuntimeError"
        except (ValueError, TypeError) as fault:
            value, error = str(fault), "ValueError"
        except Exception as fault:
            logger.exception("request %r failed", request.op)
            value, error = f"request {request.op!r}: {fault!r}", "RuntimeError"
        process = self.machine.processes.alive.get(request.process)
        if process is not None:
            self._say(process.node_id, Reply(request.process, request.request, value, error))

    def _say(self, node_id: bytes, message: Any) -> None:
        self._perform([Send(node_id, message)])

    def _turn(self, events: list[Any]) -> None:
        """Let the machine handle events; send what it commands; arm its next deadline."""
        if self._machine is None or self._loop is None:
            return
        commands: list[Send] = []
        for event in events:
            try:
                commands += self._machine.handle(event, self._loop.time())
            except Exception:
                logger.exception("cannot handle %s", type(event).__name__)
        try:
            self._perform(commands)
            self._arm()
        except Exception:
            logger.exception("cannot send")

    def _perform(self, commands: list[Send]) -> None:
        """Send one message per node, its frames in order."""
        frames: dict[bytes, list[bytes]] = {}
        for command in commands:
            try:
                frame = wire.encode(command.message)
            except wire.ProtocolError:
                logger.exception("cannot encode")
                continue
            frames.setdefault(command.node_id, []).append(frame)
            if isinstance(command.message, EndNode):
                self._ending[command.node_id] = command.message.cause
        for node_id, batch in frames.items():
            worker = self._worker_of.get(node_id)
            if worker is not None and self._scheduler is not None:
                # A closed stream is followed by remove_worker; nothing is lost that could be kept.
                compat.send(self._scheduler, worker, {"op": "ract", "frames": batch})

    def _arm(self) -> None:
        assert self._machine is not None
        assert self._loop is not None
        at = self._machine.next_deadline()
        if self._timer is not None:
            if at == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._turn([Tick()])

    def _ping(self) -> dict[str, Any]:
        """Remote call ``ract_ping``: this scheduler is one of ours, and which versions it has."""
        return {
            "status": "OK",
            "ract": __version__,
            "protocol": PROTOCOL,
            "cluster_id": self.cluster_id.hex(),
            "python": platform.python_version(),
            "distributed": distributed.__version__,
            "nodes": len(self._worker_of),
        }
