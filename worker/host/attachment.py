"""The stream between a node and its scheduler, which outlives a scheduler that keeps a journal.

Theory of operation
-------------------
Messages of one turn of the event loop leave as one. To a scheduler that keeps a journal (it says
so in `NodeAccepted`) they go as numbered batches (`ract.core.reliable`). When the stream ends, the
node goes on without: what it has to say is kept, and it tries to register again. Once it has, it
says ``ract_rejoin`` with the number of the last batch it has got; the scheduler answers
``ract_rejoined`` with its own, and both send what the other has missed. Or ``ract_refused``: then
the node ends, as it does when the scheduler stays away for longer than it may.

What only people look at (`ract.core.messages.PASSING`) is not numbered; the newest of it is kept
while the scheduler is away.

To a scheduler without a journal nothing is numbered or kept, and its end is the node's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from distributed import Worker

from ract.core import wire
from ract.core.messages import PASSING, NodeAccepted
from ract.core.reliable import ACK_EVERY, GapError, Link
from ract.worker import compat

logger = logging.getLogger("ract.worker")

TRY_EVERY_S = 0.1
ANSWER_TIMEOUT_S = 10.0
PASSING_MAX = 1024
"""So many messages that only people look at are kept while the scheduler is away."""


class Attachment:
    """The stream of one node.

    Args:
        worker: Whose streams it goes over; it has not registered yet.
        node_id: The node's.
        receive: Called with the encoded messages of the scheduler, once each and in order.
        away: Called when the scheduler has gone and may come back.
        end: Called with the reason when the node has to end.
    """

    def __init__(
        self,
        worker: Worker,
        node_id: bytes,
        receive: Callable[[list[bytes]], None],
        away: Callable[[], None],
        end: Callable[[str], None],
    ) -> None:
        self._worker = worker
        self._node_id = node_id
        self._receive = receive
        self._away = away
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = Link()  #: None: nothing is numbered
        self._cluster_id = b""
        self._reconnect_s = 0.0
        self._outbox: list[bytes] = []
        self._passing: deque[bytes] = deque(maxlen=PASSING_MAX)
        self._flush_soon = False
        self._is_attached = True
        self._search: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[int] | None = None
        self._until = 0.0
        #: Since when (seconds since the epoch) the scheduler is away; None while it is there.
        self.away_since: float | None = None
        compat.add_stream_handler(worker, "ract", self._from_scheduler)
        compat.add_stream_handler(worker, "ract_rejoined", self._rejoined)
        compat.add_stream_handler(worker, "ract_refused", self._refused)
        compat.outlive(worker, self._stays, self._lost)
        compat.hurry(worker)

    def accepted(self, event: NodeAccepted) -> None:
        """The scheduler has taken the node in, and said whether it may come back after a crash."""
        self._cluster_id = event.cluster_id
        self._reconnect_s = event.reconnect_s
        if not event.reconnect_s:
            self._link = None

    def close(self) -> None:
        """Do not look for the scheduler any more."""
        self._reconnect_s = 0.0
        if self._search is not None:
            self._search.cancel()

    def send(self, message: Any) -> None:
        """Send a message with the others of this turn of the loop."""
        frame = wire.encode(message)
        if self._link is not None and isinstance(message, PASSING):
            self._passing.append(frame)
        else:
            self._outbox.append(frame)
        if not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self._flush)

    @property
    def away_text(self) -> str:
        """Since when the scheduler is away, in words."""
        assert self.away_since is not None
        clock = time.strftime("%H:%M:%S", time.localtime(self.away_since))
        return (
            f"the scheduler at {self._worker.scheduler.address} has been away since {clock} "
            f"({time.time() - self.away_since:.0f} s); the node waits {self._reconnect_s:g} s for "
            "it to come back with its journal"
        )

    @property
    def left_s(self) -> float:
        """How long the scheduler is still waited for, while it is away."""
        return max(0.0, self._until - self._loop.time())

    # ------------------------------------------------------------------ sending, receiving

    def _flush(self) -> None:
        self._flush_soon = False
        frames, self._outbox = self._outbox, []
        link = self._link
        if link is None:
            if frames:
                compat.send(self._worker, {"op": "ract", "frames": frames})
            return
        message = (
            link.pack(frames) if frames else {"op": "ract", "frames": [], "ack": link.received}
        )
        if self._is_attached:
            if self._passing:
                message = {**message, "passing": list(self._passing)}
                self._passing.clear()
            compat.send(self._worker, message)

    def _from_scheduler(self, *, frames: list[bytes], seq: int = 0, ack: int = 0, **_: Any) -> None:
        link = self._link
        if link is not None:
            try:
                link.acknowledged(ack)
                if seq and not link.take(seq):
                    return
            except GapError as error:
                self._give_up(f"the scheduler's stream is broken: {error}")
                return
            told = link.ack(ACK_EVERY)
            if told is not None:
                compat.send(self._worker, told)
        self._receive(frames)

    # ------------------------------------------------------------------ a scheduler that goes

    def _stays(self) -> bool:
        """Whether the node goes on without its scheduler."""
        return self._reconnect_s > 0

    def _lost(self) -> None:
        """The stream has ended."""
        self._is_attached = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("it went again"))
        if self.away_since is None:
            self.away_since = time.time()
            self._until = self._loop.time() + self._reconnect_s
            logger.warning("%s", self.away_text)
            self._away()
        if self._search is None or self._search.done():
            self._search = self._loop.create_task(self._look_for_it())

    async def _look_for_it(self) -> None:
        """Rejoin, or give up."""
        while not self._is_attached and self._loop.time() < self._until:
            try:
                if await compat.register_again(self._worker) and await self._rejoin():
                    continue
            except Exception:
                logger.exception("cannot register with the scheduler; trying again")
            await asyncio.sleep(TRY_EVERY_S)
        if not self._is_attached:
            self._give_up(f"the scheduler did not come back within {self._reconnect_s:g} s")

    async def _rejoin(self) -> bool:
        """Agree with the scheduler on what either has missed; False if it is away again."""
        assert self._link is not None
        self._answer = self._loop.create_future()
        compat.send(
            self._worker,
            {
                "op": "ract_rejoin",
                "node_id": self._node_id,
                "cluster_id": self._cluster_id,
                "received": self._link.received,
            },
        )
        try:
            await asyncio.wait_for(self._answer, ANSWER_TIMEOUT_S)
        except OSError:  # timeouts too
            return False
        finally:
            self._answer = None
        return True

    def _rejoined(self, *, received: int, **_: Any) -> None:
        """The scheduler has us again. What it sends next may already be in the same batch."""
        link = self._link
        if link is None or self._answer is None or self._answer.done():
            return
        try:
            missed = link.resume(received)
        except GapError as error:
            self._give_up(f"the scheduler's journal has lost its end: {error}")
            return
        self._is_attached = True
        for message in missed:
            compat.send(self._worker, message)
        away_s = time.time() - (self.away_since or time.time())
        self.away_since = None
        self._answer.set_result(received)
        logger.warning("the scheduler is back after %.1f s", away_s)
        if self._passing:
            self._flush()

    def _refused(self, *, why: str, **_: Any) -> None:
        self._give_up(f"the scheduler does not take the node back: {why}")

    def _give_up(self, why: str) -> None:
        if self._reconnect_s:
            self._reconnect_s = 0.0
            self._end(why)
