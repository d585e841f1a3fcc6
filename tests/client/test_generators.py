"""Streaming and dynamic generators on a real embedded cluster."""

import asyncio
import os
import pickle
import time

import numpy as np
import pytest

import ract
from ract.client.runtime import current_runtime
from ract.core.ids import object_id_bytes
from ract.exceptions import RactTaskError, TaskCancelledError, WorkerCrashedError
from ract.testing import wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def count(n, size=0):
    for i in range(n):
        yield np.full(size, i) if size else i


@ract.remote
def count_and_fail(n):
    yield from range(n)
    raise KeyError("the end")


@ract.remote
def gated(paths):
    """Yield each path when its file is there; note in ``<path>.made`` that it was asked for."""
    for path in paths:
        while not os.path.exists(path):
            time.sleep(0.002)
        yield path


@ract.remote
class Maker:
    def count(self, n):
        yield from range(n)

    def noted(self, n, path):
        for i in range(n):
            with open(path, "a") as notes:
                notes.write(f"{i}\n")
            yield i

    def pid(self):
        return os.getpid()


@ract.remote
class AsyncMaker:
    async def count(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    def plain(self, n):
        yield from range(n)

    async def fail(self, n):
        for i in range(n):
            yield i
        raise ValueError("async end")

    async def forever(self):
        while True:
            await asyncio.sleep(0.001)
            yield 1


def lines(path):
    return len(path.read_text().split()) if path.exists() else 0


# --------------------------------------------------------------------------- reading


@pytest.mark.parametrize("size", [0, 10, 50_000], ids=["plain", "inline", "stored"])
def test_items_come_in_order_and_the_generator_ends(size):
    generator = count.remote(5, size)
    assert isinstance(generator, ract.ObjectRefGenerator)
    found = [ract.get(ref) for ref in generator]
    assert [int(np.max(item)) for item in found] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(generator)
    assert generator.is_finished()


def test_an_empty_generator_ends_at_once():
    assert list(count.remote(0)) == []


def test_items_can_be_read_before_the_task_ends(tmp_path):
    paths = [str(tmp_path / name) for name in "abc"]
    generator = gated.remote(paths)
    assert not generator.next_ready()
    assert ract.wait([generator], timeout=0) == ([], [generator])
    for path in paths:
        open(path, "w").close()
        assert ract.get(next(generator)) == path
    assert list(generator) == []


def test_a_thousand_items_of_many_generators_at_once():
    generators = [count.remote(250) for _ in range(4)]
    found = [[ract.get(ref) for ref in generator] for generator in generators]
    assert found == [list(range(250))] * 4


def test_the_refs_outlive_the_generator_and_can_be_passed_on():
    @ract.remote
    def add(*values):
        return sum(int(np.max(value)) for value in values)

    found = list(count.remote(4, 50_000))
    assert ract.get(add.remote(*found)) == 6
    assert ract.get(add.remote(*list(count.remote(4)))) == 6


def test_an_exception_is_the_last_item():
    generator = count_and_fail.remote(3)
    found = list(generator)
    assert ract.get(found[:3]) == [0, 1, 2]
    assert len(found) == 4
    with pytest.raises(KeyError, match="the end"):
        ract.get(found[3])
    with pytest.raises(RactTaskError):
        ract.get(generator.completed())


def test_completed_is_ready_when_the_task_has_ended():
    generator = count.remote(3)
    assert ract.get(generator.completed()) is None
    assert ract.get(list(generator)) == [0, 1, 2]


def test_async_for_reads_a_generator():
    async def main():
        found = [await ref async for ref in count.remote(5)]
        with pytest.raises(StopAsyncIteration):
            await anext(count.remote(0))
        return found

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_several_generators_are_awaited_together():
    async def total(generator):
        return sum([await ref async for ref in generator])

    async def main():
        return await asyncio.gather(*(total(count.remote(20)) for _ in range(5)))

    assert asyncio.run(main()) == [190] * 5


def test_a_task_reads_a_generator():
    @ract.remote
    def total(n):
        return sum(ract.get(ref) for ref in count.remote(n))

    assert ract.get(total.remote(30)) == 435


def test_wait_mixes_generators_and_refs(tmp_path):
    path = str(tmp_path / "gate")
    late, early, ref = gated.remote([path]), count.remote(1), ract.put(1)
    assert ract.wait([late, early, ref], num_returns=2) == ([early, ref], [late])
    open(path, "w").close()
    ready, rest = ract.wait([late, early, ref], num_returns=3)
    assert (ready, rest) == ([late, early, ref], [])
    assert ract.get(next(early)) == 0
    assert ract.wait([early]) == ([early], [])  # it has ended
    with pytest.raises(StopIteration):
        next(early)


def test_a_generator_stays_where_it_is():
    generator = count.remote(1)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(generator)
    with pytest.raises(TypeError, match="ObjectRefGenerator"):
        ract.get(count_and_fail.remote(generator))
    for name in ("send", "throw", "close", "asend", "athrow", "aclose"):
        with pytest.raises(NotImplementedError):
            getattr(generator, name)()


def test_streaming_is_for_generator_functions():
    def plain():
        return [1]

    for wanted in ("streaming", "dynamic"):
        with pytest.raises(ValueError, match=f"num_returns='{wanted}' is for generator functions"):
            ract.remote(num_returns=wanted)(plain)
        with pytest.raises(ValueError, match="plain is none"):
            ract.remote(plain).options(num_returns=wanted)


def test_a_method_that_is_no_generator_says_so():
    maker = Maker.remote()
    with pytest.raises(ValueError, match=r"Maker\.pid is none"):
        maker.pid.options(num_returns="streaming")
    call = maker.__ray_call__.options(num_returns="streaming")
    (ref,) = call.remote(lambda self: 1)
    with pytest.raises(ValueError, match="must return a generator, not a int"):
        ract.get(ref)


# --------------------------------------------------------------------------- actors


def test_generators_of_sync_threaded_and_async_actors():
    makers = [Maker.remote(), Maker.options(max_concurrency=2).remote(), AsyncMaker.remote()]
    for maker in makers:
        assert ract.get(list(maker.count.remote(20))) == list(range(20))
    assert ract.get(list(makers[2].plain.remote(3))) == [0, 1, 2]
    *good, bad = makers[2].fail.remote(2)
    assert ract.get(good) == [0, 1]
    with pytest.raises(ValueError, match="async end"):
        ract.get(bad)


def test_async_generators_of_one_actor_interleave():
    maker = AsyncMaker.remote()
    endless, other = maker.forever.remote(), maker.count.remote(5)
    assert ract.get(list(other)) == [0, 1, 2, 3, 4]
    assert ract.get(next(endless)) == 1
    ract.cancel(endless)
    *_, last = endless
    with pytest.raises(TaskCancelledError):
        ract.get(last)


def test_calls_behind_a_generator_keep_their_order():
    maker = Maker.remote()
    generator, pid = maker.count.remote(3), maker.pid.remote()
    assert isinstance(ract.get(pid), int)
    assert ract.get(list(generator)) == [0, 1, 2]


# --------------------------------------------------------------------------- backpressure


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("limit", [1, 4])
def test_the_producer_waits_for_its_reader(tmp_path, limit, concurrency):
    notes = tmp_path / "notes"
    maker = Maker.options(max_concurrency=concurrency).remote()
    options = {"_generator_backpressure_num_objects": limit}
    generator = maker.noted.options(**options).remote(20, str(notes))
    most = 0
    for expected in range(20):
        ref = next(generator)
        # What is made is at most what was read, what may be unread, and one that is on its way.
        most = max(most, lines(notes) - expected)
        assert ract.get(ref) == expected
    assert most <= limit + 1
    assert list(generator) == []


def test_a_paused_task_lets_others_run():
    """Its reader may need the very executor on which it waits."""

    @ract.remote(num_cpus=2)
    def whole():
        return "whole"

    generator = count.options(num_cpus=2, _generator_backpressure_num_objects=1).remote(3)
    first = next(generator)
    assert ract.get(whole.remote()) == "whole"
    assert ract.get([first, *generator]) == [0, 1, 2]


def test_a_dropped_generator_goes_on_to_its_end(tmp_path):
    notes = tmp_path / "notes"
    maker = Maker.remote()
    options = {"_generator_backpressure_num_objects": 1}
    generator = maker.noted.options(**options).remote(5, str(notes))
    kept = next(generator)
    del generator
    wait_for_condition(lambda: lines(notes) == 5)
    assert ract.get(kept) == 0


def test_backpressure_needs_a_positive_number_and_no_event_loop():
    with pytest.raises(ValueError, match="positive"):
        count.options(_generator_backpressure_num_objects=0)
    with pytest.raises(ValueError, match="async actors"):
        AsyncMaker.remote().count.options(_generator_backpressure_num_objects=1).remote(1)
    unlimited = count.options(_generator_backpressure_num_objects=-1).remote(3)
    assert ract.get(unlimited.completed()) is None


# --------------------------------------------------------------------------- failures


def test_a_cancelled_generator_raises_at_its_end(tmp_path):
    path = str(tmp_path / "gate")
    generator = gated.remote([str(tmp_path), path])
    assert ract.get(next(generator)) == str(tmp_path)
    ract.cancel(generator)
    with pytest.raises(TaskCancelledError):
        ract.get(next(generator))
    with pytest.raises(StopIteration):
        next(generator)


def test_a_generator_that_waits_for_its_reader_can_be_cancelled():
    generator = count.options(_generator_backpressure_num_objects=1).remote(10**9)
    ract.get(next(generator))
    ract.cancel(generator)
    *_, last = generator
    with pytest.raises(TaskCancelledError):
        ract.get(last)


def test_a_cancellation_while_an_item_is_stored_is_not_lost():
    @ract.remote
    def endless():
        yield 0
        yield np.zeros(4_000_000)  # storing it takes longer than the cancellation needs to come
        while True:
            time.sleep(0.001)

    for _ in range(5):
        generator = endless.remote()
        ract.get(next(generator))
        ract.cancel(generator)
        *_, last = generator
        with pytest.raises(TaskCancelledError):
            ract.get(last)


@ract.remote(max_retries=1)
def crash_once(path, n):
    for i in range(n):
        if i == 2 and not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)
        yield i


def test_a_generator_whose_worker_dies_is_repeated(tmp_path):
    found = list(crash_once.remote(str(tmp_path / "once"), 5))
    assert ract.get(found) == [0, 1, 2, 3, 4]
    lost = list(crash_once.options(max_retries=0).remote(str(tmp_path / "other"), 5))
    assert ract.get(lost[:-1]) == list(range(len(lost) - 1))
    with pytest.raises(WorkerCrashedError):
        ract.get(lost[-1])


def test_a_repetition_that_yields_less_is_an_error(tmp_path):
    @ract.remote(max_retries=1)
    def fickle(path):
        if os.path.exists(path):
            yield 0
            return
        yield from range(3)
        open(path, "w").close()
        os._exit(1)

    *good, bad = fickle.remote(str(tmp_path / "once"))
    assert ract.get(good) == [0, 1, 2]
    with pytest.raises(
        ract.exceptions.StreamingGeneratorReplayInconsistentError, match="3 or more"
    ):
        ract.get(bad)


def test_retry_exceptions_repeats_a_generator(tmp_path):
    @ract.remote(retry_exceptions=True, max_retries=1)
    def flaky(path):
        yield 0
        if not os.path.exists(path):
            open(path, "w").close()
            raise OSError("once")
        yield 1

    assert ract.get(list(flaky.remote(str(tmp_path / "once")))) == [0, 1]


def test_unread_items_are_freed_with_the_generator():
    generator = count.remote(3, 50_000)
    kept = next(generator)
    ract.get(generator.completed())
    unread = object_id_bytes(kept.task_id().binary(), 4)

    def exists():  # without a ref, which would keep it
        return current_runtime().link.request("object_exists", id=unread)

    wait_for_condition(exists)
    del generator
    wait_for_condition(lambda: not exists())
    assert int(np.max(ract.get(kept))) == 0


# --------------------------------------------------------------------------- dynamic


def test_a_dynamic_generator_is_one_object():
    with pytest.warns(DeprecationWarning, match="streams"):
        call = count.options(num_returns="dynamic")
    ref = call.remote(4)
    found = ract.get(ref)
    assert isinstance(found, ract.DynamicObjectRefGenerator)
    assert len(found) == 4
    assert ract.get(list(found)) == [0, 1, 2, 3]
    assert len(found) == 0

    @ract.remote
    def total(refs):
        return sum(ract.get(each) for each in refs)

    assert ract.get(total.remote(ref)) == 6


def test_an_exception_of_a_dynamic_generator_is_its_last_ref():
    with pytest.warns(DeprecationWarning, match="streams"):
        ref = count_and_fail.options(num_returns="dynamic").remote(2)
    *good, bad = ract.get(ref)
    assert ract.get(good) == [0, 1]
    with pytest.raises(KeyError):
        ract.get(bad)
