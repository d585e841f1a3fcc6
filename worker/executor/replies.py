"""When the reply to a call goes out: at once, or when something else has been done.

A server that is given no `Replies` sends each reply when it is made. Else it asks them before a
call who is to take its replies, and tells them when it has run. Who takes a reply in its caller's
place is a `OneReply`; the policy passes it on.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from ract.core.messages import ExitCause
from ract.worker.executor.callers import Caller

Item = tuple[Any, ...]  #: a call as it came (`ract.core.calls`)


class OneReply:
    """Takes the reply of one call in its caller's place: what `Execution` needs of a caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.out: deque[Any] = deque()
        self.process = caller.process
        self.job_id = caller.job_id
        self.node_id = caller.node_id
        self.actor_id = caller.actor_id
        self.streams = caller.streams

    @property
    def is_gone(self) -> bool:
        """Whether the caller will not come back."""
        return self._caller.is_gone


class Replies(Protocol):
    """A policy. Calls of one server do not overlap in it, unless it says so.

    Attributes:
        quick_s: In front of a call that takes longer replies are not held back.
        hold_s: They are never held back for longer.
    """

    quick_s: float
    hold_s: float

    def taker(self, caller: Caller, item: Item) -> Caller | OneReply | None:
        """Who takes the replies of a call; None: the call does not run, it is answered."""

    def ran(self, caller: Caller, taker: Caller | OneReply, item: Item) -> None:
        """The call has run. A `OneReply` without a reply: it has ended the process."""

    def commit(self) -> None:
        """Send what is held back."""

    def ends(self, ending: ExitCause) -> None:
        """The server is about to end; nothing runs any more."""

    def acknowledged(self, caller: Caller, item: Item) -> None:
        """A caller says what it has (``DONE``, ``UNFINISHED``)."""

    def left(self, caller: Caller) -> None:
        """A caller has gone."""
