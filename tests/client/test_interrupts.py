"""KeyboardInterrupt, by Ctrl-C or by cancelling: no step of the runtime is left half done."""

import asyncio
import os
import random
import signal
import threading
import time

import pytest

import ract
from ract.client.process import interrupts
from ract.exceptions import TaskCancelledError
from ract.testing import wait_for_condition


def function_of(module, code, **names):
    """A function that seems to stand in a module."""
    namespace = {"__name__": module, **names}
    exec(code, namespace)
    return namespace["function"]


@pytest.fixture
def arrived():
    """SIGUSR2 is handled as an interrupt; this counts those that were raised."""
    raised = []

    def interrupt(frame):
        raised.append(1)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR2, interrupts.handler(interrupt))
    yield raised
    signal.signal(signal.SIGUSR2, before)


def send():
    signal.raise_signal(signal.SIGUSR2)


def test_code_of_the_program_is_interrupted_at_once(arrived):
    with pytest.raises(KeyboardInterrupt):
        send()
    interrupts.check()  # nothing was put off
    assert len(arrived) == 1


def test_a_step_of_the_client_is_ended_before_the_interrupt_is_raised(arrived):
    log = []
    # What the client calls in the standard library belongs to the step.
    called = function_of("threading", "def function():\n raise_(12)\n", raise_=signal.raise_signal)
    code = "def function():\n called()\n log.append('whole')\n"
    step = function_of("ract.client.calls.some", code, called=called, log=log)

    def program():
        step()
        while True:  # the signal is repeated
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        program()
    assert log == ["whole"]
    assert len(arrived) == 1


def test_who_waits_in_the_client_raises_what_was_put_off(arrived):
    code = "def function():\n signal.raise_signal(signal.SIGUSR2)\n check()\n"
    wait = function_of("ract.client.calls.some", code, signal=signal, check=interrupts.check)
    with pytest.raises(KeyboardInterrupt):
        wait()
    time.sleep(5 * interrupts.REPEAT_S)  # one that is repeated would come now
    interrupts.check()
    assert len(arrived) == 1


def test_another_thread_does_not_raise_what_was_put_off(arrived):
    found = []

    def look():
        try:
            interrupts.check()
        except KeyboardInterrupt:
            found.append("raised")

    def look_elsewhere():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    code = "def function():\n signal.raise_signal(signal.SIGUSR2)\n look()\n check()\n"
    wait = function_of(
        "ract.client.calls.some", code, signal=signal, look=look_elsewhere, check=interrupts.check
    )
    with pytest.raises(KeyboardInterrupt):
        wait()
    assert found == []


def test_a_handler_that_the_program_sets_gets_no_repeated_signal(arrived):
    got = []
    code = "def function():\n signal.raise_signal(signal.SIGUSR2)\n signal.signal(12, other)\n"
    step = function_of(
        "ract.client.calls.some", code, signal=signal, other=lambda *_: got.append(1)
    )
    step()
    wait_for_condition(lambda: interrupts._pending is None)
    assert got == []
    assert arrived == []


def test_what_the_client_imports_is_imported_whole(arrived, tmp_path, monkeypatch):
    (tmp_path / "imported_by_the_client.py").write_text("import signal\nsignal.raise_signal(12)\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = "def function():\n import imported_by_the_client\n log.append('whole')\n check()\n"
    log = []
    step = function_of("ract.client.calls.some", code, log=log, check=interrupts.check)
    with pytest.raises(KeyboardInterrupt):
        step()
    assert log == ["whole"]


def test_code_of_the_program_that_the_client_calls_is_interrupted_at_once(arrived):
    reduce = function_of(
        "their.module", "def function():\n raise_(12)\n", raise_=signal.raise_signal
    )
    step = function_of("ract.client.calls.some", "def function():\n reduce()\n", reduce=reduce)
    with pytest.raises(KeyboardInterrupt):
        step()


# --------------------------------------------------------------------------- on a cluster


@ract.remote
def same(x):
    return x


@ract.remote
def submit_for_ever(path):
    """Submits and reads in turn, and is interrupted anywhere in that."""
    open(path, "w").close()
    while True:
        assert ract.get([same.remote(i) for i in range(20)]) == list(range(20))


@ract.remote
def all_is_well():
    return ract.get([same.remote(i) for i in range(40)], timeout=30)


def test_a_driver_goes_on_after_interrupts_at_any_moment(ract_start):
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    me, turn = random.Random(0), threading.Semaphore(0)

    def interrupt():
        for _ in range(60):
            turn.acquire()
            time.sleep(me.uniform(0, 0.006))
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    for _ in range(60):
        try:
            turn.release()
            while True:
                ract.get([same.remote(i) for i in range(50)])
        except KeyboardInterrupt:
            pass
    thread.join()
    assert ract.get([same.remote(i) for i in range(50)], timeout=30) == list(range(50))
    total = ract.cluster_resources()["CPU"]
    wait_for_condition(lambda: ract.available_resources()["CPU"] == total)


def test_a_process_goes_on_after_a_task_of_it_was_cancelled_at_any_moment(ract_start, tmp_path):
    for i in range(20):
        path = str(tmp_path / str(i))
        ref = submit_for_ever.remote(path)
        wait_for_condition(lambda path=path: os.path.exists(path))
        ract.cancel(ref)
        with pytest.raises(TaskCancelledError):
            ract.get(ref, timeout=30)
        assert ract.get(all_is_well.remote(), timeout=30) == list(range(40))


def test_the_first_interrupt_of_asyncio_run_cancels_the_main_task(ract_start):
    ended = []

    async def main():
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert ended == ["cancelled"]


def test_python_has_its_handler_back_after_shutdown(ract_start):
    ract.shutdown()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
