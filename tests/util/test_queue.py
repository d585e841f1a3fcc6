"""`ract.util.queue.Queue`."""

import asyncio
import queue

import numpy as np
import pytest

import ract
from ract.exceptions import RactActorError
from ract.testing import SignalActor, wait_for_condition
from ract.util.queue import Empty, Full, Queue


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@pytest.fixture(scope="module")
def shared(cluster):
    return Queue()


@pytest.fixture
def unlimited(shared):
    """A queue that starts empty; the tests share its actor."""
    shared.get_nowait_batch(shared.size())
    return shared


@pytest.fixture(scope="module")
def shared_limited(cluster):
    return Queue(maxsize=2)


@pytest.fixture
def limited(shared_limited):
    shared_limited.get_nowait_batch(shared_limited.size())
    return shared_limited


@ract.remote(num_cpus=0)
def take(queue):
    return queue.get()


@ract.remote(num_cpus=0)
def give(queue, item):
    queue.put(item)


def waiting(queue):
    """How many calls wait in the actor."""
    return ract.get(queue.actor.__ray_call__.remote(lambda self: self._waiting))


def is_gone(queue):
    try:
        queue.size()
    except RactActorError:
        return True
    return False


def test_first_in_first_out(unlimited):
    for item in (1, "two", [3]):
        unlimited.put(item)
    assert [unlimited.get() for _ in range(3)] == [1, "two", [3]]


def test_sizes(limited):
    assert (len(limited), limited.size(), limited.qsize()) == (0, 0, 0)
    assert limited.empty()
    assert not limited.full()
    limited.put(1)
    assert not limited.empty()
    limited.put(2)
    assert len(limited) == 2
    assert limited.full()


@pytest.mark.parametrize("maxsize", [0, -3])
def test_maxsize_that_is_not_positive_is_no_limit(maxsize):
    queue = Queue(maxsize)
    queue.put_nowait_batch(range(100))
    assert not queue.full()


def test_maxsize_must_be_an_int():
    with pytest.raises(TypeError, match="maxsize"):
        Queue("big")


def test_empty_and_full_are_those_of_the_standard_library(limited):
    assert issubclass(Empty, queue.Empty)
    assert issubclass(Full, queue.Full)
    for get in (limited.get_nowait, lambda: limited.get(block=False)):
        with pytest.raises(Empty):
            get()
    limited.put_nowait_batch([1, 2])
    for put in (limited.put_nowait, lambda item: limited.put(item, block=False)):
        with pytest.raises(Full):
            put(3)


def test_waiting_ends_at_the_timeout(limited):
    with pytest.raises(Empty):
        limited.get(timeout=0.01)
    with pytest.raises(Empty):
        limited.get(timeout=0)
    limited.put_nowait_batch([1, 2])
    with pytest.raises(Full):
        limited.put(3, timeout=0.01)
    assert limited.get_nowait_batch(2) == [1, 2]


def test_negative_timeout_is_refused_where_it_matters(unlimited):
    with pytest.raises(ValueError, match="negative"):
        unlimited.get(timeout=-1)
    with pytest.raises(ValueError, match="negative"):
        unlimited.put(1, timeout=-1)
    with pytest.raises(Empty):
        unlimited.get(block=False, timeout=-1)
    assert unlimited.empty()


def test_get_waits_for_an_item_of_another_process(unlimited):
    taken = take.remote(unlimited)
    wait_for_condition(lambda: waiting(unlimited) == 1)
    unlimited.put("late")
    assert ract.get(taken) == "late"


def test_put_waits_for_room(limited):
    limited.put_nowait_batch([1, 2])
    given = give.remote(limited, 3)
    wait_for_condition(lambda: waiting(limited) == 1)
    assert limited.get() == 1
    ract.get(given)
    assert limited.get_nowait_batch(2) == [2, 3]


def test_waiting_consumers_never_keep_out_the_producer(unlimited):
    taken = [unlimited.actor.get.remote(None) for _ in range(1500)]
    wait_for_condition(lambda: waiting(unlimited) == 1500)
    unlimited.put_nowait_batch(range(1500))
    assert sorted(item for [item] in ract.get(taken)) == list(range(1500))


def test_queue_can_be_passed_in_containers(unlimited):
    @ract.remote(num_cpus=0)
    def fill(queues):
        queues["here"].put_nowait_batch("abc")
        return queues

    [back] = ract.get(fill.remote({"here": unlimited})).values()
    assert back.maxsize == 0
    assert back.get_nowait_batch(3) == ["a", "b", "c"]


def test_two_consumers_drain_ten_items_exactly_once(unlimited):
    @ract.remote(num_cpus=0)
    def drain(queue):
        items = []
        while (item := queue.get()) is not None:
            items.append(item)
        return items

    drained = [drain.remote(unlimited) for _ in range(2)]
    for item in [*range(10), None, None]:
        unlimited.put(item)
    first, second = ract.get(drained)
    assert sorted(first + second) == list(range(10))
    assert first == sorted(first)
    assert second == sorted(second)


def test_coroutines_wait_for_items_and_room(limited):
    async def exchange():
        with pytest.raises(Empty):
            await limited.get_async(block=False)
        with pytest.raises(ValueError, match="negative"):
            await limited.put_async(1, timeout=-1)
        taking = asyncio.ensure_future(limited.get_async())
        await limited.put_async(1)
        assert await taking == 1
        limited_puts = [asyncio.ensure_future(limited.put_async(i)) for i in range(4)]
        taken = [await limited.get_async(timeout=20) for _ in range(4)]
        await asyncio.gather(*limited_puts)
        await limited.put_async(1)
        await limited.put_async(2)
        with pytest.raises(Full):
            await limited.put_async(3, timeout=0.01)
        return taken

    assert asyncio.run(exchange()) == [0, 1, 2, 3]


def test_async_actor_shares_a_queue(unlimited):
    @ract.remote(num_cpus=0)
    class Consumer:
        async def sum(self, queue, n):
            return sum(await asyncio.gather(*(queue.get_async() for _ in range(n))))

    total = Consumer.remote().sum.remote(unlimited, 5)
    unlimited.put_nowait_batch(range(5))
    assert ract.get(total) == 10


def test_batches_are_all_or_nothing(limited):
    limited.put(1)
    with pytest.raises(Full):
        limited.put_nowait_batch([2, 3])
    with pytest.raises(Empty):
        limited.get_nowait_batch(2)
    assert limited.size() == 1
    limited.put_nowait_batch(x for x in [2])
    assert limited.get_nowait_batch(0) == []
    assert limited.get_nowait_batch(2) == [1, 2]


def test_bad_batches_are_refused(unlimited):
    with pytest.raises(TypeError, match="iterable"):
        unlimited.put_nowait_batch(5)
    with pytest.raises(TypeError, match="int"):
        unlimited.get_nowait_batch("2")
    with pytest.raises(ValueError, match="negative"):
        unlimited.get_nowait_batch(-1)


def test_refs_in_items_stay_refs_and_large_items_fit(unlimited):
    large = np.arange(300_000)
    unlimited.put([ract.put(large)])
    unlimited.put(large)
    [ref] = unlimited.get()
    assert isinstance(ref, ract.ObjectRef)
    np.testing.assert_array_equal(ract.get(ref), large)
    np.testing.assert_array_equal(unlimited.get(), large)


def test_actor_options():
    queue = Queue(actor_options={"name": "named queue", "num_cpus": 0.5})
    queue.put(1)
    assert ract.get(ract.get_actor("named queue").size.remote()) == 1
    wait_for_condition(lambda: ract.available_resources()["CPU"] == 1.5)
    queue.shutdown(force=True)
    wait_for_condition(lambda: ract.available_resources()["CPU"] == 2)


def test_queue_takes_no_cpu(unlimited):
    unlimited.put(1)
    wait_for_condition(lambda: ract.available_resources()["CPU"] == 2)


def test_shutdown_ends_the_queue():
    queue = Queue()
    queue.put(1)
    queue.shutdown()
    for use in (queue.get, queue.size, lambda: queue.put(1)):
        with pytest.raises(RactActorError):
            use()
    queue.shutdown()


def test_shutdown_lets_waiting_calls_finish():
    queue, signal = Queue(), SignalActor.remote()
    taken = take.remote(queue)
    wait_for_condition(lambda: waiting(queue) == 1)

    @ract.remote(num_cpus=0)
    def end(queue, signal):
        ract.get(signal.send.remote())
        queue.shutdown(grace_period_s=20)

    ended = end.remote(queue, signal)
    ract.get(signal.wait.remote())
    queue.put("last")
    assert ract.get(taken) == "last"
    ract.get(ended)
    wait_for_condition(lambda: is_gone(queue))  # it takes a moment until all processes know


def test_shutdown_fails_waiting_calls_after_the_grace_period():
    queue = Queue()
    taken = take.remote(queue)
    wait_for_condition(lambda: waiting(queue) == 1)
    queue.shutdown(grace_period_s=0.01)
    with pytest.raises(RactActorError):
        ract.get(taken)


def test_forced_shutdown_fails_waiting_calls_at_once():
    queue = Queue()
    taken = take.remote(queue)
    wait_for_condition(lambda: waiting(queue) == 1)
    queue.shutdown(force=True, grace_period_s=1000)
    with pytest.raises(RactActorError):
        ract.get(taken, timeout=20)
