"""Who is next among those that wait for the same: fair between jobs, by priority within one.

Theory of operation
-------------------
A `Line` holds wants of one ask. Next is a want of the job that has the fewest leases; within the
job the one with the highest priority, then the one with the fewest leases, then who came first.
Each job has a heap of its wants; an entry whose rank is not true any more is passed over, and a
want whose rank changes is put in again. So the next one is found without looking at all of them.
"""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush

from ract.scheduler.leases.lease_records import Want, WantKey

Rank = tuple[int, int, int]


class Line:
    """Wants of one ask, with who is next."""

    def __init__(self, since: float) -> None:
        self.since = since  #: when it began to wait, or was served last
        self.wants: dict[WantKey, Want] = {}
        self._arrived = 0
        self._ranks: dict[WantKey, Rank] = {}
        self._heaps: dict[bytes, list[tuple[Rank, WantKey]]] = {}  # by job

    def put(self, want: Want, *, to_back: bool = False) -> None:
        """Add a want, or take note that its rank has changed, or that it had its turn."""
        known = self._ranks.get(want.key)
        if known is None or to_back:
            self._arrived += 1
        arrived = self._arrived if known is None or to_back else known[2]
        rank = (-want.priority, want.active, arrived)
        if rank == known:
            return
        self.wants[want.key] = want
        self._ranks[want.key] = rank
        job_id = want.shape.job_id
        heap = self._heaps.setdefault(job_id, [])
        heappush(heap, (rank, want.key))
        if len(heap) > 4 * len(self.wants) + 64:
            heap[:] = [entry for entry in heap if self._ranks.get(entry[1]) == entry[0]]
            heapify(heap)

    def remove(self, key: WantKey) -> None:
        """Take a want out."""
        self.wants.pop(key, None)
        self._ranks.pop(key, None)

    def first(self, leases_of: Counter[bytes]) -> Want:
        """Return whose turn it is, given how many leases each job has."""
        best: tuple[int, Rank, WantKey] | None = None
        for job_id, heap in list(self._heaps.items()):
            while heap and self._ranks.get(heap[0][1]) != heap[0][0]:
                heappop(heap)
            if not heap:
                del self._heaps[job_id]
                continue
            candidate = (leases_of[job_id], *heap[0])
            if best is None or candidate < best:
                best = candidate
        assert best is not None, "a line is never empty"
        return self.wants[best[2]]

    def ahead_of(self, key: WantKey, leases_of: Counter[bytes]) -> int:
        """Return how many are before a want; all are looked at, which is for people to ask."""

        def turn(want: Want) -> tuple[int, Rank]:
            return leases_of[want.shape.job_id], self._ranks[want.key]

        mine = turn(self.wants[key])
        return sum(turn(want) < mine for want in self.wants.values())
