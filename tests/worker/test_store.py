"""The index of the store: what an allocation costs, and in which order things go."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from ract.worker.node.segments import StoreFull
from ract.worker.node.store import StoreIndex

MIB = 2**20


def calls_of(work):
    """How many Python functions, and lines of comprehensions, are run."""
    count = 0

    def count_it(frame, event, arg):
        nonlocal count
        count += 1
        return count_it

    before = sys.gettrace()
    sys.settrace(count_it)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def write(store, name, process=1, size=MIB, **how):
    segment, _, _, evicted = store.allocate(process, size)
    store.seal(name, segment.id, 0, size, **how)
    store.close(segment.id)
    return evicted


def filled(count, capacity, **how):
    store = StoreIndex(capacity * MIB)
    for i in range(count):
        write(store, b"%d" % i, **how)
    return store


def costs(make, work):
    stores = [make(n) for n in (10, 10_000)]
    return [calls_of(partial(work, store)) for store in stores]


def test_an_allocation_with_room_costs_the_same_however_much_is_stored():
    few, many = costs(lambda n: filled(n, 20_000), lambda store: store.allocate(1, MIB))
    assert many == few


def test_so_does_one_for_which_a_copy_must_go():
    def evict(store):
        assert write(store, b"new") == [b"0"]

    few, many = costs(lambda n: filled(n, n, process=0, is_copy=True), evict)
    assert many == few


def test_so_does_one_for_which_there_is_no_room():
    def refuse(store):
        with pytest.raises(StoreFull):
            store.allocate(1, MIB)

    few, many = costs(lambda n: filled(n, n), refuse)
    assert many == few


def test_so_does_one_that_is_served_from_the_pool():
    def pooled(n):
        store = filled(n, 20_000)
        for i in range(n):
            store.free(b"%d" % i)
        return store

    def allocate(store):
        assert store.allocate(2, MIB)[1]

    few, many = costs(pooled, allocate)
    assert many == few


def test_so_does_the_end_of_a_process():
    few, many = costs(lambda n: filled(n, 20_000), lambda store: store.process_gone(2))
    assert many == few


def test_the_pool_gives_a_process_its_own_segment_first():
    store = StoreIndex(100 * MIB)
    for process, name in ((1, b"a"), (2, b"b"), (1, b"c")):
        write(store, name, process)
    for name in (b"a", b"b", b"c"):
        store.free(name)
    assert store.allocate(2, MIB)[0].writer == 2
    assert [segment.writer for segment in store.pool.values()] == [1, 1]
    store.check()


def test_a_copy_that_is_to_be_kept_is_not_evicted():
    store = filled(2, 2, process=0, is_copy=True)
    assert store.keep(b"0")
    assert write(store, b"new") == [b"1"]
    with pytest.raises(StoreFull):
        store.allocate(1, MIB)
    store.check()


def test_the_copy_used_longest_ago_goes_first():
    store = filled(3, 3, process=0, is_copy=True)
    store.find(b"0")
    assert write(store, b"new") == [b"1"]
    store.check()


ORDER = """
from ract.worker.node.store import StoreIndex
store = StoreIndex(100 * 2**20)
small, _, _, _ = store.allocate(1, 1000)
for i in range(40):
    store.seal(b"object %d" % i, small.id, i * 100, 100)
store.close(small.id)
[segment] = store.spill(1)
store.spilled(segment.id, is_done=False)
print(list(store._in_memory))
"""


def test_the_order_in_which_objects_go_does_not_depend_on_the_hash_seed():
    found = {
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
