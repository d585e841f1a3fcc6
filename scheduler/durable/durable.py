"""The scheduler machine with its links to nodes: what a journal can make again.

Theory of operation
-------------------
`Durable.take` takes a `Record`: one batch of a node's messages, or one local event, and the time.
It returns what is to be sent, a message per node, as numbered batches (`ract.core.reliable`).
Everything here is a function of the records so far: who takes the same records again, in another
process, has the same machine and the same links, and every batch that a node has not acknowledged.
So a journal is the list of the records, and a scheduler that comes back is, to nodes, late.

``checksum`` is that of all batches sent, so that whoever takes the records again can compare.
Answers to requests count in it by their number only: they may quote tables for people, which are
fed by what is not recorded (`Durable.note`).
"""

from __future__ import annotations

import logging
import random
import zlib
from typing import Any, NamedTuple

from ract.core import wire
from ract.core.messages import EndNode, ExitCause, NodeJoined, Reply
from ract.core.reliable import Link
from ract.scheduler.books.turn import NodeLost, Send
from ract.scheduler.machine import SchedulerMachine

logger = logging.getLogger("ract.scheduler")

CLUSTER_ID_BYTES = 16
SEED_BITS = 64

Messages = dict[bytes, dict[str, Any]]
"""What to send, by node."""


class Record(NamedTuple):
    """What went into one turn.

    Attributes:
        now: The machine's time, seconds.
        node_id: Who sent ``frames``; b"" for a local event.
        seq: The number of the batch; 0 for frames that have none.
        ack: The newest batch that the node had got.
        frames: Encoded messages.
        event: A local event, see `ract.scheduler.books.turn`.
    """

    now: float
    node_id: bytes = b""
    seq: int = 0
    ack: int = 0
    frames: list[bytes] = []
    event: Any = None


class Durable:
    """A machine, its links and what its nodes were told last.

    Args:
        cluster_id: names the cluster for its life.
        seed: of all random choices.
        config: as for `SchedulerMachine`.
    """

    def __init__(self, cluster_id: bytes, seed: int, config: dict[str, Any]) -> None:
        self.machine = SchedulerMachine(cluster_id, random.Random(seed), config)
        #: By node, from its joining until it is lost.
        self.links: dict[bytes, Link] = {}
        #: Nodes that were told to end: their loss is no accident.
        self.ending: dict[bytes, ExitCause] = {}
        self.now = 0.0  #: of the newest record
        self.checksum = 0

    def take(self, record: Record, events: list[Any] | None = None) -> Messages:
        """Take one record; returns what to send. A message that cannot be handled is logged.

        Args:
            record: what to take.
            events: what it consists of, for who has decoded it already.

        Raises:
            GapError: the batch is not the next one of its node, or acknowledges too much.
            ProtocolError: a frame is no message.
        """
        self.now = record.now
        if events is None:
            events = [wire.decode(frame) for frame in record.frames]
            events += [record.event] if record.event is not None else []
        if record.node_id and not self._is_next(record, events):
            return {}
        commands: list[Send] = []
        for event in events:
            try:
                commands += self.machine.handle(event, record.now)
            except Exception:
                logger.exception("cannot handle %s", type(event).__name__)
            if isinstance(event, NodeLost):
                self.links.pop(event.node_id, None)
                self.ending.pop(event.node_id, None)
        return self._pack(commands)

    def is_news(self, node_id: bytes, seq: int, ack: int) -> bool:
        """Whether a batch of a node has not been taken yet; 0 is the number of those without one.

        Raises:
            GapError: `take` would raise it.
        """
        link = self.links.get(node_id)
        if link is None:
            return seq <= 1 and not ack  # else it is of a node that is no more
        link.check(seq, ack)
        return not seq or seq > link.received

    def note(self, event: Any, now: float) -> Messages:
        """Take an event that is not recorded (`ract.core.messages.PASSING`)."""
        return {
            command.node_id: unnumbered([wire.encode(command.message)])
            for command in self.machine.note(event, now)
        }

    def _is_next(self, record: Record, events: list[Any]) -> bool:
        """Count a batch in; False if it came before. The first one of a node makes its link."""
        link = self.links.get(record.node_id)
        if link is None:
            is_known = record.node_id in self.machine.nodes.table
            if is_known or not any(isinstance(event, NodeJoined) for event in events):
                return True
            link = self.links[record.node_id] = Link()
        link.acknowledged(record.ack)
        return not record.seq or link.take(record.seq)

    def _pack(self, commands: list[Send]) -> Messages:
        frames: dict[bytes, list[bytes]] = {}
        for command in commands:
            message = command.message
            try:
                frame = wire.encode(message)
            except wire.ProtocolError:
                logger.exception("cannot encode")
                continue
            frames.setdefault(command.node_id, []).append(frame)
            if isinstance(message, EndNode):
                self.ending[command.node_id] = message.cause
            if isinstance(message, Reply):
                frame = b"%d %d" % (message.process, message.request)
            self.checksum = zlib.crc32(frame, self.checksum)
        return {
            node_id: link.pack(batch) if (link := self.links.get(node_id)) else unnumbered(batch)
            for node_id, batch in frames.items()
        }


def unnumbered(frames: list[bytes]) -> dict[str, Any]:
    return {"op": "ract", "frames": frames}
