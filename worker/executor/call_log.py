"""What a durable actor remembers of the calls that it has answered. Pure.

Theory of operation
-------------------
A call has a number that is its own for the life of the cluster, and keeps it when it is sent again
because its process died. Its answer is remembered, and saved together with the state, until the
caller has said that it arrived; so a call that comes again gets the answer that it had, and is not
applied twice. A caller that wants a call to run again, because of the error that it raised, says so
by a higher *attempt*.

What is remembered is bounded by what callers have under way: an actor does not go on before the
socket has taken its answers. Callers acknowledge answers in passing (`done`), and say which of
their calls may come again when they meet a new process of the actor (`unfinished`). Of callers that
have gone, who may be dead or cut off, those of the last `CALLERS_GONE_MAX` are kept.

An answer is what follows the sequence number in a reply (`ract.core.calls`). A large one is the
place of an object, which the caller holds already, not the object itself.

What callers say comes on one thread, and calls may run on another: a lock keeps them apart.
"""

from __future__ import annotations

import threading
from typing import Any

from ract.core import ids

CALLERS_GONE_MAX = 100

Key = tuple[int, int]  #: number of the call, attempt
Answer = tuple[Any, ...]


class CallLog:
    """The answers of one actor that may be needed again."""

    def __init__(self, answers: dict[int, dict[Key, Answer]] | None = None) -> None:
        #: By process of the caller; no empty dicts.
        self.answers: dict[int, dict[Key, Answer]] = answers or {}
        #: By channel: under which sequence number an answer went out there, and for whom.
        self._sent: dict[Any, dict[int, Key]] = {}
        #: Callers whose channel has ended (or who have not come yet), the longest gone first.
        self._gone: dict[int, None] = dict.fromkeys(self.answers)
        self._lock = threading.RLock()

    def find(self, number: int, attempt: int) -> Answer | None:
        """The answer that the call has got already."""
        return self.answers.get(_caller(number), {}).get((number, attempt))

    def add(self, number: int, attempt: int, answer: Answer) -> None:
        """A call was run; what it got in earlier attempts is of no use any more."""
        with self._lock:
            mine = self.answers.setdefault(_caller(number), {})
            for before in range(attempt):
                mine.pop((number, before), None)
            mine[number, attempt] = answer

    def remove(self, number: int, attempt: int) -> None:
        """The call has no answer that counts."""
        caller = _caller(number)
        with self._lock:
            mine = self.answers.get(caller, {})
            mine.pop((number, attempt), None)
            if not mine:
                self.answers.pop(caller, None)

    def sent(self, channel: Any, seq: int, number: int, attempt: int) -> None:
        """The answer goes out on a channel."""
        with self._lock:
            self._gone.pop(_caller(number), None)
            self._sent.setdefault(channel, {})[seq] = (number, attempt)

    def done(self, channel: Any, before: int) -> None:
        """The caller has all answers with a lower sequence number."""
        with self._lock:
            sent = self._sent.get(channel, {})
            for seq in [seq for seq in sent if seq < before]:
                self.remove(*sent.pop(seq))

    def unfinished(self, process: int, numbers: list[int]) -> None:
        """Of the calls that the caller made before it came here, only these may come again."""
        wanted = set(numbers)
        with self._lock:
            for number, attempt in list(self.answers.get(process, ())):
                if number not in wanted:
                    self.remove(number, attempt)

    def left(self, channel: Any, process: int) -> None:
        """The channel has ended."""
        with self._lock:
            self._sent.pop(channel, None)
            if process in self.answers:
                self._gone[process] = None
            while len(self._gone) > CALLERS_GONE_MAX:
                longest = next(iter(self._gone))
                del self._gone[longest]
                self.answers.pop(longest, None)

    def copied(self) -> dict[int, dict[Key, Answer]]:
        """The answers as they are now, to be saved."""
        with self._lock:
            return {process: dict(answers) for process, answers in self.answers.items()}

    def __len__(self) -> int:
        return sum(map(len, self.answers.values()))


def _caller(number: int) -> int:
    return number >> ids.COUNTER_BITS
