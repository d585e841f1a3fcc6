"""Control groups of a node, made in a folder that looks like cgroup version 2.

No machine of ours may make real ones; the kernel's part is not tested.
"""

import os

import pytest

import ract
from ract.worker.hardware import isolation
from ract.worker.hardware.isolation import Isolation, asked, check, limits

GiB = 2**30


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        {"path": "/x"},
        {"reserved_cpu": 1.0},
        {"reserved_memory": 1},
    ],
)
def test_details_without_isolation_are_refused(given):
    arguments = {"path": None, "reserved_cpu": None, "reserved_memory": None, **given}
    with pytest.raises(ValueError, match="enable_resource_isolation"):
        asked(False, **arguments)
    assert asked(False, None, None, None) is None


@pytest.mark.parametrize(
    ("cpu", "memory", "error"),
    [(0, None, ValueError), ("1", None, TypeError), (None, -1, ValueError), (None, 1.5, TypeError)],
)
def test_bad_quantities_are_refused(cpu, memory, error):
    with pytest.raises(error, match="system_reserved"):
        asked(True, None, cpu, memory)


def test_init_says_what_is_missing(tmp_path):
    ract.shutdown()
    with pytest.raises(ValueError, match="system_reserved_cpu"):
        ract.init(system_reserved_cpu=1.0)
    with pytest.raises(RuntimeError, match="no folder of cgroup version 2"):
        ract.init(enable_resource_isolation=True, cgroup_path=str(tmp_path))
    assert not ract.is_initialized()


def test_controllers_are_needed(folder):
    (folder / "cgroup.controllers").write_text("memory\n")
    with pytest.raises(RuntimeError, match="lacks the controllers cpu:"):
        check({"cgroup_path": str(folder)})


def test_what_is_kept_by_default_and_at_most():
    small = limits({}, 4, 8 * GiB)
    assert small["system"] == {"cpu.weight": "2500", "memory.min": str(int(0.8 * GiB))}
    assert small["user"] == {"cpu.weight": "7500", "memory.max": str(8 * GiB - int(0.8 * GiB))}
    assert limits({}, 256, 1024 * GiB)["system"]["memory.min"] == str(10 * GiB)
    told = limits({"system_reserved_cpu": 2, "system_reserved_memory": GiB}, 8, 8 * GiB)
    assert told["system"] == {"cpu.weight": "2500", "memory.min": str(GiB)}
    with pytest.raises(ValueError, match="leaves nothing"):
        limits({"system_reserved_cpu": 4}, 4, GiB)
    with pytest.raises(ValueError, match="leaves nothing"):
        limits({"system_reserved_memory": GiB}, 4, GiB)


def test_groups_are_made_and_joined_and_left(folder):
    option = asked(True, str(folder), None, None)
    check(option)
    groups = Isolation(option, "0123abcd")
    groups.make(limits(option, 4, 8 * GiB))
    groups.add("user", 17)
    groups.add("system", os.getpid())
    made = folder / "ract-0123abcd"
    assert (made / "user" / "cgroup.procs").read_text() == "17"
    assert (made / "system" / "cgroup.procs").read_text() == str(os.getpid())
    assert (made / "system" / "cpu.weight").read_text() == "2500"
    assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory"
    groups.close()
    assert (folder / "cgroup.procs").read_text() == str(os.getpid())


def test_the_default_folder_is_the_systems():
    assert isolation.DEFAULT_PATH == "/sys/fs/cgroup"
