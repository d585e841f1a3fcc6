"""Measurements that programs make (`ract.util.metrics`), on their way to whoever shows them.

Theory of operation
-------------------
A process sums up what its tasks count, its node sums up its processes, the scheduler its nodes. All
three keep a `Table`. What goes from one to the next is a *batch*: what was added since the last one
for counters and histograms, the newest value for gauges. So each sends little however often
something is counted, nothing is counted twice, and what a process has counted stays when it ends.

A batch is a list of plain families, ``[name, kind, description, boundaries, points]``, where a
point is ``[labels, value]``:

* ``labels`` is a flat list: key, value, key, value, ..., in the order of the keys.
* ``value`` of a `COUNTER` is what to add, of a `GAUGE` what it is now, of a `HISTOGRAM` a list of
  what to add: a count for each of the ``boundaries``, for what is more than they are, and the sum.
  A count is of its own interval alone: more than the boundary before, at most this one.

Names are whole already (``ract_requests``). Who counts under a name what another process counts as
something else is refused, and so are series beyond the limit; both are counted in `Table.refused`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

WORKER = "WorkerId"
"""The label of a gauge that says whose it is; it goes when that process has ended."""

SERIES_MAX = 10_000
"""A process or a node has at most so many series: labels must not be ids."""

Labels = tuple[str, ...]
Value = Any
Batch = list[list[Any]]


class Family:
    """All series of one name."""

    __slots__ = ("boundaries", "description", "kind", "name", "series")

    def __init__(self, name: str, kind: str, description: str, boundaries: Sequence[float]) -> None:
        self.name = name
        self.kind = kind
        self.description = description
        self.boundaries = tuple(boundaries)
        self.series: dict[Labels, Value] = {}

    def is_like(self, kind: str, boundaries: Sequence[float]) -> bool:
        """Whether a measurement of this form belongs to it."""
        return self.kind == kind and self.boundaries == tuple(boundaries)

    def add(self, labels: Labels, value: Value) -> None:
        """Take one value of a batch."""
        known = self.series.get(labels)
        if known is None or self.kind == GAUGE:
            self.series[labels] = list(value) if self.kind == HISTOGRAM else value
        elif self.kind == COUNTER:
            self.series[labels] = known + value
        else:
            for i, n in enumerate(value):
                known[i] += n

    def observe(self, labels: Labels, value: float) -> None:
        """Add one observation to a histogram."""
        known = self.series.get(labels)
        if known is None:
            known = self.series[labels] = [0] * (len(self.boundaries) + 1) + [0.0]
        known[bisect_left(self.boundaries, value)] += 1
        known[-1] += value


class Table:
    """Series by name and labels. Not safe for threads.

    Args:
        series_max: Further series are refused.
    """

    def __init__(self, series_max: int = SERIES_MAX) -> None:
        self.families: dict[str, Family] = {}
        self.count = 0  #: series in all families
        self.refused = 0  #: values that were not taken
        self._series_max = series_max
        #: The gauges of each process.
        self._gauges: dict[str, list[tuple[Family, Labels]]] = {}

    def family(
        self, name: str, kind: str, description: str, boundaries: Sequence[float]
    ) -> Family | None:
        """The family of this name and form, made if there is none; None if it has another form."""
        known = self.families.get(name)
        if known is None:
            known = self.families[name] = Family(name, kind, description, boundaries)
        return known if known.is_like(kind, boundaries) else None

    def has_room(self, family: Family, labels: Labels) -> bool:
        """Whether a value may be added; a new series is counted, what is refused too."""
        if labels in family.series:
            return True
        if self.count < self._series_max:
            self.count += 1
            if family.kind == GAUGE:
                self._gauges.setdefault(_owner(labels), []).append((family, labels))
            return True
        self.refused += 1
        return False

    def merge(self, batch: Batch, more: Labels = (), of_gauges: Labels = ()) -> None:
        """Take a batch.

        Args:
            batch: Malformed parts are refused.
            more: Labels to be added to all series; they take the place of labels of that name.
            of_gauges: The same for gauges, which belong to their process.
        """
        for plain in batch:
            try:
                name, kind, description, boundaries, points = plain
                self._merge(name, kind, description, boundaries, points, more, of_gauges)
            except (TypeError, ValueError, AttributeError):
                self.refused += 1

    def _merge(
        self,
        name: str,
        kind: str,
        description: str,
        boundaries: list[float],
        points: list[Any],
        more: Labels,
        of_gauges: Labels,
    ) -> None:
        if kind not in (COUNTER, GAUGE, HISTOGRAM) or not isinstance(description, str):
            raise ValueError(kind)
        if not (isinstance(name, str) and name and all(map(_is_number, boundaries))):
            raise ValueError(name)
        family = self.family(name, kind, description, boundaries)
        if family is None:
            self.refused += len(points)
            return
        more = more + of_gauges if kind == GAUGE else more
        try:
            for flat, value in points:
                if not (_is_value(family, value) and _are_labels(flat)):
                    self.refused += 1
                    continue
                labels = _joined(tuple(flat), more)
                if self.has_room(family, labels):
                    family.add(labels, value)
        finally:
            self._drop_if_empty(family)

    def _drop_if_empty(self, family: Family) -> None:
        if not family.series:
            del self.families[family.name]

    def take(self) -> Batch:
        """What there is, as a batch; afterwards there is nothing."""
        batch = list(self.batch())
        self.families.clear()
        self._gauges.clear()
        self.count = 0
        return batch

    def batch(self) -> Iterator[list[Any]]:
        """What there is."""
        for family in self.families.values():
            if family.series:
                points = [[list(labels), _copied(value)] for labels, value in family.series.items()]
                head = [family.name, family.kind, family.description, list(family.boundaries)]
                yield [*head, points]

    def forget(self, worker: str) -> None:
        """Drop the gauges of a process, by the value of their label `WORKER`."""
        for family, labels in self._gauges.pop(worker, ()):
            del family.series[labels]
            self.count -= 1
            self._drop_if_empty(family)

    def check(self) -> None:
        """Assert the invariants."""
        assert all(family.series for family in self.families.values())
        assert self.count == sum(len(family.series) for family in self.families.values())
        gauges = [
            (family.name, labels)
            for family in self.families.values()
            if family.kind == GAUGE
            for labels in family.series
        ]
        owned = [(f.name, labels) for mine in self._gauges.values() for f, labels in mine]
        assert sorted(gauges) == sorted(owned)


def _copied(value: Value) -> Value:
    return list(value) if isinstance(value, list) else value


def _joined(labels: Labels, more: Labels) -> Labels:
    taken = more[::2]
    own = [labels[i : i + 2] for i in range(0, len(labels), 2) if labels[i] not in taken]
    return (*(word for pair in own for word in pair), *more)


def _owner(labels: Labels) -> str:
    return next((labels[i + 1] for i in range(0, len(labels), 2) if labels[i] == WORKER), "")


def _are_labels(flat: Any) -> bool:
    return isinstance(flat, list) and len(flat) % 2 == 0 and all(type(x) is str for x in flat)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_value(family: Family, value: Any) -> bool:
    if family.kind != HISTOGRAM:
        return _is_number(value)
    return (
        isinstance(value, list)
        and len(value) == len(family.boundaries) + 2
        and all(map(_is_number, value))
    )
