"""Finalizers of users' objects, which the garbage collector calls wherever memory is asked for."""

import gc
import sys
import threading

import pytest

import ract
from ract.testing import wait_for_condition


@ract.remote(num_cpus=0.1)
def echo(value):
    return [value]


@pytest.fixture
def eager_collector():
    """The collector runs every few allocations, also in the middle of what ract does."""
    before = gc.get_threshold()
    gc.set_threshold(30, 2, 2)
    yield
    gc.set_threshold(*before)


@pytest.fixture
def unraisable(monkeypatch):
    """What finalizers have raised."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(args.exc_value))
    return found


def in_a_cycle(finalize, ended):
    """Make an object that only the collector can free.

    It calls ``finalize()`` then, and adds to ``ended``.
    """

    class Garbage:
        def __init__(self):
            self.itself = self

        def __del__(self):
            try:
                finalize()
            finally:
                ended.append(None)

    Garbage()


def churn(finalize, rounds=150):
    ended = []
    for _ in range(rounds):
        in_a_cycle(finalize, ended)
        refs = [echo.remote(i) for i in range(20)]
        in_a_cycle(finalize, ended)
        assert ract.get(refs, timeout=60) == [[i] for i in range(20)]
    # Not once: while another thread collects, this does nothing.
    wait_for_condition(lambda: gc.collect() >= 0 and len(ended) == 2 * rounds)


def test_a_finalizer_that_waits_gets_its_value_or_is_told_why_not(
    ract_start, eager_collector, unraisable
):
    values, threads = [], set()

    def finalize():
        threads.add(threading.current_thread().name)
        values.append(ract.get(echo.remote(1), timeout=60))

    churn(finalize)
    assert values
    assert all(value == [1] for value in values)
    assert {type(error) for error in unraisable} <= {RuntimeError}
    assert all("called a finalizer (__del__)" in str(error) for error in unraisable)


def test_a_finalizer_may_start_tasks_and_call_and_kill_actors(
    ract_start, eager_collector, unraisable
):
    @ract.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1

        def get(self):
            return self.count

    counter = Counter.remote()
    started, called = [], []

    def finalize():
        started.append(echo.remote(2))
        called.append(counter.add.remote())

    churn(finalize)
    assert ract.get(started, timeout=60) == [[2]] * len(started)
    assert ract.get(counter.get.remote(), timeout=60) == len(called) > 0
    assert unraisable == []


def test_a_finalizer_may_put_large_values(ract_start, eager_collector, unraisable):
    kept = []
    churn(lambda: kept.append(ract.put(bytes(200_000))))
    assert kept
    assert ract.get(kept, timeout=60) == [bytes(200_000)] * len(kept)
    assert ract.get(echo.remote(kept[-1]), timeout=60) == [bytes(200_000)]
    assert unraisable == []
