"""One end of a stream of messages that outlives its connections. Pure.

Theory of operation
-------------------
What is sent travels in *batches* of frames, numbered from 1 on. Each end keeps what the other has
not acknowledged, and drops what it has seen already. When a connection breaks, both ends tell each
other on the next one the number of the last batch they have got, and send the rest again: to who
reads the batches, the break was nothing but a delay.

A batch on the wire is ``{"op": "ract", "frames": [...], "seq": n, "ack": m}``: its number, and that
of the last batch that its sender has got. Without ``seq`` it is no batch: it carries only an
acknowledgement, or frames that may be lost.
"""

from __future__ import annotations

from collections import deque
from typing import Any

ACK_EVERY = 64
"""So many batches are received at most before they are acknowledged in a message of its own."""


class GapError(Exception):
    """The other end does not have, or no longer knows of, what would have to be sent again."""


class Link:
    """What was sent and is not acknowledged, and what was received.

    Attributes:
        sent: The number of the newest batch that was made here.
        received: The number of the newest batch that came.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        #: The newest batches that were made here, those that are not acknowledged: up to `sent`.
        self._kept: deque[list[bytes]] = deque()
        self._told = 0  #: the newest of `received` that the other end was told of

    def pack(self, frames: list[bytes]) -> dict[str, Any]:
        """Number frames that are to arrive; returns the message to send."""
        self.sent += 1
        self._kept.append(frames)
        return self._message(self.sent, frames)

    def take(self, seq: int) -> bool:
        """Note that a batch came; returns whether it is new.

        Raises:
            GapError: one between it and the one before has not come.
        """
        self.check(seq)
        is_new = seq > self.received
        self.received = max(seq, self.received)
        return is_new

    def check(self, seq: int, ack: int = 0) -> None:
        """Raise what `take` and `acknowledged` would raise, and do nothing.

        Raises:
            GapError: see there.
        """
        if seq > self.received + 1:
            raise GapError(f"batch {seq} came after batch {self.received}")
        if ack > self.sent:
            raise GapError(f"batch {ack} is acknowledged, of {self.sent} that were made")

    def acknowledged(self, seq: int) -> None:
        """The other end has got everything up to ``seq``: it need not be kept.

        Raises:
            GapError: so many were never sent.
        """
        self.check(0, seq)
        kept = self._kept
        for _ in range(len(kept) - (self.sent - seq)):
            kept.popleft()

    def ack(self, at_least: int = 1) -> dict[str, Any] | None:
        """A message that only acknowledges, if so many batches are to be acknowledged."""
        if self.received - self._told < at_least:
            return None
        self._told = self.received
        return {"op": "ract", "frames": [], "ack": self.received}

    def resume(self, received: int) -> list[dict[str, Any]]:
        """The messages to send again on a new connection.

        Args:
            received: the newest batch that the other end has got.

        Raises:
            GapError: the other end has got more than was sent, or less than it had acknowledged:
                one of the two has forgotten something.
        """
        first = self.sent - len(self._kept) + 1
        if received < first - 1:
            raise GapError(f"batch {received + 1} is asked for again; batch {first} is the oldest")
        self.acknowledged(received)
        return [self._message(received + 1 + i, frames) for i, frames in enumerate(self._kept)]

    @property
    def kept(self) -> int:
        """How many batches are kept."""
        return len(self._kept)

    def _message(self, seq: int, frames: list[bytes]) -> dict[str, Any]:
        self._told = self.received
        return {"op": "ract", "frames": frames, "seq": seq, "ack": self.received}
