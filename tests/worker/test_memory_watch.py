"""Looking at the memory of a machine whose files are laid out in a folder as Linux does it."""

from __future__ import annotations

import os

import pytest

from ract.worker.hardware.memory_settings import Settings
from ract.worker.hardware.memory_watch import MemoryWatch

PAGE = os.sysconf("SC_PAGE_SIZE")
KB, GIB = 1024, 2**30


class Machine:
    def __init__(self, root):
        self.root = root
        self.memory(total=8 * GIB, available=6 * GIB)

    def file(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def memory(self, total, available):
        text = f"MemTotal: {total // KB} kB\nMemAvailable: {available // KB} kB\n"
        self.file("proc/meminfo", text)

    def group(self, limit, used):
        self.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        self.file("proc/self/cgroup", "0::/app\n")
        self.file("sys/fs/cgroup/app/memory.max", f"{limit}\n")
        self.file("sys/fs/cgroup/app/memory.current", f"{used}\n")

    def process(self, pid, resident, shared=0, group=None, command="python\0x.py\0", peak=0):
        folder = f"proc/{pid}"
        self.file(f"{folder}/stat", f"{pid} (a) b) S 1 {group or pid} 1 0\n")
        self.file(f"{folder}/statm", f"9 {resident // PAGE} {shared // PAGE} 1 0 1 0\n")
        self.file(f"{folder}/status", f"Name: x\nVmHWM: {peak // KB} kB\n")
        self.file(f"{folder}/cmdline", command)
        self.file(f"{folder}/comm", "kernel\n")

    def look(self, *pids, threshold=0.95, share=0):
        return MemoryWatch(Settings(0.25, threshold, share), self.root).look(pids, 5.0)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_while_there_is_enough_nothing_is_said(machine):
    assert machine.look() is None


def test_a_machine_that_is_full_is_told_with_the_figures(machine):
    machine.memory(8 * GIB, GIB // 4)
    high = machine.look()
    assert (high.at, high.threshold) == (5.0, 0.95)
    assert (high.used_bytes, high.total_bytes) == (8 * GIB - GIB // 4, 8 * GIB)


def test_the_threshold_can_be_another(machine):
    assert machine.look(threshold=0.2) is not None
    assert machine.look(threshold=0.3) is None


def test_the_limit_of_a_control_group_counts(machine):
    machine.group(2 * GIB, GIB)
    assert machine.look() is None
    machine.group(2 * GIB, 2 * GIB)
    assert machine.look().total_bytes == 2 * GIB


def test_a_control_group_without_a_limit_does_not(machine):
    machine.group("max", 99 * GIB)
    assert machine.look() is None


def test_a_share_of_the_machine_is_for_the_executors_alone(machine):
    machine.memory(8 * GIB, 0)
    machine.process(7, resident=GIB)
    machine.process(8, resident=9 * GIB)
    assert machine.look(7, share=2 * GIB) is None
    assert machine.look(7, share=GIB).used_bytes == GIB


def test_shared_memory_is_nobodys_own(machine):
    machine.process(7, resident=3 * GIB, shared=GIB, peak=4 * GIB)
    high = machine.look(7, threshold=0)
    assert high.held_bytes == {7: 2 * GIB}
    assert high.peak_bytes == {7: 4 * GIB}


def test_what_an_executor_has_started_counts_as_its_own(machine):
    machine.process(7, resident=GIB)
    machine.process(9, resident=2 * GIB, group=7)
    high = machine.look(7, threshold=0)
    assert high.held_bytes == {7: 3 * GIB}
    assert [(each.pid, each.held_bytes) for each in high.consumers] == [(7, 3 * GIB)]


def test_the_largest_processes_of_the_machine_are_named(machine):
    for pid in range(10, 20):
        machine.process(pid, resident=pid * 2**20)
    machine.process(20, resident=GIB, command="")
    consumers = machine.look(threshold=0).consumers
    assert [each.pid for each in consumers] == [20, 19, 18, 17, 16]
    assert [each.name for each in consumers[:2]] == ["kernel", "python x.py"]


def test_an_executor_that_is_gone_holds_nothing(machine):
    assert machine.look(7, threshold=0).held_bytes == {7: 0}


def test_settings_have_rays_names_and_defaults():
    assert Settings.read({}) == Settings(0.25, 0.95)
    ray = {"RAY_memory_monitor_refresh_ms": "0", "RAY_memory_usage_threshold": "0.5"}
    assert Settings.read(ray) == Settings(0.0, 0.5)
    assert Settings.read({**ray, "RACT_memory_usage_threshold": "0.8"}).threshold == 0.8
    assert Settings.read({"RACT_NODE_MEMORY_BYTES": "1e9"}).share_bytes == 10**9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_usage_threshold", "1.5"),
        ("memory_usage_threshold", "high"),
        ("memory_monitor_refresh_ms", "-1"),
    ],
)
def test_a_bad_setting_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        Settings.read({f"RAY_{name}": value})
