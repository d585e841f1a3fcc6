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
import socket
import time
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import dask
import psutil
from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from ract.core import history, wire
from ract.core import messages as m
from ract.core.resources import UNIT
from ract.core.security import fingerprint
from ract.core.session import seconds, setting, system_config
from ract.core.version import __version__
from ract.worker import compat
from ract.worker.files import shm
from ract.worker.files.logs import LogTail, Rotation
from ract.worker.files.session import Session, clean_dead_sessions
from ract.worker.files.spill_places import Folders, Urls, chosen, folder_name, is_url, note_places
from ract.worker.files.state_files import place_of
from ract.worker.hardware import detect, isolation, offer, statistics
from ract.worker.hardware.memory_settings import Settings
from ract.worker.hardware.memory_watch import MemoryWatch
from ract.worker.hardware.statistics import Statistics, Totals
from ract.worker.host.answers import Answers
from ract.worker.host.attachment import Attachment
from ract.worker.host.server import Connection, ControlServer
from ract.worker.host.zygote_link import Zygote
from ract.worker.links import transfer
from ract.worker.links.tunnel import Tunnels
from ract.worker.node import events as ev
from ract.worker.node import listing
from ract.worker.node.machine import Config, NodeMachine

logger = logging.getLogger("ract.worker")

STATS_PERIOD_S = 1.0
LOGS_PERIOD_S = 0.1
JOIN_TIMEOUT_S = 10.0
PRUNE_PERIOD_S = 60.0

SPILLS_MAX = 2
"""So many segments are copied to disk at a time."""


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
        self._addresses: dict[bytes, str] = {}
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
        await self._prepare_spilling()
        self._stall_s = seconds("object_transfer_stall_milliseconds", transfer.STALL_S)
        self._disk_turns = asyncio.Semaphore(SPILLS_MAX)
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
                spills_away=self._urls is not None,
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
            self._place_of,
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
        self._tunnels = Tunnels(session.dir, self._connect_node)
        self._tunnels.start()
        self._scheduler = Attachment(
            worker, node_id, self._from_scheduler, self._say_who_is_away, self._end
        )
        compat.add_rpc(worker, "ract_pull", self._serve_pull)
        compat.add_rpc(worker, "ract_tunnel", self._serve_tunnel)
        compat.forget_memory_limits(worker)
        self._join()
        self._spawn(self._watch_join())
        self._spawn(self._report(watching))
        self._spawn(self._tail())
        self._spawn(self._prune())
        if watching.period_s and not self._options.get("for-driver"):
            self._spawn(self._watch_memory(watching))

    async def _prepare_spilling(self) -> None:
        """Raises OSError if objects cannot go where they are to go."""
        places = chosen(self._options.get("object-spilling-directory"), os.environ)
        away = [place for place in places if is_url(place)]
        name, own = folder_name(self.node_id), [self._session.dir]
        self._folders = Folders(own if away else places or own, name)
        self._undo.callback(self._folders.close)
        if places:
            note_places(self._session.dir, places, name)
        self._urls = Urls(away, name) if away else None
        if self._urls is not None:
            self._undo.callback(self._remove_all_spilled)
            await asyncio.to_thread(self._urls.probe)

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
        self._tunnels.close()
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

    def _join(self) -> None:
        options = self._options
        self._send(
            m.NodeJoined(
                self.node_id,
                self._worker.address,
                self._host,
                os.getpid(),
                self._offer.resources,
                self._offer.labels,
                self.session_dir,
                socket.gethostname(),
                bool(options.get("is-head")),
                str(options.get("name") or ""),
            )
        )

    async def _watch_join(self) -> None:
        try:
            await asyncio.wait_for(self._accepted.wait(), JOIN_TIMEOUT_S)
        except TimeoutError:
            logger.error(
                "the scheduler at %s does not answer ract nodes: start it with "
                "distributed.scheduler.preload=ract.scheduler.preload",
                self._worker.scheduler.address,
            )

    def _write_node_json(self, event: m.NodeAccepted) -> None:
        token = dask.config.get("ract.token", "") or ""
        self._session.write_node_json(
            {
                "scheduler_address": self._worker.scheduler.address,
                "node_id": self.node_id.hex(),
                "cluster_id": event.cluster_id.hex(),
                "pid": os.getpid(),
                "token_fingerprint": fingerprint(token) if token else "",
                "is_head": bool(self._options.get("is-head")),
                "session_dir": self.session_dir,
                "name": str(self._options.get("name") or ""),
                "ract_version": __version__,
            }
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
                    self._write_node_json(message)
                    self._accepted.set()
                    continue
                if isinstance(message, m.NodesChanged):
                    self._addresses = {
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
            refusal = self._refusal(hello)
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

    def _refusal(self, hello: m.Hello) -> m.Refused | None:
        token = dask.config.get("ract.token", "") or ""
        if hello.token_fingerprint and token and hello.token_fingerprint != fingerprint(token):
            return m.Refused("AuthenticationError", "the token is not the one of this cluster")
        mine = platform.python_version_tuple()[:2]
        theirs = tuple(hello.python_version.split(".")[:2]) if hello.python_version else mine
        if theirs != mine or (hello.ract_version and hello.ract_version != __version__):
            return m.Refused(
                "RuntimeError",
                f"version mismatch: the cluster runs ract {__version__} on Python "
                f"{platform.python_version()}, this process ract {hello.ract_version} on Python "
                f"{hello.python_version}",
            )
        return None

    def _closed(self, connection: Connection) -> None:
        process = connection.process
        if process and self._connections.get(process) is connection:
            del self._connections[process]
            self._turn(ev.Disconnected(process))

    def _forked(self, process: int, pid: int) -> None:
        self._turn(ev.ExecutorForked(process, pid))

    def _exited(self, process: int, pid: int, status: int, task: int) -> None:
        tail = ""
        with contextlib.suppress(OSError):
            self._logs.finish(process)
            if status:
                tail = self._logs.tail(process)
        self._turn(ev.ExecutorExited(process, pid, status, tail, task, time.time()))

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
            shm.remove(self._segment_path(command.segment))
            if isinstance(command, ev.RemoveSegment) and self._urls is not None:
                self._spawn(self._remove_spilled(self._urls, command.segment))
        elif isinstance(command, ev.Restore):
            self._spawn(self._restore(command))
        elif isinstance(command, ev.Spill):
            self._spawn(self._spill(command.segment))
        elif isinstance(command, ev.Pull):
            self._spawn(self._pull(command))
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

    def _segment_path(self, segment: int) -> str:
        return f"{self._session.shm_prefix}{segment}"

    def _place_of(self, segment: int, is_away: bool) -> str:
        """Where the bytes of a segment are, for people."""
        if is_away and self._urls is not None and self._urls.has(segment):
            return self._urls.where(segment)
        return os.path.realpath(self._segment_path(segment))

    async def _spill(self, segment: int) -> None:
        async with self._disk_turns:
            assert self._machine is not None
            spill = self._folders.spill if self._urls is None else self._urls.upload
            sizes = listing.sizes_in(self._machine.objects.store, segment)
            began = time.perf_counter()
            try:
                await asyncio.to_thread(spill, self._segment_path(segment), segment)
            except OSError as error:
                self._turn(ev.SpillFailed(segment, str(error)))
            else:
                self._totals.spilled(sizes, time.perf_counter() - began)
                self._turn(ev.SpillDone(segment))

    async def _restore(self, command: ev.Restore) -> None:
        segment, size, urls = command.segment, command.size, self._urls
        path = self._segment_path(segment)
        assert urls is not None
        async with self._disk_turns:
            began = time.perf_counter()
            try:
                if command.on_disk:
                    write = partial(urls.fill, segment=segment, size=size)
                    await asyncio.to_thread(self._folders.fill, path, segment, size, write)
                else:
                    await asyncio.to_thread(urls.restore, path, segment, size)
            except OSError as error:
                self._turn(ev.RestoreFailed(segment, str(error)))
            else:
                assert self._machine is not None
                sizes = listing.sizes_in(self._machine.objects.store, segment)
                self._totals.restored(sizes, time.perf_counter() - began)
                self._turn(ev.RestoreDone(segment))

    async def _remove_spilled(self, urls: Urls, segment: int) -> None:
        try:
            if urls.has(segment):
                await asyncio.to_thread(urls.remove, segment)
        except Exception as error:  # of whatever driver it is; it is tried again at the end
            logger.warning("segment %d could not be removed: %s", segment, error)

    def _remove_all_spilled(self) -> None:
        assert self._urls is not None
        try:
            self._urls.close()
        except OSError as error:
            logger.warning("%s", error)

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
        path = self._segment_path(command.segment)
        try:
            if command.on_disk:
                self._folders.create(path, command.segment, command.size)
            else:
                shm.create(path, command.size)
        except OSError as error:
            where = "on disk" if command.on_disk else "of shared memory"
            detail = f"{command.size} bytes {where}: {error}"
            self._turn_soon(
                ev.SegmentFailed(
                    command.segment, command.process, command.request, detail, command.on_disk
                )
            )
            return
        if isinstance(command.then, ev.Pull):
            self._perform(command.then)
        else:
            self._perform(ev.ToProcess(command.process, command.then))

    def _turn_soon(self, event: Any) -> None:
        self._loop.call_soon(self._turn, event)

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

    # ------------------------------------------------------------------ between nodes

    async def _pull(self, command: ev.Pull) -> None:
        path, object_id = self._segment_path(command.segment), command.object_id
        progress = transfer.Progress(command.arrived, command.edition)
        try:
            await transfer.pull(
                command.address,
                self._connect,
                object_id,
                path,
                command.size,
                progress,
                self._stall_s,
            )
        except Exception as error:
            reason = f"{command.address}: {error or type(error).__name__}"
            logger.info("pull of %s failed: %s", object_id.hex(), reason)
            is_gone = isinstance(error, transfer.PullError) and error.is_gone
            how = progress.arrived, progress.edition
            self._turn(ev.PullFailed(object_id, command.source, reason, is_gone, *how))
        else:
            self._totals.pulls += 1
            self._turn(ev.PullDone(object_id, progress.edition))
        finally:
            self._totals.pulled(command.source, progress.received)

    async def _connect(self, address: str) -> Any:
        return await compat.open_comm(self._worker, address)

    async def _serve_pull(
        self, comm: Any, object_id: bytes = b"", arrived: int = 0, edition: int = 0, **_: Any
    ) -> Any:
        assert self._machine is not None
        stored = self._machine.objects.store.find(object_id)
        if stored is None:
            await comm.write({"status": "missing"})
        else:
            segment = self._machine.objects.store.segments[stored.segment]
            try:
                if segment.is_away and self._urls is not None:
                    read = partial(self._urls.read, segment.id)
                    await transfer.serve_away(comm, read, stored, arrived, edition)
                else:
                    path = self._segment_path(segment.id)
                    await transfer.serve_pull(comm, path, stored, arrived, edition)
                self._totals.serves += 1
                self._totals.served_bytes += stored.size
            except OSError as error:  # also of distributed and Tornado: the other side hung up
                logger.info("pull of %s was broken off: %s", object_id.hex(), error)
                comm.abort()
        return compat.keep_comm()

    async def _connect_node(self, node_id: bytes) -> Any:
        return await self._connect(self._addresses[node_id])

    async def _serve_tunnel(self, comm: Any, address: str = "", **_: Any) -> Any:
        await self._tunnels.serve(comm, address)
        return compat.keep_comm()

    # ------------------------------------------------------------------ reports

    async def _report(self, watching: Settings) -> None:
        assert self._machine is not None
        sampler = Statistics(watching, self._session.dir)
        sampled: dict[str, Any] = {}
        while True:
            await asyncio.sleep(STATS_PERIOD_S)
            try:
                processes = statistics.watched(self._machine)
                at = self._loop.time()
                sampled = await asyncio.to_thread(sampler.sample, processes, at)
            except (OSError, ValueError, KeyError) as error:
                logger.warning("cannot look at what this machine uses: %s", error)
            self._turn(ev.ReportDue())
            told = statistics.of_machine(self._machine, self._totals)
            self._send(m.NodeStats(self.node_id, {**sampled, **told}))

    async def _watch_memory(self, settings: Settings) -> None:
        assert self._machine is not None
        watch = MemoryWatch(settings)
        executors = self._machine.executors
        while True:
            await asyncio.sleep(settings.period_s)
            try:
                pids = [e.pid for e in executors.values() if e.pid]
                if pids:
                    high = await asyncio.to_thread(watch.look, pids, self._loop.time())
                    if high is not None:
                        self._turn(high)
            except (OSError, ValueError, KeyError) as error:
                logger.warning("cannot look at the memory: %s", error)
                return

    async def _tail(self) -> None:
        while True:
            await asyncio.sleep(LOGS_PERIOD_S)
            try:
                self._logs.poll()
            except OSError as error:
                logger.warning("cannot read the logs: %s", error)

    async def _prune(self) -> None:
        """Keep what has ended, on this machine, within its quota."""
        while True:
            await asyncio.sleep(PRUNE_PERIOD_S)
            try:
                await asyncio.to_thread(history.prune, time.time())
            except OSError as error:
                logger.warning("cannot keep the history within its quota: %s", error)

    def _log_lines(self, process: int, pid: int, name: str, is_err: bool, lines: list[str]) -> None:
        assert self._machine is not None
        executor = self._machine.executors.get(process)
        if executor is not None and executor.job_id:
            self._send(m.LogLines(self.node_id, process, executor.job_id, pid, name, is_err, lines))


def _clean() -> None:
    """Remove what crashed nodes left, and what is too much of history."""
    clean_dead_sessions()
    history.prune(time.time())
