"""Who keeps what alive: counts per (id, process) and containment.

Theory of operation
-------------------
Objects and strong actor handles are kept alive by *holds* of processes and by *containers* (a
value that contains a ref, an actor created with one). Holds come as differences on different
streams, so they commute: a release may overtake its hold and make a count negative for a moment.
An id is *held* while any count is not zero or anything contains it; the moment it no longer is, it
is put on `released` and the machine lets go of the object or actor behind it. Nothing is known
here of what the ids stand for, nor whether it exists yet.

A process that died drops all its counts, negative ones included; a hold that arrives for it later
is ignored by the machine, because it can have no end.

A hold that was announced by way of a node that died may never come, although what it came with did:
then its release leaves a negative count for ever. So after the loss of a node, counts that stay
negative are dropped (`drop_negative`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ract.core.messages import Contained


class HoldTable:
    """Counts per id and process, with an index by process."""

    def __init__(self) -> None:
        #: id -> {process: count}; no zero counts, no empty dicts.
        self.by_id: dict[bytes, dict[int, int]] = {}
        #: process -> its ids in `by_id`, in order of arrival.
        self.by_process: dict[int, dict[bytes, None]] = {}
        #: id -> number of containers; no zeros. Never negative.
        self.contained: dict[bytes, int] = {}
        #: (id, process) of all negative counts: whether they were at the last `drop_negative`.
        self.negative: dict[tuple[bytes, int], bool] = {}
        #: Ids to look at: they were held, or should have been, and may not be any more.
        self.released: deque[bytes] = deque()

    def is_held(self, id_: bytes) -> bool:
        """Return whether anything keeps the id alive (or a count has yet to even out)."""
        return id_ in self.by_id or id_ in self.contained

    def change(self, id_: bytes, process: int, change: int) -> None:
        """Add a difference to one count."""
        counts = self.by_id.setdefault(id_, {})
        count = counts.get(process, 0) + change
        if count < 0:
            self.negative.setdefault((id_, process), False)
        elif self.negative:
            self.negative.pop((id_, process), None)
        if count:
            counts[process] = count
            self.by_process.setdefault(process, {})[id_] = None
            return
        counts.pop(process, None)
        if not counts:
            del self.by_id[id_]
            self.touch(id_)
        self._unindex(process, id_)

    def contain(self, contained: Iterable[Contained]) -> None:
        """A container keeps these alive."""
        for each in contained:
            count = self.contained.get(each.object_id, 0) + each.count
            if count:
                self.contained[each.object_id] = count

    def release(self, contained: Iterable[Contained]) -> None:
        """A container is gone."""
        for each in contained:
            count = self.contained.get(each.object_id, 0) - each.count
            assert count >= 0, f"{each.object_id.hex()} was not contained that often"
            if count:
                self.contained[each.object_id] = count
            else:
                self.contained.pop(each.object_id, None)
                self.touch(each.object_id)

    def drop_process(self, process: int) -> None:
        """The process is dead, and so are its holds."""
        for id_ in self.by_process.pop(process, {}):
            counts = self.by_id[id_]
            del counts[process]
            self.negative.pop((id_, process), None)
            if not counts:
                del self.by_id[id_]
                self.touch(id_)

    def drop_negative(self) -> None:
        """Set counts to zero that were negative last time too, and ever since."""
        for (id_, process), was_before in list(self.negative.items()):
            if was_before:
                self.change(id_, process, -self.by_id[id_][process])
            else:
                self.negative[id_, process] = True

    def wait_anew(self) -> None:
        """No count has been negative for long, since messages were late."""
        self.negative = dict.fromkeys(self.negative, False)

    def touch(self, id_: bytes) -> None:
        """Look at the id at the end of the turn: it goes if it is not held."""
        self.released.append(id_)

    def next_released(self) -> bytes | None:
        """Take one id from `released` that is not held; None when there are no more."""
        while self.released:
            id_ = self.released.popleft()
            if not self.is_held(id_):
                return id_
        return None

    def check(self) -> None:
        """Assert the invariants."""
        assert not self.released
        for id_, counts in self.by_id.items():
            assert counts
            assert all(counts.values())
            for process in counts:
                assert id_ in self.by_process[process]
        assert sum(map(len, self.by_process.values())) == sum(map(len, self.by_id.values()))
        assert all(count > 0 for count in self.contained.values())
        below = {(i, p) for i, counts in self.by_id.items() for p, n in counts.items() if n < 0}
        assert below == set(self.negative)

    def _unindex(self, process: int, id_: bytes) -> None:
        ids = self.by_process.get(process)
        if ids is not None:
            ids.pop(id_, None)
            if not ids:
                del self.by_process[process]
