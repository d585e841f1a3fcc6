"""Asking for room in the mailbox of an actor, over a channel.

Room that the actor keeps for a call is either used by that call or given back (VACATE), whoever is
interrupted when: an answer that nobody waits for any more is given back at once.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.calls.connection import SLICE_S
from ract.core import calls

if TYPE_CHECKING:
    from collections.abc import Callable


class Asked(Protocol):
    """The channel over which is asked (`ract.client.calls.channel.Channel`)."""

    executor: int
    is_closed: bool
    read_lock: Any

    @property
    def is_readable(self) -> bool: ...
    def say(self, item: tuple[Any, ...]) -> None: ...
    def read_until(self, done: Callable[[], bool], deadline: float | None) -> None: ...
    def end_reading(self) -> None: ...
    def expedite(self) -> None: ...


class _Question:
    """Whether there is room."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answer: bool | None = None
        self.answered = threading.Event()


class Rooms:
    """The questions of one channel that have no answer."""

    def __init__(self, channel: Asked, check_alive: Callable[[], None]) -> None:
        self._channel = channel
        self._check_alive = check_alive
        self._asked: dict[int, _Question] = {}
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._asked)

    def ask(self, wait: bool) -> bool:
        """Whether the actor's mailbox has room for one more call, which is kept for it.

        Args:
            wait: Until there is some.

        Raises:
            ConnectionError: the channel is closed.
        """
        channel = self._channel
        question, number = _Question(), next(self._numbers)
        self._asked[number] = question
        try:
            channel.say((calls.ASK, number, wait))
            while question.answer is None:
                self._check_alive()
                if channel.is_closed:
                    raise ConnectionError(f"the channel to process {channel.executor} is closed")
                if channel.is_readable and channel.read_lock.acquire(timeout=SLICE_S):
                    try:
                        channel.read_until(lambda: question.answer is not None, None)
                    finally:
                        channel.end_reading()
                else:  # who reads it, or the reactor when there is a connection again, tells us
                    channel.expedite()
                    question.answered.wait(SLICE_S)
            return question.answer
        except BaseException:
            self._ask_no_more(number, question)
            raise

    def _ask_no_more(self, number: int, question: _Question) -> None:
        # Either this thread takes the question out of the table, or the one that answers it. To
        # take it out is one step in C, so there is no lock. The other one gives the room back.
        if self._asked.pop(number, None) is None and question.answer:
            self._channel.say((calls.VACATE,))

    def told(self, number: int, there_is: bool) -> None:
        """The answer to a question has come."""
        question = self._asked.get(number)
        if question is not None:
            question.answer = there_is
            question.answered.set()
        if self._asked.pop(number, None) is None and there_is:  # nobody waits for it any more
            self._channel.say((calls.VACATE,))
