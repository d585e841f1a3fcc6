"""How costs grow: with executors, pending tasks, live refs, and nodes (the pure machine, alone)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

import ract
from ract.benchmarks import scheduling

Row = tuple[str, int, float, str]


def rows(most: int = 1_000_000) -> Iterator[Row]:
    """(what, how many, rate, unit), one by one; ``most`` limits tasks and refs."""
    ract.init(num_cpus=16, include_dashboard=False)
    try:
        yield from _actors()
        yield from _pending(most)
        yield from _refs(most)
        yield from _arrays()
    finally:
        ract.shutdown()
    yield from scheduling.rows(most)


@ract.remote
def _nothing() -> None:
    return None


@ract.remote(num_cpus=0)
class _Actor:
    def nothing(self) -> None:
        return None


def _rate(n: int, start: float) -> float:
    return n / (time.perf_counter() - start)


def _actors() -> Iterator[Row]:
    for n in (1, 2, 4, 8, 16):
        actors = [_Actor.remote() for _ in range(n)]  # type: ignore[attr-defined]
        ract.get([actor.nothing.remote() for actor in actors])
        start = time.perf_counter()
        for _ in range(5):
            ract.get([actor.nothing.remote() for _ in range(4000 // n) for actor in actors])
        yield "calls to so many actors", n, _rate(20_000, start), "calls/s"
    for n in (1, 2, 4, 8, 16):
        task = _nothing.options(num_cpus=16 / n)
        ract.get([task.remote() for _ in range(100)])
        start = time.perf_counter()
        ract.get([task.remote() for _ in range(20_000)])
        yield "tasks on so many executors", n, _rate(20_000, start), "tasks/s"


def _pending(most: int) -> Iterator[Row]:
    n = 100
    while n <= most:
        start = time.perf_counter()
        refs = [_nothing.remote() for _ in range(n)]
        ract.get(refs)
        yield "tasks, so many at once", n, _rate(n, start), "tasks/s"
        del refs
        n *= 10


def _refs(most: int) -> Iterator[Row]:
    n = 100
    while n <= most:
        kept = [ract.put(i) for i in range(n)]
        start = time.perf_counter()
        for _ in range(5):
            ract.get([_nothing.remote() for _ in range(1000)])
        yield "tasks beside so many live refs", n, _rate(5000, start), "tasks/s"
        del kept
        n *= 10


def _arrays() -> Iterator[Row]:
    """Up to the largest array that fits; the first writing of memory is what takes its time."""
    capacity = ract.cluster_resources()["object_store_memory"]
    for share in (0.01, 0.1, 0.85):
        array = np.ones(int(capacity * share), dtype=np.uint8)
        start = time.perf_counter()
        ref = ract.put(array)
        rate = _rate(array.nbytes / 1e9, start)
        if ract.get(ref)[-1] != 1:
            raise AssertionError("the array that was read is another one")
        yield "put of one array, megabytes", array.nbytes // 10**6, rate, "GB/s"
        del array, ref
