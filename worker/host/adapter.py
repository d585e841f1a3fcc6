"""The node machine on a stock `distributed.Worker`: decode, handle, perform.

Theory of operation
-------------------
The plugin makes a session directory, starts the zygote and the two Unix sockets, and joins. From
then on events come from the scheduler's stream (`ract.worker.host.attachment`), from processes,
from the zygote and from transfers; each is handed to the machine, and what it commands is performed
here, in order.

Nothing here decides, and no exception of ours may reach distributed, because it would close the
worker. When the worker closes, everything of the node goes: the zygote, which is also the janitor,
ends the executors and removes the files, as it does when this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import random
import secrets
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import dask
import psutil
from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from ract.core import history, wire
from ract.core import messages as m
from ract.core.resources import UNIT
from ract.core.session import seconds, setting, system_config
from ract.core.version import __version__
from ract.worker import compat
from ract.worker.files.logs import LogTail, Rotation
from ract.worker.files.session import Session, clean_dead_sessions
from ract.worker.files.state_files import place_of
from ract.worker.hardware import detect, isolation, offer
from ract.worker.hardware.memory_settings import Settings
from ract.worker.hardware.statistics import Totals
from ract.worker.host import joining
from ract.worker.host.answers import Answers
from ract.worker.host.attachment import Attachment
from ract.worker.host.segment_files import SegmentFiles
from ract.worker.host.server import Connection, ControlServer
from ract.worker.host.transfers import Transfers
from ract.worker.host.upkeep import Upkeep
from ract.worker.host.zygote_link import Zygote
from ract.worker.node import events as ev
from ract.worker.node import listing
from ract.worker.node.machine import Config, NodeMachine

logger = logging.getLogger("ract.worker")

JOIN_TIMEOUT_S = 10.0


class RactWorkerPlugin(WorkerPlugin):
    """Hosts a `NodeMachine`; installed by `ract.worker.preload`."""

    name = "ract"

    failure: BaseException | None = None
    """Why a node of this process could not be set up, if one could not."""

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        self._options = dict(options if options is not None else dask.config.get("ract.node", {}))
        self._machine: NodeMachine | None = None
        self._connections: dict[int, Connection] = {}
        self._stderr: dict[int, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._accepted = asyncio.Event()
        self._is_closing = False
        self._totals = Totals()
        self.session_dir = ""
        self._undo = contextlib.ExitStack()

    # ------------------------------------------------------------------ distributed calls these

    async def setup(self, worker: Worker) -> None:
        """Make the node and join."""
        try:
            await self._set_up(worker)
        except BaseException as error:
            type(self).failure = error
            # distributed logs it and would go on with half a node.
            del worker.plugins[self.name]
            self._undo.close()
            raise

    async def _set_up(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        watching = Settings.read()
        await asyncio.to_thread(_clean)
        self.node_id = node_id = secrets.token_bytes(28)
        self._session = session = Session.create(node_id)
        self._undo.callback(session.remove)
        self.session_dir = session.dir
        self._files = SegmentFiles(session, self._turn, self._sizes_in, self._totals)
        await self._files.prepare(self._options, self.node_id, self._undo)
        self._farewell = m.ExitCause("node_left", "it was stopped", node_id=node_id)
        self._offer = await asyncio.to_thread(offer.make, self._told(), self._host)
        resources = self._offer.resources
        self._machine = NodeMachine(
            Config(
                node_id,
                session.dir,
                session.shm_prefix,
                resources.get("CPU", 0) // UNIT,
                resources["object_store_memory"] // UNIT,
                self._host,
                worker.scheduler.address,
                version=__version__,
                python_version=platform.python_version(),
                prestart=self._options.get("prestart", True),
                spills=setting("automatic_object_spilling_enabled", "1") not in ("0", "false"),
                spill_above=float(setting("object_spilling_threshold", "0.8") or 0.8),
                system_config=system_config(),
                spills_away=self._files.urls is not None,
                fetch_timeout_s=seconds("fetch_fail_timeout_milliseconds", 600.0),
            ),
            random.Random(),
        )
        self._logs = LogTail(
            os.path.join(session.dir, "logs"),
            self._log_lines,
            Rotation.from_environment(),
            lambda process: self._perform(ev.ToProcess(process, m.ReopenLogs(process))),
        )
        self._answers = Answers(
            self._machine,
            os.path.join(session.dir, "logs"),
            lambda process, message: self._perform(ev.ToProcess(process, message)),
            self._totals,
            self._files.place_of,
            self._read_logs,
        )
        self._zygote = Zygote(
            session.dir, session.shm_prefix, self._forked, self._exited, self._zygote_lost
        )
        if self._options.get("is-head"):
            self._undo.callback(self._remove_states)
        self._undo.callback(self._zygote.close)
        await self._zygote.start(self._offer.devices)
        if "isolation" in self._options:
            await asyncio.to_thread(self._isolate, self._options["isolation"])
        self._server = ControlServer(
            os.path.join(session.dir, "node.sock"), self._received, self._closed
        )
        await self._server.start()
        self._transfers = Transfers(worker, self._machine, self._files, self._turn, self._totals)
        self._transfers.start(session.dir)
        self._scheduler = Attachment(
            worker, node_id, self._from_scheduler, self._say_who_is_away, self._end
        )
        compat.forget_memory_limits(worker)
        self._send(joining.joined(worker, node_id, self._host, self._offer, self._options, session))
        self._spawn(self._watch_join())
        upkeep = Upkeep(self._machine, self._turn, self._send, self._totals)
        upkeep.start(self._spawn, watching, session.dir, self._logs.poll)
        if watching.period_s and not self._options.get("for-driver"):
            upkeep.watch_memory(self._spawn, watching)

    async def teardown(self, worker: Worker) -> None:
        """The worker closes: so does the node."""
        self._is_closing = True
        self._send(m.NodeLeaving(self.node_id, replace(self._farewell, at=time.time())))
        self._scheduler.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        self._server.close()
        self._transfers.close()
        await asyncio.to_thread(self._undo.close)

    def _isolate(self, asked: dict[str, Any]) -> None:
        """Keep a share of the machine for this process."""
        groups = isolation.Isolation(asked, self.node_id.hex()[:8])
        self._undo.callback(groups.close)
        groups.make(isolation.limits(asked, psutil.cpu_count() or 1, psutil.virtual_memory().total))
        groups.add("user", self._zygote.pid)
        groups.add("system", os.getpid())

    # ------------------------------------------------------------------ joining

    @property
    def _host(self) -> str:
        return detect.host_ip(self._worker.address)

    def _told(self) -> dict[str, Any]:
        """The options. A plain Dask worker offers as many CPUs as it has threads; ours, all."""
        if dask.config.get("ract.token", None) is None:
            return {"num-cpus": self._worker.state.nthreads, **self._options}
        return self._options

    async def _watch_join(self) -> None:
        try:
            await asyncio.wait_for(self._accepted.wait(), JOIN_TIMEOUT_S)
        except TimeoutError:
            logger.error(
                "the scheduler at %s does not answer ract nodes: start it with "
                "distributed.scheduler.preload=ract.scheduler.preload",
                self._worker.scheduler.address,
            )

    # ------------------------------------------------------------------ events

    def _from_scheduler(self, frames: list[Any]) -> None:
        for frame in frames:
            try:
                message = wire.decode(frame)
                if isinstance(message, m.NodeAsked):
                    self._spawn(self._answer(message))
                    continue
                if isinstance(message, m.NodeAccepted):
                    self._scheduler.accepted(message)
                    self._session.keep_logs(message.cluster_id.hex())  # before anybody writes
                    self._turn(message)
                    self._session.write_node_json(
                        joining.node_json(self._worker, message, self._options, self._session)
                    )
                    self._accepted.set()
                    continue
                if isinstance(message, m.NodesChanged):
                    self._transfers.addresses = {
                        bytes.fromhex(node): address for node, address in message.addresses.items()
                    }
                self._turn(message)
            except Exception:
                logger.exception("bad frame from the scheduler")

    async def _answer(self, question: m.NodeAsked) -> None:
        value, error = None, ""
        try:
            value = await self._answers.answer(question.op, question.args)
        except (OSError, ValueError, TypeError, KeyError) as fault:
            error = str(fault) or type(fault).__name__
        except Exception as fault:
            logger.exception("cannot answer %r", question.op)
            error = repr(fault)
        self._send(m.NodeAnswered(self.node_id, question.number, value, error))

    def _received(self, connection: Connection, message: Any) -> None:
        """A process said something."""
        if isinstance(message, m.StacksDumped):
            if message.process == connection.process:
                self._answers.dumped(message)
        elif connection.process:
            if isinstance(message, m.ProcessLeaving):
                self._read_logs()  # what it printed last is known before its end
            self._turn(ev.FromProcess(connection.process, message))
        elif isinstance(message, m.Hello):
            self._hello(connection, message)
        else:
            connection.close()

    def _hello(self, connection: Connection, hello: m.Hello) -> None:
        assert self._machine is not None
        if hello.kind == "executor":
            process: int | None = hello.process
        else:
            refusal = joining.refusal(hello)
            if refusal is not None:
                connection.send(refusal)
                connection.close_after_send()
                return
            process = self._machine.new_process()
        if not process or process in self._connections:
            connection.send(m.Refused("ConnectionError", "the node has not joined its cluster yet"))
            connection.close_after_send()
            return
        connection.process = process
        self._connections[process] = connection
        self._turn(ev.Connected(process, hello))
        if self._scheduler.away_since is not None:
            self._say_who_is_away()

    def _say_who_is_away(self) -> None:
        """A tool, which only asks, would wait in vain; a driver has to wait longer than usual."""
        assert self._machine is not None
        text, left_s = self._scheduler.away_text, self._scheduler.left_s
        for driver in self._machine.unwelcome():
            is_tool = driver.hello.kind == "tool"
            answer = m.Refused("SchedulerAwayError", text) if is_tool else m.Waiting(text, left_s)
            connection = self._connections.get(driver.process)
            if connection is not None:
                connection.send(answer)

    def _closed(self, connection: Connection) -> None:
        process = connection.process
        if process and self._connections.get(process) is connection:
            del self._connections[process]
            self._turn(ev.Disconnected(process))

    def _forked(self, process: int, pid: int) -> None:
        self._logs.begin(process, pid)
        self._turn(ev.ExecutorForked(process, pid))

    def _exited(self, process: int, pid: int, status: int, task: int) -> None:
        tail = ""
        with contextlib.suppress(OSError):
            self._logs.finish(process)
            if status:
                tail = self._logs.tail(process, pid)
        self._turn(ev.ExecutorExited(process, pid, status, tail, task, time.time()))

    def _read_logs(self) -> None:
        with contextlib.suppress(OSError):
            self._logs.catch_up()

    def _zygote_lost(self) -> None:
        if not self._is_closing:
            # It is the parent and the janitor of everything here: without it the node ends.
            logger.error("the zygote of node %s died: the node ends", self.node_id.hex()[:8])
            self._farewell = m.ExitCause("node_died", "its zygote died", node_id=self.node_id)
            self._close_worker("ract-zygote-died")

    def _turn(self, event: Any) -> None:
        if self._machine is None or self._is_closing:
            return
        try:
            for command in self._machine.handle(event, self._loop.time()):
                self._perform(command)
            self._arm()
        except Exception:
            logger.exception("cannot handle %s", type(event).__name__)

    def _arm(self) -> None:
        assert self._machine is not None
        at = self._machine.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._turn, ev.Tick()) if at is not None else None

    # ------------------------------------------------------------------ commands

    def _perform(self, command: Any) -> None:
        if isinstance(command, ev.ToScheduler):
            self._send(command.message)
        elif isinstance(command, ev.ToProcess):
            connection = self._connections.get(command.process)
            if connection is not None:
                connection.send(command.message)
        elif isinstance(command, ev.Fork):
            self._zygote.fork(command.process, command.env)
        elif isinstance(command, ev.Signal):
            self._zygote.kill(command.pid, command.number)
        elif isinstance(command, ev.CreateSegment):
            self._create_segment(command)
        elif isinstance(command, (ev.RemoveSegment, ev.DropSegment)):
            removing = self._files.remove(command)
            if removing is not None:
                self._spawn(removing)
        elif isinstance(command, ev.Restore):
            self._spawn(self._files.restore(command))
        elif isinstance(command, ev.Spill):
            self._spawn(self._files.spill(command.segment))
        elif isinstance(command, ev.Pull):
            self._spawn(self._transfers.pull(command))
        elif isinstance(command, ev.RemoveState):
            how = command.actor_id, command.path
            self._spawn(asyncio.to_thread(self._remove_state, *how))
        elif isinstance(command, ev.Warn):
            logger.warning("node %s: %s", self.node_id.hex()[:8], command.text)
        elif isinstance(command, ev.Shutdown):
            logger.info("node %s ends: %s", self.node_id.hex()[:8], command.reason)
            self._close_worker("ract-end-node")

    def _send(self, message: Any) -> None:
        self._scheduler.send(message)

    def _remove_state(self, actor_id: bytes, path: str) -> None:
        assert self._machine is not None
        try:
            place_of(path, self._machine.cluster_id, actor_id).remove()
        except Exception as error:  # of whatever driver a URL needs
            logger.warning("the state of actor %s could not be removed: %s", actor_id.hex(), error)

    def _remove_states(self) -> None:
        """The cluster ends, and with it all actors."""
        assert self._machine is not None
        for actor_id, path in self._machine.supervised.states.items():
            self._remove_state(actor_id, path)

    def _create_segment(self, command: ev.CreateSegment) -> None:
        if command.in_background:
            self._spawn(self._create_in_background(command))
        else:
            self._created(command, self._files.create(command))

    async def _create_in_background(self, command: ev.CreateSegment) -> None:
        """Others are served meanwhile: to reserve a gigabyte takes the kernel half a second."""
        self._created(command, await asyncio.to_thread(self._files.create, command))

    def _created(self, command: ev.CreateSegment, failure: str) -> None:
        if failure:
            failed = ev.SegmentFailed(
                command.segment, command.process, command.request, failure, command.on_disk
            )
            # Not amid the turn that commanded it.
            self._loop.call_soon(self._turn, failed)
            return
        if command.in_background:
            self._turn(ev.SegmentCreated(command.segment))
        if isinstance(command.then, ev.Pull):
            self._perform(command.then)
        else:
            self._perform(ev.ToProcess(command.process, command.then))

    def _sizes_in(self, segment: int) -> list[int]:
        assert self._machine is not None
        return listing.sizes_in(self._machine.objects.store, segment)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, why: str) -> None:
        """The scheduler has gone for good."""
        logger.error("node %s ends: %s", self.node_id.hex()[:8], why)
        self._close_worker("ract-scheduler-lost")

    def _close_worker(self, reason: str) -> None:
        # Not one of `_tasks`: closing ends in `teardown`, which cancels those.
        self._closing = self._loop.create_task(self._worker.close(reason=reason))

    def _log_lines(self, process: int, pid: int, name: str, is_err: bool, lines: list[str]) -> None:
        assert self._machine is not None
        executor = self._machine.executors.get(process)
        if executor is not None and executor.job_id:
            self._send(m.LogLines(self.node_id, process, executor.job_id, pid, name, is_err, lines))


def _clean() -> None:
    """Remove what crashed nodes left, and what is too much of history."""
    clean_dead_sessions()
    history.prune(time.time())
