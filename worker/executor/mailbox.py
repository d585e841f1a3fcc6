"""Room for the calls that wait at an actor, counted over all its callers."""

from __future__ import annotations

from collections import Counter, deque

from ract.core import calls
from ract.worker.executor.callers import Caller


class Mailbox:
    """A caller asks for room before it sends a call; the call has it until it starts.

    Args:
        size: How many calls may wait.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._kept: Counter[Caller] = Counter()  # for calls that are on their way
        self._waiting: deque[tuple[Caller, int]] = deque()

    def ask(self, caller: Caller, number: int, wait: bool) -> None:
        """Answer whether there is room, when there is some or at once."""
        if self._free > 0 or not wait:
            self._answer(caller, number, self._free > 0)
        else:
            self._waiting.append((caller, number))

    def _answer(self, caller: Caller, number: int, there_is: bool) -> None:
        if there_is:
            self._free -= 1
            self._kept[caller] += 1
        caller.out.append((calls.ROOM, number, there_is))

    def arrived(self, caller: Caller) -> None:
        """A call came that has room; one that is repeated asked an earlier process for it."""
        if self._kept[caller] > 0:
            self._kept[caller] -= 1
        else:
            self._free -= 1

    def started(self) -> None:
        """A call that had room waits no longer."""
        self._free += 1
        self._hand_out()

    def vacated(self, caller: Caller) -> None:
        """A caller does not send a call that has room."""
        if self._kept[caller] > 0:
            self._kept[caller] -= 1
            self._free += 1
            self._hand_out()

    def left(self, caller: Caller) -> None:
        """A caller has gone; what it had sent still has its room."""
        self._free += self._kept.pop(caller, 0)
        self._waiting = deque(each for each in self._waiting if each[0] is not caller)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._free > 0:
            self._answer(*self._waiting.popleft(), True)
