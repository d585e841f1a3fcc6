"""Objects on a real embedded cluster: who keeps them alive, and that they go."""

import gc
import threading
import time

import numpy as np
import pytest

import ract
from ract.client.runtime import current_runtime
from ract.exceptions import RactSystemError, RactTaskError
from ract.testing import SignalActor, reference_counts, wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


def store():
    (found,) = current_runtime().link.request("store").values()
    return found


def settles(look, wanted, seconds=30):
    """Wait for a value that follows from messages under way; returns the last one seen."""
    deadline = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@ract.remote
def make(n):
    return np.ones(n)


@ract.remote
def total(array):
    return float(array.sum())


@ract.remote
class Keeper:
    def __init__(self):
        self.kept = None

    def keep(self, box):
        self.kept = box

    def look(self):
        return float(ract.get(self.kept[0]).sum())

    def drop(self):
        self.kept = None


@pytest.fixture(autouse=True)
def nothing_stays():
    """Whatever a test does, the store is empty afterwards."""
    gc.collect()
    assert settles(lambda: store()["object_bytes"], 0) == 0
    yield
    gc.collect()
    assert settles(lambda: store()["object_bytes"], 0) == 0
    assert settles(lambda: store().get("store_object_bytes"), 0) == 0


def test_put_and_drop():
    refs = [ract.put(np.ones(200_000)) for _ in range(5)]
    assert settles(lambda: store()["objects"], 5) == 5
    del refs


def test_small_objects_of_this_process_cost_the_store_nothing():
    refs = [ract.put(i) for i in range(1000)]
    assert ract.get(refs) == list(range(1000))
    assert store()["objects"] == 0


def test_an_array_outlives_its_ref():
    ref = ract.put(np.arange(300_000))
    array = ract.get(ref)
    del ref
    for _ in range(20):  # what would overwrite it, were it free
        ract.put(np.zeros(300_000, dtype=np.int64))
    np.testing.assert_array_equal(array, np.arange(300_000))


def test_results_and_arguments():
    refs = [make.remote(200_000) for _ in range(4)]
    assert ract.get([total.remote(ref) for ref in refs]) == [200_000.0] * 4


def test_dropped_before_it_is_ready():
    for _ in range(5):
        make.remote(200_000)


def test_an_actor_keeps_what_it_was_handed():
    keeper = Keeper.remote()
    ref = ract.put(np.ones(200_000))
    ract.get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    assert ract.get(keeper.look.remote()) == 200_000
    ract.get(keeper.drop.remote())


def test_a_dead_actor_keeps_nothing():
    keeper = Keeper.remote()
    ract.get(keeper.keep.remote([ract.put(np.ones(200_000))]))
    ract.kill(keeper)


def test_objects_outlive_their_creator():
    @ract.remote
    class Creator:
        def create(self):
            return [ract.put(np.ones(200_000)), ract.put("small")]

    creator = Creator.remote()
    big, small = ract.get(creator.create.remote())
    ract.kill(creator)
    assert ract.get(big).sum() == 200_000
    assert ract.get(small) == "small"


def test_nested_refs_keep_what_they_contain():
    inner = ract.put(np.ones(200_000))
    outer = ract.put([ract.put([inner])])
    del inner
    gc.collect()
    assert ract.get(ract.get(ract.get(outer)[0])[0]).sum() == 200_000


def box_of(value, n=3000):
    """A stored object (too large for a message) that contains refs: to ``value`` and others."""
    return ract.put([ract.put(value), *(ract.put(i) for i in range(n))])


def test_refs_read_out_of_an_object_outlive_it():
    box = box_of(np.ones(200_000))
    inner = ract.get(box)[0]
    del box
    gc.collect()
    # First the box goes, though the ref lives on without having been used.
    assert settles(lambda: store()["objects"], 1) == 1
    assert ract.get(inner).sum() == 200_000


def test_refs_read_out_of_an_object_are_used_at_once():
    box = box_of(np.ones(200_000))
    big, *small = ract.get(box)
    del box
    refs = [total.remote(big), *small]
    ready, rest = ract.wait(refs, num_returns=len(refs))
    assert not rest
    assert ract.get(ready) == [200_000.0, *range(3000)]


def test_refs_read_twice_are_the_same_refs():
    box = box_of(1)
    first, second = ract.get(box), ract.get(box)
    assert all(a is b for a, b in zip(first, second, strict=True))
    del second
    settles(lambda: len(current_runtime().table.met), 0)  # they are held by now
    third = ract.get(box)
    assert all(a is b for a, b in zip(first, third, strict=True))
    assert first[0] == third[0] != first[1]


def test_refs_read_and_put_into_another_object():
    box = box_of(np.ones(200_000))
    again = ract.put([ract.get(box)[:2000], "x" * 200_000])
    del box
    gc.collect()
    assert settles(lambda: store()["objects"], 2) == 2  # the array and the new one
    refs, _ = ract.get(again)
    assert ract.get(refs[0]).sum() == 200_000
    assert ract.get(refs[1:]) == list(range(1999))


def test_many_threads_read_the_same_refs():
    from concurrent.futures import ThreadPoolExecutor

    box = box_of(1)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            first, *others = list(pool.map(lambda _: ract.get(box), range(4)))
            for other in others:
                assert all(a is b for a, b in zip(first, other, strict=True))
            del first, other, others
    gc.collect()


def test_a_list_of_many_refs_in_one_argument():
    @ract.remote
    def summed(refs):
        return sum(ract.get(refs))

    assert ract.get(summed.remote([ract.put(i) for i in range(500)])) == 124750


def test_refs_after_shutdown_say_that_their_cluster_is_gone():
    # In another process: this one shares its cluster with other tests.
    import subprocess
    import sys

    code = """
import numpy, ract
ract.init(num_cpus=1)
ref = ract.put(numpy.ones(200_000))
array = ract.get(ref)
ract.shutdown()
assert array.sum() == 200_000
try:
    ract.get(ref)
except Exception as error:
    print(type(error).__name__, error)
ract.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "cluster" in done.stdout, done


def test_a_ref_made_of_the_bytes_of_another_is_that_ref():
    for ref in (ract.put(1), ract.put(np.zeros(200_000)), make.remote(3)):
        again = ract.ObjectRef(ref.binary())
        assert again is ref
        assert ract.ObjectRef.from_hex(ref.hex()) == ref
        ract.get(again)


def test_a_value_that_cannot_be_pickled_does_not_keep_its_refs():
    ref = ract.put(1)
    name = ref.hex()
    with pytest.raises(TypeError, match="lock"):
        ract.put([ref, threading.Lock()])
    del ref
    assert name not in reference_counts()


def test_what_objects_take_is_not_available():
    def free():
        return ract.available_resources()["object_store_memory"]

    before = free()
    array = np.zeros(1_000_000)
    ref = ract.put(array)
    assert before - free() == pytest.approx(array.nbytes, rel=0.01)
    view = ract.get(ref)
    del ref
    gc.collect()
    assert before - free() >= array.nbytes
    del view
    gc.collect()
    wait_for_condition(lambda: free() == before)


def test_what_is_not_ready_is_nowhere():
    signal = SignalActor.remote()
    pending = ract.remote(lambda s: ract.get(s.wait.remote())).remote(signal)
    nowhere = {"node_ids": [], "object_size": None, "did_spill": False}
    assert ract.experimental.get_object_locations([pending]) == {pending: nowhere}
    ract.get([signal.send.remote(), pending])
    assert ract.experimental.get_object_locations([pending])[pending]["object_size"] == 0


def test_locations_are_of_refs():
    with pytest.raises(TypeError, match="1"):
        ract.experimental.get_object_locations([1])
    with pytest.raises(TypeError, match="list"):
        ract.experimental.get_local_object_locations(ract.put(1))


def fails_to_be_read():
    raise LookupError("no such thing")


class Unreadable:
    def __init__(self, size):
        self.data = b"x" * size

    def __reduce__(self):
        return fails_to_be_read, (), {"data": self.data}


@pytest.mark.parametrize("size", [1, 300_000])
def test_a_value_that_cannot_be_read_raises_a_system_error_with_the_cause(size):
    with pytest.raises(RactSystemError, match="no such thing") as raised:
        ract.get(ract.put(Unreadable(size)))
    assert isinstance(raised.value.__cause__, LookupError)
    assert "fails_to_be_read" in str(raised.value)


@pytest.mark.parametrize("size", [1, 300_000])
def test_a_call_whose_argument_cannot_be_read_fails_with_that(size):
    for argument in (Unreadable(size), ract.put(Unreadable(size))):
        with pytest.raises(RactSystemError, match="no such thing") as raised:
            ract.get(total.remote(argument))
        assert isinstance(raised.value, RactTaskError)
