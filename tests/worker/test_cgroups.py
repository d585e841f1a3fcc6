"""Limits of control groups, read from a root folder that is laid out as Linux does it."""

import os

import pytest

from ract.worker.hardware import cgroups, detect

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 32 0:30 {root} /sys/fs/cgroup/{name} rw,nosuid shared:9 - cgroup cgroup rw,{name}\n"
GiB = 2**30


class Machine:
    def __init__(self, root):
        self.root = root
        self.file("proc/meminfo", f"MemTotal: {8 * 2**20} kB\nMemAvailable: {6 * 2**20} kB\n")

    def file(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, path, **files):
        for name, text in files.items():
            self.file(f"sys/fs/cgroup/{path}/{name.replace('__', '.')}", f"{text}\n")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def v2(machine):
    machine.file("proc/self/mountinfo", V2.format(root="/"))
    machine.file("proc/self/cgroup", "0::/pod.slice/app.scope\n")
    return machine


@pytest.fixture
def v1(machine):
    mounts = "".join(V1.format(root="/", name=name) for name in ("cpu,cpuacct", "memory"))
    machine.file("proc/self/mountinfo", mounts)
    machine.file("proc/self/cgroup", "4:memory:/jobs/7\n2:cpu,cpuacct:/jobs/7\n0::/\n")
    return machine


def test_without_control_groups_nothing_is_limited(machine):
    assert cgroups.cpu_quota(machine.root) is None
    assert cgroups.memory_available(machine.root) is None
    assert detect.available_bytes(machine.root) == 6 * GiB


def test_the_processes_own_group_counts_not_only_the_root(v2):
    v2.group("", cpu__max="max 100000", memory__max="max")
    v2.group("pod.slice/app.scope", cpu__max="150000 100000", memory__max=2 * GiB)
    assert cgroups.cpu_quota(v2.root) == 1.5
    assert cgroups.memory_available(v2.root) == 2 * GiB


def test_a_limit_holds_for_all_groups_below_it(v2):
    v2.group("pod.slice", cpu__max="50000 100000", memory__max=GiB)
    v2.group("pod.slice/app.scope", cpu__max="max 100000", memory__max=2 * GiB)
    assert cgroups.cpu_quota(v2.root) == 0.5
    assert cgroups.memory_available(v2.root) == GiB
    assert detect.available_bytes(v2.root) == GiB


def test_limits_of_other_groups_do_not_count(v2):
    v2.group("other.slice", cpu__max="10000 100000", memory__max=1)
    v2.group("pod.slice/app.scope/child", cpu__max="10000 100000", memory__max=1)
    assert cgroups.cpu_quota(v2.root) is None
    assert cgroups.memory_available(v2.root) is None


def test_what_is_used_is_not_available_but_idle_caches_are(v2):
    v2.group(
        "pod.slice/app.scope",
        memory__max=4 * GiB,
        memory__current=3 * GiB,
        memory__stat=f"anon 5\ninactive_file {2 * GiB}\nactive_file 7",
    )
    assert cgroups.memory_available(v2.root) == 3 * GiB


def test_an_overdrawn_group_has_nothing_left(v2):
    v2.group("pod.slice/app.scope", memory__max=GiB, memory__current=2 * GiB)
    assert cgroups.memory_available(v2.root) == 0


def test_a_limit_above_what_the_machine_has_is_none(v2):
    v2.group("pod.slice/app.scope", memory__max=2**62)
    assert detect.available_bytes(v2.root) == 6 * GiB


def test_the_first_version_has_a_folder_for_each_controller(v1):
    v1.group("cpu,cpuacct/jobs/7", cpu__cfs_quota_us=300000, cpu__cfs_period_us=100000)
    v1.group(
        "memory/jobs/7",
        memory__limit_in_bytes=2 * GiB,
        memory__usage_in_bytes=GiB,
        memory__stat=f"inactive_file 1\ntotal_inactive_file {GiB // 2}",
    )
    assert cgroups.cpu_quota(v1.root) == 3
    assert cgroups.memory_available(v1.root) == 2 * GiB - GiB // 2


def test_a_quota_of_minus_one_is_none(v1):
    v1.group("cpu,cpuacct/jobs/7", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    v1.group("cpu,cpuacct/jobs", cpu__cfs_quota_us=50000, cpu__cfs_period_us=100000)
    assert cgroups.cpu_quota(v1.root) == 0.5


def test_a_container_sees_its_own_group_where_the_root_would_be(machine):
    """Docker: the group is named as the host does, but mounted from there on."""
    machine.file("proc/self/mountinfo", V1.format(root="/docker/ab12", name="memory"))
    machine.file("proc/self/cgroup", "4:memory:/docker/ab12/inner\n")
    machine.group("memory", memory__limit_in_bytes=3 * GiB)
    machine.group("memory/inner", memory__limit_in_bytes=2 * GiB)
    assert cgroups.memory_available(machine.root) == 2 * GiB
    machine.file("proc/self/cgroup", "4:memory:/docker/ab12\n")
    assert cgroups.memory_available(machine.root) == 3 * GiB


@pytest.mark.parametrize("group", ["/", "/../../elsewhere", "/elsewhere"])
def test_a_group_that_cannot_be_seen_is_that_of_the_mount(machine, group):
    machine.file("proc/self/mountinfo", V2.format(root="/"))
    machine.file("proc/self/cgroup", f"0::{group}\n")
    machine.group("", cpu__max="200000 100000")
    assert cgroups.cpu_quota(machine.root) == 2


def test_both_versions_may_be_mounted(machine):
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    machine.file("proc/self/mountinfo", V1.format(root="/", name="memory") + unified)
    machine.file("proc/self/cgroup", "4:memory:/a\n0::/b\n")
    machine.group("memory/a", memory__limit_in_bytes=2 * GiB)
    machine.group("unified/b", cpu__max="100000 100000", memory__max=GiB)
    assert cgroups.memory_available(machine.root) == GiB
    assert cgroups.cpu_quota(machine.root) == 1


# --------------------------------------------------------------------------- CPUs and the store


@pytest.mark.parametrize(("quota", "cpus"), [(10_000, 1), (100_000, 1), (10**9, None)])
def test_a_node_has_the_cpus_of_its_quota_and_one_at_least(v2, quota, cpus):
    v2.group("pod.slice/app.scope", cpu__max=f"{quota} 100000")
    assert detect.num_cpus(v2.root) == (cpus or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("prefix", ["RACT", "RAY"])
def test_limits_of_cpus_can_be_passed_over(v2, monkeypatch, prefix):
    v2.group("pod.slice/app.scope", cpu__max="10000 100000")
    monkeypatch.setenv(f"{prefix}_USE_MULTIPROCESSING_CPU_COUNT", "1")
    assert detect.num_cpus(v2.root) == os.cpu_count()


def test_the_store_takes_three_tenths_as_far_as_shared_memory_has_room(monkeypatch):
    assert detect.store_bytes(GiB) == int(GiB * 0.3)
    assert detect.store_bytes(2**60) < 2**60 * 0.3
    assert detect.store_bytes(0) == detect.STORE_BYTES_MIN
