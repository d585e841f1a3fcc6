"""Tasks on a real embedded cluster: arguments, results, waiting, cancelling."""

import os
import sys
import time

import numpy as np
import pytest

import ract
from ract.exceptions import (
    GetTimeoutError,
    RactTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def add(a, b=10, *more, c=100):
    return a + b + sum(more) + c


@ract.remote
def echo(value):
    return value


@ract.remote
def fail(message):
    raise KeyError(message)


class Gate:
    """A file that tasks wait for, so that tests decide when they go on."""

    def __init__(self, path):
        self.path = str(path)

    def open(self):
        open(self.path, "w").close()

    def wait(self):
        while not os.path.exists(self.path):
            time.sleep(0.005)


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path / "gate")
    yield made
    made.open()


@ract.remote
def after(gate, value=None):
    gate.wait()
    return value


def test_positional_keyword_and_default_arguments():
    assert ract.get(add.remote(1)) == 111
    assert ract.get(add.remote(1, 2, 3, 4, c=5)) == 15
    assert ract.get(add.remote(a=1, c=0)) == 11


def test_refs_as_arguments_are_replaced_by_their_values():
    one = echo.remote(1)
    assert ract.get(add.remote(one, ract.put(2), c=echo.remote(3))) == 6


def test_refs_in_containers_stay_refs():
    @ract.remote
    def inner(box):
        assert isinstance(box["ref"], ract.ObjectRef)
        return ract.get(box["ref"]) + ract.get(box["list"][0])

    assert ract.get(inner.remote({"ref": ract.put(1), "list": [echo.remote(2)]})) == 3


def test_result_may_contain_refs():
    @ract.remote
    def make():
        return [ract.put(np.arange(10)), echo.remote("x")]

    array, text = ract.get(make.remote())
    assert ract.get(text) == "x"
    assert ract.get(array).sum() == 45


def test_several_returns():
    @ract.remote(num_returns=3)
    def three():
        return 1, 2, 3

    a, b, c = three.remote()
    assert ract.get([a, b, c]) == [1, 2, 3]
    assert three.options(num_returns=0).remote() is None


def test_wrong_number_of_returns_is_an_error():
    @ract.remote(num_returns=3)
    def two():
        return 1, 2

    for ref in two.remote():
        with pytest.raises(RactTaskError, match="3"):
            ract.get(ref)


def test_get_many_raises_before_all_are_ready(gate):
    with pytest.raises(KeyError):
        ract.get([after.remote(gate), fail.remote("now")])


def test_get_timeout_says_what_it_waits_for(gate):
    ref = after.remote(gate, 7)
    with pytest.raises(GetTimeoutError, match="after"):
        ract.get(ref, timeout=0.01)
    with pytest.raises(TimeoutError):
        ract.get(ref, timeout=0)
    gate.open()
    assert ract.get(ref) == 7


def test_wait_splits_in_input_order(gate):
    late = after.remote(gate, "late")
    early = [echo.remote(i) for i in range(3)]
    ready, rest = ract.wait([late, *early], num_returns=3)
    assert ready == early
    assert rest == [late]
    ready, rest = ract.wait([late, *early], num_returns=1)
    assert ready == early[:1]
    assert rest == [late, *early[1:]]
    assert ract.wait([late], timeout=0) == ([], [late])
    gate.open()
    assert ract.wait([late]) == ([late], [])
    assert ract.wait([]) == ([], [])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda ref: ract.wait(ref), TypeError),
        (lambda ref: ract.wait([1]), TypeError),
        (lambda ref: ract.wait([ref, ref]), ValueError),
        (lambda ref: ract.wait([ref], num_returns=0), ValueError),
        (lambda ref: ract.wait([ref], num_returns=2), ValueError),
        (lambda ref: ract.wait([ref], timeout=-1), ValueError),
        (lambda ref: ract.get(1), ValueError),
        (lambda ref: ract.get([1]), TypeError),
        (lambda ref: ract.put(ref), TypeError),
        (lambda ref: ract.cancel("x"), TypeError),
        (lambda ref: add.remote(), TypeError),
        (lambda ref: add.remote(1, d=1), TypeError),
        (lambda ref: add(1), TypeError),
        (lambda ref: add.options(num_cpu=1), ValueError),
    ],
)
def test_misuse(make, error):
    with pytest.raises(error):
        make(ract.put(1))


def test_nested_tasks_on_fewer_cpus_than_levels():
    @ract.remote
    def tree(depth):
        if depth == 0:
            return 1
        return sum(ract.get([tree.remote(depth - 1) for _ in range(2)]))

    assert ract.get(tree.remote(4), timeout=120) == 16


def test_many_tasks():
    assert ract.get([echo.remote(i) for i in range(2000)]) == list(range(2000))


def test_numpy_comes_back_read_only_and_without_a_copy():
    array = np.arange(1_000_000, dtype=np.float64)
    ref = ract.put(array)
    one, two = ract.get(ref), ract.get(ref)
    np.testing.assert_array_equal(one, array)
    assert not one.flags.writeable
    assert one.ctypes.data == two.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1


def test_large_arguments_and_results():
    @ract.remote
    def double(array):
        assert not array.flags.writeable
        return array * 2

    array = np.ones((1000, 1000))
    assert ract.get(double.remote(double.remote(array))).sum() == 4e6


def test_closures_and_globals_travel():
    factor = 3

    @ract.remote
    def scale(x):
        return x * factor + len(sys.argv) * 0

    assert ract.get(scale.remote(5)) == 15


def test_captured_refs_stay_alive():
    big = ract.put(np.ones(500_000))

    @ract.remote
    def total():
        return ract.get(big).sum()

    del_me = total.remote()
    assert ract.get(del_me) == 500_000


def test_cancel_of_a_running_task(gate):
    ref = after.remote(gate)
    ract.wait([ref], timeout=0.3)
    ract.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ract.get(ref, timeout=30)


def test_cancel_of_waiting_tasks_never_runs_them(gate, tmp_path):
    @ract.remote
    def touch(gate, path):
        open(path, "w").close()

    blockers = [after.options(num_cpus=1).remote(gate) for _ in range(2)]
    path = tmp_path / "touched"
    waiting = touch.remote(after.remote(gate), str(path))
    ract.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        ract.get(waiting, timeout=30)
    gate.open()
    ract.get(blockers)
    assert not path.exists()


def test_forced_cancel_kills_the_process(gate):
    @ract.remote(max_retries=0)
    def stubborn(gate):
        while True:
            try:
                gate.wait()
                return
            except KeyboardInterrupt:
                pass

    ref = stubborn.remote(gate)
    ract.wait([ref], timeout=0.3)
    ract.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        ract.get(ref, timeout=30)


def test_cancel_of_a_finished_task_is_ignored():
    ref = echo.remote(1)
    assert ract.get(ref) == 1
    ract.cancel(ref)
    assert ract.get(ref) == 1


def test_a_forced_cancel_hits_one_task_only(gate):
    @ract.remote(max_retries=0)
    def innocent(i):
        return i

    @ract.remote(max_retries=0)
    def stuck(path):
        open(path, "w").close()
        time.sleep(1000)

    paths = [f"{gate.path}-{i}" for i in range(2)]
    running = [stuck.remote(path) for path in paths]
    for path in paths:
        Gate(path).wait()
    waiting = [innocent.remote(i) for i in range(10)]
    for ref in running:
        ract.cancel(ref, force=True)
    assert ract.get(waiting) == list(range(10))
    for ref in running:
        with pytest.raises((TaskCancelledError, WorkerCrashedError)):
            ract.get(ref)


def test_max_calls_changes_the_process():
    @ract.remote(max_calls=1)
    def pid():
        return os.getpid()

    pids = ract.get([pid.remote() for _ in range(4)], timeout=60)
    assert len(set(pids)) == 4


def test_task_options_name_and_runtime_context():
    @ract.remote
    def who():
        context = ract.get_runtime_context()
        return context.get_task_name(), context.get_node_id()

    name, node = ract.get(who.options(name="called").remote())
    assert name == "called"
    assert node == ract.nodes()[0]["NodeID"]


def test_await_and_future():
    import asyncio

    async def main():
        return await echo.remote(1), await asyncio.gather(echo.remote(2), echo.remote(3))

    assert asyncio.run(main()) == (1, [2, 3])
    assert echo.remote(4).future().result(timeout=30) == 4


def test_functions_that_name_themselves_keep_their_signature():
    @ract.remote
    def factorial(n, acc=1, *, step=1):
        return acc if n <= 1 else ract.get(factorial.remote(n - step, acc * n))

    assert ract.get(factorial.remote(5)) == 120


def test_what_a_generator_yielded_before_it_failed_is_good():
    @ract.remote(num_returns=3)
    def several(n):
        yield from range(n)
        if n < 3:
            raise KeyError("mine")

    assert ract.get(several.remote(3)) == [0, 1, 2]
    first, second, third = several.remote(2)
    assert ract.get([first, second]) == [0, 1]
    with pytest.raises(KeyError, match="mine"):
        ract.get(third)
    assert ract.get(several.remote(4)[:3]) == [0, 1, 2]


def test_cancel_by_another_process(gate):
    @ract.remote
    def cancel(box, force):
        ract.cancel(box[0], force=force)

    for force in (False, True):
        running = after.remote(gate)
        waiting = add.remote(running, 1)
        ract.get(cancel.remote([running], force))
        with pytest.raises((TaskCancelledError, WorkerCrashedError)):
            ract.get(running, timeout=30)
        with pytest.raises((TaskCancelledError, WorkerCrashedError)):
            ract.get(waiting, timeout=30)


def test_threads_of_a_task_that_wait_lend_its_cpus():
    @ract.remote(num_cpus=2)
    def outer():
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda i: ract.get(echo.remote(i)), range(4)))

    assert ract.get(outer.remote(), timeout=60) == [0, 1, 2, 3]


def test_threads_of_a_task_may_wait_and_go_on_in_turn():
    @ract.remote(num_cpus=2)
    def outer(n):
        from concurrent.futures import ThreadPoolExecutor

        def one(i):
            ref = echo.remote(i)
            if i % 3 == 0:  # so that now all, now none of the threads wait
                time.sleep(0.001)
            return ract.get(ref)

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, range(n)))

    for _ in range(5):
        assert ract.get(outer.remote(60), timeout=60) == list(range(60))


def test_number_of_threads_follows_the_cpus():
    @ract.remote
    def threads():
        return os.environ.get("OMP_NUM_THREADS")

    assert ract.get([threads.remote(), threads.options(num_cpus=2).remote()]) == ["1", "2"]


def test_a_call_that_was_cancelled_while_it_ran_says_where(gate):
    running = after.remote(gate)
    ract.wait([running], timeout=0.3)
    ract.cancel(running)
    with pytest.raises(TaskCancelledError, match="in after") as caught:
        ract.get(running, timeout=30)
    assert isinstance(caught.value, RactTaskError)
    assert caught.value.function_name == "after"


def test_arguments_of_the_api_have_the_names_that_programs_use():
    ref = add.remote(1)
    assert ract.get(object_refs=ref) == 111
    assert ract.wait(ray_waitables=[ref], num_returns=1, timeout=10) == ([ref], [])
    ract.cancel(ray_waitable=ref)
    assert ract.get(ract.put(value=3)) == 3


def test_short_calls_do_not_wait_behind_a_long_one_while_there_is_room():
    @ract.remote
    def work(path=None):
        while path is not None and not os.path.exists(path):
            time.sleep(0.005)
        return 1

    ract.get([work.remote() for _ in range(50)])  # known as quick, so many are pushed at once
    for _ in range(5):
        path = os.path.join(os.environ["RACT_TMPDIR"], f"long{time.monotonic_ns()}")
        long = work.remote(path)
        short = [work.remote() for _ in range(40)]
        assert ract.get(short, timeout=20) == [1] * 40
        ready, _ = ract.wait([long], timeout=0)
        assert not ready
        open(path, "w").close()
        assert ract.get(long, timeout=60) == 1
        os.remove(path)


def test_a_generator_whose_items_take_long_does_not_hold_up_short_calls():
    @ract.remote(num_returns="streaming", _generator_backpressure_num_objects=1)
    def items(paths):
        for path in paths:
            while not os.path.exists(path):
                time.sleep(0.005)
            yield path

    @ract.remote
    def short():
        return 1

    ract.get([short.remote() for _ in range(50)])
    folder = os.environ["RACT_TMPDIR"]
    paths = [os.path.join(folder, f"item{i}-{time.monotonic_ns()}") for i in range(4)]
    stream = items.remote(paths)
    for path in paths:
        assert ract.get([short.remote() for _ in range(40)], timeout=20) == [1] * 40
        open(path, "w").close()
        assert ract.get(next(stream), timeout=60) == path
        os.remove(path)
