"""What the cluster counts for one process, and what it is to be told of it. Pure.

Theory of operation
-------------------
The cluster frees an object when nobody holds it. A process holds each object of which it has a ref.
A *record* says how many holds the cluster counts, or will count, for one ref of this process: those
that others announced for it (*announced*: they came with a reply, or with arguments), and those
that the process announces itself (*taken*). When the ref is gone, all of them are given back at
once.

A ref may go while another ref to the same object is made. So a ref that is gone gives back by its
record, never by its id.

What was read out of another object is *met*: it is kept by the hold of that object, its anchor. It
takes a hold of its own when it is used, or when it is still there after `MET_S` (`due`). Most of
what is read out of a list of many refs is dropped or passed over at once, and costs nothing that
way.

The rule of counting: a hold for somebody else is announced before the message that carries the id,
a release after everything else. So changes go to `changes`, which the connection to the node sums
up and sends before any later message. Threads, locks and the refs themselves are the business of
`ract.client.objects.held`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

MET_S = 0.1
"""A ref that was read out of another object gets a hold of its own after this time."""


@dataclass(slots=True, eq=False)
class Record:
    """The holds of one ref.

    Attributes:
        id: Of the object.
        count: Holds that are given back when the ref is gone. It may be less than 0 for one whose
            hold was lost: the cluster counts that as well.
    """

    id: bytes
    count: int


class Holds:
    """The holds of one process.

    Args:
        process: Its number.
        changes: Takes what is to be told, as (id, process, change).

    Attributes:
        records: Of the objects that this process holds, by id; of two refs, that of the newer one.
    """

    def __init__(self, process: int, changes: deque[tuple[bytes, int, int]]) -> None:
        self._process = process
        self._changes = changes
        self.records: dict[bytes, Record] = {}
        self._met: deque[tuple[float, list[bytes]]] = deque()  # in order of time

    @property
    def is_waiting(self) -> bool:
        """Whether something that was met will be due."""
        return bool(self._met)

    def announced(self, id: bytes, count: int) -> Record:
        """A new ref has holds that the cluster is told of in another way."""
        record = self.records[id] = Record(id, count)
        return record

    def taken(self, id: bytes) -> Record:
        """A new ref takes a hold."""
        self._changes.append((id, self._process, 1))
        return self.announced(id, 1)

    def more(self, id: bytes, count: int) -> None:
        """Others announced more holds for a ref that is there."""
        self.records[id].count += count

    def lost(self, id: bytes) -> None:
        """A hold was lost with the node that was to tell of it; the ref is there."""
        self.records[id].count -= 1

    def dropped(self, record: Record) -> bool:
        """A ref is gone.

        Returns:
            Whether this process has no newer ref to the object.
        """
        self._changes.append((record.id, self._process, -record.count))
        if self.records.get(record.id) is not record:
            return False
        del self.records[record.id]
        return True

    def handed(self, ids: Iterable[tuple[bytes, int]], process: int) -> None:
        """Another process will hold what it is sent."""
        for id, count in ids:
            self._changes.append((id, process, count))

    # ------------------------------------------------------------------ met

    def met(self, ids: list[bytes], now: float) -> None:
        """Refs without holds were read out of another object (``now``: seconds)."""
        self._met.append((now, ids))

    def due(self, now: float) -> list[bytes]:
        """What was met so long ago that it must be held by now, or forgotten."""
        found: list[bytes] = []
        while self._met and self._met[0][0] <= now - MET_S:
            found += self._met.popleft()[1]
        return found
