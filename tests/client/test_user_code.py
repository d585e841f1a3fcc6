"""Code of users that the runtime calls: whatever it does, the runtime goes on."""

import io
import logging
import sys
import threading

import pytest

import ract
from ract.client.process import user_code
from ract.client.process.user_code import UserThreads


def test_jobs_run_in_order_and_an_error_ends_nothing():
    threads, seen = UserThreads(), []

    def job(i):
        seen.append(i)
        if i % 3 == 0:
            raise SystemExit(i)

    for i in range(300):
        threads.run(lambda i=i: job(i))
    assert threads.flush(30)
    assert seen == list(range(300))


def test_a_job_that_waits_delays_the_others_for_a_moment_only():
    threads, gate, seen = UserThreads(), threading.Event(), []
    for i in range(5):  # each waits for what a later job does
        threads.run(lambda i=i: (gate.wait(60), seen.append(i)))
    threads.run(gate.set)
    assert gate.wait(30)
    assert threads.flush(30)


def test_what_a_job_keeps_alive_goes_with_it():
    threads, gone = UserThreads(), threading.Event()

    class Value:
        def __del__(self):
            gone.set()

    value = Value()
    threads.run(lambda value=value: None)
    del value
    assert gone.wait(30)


# --------------------------------------------------------------------------- with a cluster


@ract.remote(num_cpus=0.1)
def echo(x):
    print("printed by a task")
    return x


@ract.remote(num_cpus=0.1)
def fail(error):
    raise error


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    ract.init(num_cpus=2, include_dashboard=False)
    yield
    ract.shutdown()


@pytest.fixture(autouse=True)
def _goes_on():
    """Afterwards the runtime does what it is there for."""
    yield
    assert ract.get(echo.remote(5), timeout=60) == 5
    assert echo.remote(6).future().result(60) == 6


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError()], ids=repr)
def test_a_callback_raises_and_the_next_is_called(error):
    called = threading.Event()

    def callback(future):
        raise error

    future = echo.remote(1).future()
    future.add_done_callback(callback)
    future.add_done_callback(lambda future: called.set())
    assert called.wait(60)


def test_a_callback_waits_for_other_tasks():
    seen, done = [], threading.Event()

    def callback(future):
        seen.append(ract.get(echo.remote(future.result() + 1)))
        done.set()

    echo.remote(1).future().add_done_callback(callback)
    assert done.wait(60)
    assert seen == [2]


def test_callbacks_that_wait_do_not_stop_one_that_they_wait_for():
    gate = threading.Event()
    for _ in range(4):
        echo.remote(1).future().add_done_callback(lambda future: gate.wait(60))
    last = echo.remote(1).future()
    last.add_done_callback(lambda future: gate.set())
    last.result(60)
    assert gate.wait(60)


class Reads:
    """Waits for a task while it is unpickled."""

    def __getstate__(self):
        return {"a": 1}

    def __setstate__(self, state):
        self.value = ract.get(echo.remote(7), timeout=60)


class ReadsError(Exception):
    """Likewise."""

    def __reduce__(self):
        return make_error, ()


def make_error():
    ract.get(echo.remote(8), timeout=60)
    return ReadsError()


def test_a_future_of_what_waits_while_it_is_unpickled():
    @ract.remote(num_cpus=0.1)
    def make():
        return Reads()

    assert make.remote().future().result(60).value == 7


def test_a_call_is_retried_for_an_error_that_waits_while_it_is_unpickled():
    @ract.remote(num_cpus=0.1, max_retries=1, retry_exceptions=[ReadsError])
    def raises():
        raise ReadsError

    with pytest.raises(ReadsError):
        ract.get(raises.remote(), timeout=60)


def test_an_argument_is_an_error_that_waits_while_it_is_unpickled():
    ref = echo.remote(fail.remote(ReadsError()))
    with pytest.raises(ract.exceptions.RayTaskError):
        ract.get(ref, timeout=60)


def test_a_handler_of_logs_waits_for_a_task():
    done = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            if "Unhandled error" in record.getMessage() and not done.is_set():
                ract.get(echo.remote(1))
                done.set()

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        fail.remote(ValueError("nobody reads this"))
        assert done.wait(60)
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_replaced_stdout_waits_for_a_task(monkeypatch):
    done = threading.Event()

    class Stream(io.StringIO):
        def write(self, text):
            if "printed" in text and not done.is_set():
                ract.get(echo.remote(1))
                done.set()
            return len(text)

    monkeypatch.setattr(sys, "stdout", Stream())
    echo.remote(1)
    assert done.wait(60)


def test_a_finalizer_of_a_value_waits_for_a_task():
    @ract.remote(num_cpus=0.1)
    def make():
        return Ends()

    result = make.remote().future().result(60)
    Ends.seen.clear()
    del (
        result
    )  # the last reference may be this one, or that of the thread that completed the future
    assert user_code.flush(60)
    assert Ends.seen == [1]


class Ends:
    """Waits for a task when it goes."""

    seen = []

    def __reduce__(self):
        return Ends, ()

    def __del__(self):
        if ract.is_initialized():
            Ends.seen.append(ract.get(echo.remote(1)))


def test_a_future_keeps_a_ref_that_is_dropped():
    @ract.remote(num_cpus=0.1)
    def outer():
        return [echo.remote(9)]

    futures = [ract.get(outer.remote())[0].future() for _ in range(5)]
    assert [future.result(60) for future in futures] == [9] * 5


def test_a_future_at_shutdown_fails():
    @ract.remote(num_cpus=0.1)
    def sleep():
        threading.Event().wait()

    future = sleep.remote().future()
    called = threading.Event()
    future.add_done_callback(lambda future: called.set())
    ract.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        future.result(60)
    assert called.wait(60)
    ract.init(num_cpus=2, include_dashboard=False)
