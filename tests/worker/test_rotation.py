"""Logs of real executors are turned over, and lose nothing."""

import os
import re

import pytest

import ract
from ract.testing import wait_for_condition
from ract.util import state


@pytest.fixture
def small_logs(monkeypatch):
    monkeypatch.setenv("RACT_ROTATION_MAX_BYTES", "4000")
    monkeypatch.setenv("RACT_ROTATION_BACKUP_COUNT", "1000")
    ract.init(num_cpus=1)
    yield
    ract.shutdown()


@ract.remote(num_cpus=0)
class Talker:
    def say(self, first, count):
        for number in range(first, first + count):
            print(f"number {number}")
        os.write(1, b"")  # what native code writes goes the same way
        return os.getpid()


def test_a_long_log_is_in_several_files_without_a_gap(small_logs):
    talker = Talker.remote()
    first = 0

    def files():
        return state.list_logs(glob_filter="*.out*").get("worker_out", [])

    def has_turned_over():
        nonlocal first
        ract.get(talker.say.remote(first, 100))
        first += 100
        return len([name for name in files() if re.search(r"\.out\.\d+$", name)]) >= 3

    wait_for_condition(has_turned_over)
    pid = ract.get(talker.say.remote(first, 1))
    first += 1
    mine = [name for name in files() if f"-{pid}.out" in name]
    node = state.list_nodes()[0].node_id
    lines = []
    for name in sorted(mine, key=lambda name: -int(name.rpartition(".out")[2].strip(".") or 0)):
        lines += "".join(state.get_log(filename=name, node_id=node)).splitlines()
    assert lines == [f"number {number}" for number in range(first)]
