"""Threads that a task leaves behind do not change what later tasks of its process lend."""

import os
import threading

import pytest

import ract
from ract.testing import SignalActor, wait_for_condition


@ract.remote
def leave_a_thread_behind(gate):
    threading.Thread(target=lambda: ract.get(gate.wait.remote()), daemon=True).start()
    wait_for_condition(lambda: ract.get(gate.cur_num_waiters.remote()) == 1)
    return os.getpid()


@ract.remote
def child():
    return 1


@ract.remote
def parent():
    return os.getpid(), ract.get(child.remote())


@pytest.mark.parametrize("ract_start", [{"num_cpus": 1}], indirect=True)
def test_a_nested_get_lends_its_cpu_although_an_older_thread_waits(ract_start):
    gate = SignalActor.remote()
    left_in = ract.get(leave_a_thread_behind.remote(gate))
    for _ in range(3):
        pid, made = ract.get(parent.remote(), timeout=60)
        assert made == 1
        assert pid == left_in
    gate.send.remote()
