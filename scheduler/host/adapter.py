"""The scheduler machine on a stock `distributed.Scheduler`: decode, handle, perform.

Theory of operation
-------------------
A worker whose stream brings `NodeJoined` is one of our nodes; other Dask workers are left alone.
Nodes and workers are mapped one to one while the worker lives; the loss of the worker is the loss
of the node. Control messages come as ``{"op": "ract", "frames": [bytes, …]}``; all frames of one
such message are one turn, and what the machine has to say to a node in that turn leaves as one
message of the same form.

With a journal (`ract.scheduler.durable.journal`) each turn is committed before anything of it is
sent, and the batches of both sides are numbered (`ract.core.reliable`). A scheduler that comes back
takes the turns of its journal again, tells the machine that it has restarted, and waits for the
nodes: each that says ``ract_rejoin`` gets what it has missed, and those that do not within
``reconnect_s`` are lost; until when is kept beside the journal, or a scheduler that crashes often
would wait for ever for a node that is dead. The machine's time stands still while there is no
scheduler. As long as the scheduler lives, the loss of a connection is the loss of a node, which is
refused when it comes again.

Requests that need the answer of a node are tasks of the event loop (`ract.scheduler.host.asking`),
since the machine never waits. What has ended is handed to the history
(`ract.scheduler.durable.record`).

Nothing here decides. What it checks is who speaks: a frame that names another node than the one its
stream belongs to is dropped. No exception of ours may reach distributed, because it would close the
worker's stream: bugs are logged with the frame's type, and the cluster goes on.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
import time
from typing import TYPE_CHECKING, Any

import distributed
from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from ract.core import wire
from ract.core.errors import JournalError
from ract.core.messages import PASSING, ExitCause, NodeAnswered, NodeJoined, Request
from ract.core.reliable import ACK_EVERY, GapError
from ract.core.version import __version__
from ract.scheduler import compat
from ract.scheduler.books.turn import (
    AllBack,
    DashboardServed,
    NodeLost,
    NodesLeft,
    NodesWanted,
    Restarted,
    Tick,
)
from ract.scheduler.cluster import Cluster
from ract.scheduler.durable.durable import (
    CLUSTER_ID_BYTES,
    SEED_BITS,
    Durable,
    Messages,
    Record,
    unnumbered,
)
from ract.scheduler.durable.record import Recorder
from ract.scheduler.host import asking
from ract.scheduler.host.asking import NodeAsker
from ract.scheduler.host.coming_back import Awaited
from ract.scheduler.machine import SchedulerMachine

if TYPE_CHECKING:  # it brings SQLite, which most heads do without
    from ract.scheduler.durable.journal import Journal

logger = logging.getLogger("ract.scheduler")

PROTOCOL = 1
"""Changes when nodes of one version cannot talk to a scheduler of another."""

RECONNECT_S = 60.0
"""So long nodes and a scheduler with a journal wait for each other."""

VERSIONS = {
    "status": "OK",
    "ract": __version__,
    "protocol": PROTOCOL,
    "python": platform.python_version(),
    "distributed": distributed.__version__,
}
"""What whoever means to join is told of this scheduler, beside its cluster."""


class RactSchedulerPlugin(SchedulerPlugin):
    """Hosts a `SchedulerMachine`; installed by `ract.scheduler.preload`.

    Args:
        config: as for `SchedulerMachine`.
        journal: where to keep what is needed to come back after a crash; the plugin closes it.
    """

    name = "ract"
    idempotent = True

    def __init__(
        self, config: dict[str, Any] | None = None, journal: Journal | None = None
    ) -> None:
        self.cluster_id = secrets.token_bytes(CLUSTER_ID_BYTES)
        #: Where people look at the cluster; set by `ract.dashboard.preload`, else empty.
        self.dashboard_url = ""
        self._config = dict(config or {})
        self._journal = journal
        self._durable: Durable | None = None
        self._scheduler: Scheduler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        #: How much less time has passed for the machine than for the event loop.
        self._skew = 0.0
        self._is_closing = False
        #: Why the scheduler had to end by itself; "" if it had not.
        self.failure = ""
        #: Nodes that have yet to come back; None if this is no restart.
        self._awaited: Awaited | None = None
        self._worker_of: dict[bytes, str] = {}  # the two are each other's inverse
        self._node_of: dict[str, bytes] = {}
        self._asker = NodeAsker(self._say)
        self._asking: set[asyncio.Task[None]] = set()
        self._recorder: Recorder | None = None

    # ------------------------------------------------------------------ distributed calls these

    async def start(self, scheduler: Scheduler) -> None:
        """Install the handlers.

        Raises:
            JournalError: the journal is damaged.
        """
        if self._scheduler is not None:
            return
        self.begin()
        self._scheduler = scheduler
        if self._journal is not None:
            self._journal.put("port", scheduler.port)
        compat.add_stream_handler(scheduler, "ract", self._receive)
        compat.add_stream_handler(scheduler, "ract_rejoin", self._rejoin)
        compat.add_rpc(scheduler, "ract_ping", self._ping)
        self._dasks_target = compat.rpc(scheduler, "adaptive_target")
        compat.add_rpc(scheduler, "adaptive_target", self._adaptive_target)
        compat.add_rpc(scheduler, "workers_to_close", self._workers_to_close)
        for worker in list(scheduler.workers):
            compat.hurry(scheduler, worker)
        self._recorder = Recorder(self.cluster_id)
        self._recorder.start(self.cluster)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker connected; whether it is a node is known when it says so."""
        compat.hurry(scheduler, worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        """A worker is gone; if it was a node, the node is lost."""
        node_id = self._node_of.pop(worker, None)
        if node_id is not None:
            del self._worker_of[node_id]
            self._asker.node_lost(node_id)
            self._lose(node_id, f"its daemon at {worker} is gone")

    async def close(self) -> None:
        """Stop the timers; write the rest of the history; leave a journal that is quickly read."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._awaited is not None:
            self._awaited.stop()
        for task in list(self._asking):
            task.cancel()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)
        if self._journal is not None:
            assert self._durable is not None
            try:
                self._journal.snapshot(self._durable)
            except JournalError as error:
                logger.error("%s; the next start takes longer", error)
            self._journal.close()

    # ------------------------------------------------------------------ for the same process

    @property
    def machine(self) -> SchedulerMachine:
        """The machine, for tests: look, don't touch."""
        assert self._durable is not None, "the plugin has not been started"
        return self._durable.machine

    @property
    def cluster(self) -> Cluster:
        """What the machine knows, for whoever asks."""
        return self.machine.cluster

    @property
    def port(self) -> int:
        """Where the scheduler of the journal listened before, 0 if there was none."""
        return (self._journal.get("port") or 0) if self._journal is not None else 0

    # ------------------------------------------------------------------ coming back

    def begin(self) -> None:
        """Make the machine, or have it again; called by `start`, or before by who wants to know.

        Raises:
            JournalError: the journal is damaged.
        """
        if self._durable is not None:
            return
        self._loop = asyncio.get_running_loop()  # the machine's time passes like its own
        offset = time.time() - self._loop.time()
        config = {"epoch_offset_s": offset, **self._config}
        journal = self._journal
        if journal is None:
            config["reconnect_s"] = 0.0
            self._durable = Durable(self.cluster_id, secrets.randbits(SEED_BITS), config)
            return
        config.setdefault("reconnect_s", RECONNECT_S)
        is_new = journal.is_new
        self._durable = journal.recover(config)
        self.cluster_id = self.cluster.cluster_id
        if is_new:
            return
        # While the scheduler was away, no time has passed for those who wait.
        self._skew = self._loop.time() - self._durable.now
        self._awaited = Awaited(
            journal,
            [node.node_id for node in self.cluster.nodes.alive],
            self.cluster.turn.settings.reconnect_s,
            self._lose,
            self._all_back,
            self._give_up_journal,
        )
        logger.warning(
            "the scheduler is back: %d turns of %s taken again in %.2f s; waiting for %d nodes",
            journal.replayed[0],
            journal.path,
            journal.replayed[1],
            len(self._awaited.until),
        )
        self._turn(self._local(Restarted(offset + self._skew)))
        self._awaited.begin()

    def _rejoin(
        self, *, worker: str, node_id: bytes, cluster_id: bytes, received: int, **_: Any
    ) -> None:
        """A node has found us again; it has got everything up to batch ``received``."""
        if self._durable is None or self._scheduler is None or self._is_closing:
            return
        why = ""
        link = self._durable.links.get(node_id)
        if cluster_id != self.cluster_id:
            why = "this is the scheduler of another cluster: it was started without its journal"
        elif link is None:
            why = "the node was declared dead, and its work was given to others"
        elif node_id in self._worker_of or worker in self._node_of:
            why = "the node is connected already"
        else:
            try:
                missed = link.resume(received)
            except GapError as error:
                why = f"the journal has lost its end ({error})"
                self._lose(node_id, why)
        if why or link is None:
            logger.warning("node %s at %s may not come back: %s", node_id.hex()[:8], worker, why)
            compat.send(self._scheduler, worker, {"op": "ract_refused", "why": why})
            return
        self._node_of[worker], self._worker_of[node_id] = node_id, worker
        rejoined = {"op": "ract_rejoined", "received": link.received}
        for message in (rejoined, *missed):
            compat.send(self._scheduler, worker, message)
        if self._awaited is not None:
            self._awaited.no_more(node_id)

    def _all_back(self) -> None:
        if self.machine.turn.is_patient:
            self._turn(self._local(AllBack()))

    def served_at(self, address: str) -> None:
        """The dashboard can be asked at ``address`` (host:port)."""
        self._turn(self._local(DashboardServed(address)))

    async def ask_node(self, node_id: bytes, op: str, timeout: float = 10.0, **args: Any) -> Any:
        """Ask a node what only it knows (`ract.worker.host.answers`).

        Raises:
            NodeError: it is gone, did not answer in time, or could not.
        """
        return await self._asker.ask(node_id, op, timeout, **args)

    async def look_up(self, op: str, args: dict[str, Any]) -> Any:
        """The answer to a request of `ract.scheduler.host.asking`: logs, stacks, where objects lie.

        Raises:
            NodeError: the node could not answer.
            ValueError: there is no such thing.
        """
        return await asking.OPS[op](self, args)

    # ------------------------------------------------------------------ inside

    def _lose(self, node_id: bytes, why: str) -> None:
        """A node is gone, by accident unless it was told to go."""
        if self._durable is None or self._is_closing:
            return
        cause = self._durable.ending.get(node_id)
        if cause is None:
            cause = ExitCause("node_died", why, node_id=node_id, at=time.time())
        self._turn(self._local(NodeLost(node_id, cause)))
        if self._awaited is not None:
            self._awaited.no_more(node_id)

    def _adaptive_target(self, target_duration: Any = None) -> int:
        """How many workers Dask's adaptive scaling should have: as ract needs, or Dask's tasks."""
        dasks = self._dasks_target(target_duration=target_duration)
        wanted = max(self.machine.scaling.wanted(), dasks)
        self._turn(self._local(NodesWanted(wanted)))
        return wanted

    def _workers_to_close(
        self, target: int | None = None, attribute: str = "address", **_: Any
    ) -> list[Any]:
        """The workers that Dask's adaptive scaling may close: they hold nothing any more."""
        assert self._scheduler is not None
        if target is None:
            return []
        self._turn(self._local(NodesLeft(target)))
        found = []
        for node_id in self.machine.may_go:
            worker = self._worker_of.get(node_id)
            if worker is not None and compat.is_idle(self._scheduler, worker):
                cause = ExitCause("shutdown", "the cluster is scaled down", node_id=node_id)
                assert self._durable is not None
                self._durable.ending[node_id] = cause
                by_name = attribute == "name"
                found.append(compat.name_of(self._scheduler, worker) if by_name else worker)
        return found

    def _receive(
        self,
        *,
        worker: str,
        frames: list[Any],
        seq: int = 0,
        ack: int = 0,
        passing: list[Any] | None = None,
        **_: Any,
    ) -> None:
        """Take one message of a worker's stream."""
        durable, node_id = self._durable, self._node_of.get(worker, b"")
        if durable is None or self._is_closing:
            return
        try:
            if self._journal is not None and not durable.is_news(node_id, seq, ack):
                return
        except GapError as error:
            # Nothing of ours does that; what is missing cannot be had again.
            logger.error("the stream of node %s is broken: %s", node_id.hex()[:8], error)
            self._lose(node_id, f"its stream is broken: {error}")
            return
        events, kept = [], []
        for frame in (*(passing or ()), *frames):
            try:
                event = wire.decode(frame)
                if not self._is_genuine(worker, event):
                    continue
                if isinstance(event, PASSING):
                    if self._recorder is not None:
                        self._recorder.see(event)
                    self._send(durable.note(event, self._now()))
                elif isinstance(event, NodeAnswered):
                    self._asker.answered(event)
                elif isinstance(event, Request) and event.op in asking.OPS:
                    self._answer_later(event)
                else:
                    events.append(event)
                    kept.append(frame)
            except Exception:
                logger.exception("bad frame from %s", worker)
        node_id = self._node_of.get(worker, b"")
        if self._journal is None:
            self._turn(Record(self._now(), frames=kept), events)
        elif events or seq:
            self._turn(Record(self._now(), node_id, seq, ack, kept), events)
        self._acknowledge(worker, node_id, ack, at_least=1 if passing else ACK_EVERY)

    def _acknowledge(self, worker: str, node_id: bytes, ack: int, *, at_least: int) -> None:
        """Note what a node has got; tell it what came from it, if nothing else has told it."""
        assert self._durable is not None
        link = self._durable.links.get(node_id)
        if link is not None and self._journal is not None and self._scheduler is not None:
            link.acknowledged(ack)
            message = link.ack(at_least)
            if message is not None:
                compat.send(self._scheduler, worker, message)

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

    def _now(self, at_least: float = 0.0) -> float:
        """The machine's time; rounding takes it neither back nor before ``at_least``."""
        assert self._loop is not None
        assert self._durable is not None
        return max(self._loop.time() - self._skew, self._durable.now, at_least)

    def _answer_later(self, request: Request) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._answer(request))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, request: Request) -> None:
        reply = await asking.answer(self, request)
        process = self.machine.processes.alive.get(request.process)
        if process is not None:
            self._say(process.node_id, reply)

    def _say(self, node_id: bytes, message: Any) -> None:
        """Send what nothing is decided from: it is lost with the scheduler."""
        self._send({node_id: unnumbered([wire.encode(message)])})

    def _local(self, event: Any, at_least: float = 0.0) -> Record:
        return Record(self._now(at_least), event=event)

    def _turn(self, record: Record, events: list[Any] | None = None) -> None:
        """Write a record down; let the machine take it; send what follows from it."""
        durable, journal = self._durable, self._journal
        if durable is None or self._is_closing:
            return
        try:
            if journal is not None:
                journal.append(record, durable.checksum)
            self._send(durable.take(record, events))
            self._arm()
            if journal is not None and journal.wants_snapshot:
                journal.snapshot(durable)
        except JournalError as error:
            self._give_up_journal(error)
        except Exception:
            logger.exception("cannot take a turn, or send what follows from it")

    def _give_up_journal(self, error: JournalError) -> None:
        """What cannot be written down must not happen: end, and let who can repair it restart."""
        if self._scheduler is None or self._loop is None:
            raise error
        logger.critical("the scheduler ends: %s", error)
        self._is_closing = True
        self.failure = str(error)
        self._closing = self._loop.create_task(self._scheduler.close(reason=str(error)))

    def _send(self, messages: Messages) -> None:
        """Send what nodes are to get; who is away gets it when it is back."""
        for node_id, message in messages.items():
            worker = self._worker_of.get(node_id)
            if worker is not None and self._scheduler is not None:
                # A closed stream is followed by remove_worker; nothing is lost that could be kept.
                compat.send(self._scheduler, worker, message)

    def _arm(self) -> None:
        assert self._loop is not None
        at = self.machine.next_deadline()
        if self._timer is not None:
            if at == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer_at = at
            self._timer = self._loop.call_at(at + self._skew, self._tick, at)

    def _tick(self, at: float) -> None:
        self._timer = None
        self._turn(self._local(Tick(), at))

    def _ping(self) -> dict[str, Any]:
        """Remote call ``ract_ping``: this scheduler is one of ours, and which versions it has."""
        return {**VERSIONS, "cluster_id": self.cluster_id.hex(), "nodes": len(self._worker_of)}
