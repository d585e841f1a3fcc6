"""Who copies which object from whom, so that a broadcast spreads from the copies.

Theory of operation
-------------------
A *pull* lasts from the moment a node is told of a copy until it says how that ended: it has a copy
of its own now, it could not get one, it wants none any more; or until it had more time than the
size can explain. A copy of a large object serves `PULLS_PER_COPY` pulls at a time, and whoever
finds all copies busy waits. Each pull that ends well adds a copy that serves others, so that the
number of copies grows by a factor each time that a transfer takes: N nodes are served in O(log N)
such rounds, and no node sends more than a few at a time. Small objects are copied faster than a
round could be told of.

A copy that could not be had, though its node did not say that it is gone, is *avoided* for a while
by the node that failed, and is the last choice of others.

Nothing here knows of states; `Directory` asks when there is something to assign.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

SPREAD_BYTES_MIN = 2**20
"""Smaller objects are copied from anywhere at once."""

PULLS_PER_COPY = 2
"""So many nodes copy a large object from one copy at a time."""

AVOID_S = 2.0
"""For so long a node does not try a copy again that it could not get."""

PULL_S = 60.0
"""A pull of which nothing is heard counts as over after this time and that for its size."""

PULL_BYTES_PER_S = 10 * 2**20


@dataclass(slots=True)
class Pull:
    """A node copies an object."""

    source: bytes
    until: float  #: then it does not count any more, whatever has become of it


@dataclass(slots=True)
class Spread:
    """What goes on around one object."""

    pulls: dict[bytes, Pull] = field(default_factory=dict)  #: by the node that pulls
    #: By node that pulls, then by source: until when. No empty dicts.
    avoided: dict[bytes, dict[bytes, float]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Pulls:
    """All pulls of large objects, and all copies that are avoided."""

    rng: random.Random
    #: By object; those of which nothing is known are not in it.
    table: dict[bytes, Spread] = field(default_factory=dict)
    #: (when, object, node, source) of all that ends by itself; some of it has ended before.
    _ends: list[tuple[float, bytes, bytes, bytes]] = field(default_factory=list)

    def assign(
        self,
        object_id: bytes,
        seekers: Iterable[bytes],
        copies: Iterable[bytes],
        size: int,
        now: float,
    ) -> dict[bytes, list[bytes]]:
        """Choose copies for nodes that want one.

        Args:
            object_id: The object.
            seekers: Nodes that want it and do not pull it, who waits longest first.
            copies: Nodes that have it.
            size: In bytes.
            now: The time.

        Returns:
            By seeker the nodes from which it may be copied now. Who is not in it has to wait, until
            a pull ends or `expire` returns the object.
        """
        spread = self.table.get(object_id) or Spread()
        if size < SPREAD_BYTES_MIN:
            return self._all(spread, seekers, list(copies))
        busy: dict[bytes, int] = {}
        for pull in spread.pulls.values():
            busy[pull.source] = busy.get(pull.source, 0) + 1
        free = [each for each in copies if busy.get(each, 0) < PULLS_PER_COPY]
        self.rng.shuffle(free)
        until = now + PULL_S + size / PULL_BYTES_PER_S
        found = {}
        for seeker in seekers:
            if not free:
                break
            avoided = spread.avoided.get(seeker, ())
            fit = [each for each in free if each not in avoided]
            if not fit:
                continue
            source = min(fit, key=lambda each: (_failures(spread, each), busy.get(each, 0)))
            found[seeker] = [source]
            self.table[object_id] = spread
            spread.pulls[seeker] = Pull(source, until)
            heapq.heappush(self._ends, (until, object_id, seeker, source))
            busy[source] = busy.get(source, 0) + 1
            if busy[source] >= PULLS_PER_COPY:
                free.remove(source)
        return found

    def _all(
        self, spread: Spread, seekers: Iterable[bytes], copies: list[bytes]
    ) -> dict[bytes, list[bytes]]:
        found = {}
        for seeker in seekers:
            avoided = spread.avoided.get(seeker, ())
            fit = [each for each in copies if each not in avoided]
            self.rng.shuffle(fit)
            if fit:
                found[seeker] = fit
        return found

    def ended(self, object_id: bytes, node_id: bytes) -> bool:
        """The node's pull is over; returns whether it was known."""
        spread = self.table.get(object_id)
        if spread is None or spread.pulls.pop(node_id, None) is None:
            return False
        self._tidy(object_id, spread)
        return True

    def avoid(self, object_id: bytes, node_id: bytes, source: bytes, now: float) -> None:
        """The node could not copy the object from ``source``: let it try others first."""
        spread = self.table.setdefault(object_id, Spread())
        until = now + AVOID_S
        spread.avoided.setdefault(node_id, {})[source] = until
        heapq.heappush(self._ends, (until, object_id, node_id, source))

    def forget(self, object_id: bytes) -> None:
        """The object has no value any more."""
        self.table.pop(object_id, None)

    def node_lost(self, node_id: bytes) -> list[bytes]:
        """The node pulls nothing any more; returns the objects that it was pulling."""
        found = []
        for object_id, spread in list(self.table.items()):
            if spread.pulls.pop(node_id, None) is not None:
                found.append(object_id)
            spread.avoided.pop(node_id, None)
            self._tidy(object_id, spread)
        return found

    def expire(self, now: float) -> list[bytes]:
        """Forget what has ended by itself; returns the objects concerned."""
        found: dict[bytes, None] = {}
        while self._ends and self._ends[0][0] <= now:
            until, object_id, node_id, source = heapq.heappop(self._ends)
            if not self._is_true(until, object_id, node_id, source):
                continue
            found[object_id] = None
            spread = self.table[object_id]
            pull = spread.pulls.get(node_id)
            if pull is not None and (pull.source, pull.until) == (source, until):
                del spread.pulls[node_id]
            avoided = spread.avoided.get(node_id, {})
            if avoided.get(source) == until:
                del avoided[source]
                if not avoided:
                    del spread.avoided[node_id]
            self._tidy(object_id, spread)
        return list(found)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        while self._ends and not self._is_true(*self._ends[0]):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def _is_true(self, until: float, object_id: bytes, node_id: bytes, source: bytes) -> bool:
        spread = self.table.get(object_id)
        if spread is None:
            return False
        pull = spread.pulls.get(node_id)
        if pull is not None and (pull.source, pull.until) == (source, until):
            return True
        return spread.avoided.get(node_id, {}).get(source) == until

    def _tidy(self, object_id: bytes, spread: Spread) -> None:
        if not spread.pulls and not spread.avoided:
            del self.table[object_id]

    def must_wait(self, object_id: bytes, seeker: bytes, copies: Iterable[bytes]) -> bool:
        """Whether there is a reason for the node to have no copy assigned."""
        spread = self.table.get(object_id, Spread())
        avoided = spread.avoided.get(seeker, ())
        sources = [pull.source for pull in spread.pulls.values()]
        return all(each in avoided or sources.count(each) >= PULLS_PER_COPY for each in copies)

    def check(self) -> None:
        """Assert the invariants."""
        ends = set(self._ends)
        for object_id, spread in self.table.items():
            assert spread.pulls or spread.avoided
            for node_id, pull in spread.pulls.items():
                assert (pull.until, object_id, node_id, pull.source) in ends
                assert node_id != pull.source
            for node_id, avoided in spread.avoided.items():
                assert avoided
                for source, until in avoided.items():
                    assert (until, object_id, node_id, source) in ends


def _failures(spread: Spread, source: bytes) -> int:
    """How many nodes avoid it."""
    return sum(source in avoided for avoided in spread.avoided.values())
