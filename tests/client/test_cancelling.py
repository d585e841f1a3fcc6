"""Cancelling on a real embedded cluster: who is interrupted, who is not, and what goes along."""

import asyncio
import os

import pytest

import ract
from ract.exceptions import TaskCancelledError
from ract.testing import SignalActor, wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@pytest.fixture
def signal():
    return SignalActor.options(num_cpus=0).remote()


def waits(signal, n=1):
    """Until ``n`` calls wait for the signal."""
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == n)


@ract.remote(num_cpus=0)
def wait_for(signal):
    return ract.get(signal.wait.remote())


@ract.remote(num_cpus=0)
def parent_of(signal):
    return ract.get(wait_for.remote(signal))


def test_children_are_cancelled_with_their_parent(signal):
    parent = parent_of.remote(signal)
    waits(signal)
    ract.cancel(parent)
    with pytest.raises(TaskCancelledError):
        ract.get(parent, timeout=30)
    waits(signal, 0)  # the child, and the call that it waited for


def test_children_live_on_if_so_asked(signal):
    parent = parent_of.remote(signal)
    waits(signal)
    ract.cancel(parent, recursive=False)
    with pytest.raises(TaskCancelledError):
        ract.get(parent, timeout=30)
    waits(signal)


def test_what_depends_on_a_cancelled_task_fails_with_it(signal):
    @ract.remote(num_cpus=0)
    def echo(value):
        return value

    first = wait_for.remote(signal)
    last = echo.remote(echo.remote(first))
    waits(signal)
    ract.cancel(first)
    with pytest.raises(TaskCancelledError):
        ract.get(last, timeout=30)


def test_a_cancelled_task_is_not_retried(signal, tmp_path):
    @ract.remote(num_cpus=0, max_retries=3, retry_exceptions=True)
    def count(signal, path):
        with open(path, "a") as file:
            file.write("x")
        ract.get(signal.wait.remote())

    ref = count.remote(signal, tmp_path / "runs")
    waits(signal)
    ract.cancel(ref)
    ract.cancel(ref)  # the second time does nothing
    with pytest.raises(TaskCancelledError):
        ract.get(ref, timeout=30)
    assert (tmp_path / "runs").read_text() == "x"


def test_a_task_may_catch_the_interrupt_and_sees_that_it_was_cancelled(signal):
    @ract.remote(num_cpus=0)
    def catch(signal):
        try:
            ract.get(signal.wait.remote())
        except KeyboardInterrupt:
            return ract.get_runtime_context().is_canceled()

    ref = catch.remote(signal)
    waits(signal)
    ract.cancel(ref)
    assert ract.get(ref, timeout=30) is True


@ract.remote(num_cpus=0)
class Worker:
    def wait_until_cancelled(self, path):
        open(path, "w").close()
        context = ract.get_runtime_context()
        while not context.is_canceled():
            pass
        return "finished"

    def ask(self, signal):
        try:
            return ract.get(wait_for.remote(signal))
        except TaskCancelledError:
            return "the child was cancelled"

    def touch(self, path):
        open(path, "w").close()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_running_methods_are_told_but_not_interrupted(concurrency, tmp_path):
    worker = Worker.options(max_concurrency=concurrency).remote()
    ref = worker.wait_until_cancelled.remote(str(tmp_path / "started"))
    wait_for_condition((tmp_path / "started").exists)
    ract.cancel(ref)
    assert ract.get(ref, timeout=30) == "finished"


def test_children_of_a_running_method_are_cancelled(signal):
    worker = Worker.remote()
    ref = worker.ask.remote(signal)
    waits(signal)
    ract.cancel(ref)
    assert ract.get(ref, timeout=30) == "the child was cancelled"


def test_a_queued_method_never_runs(signal, tmp_path):
    worker = Worker.remote()
    running = worker.ask.remote(signal)
    queued = worker.touch.remote(tmp_path / "touched")
    waits(signal)
    ract.cancel(queued)
    ract.wait([queued], timeout=0.5)  # the news takes a moment, and the method is still running
    signal.send.remote()
    ract.get(running, timeout=30)
    with pytest.raises(TaskCancelledError):
        ract.get(queued, timeout=30)
    assert not os.path.exists(tmp_path / "touched")


def test_a_coroutine_may_swallow_its_cancellation(signal):
    @ract.remote(num_cpus=0)
    class Async:
        async def wait(self, signal):
            try:
                await signal.wait.remote()
            except asyncio.CancelledError:
                return "swallowed"

    ref = Async.remote().wait.remote(signal)
    waits(signal)
    ract.cancel(ref)
    assert ract.get(ref, timeout=30) == "swallowed"


@pytest.mark.parametrize("what", [1, None, "ref", []])
def test_only_refs_can_be_cancelled(what):
    with pytest.raises(TypeError):
        ract.cancel(what)
