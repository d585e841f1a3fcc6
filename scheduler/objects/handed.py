"""Holds that came with results, until it is known that the results have arrived.

Theory of operation
-------------------
An executor announces a hold of the caller for every large result, and for every ref in a result,
before it replies. If it dies between the two, the caller never hears of what it is said to hold.
So the table remembers what each executor has announced lately, and for which call; a caller that
has lost an executor says which calls it had no reply to (`CallsLost`), and those holds are taken
back. An executor says nothing more once it is known to be dead, and who used it hears of its death
after that; so nothing can be announced too late.

Per executor the newest `ENTRIES_MAX` are remembered, which is more than there are calls under way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ract.core.ids import return_index, task_number
from ract.core.messages import CallsLost, Hold, HoldsChanged, ObjectStored

ENTRIES_MAX = 1024
DEAD_MAX = 256
"""So many dead executors are remembered, until all who used them have heard of it."""

Entry = tuple[int, int, Hold]  # call, index of the return or item, hold


@dataclass(slots=True, eq=False)
class Handed:
    """What executors have announced for others."""

    by_giver: dict[int, deque[Entry]] = field(default_factory=dict)
    _dead: deque[int] = field(default_factory=deque)

    def stored(self, event: ObjectStored) -> None:
        """A result was stored, for whoever had called."""
        call, index = task_number(event.object_id), return_index(event.object_id)
        self._note(event.maker, call, index, event.holds)

    def announced(self, event: HoldsChanged) -> None:
        """Refs in a result."""
        self._note(event.process, event.call, event.index, event.holds)

    def _note(self, giver: int, call: int, index: int, holds: list[Hold]) -> None:
        for hold in holds:
            if hold.process != giver and hold.change > 0:
                entries = self.by_giver.get(giver)
                if entries is None:
                    entries = self.by_giver[giver] = deque(maxlen=ENTRIES_MAX)
                entries.append((call, index, hold))

    def take_back(self, event: CallsLost) -> list[Hold]:
        """The changes that undo what was announced for calls that have got no reply."""
        lost = {each[0]: each[1] for each in event.calls}
        entries = self.by_giver.get(event.executor)
        if entries is None:
            return []
        undone, kept = [], []
        for entry in entries:
            call, index, hold = entry
            if hold.process == event.process and index >= lost.get(call, index + 1):
                undone.append(Hold(hold.id, hold.process, -hold.change))
            else:
                kept.append(entry)
        entries.clear()
        entries.extend(kept)
        return undone

    def process_exited(self, process: int) -> None:
        """An executor is dead: its callers will hear of it soon."""
        if process in self.by_giver:
            self._dead.append(process)
            if len(self._dead) > DEAD_MAX:
                self.by_giver.pop(self._dead.popleft(), None)
