"""What a node says of itself, from files laid out as Linux does it and from this machine."""

import os
import types

import pytest

from ract.worker.hardware import statistics
from ract.worker.hardware.gpus import Gpus
from ract.worker.hardware.memory_settings import Settings
from ract.worker.hardware.statistics import Statistics, Totals, Watched

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
MIB, GIB = 2**20, 2**30


class Machine:
    def __init__(self, root):
        self.root = root
        self.file("proc/meminfo", f"MemTotal: {8 * MIB} kB\nMemAvailable: {6 * MIB} kB\n")
        self.cpu(busy_s=0, idle_s=0)
        self.process(os.getpid())

    def file(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cpu(self, busy_s, idle_s):
        self.file("proc/stat", f"cpu {busy_s * TICKS} 0 0 {idle_s * TICKS} 0 0 0 0 0 0\ncpu0 1\n")

    def process(self, pid, cpu_s=0, rss=0, title="ract::work\0"):
        self.file(f"proc/{pid}/stat", f"{pid} (a) b) S 1 1 1 0 -1 0 0 0 0 0 {cpu_s * TICKS} 0 0\n")
        self.file(f"proc/{pid}/statm", f"9 {rss // PAGE} 0 1 0 1 0\n")
        self.file(f"proc/{pid}/cmdline", title)

    def network(self, received, sent):
        head = "Inter-| Receive | Transmit\n face |bytes packets|bytes packets\n"
        line = "{}: {} 1 0 0 0 0 0 0 {} 1 0 0 0 0 0 0\n"
        text = head + line.format("  lo", 10**9, 10**9) + line.format("eth0", received, sent)
        self.file("proc/net/dev", text)

    def group(self, quota_us, used_us):
        self.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        self.file("proc/self/cgroup", "0::/app\n")
        self.file("sys/fs/cgroup/app/cpu.max", f"{quota_us} 100000\n")
        self.file("sys/fs/cgroup/app/cpu.stat", f"usage_usec {used_us}\nuser_usec 1\n")
        self.file("sys/fs/cgroup/app/memory.max", f"{GIB}\n")
        self.file("sys/fs/cgroup/app/memory.current", f"{512 * MIB}\n")

    def statistics(self):
        gpus = Gpus(self.root)
        return Statistics(Settings(0.25, 0.95), str(self.root), self.root, gpus)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_cpu_is_what_was_used_since_the_sample_before(machine):
    node = machine.statistics()
    machine.cpu(busy_s=100, idle_s=100)
    assert node.sample([], 1.0)["cpu_percent"] == 0
    machine.cpu(busy_s=101, idle_s=103)
    assert node.sample([], 3.0)["cpu_percent"] == 25
    assert node.sample([], 3.0)["cpu_percent"] == 0


def test_limits_of_a_control_group_are_what_there_is(machine):
    machine.group(quota_us=200_000, used_us=0)
    node = machine.statistics()
    first = node.sample([], 10.0)
    machine.group(quota_us=200_000, used_us=1_000_000)
    second = node.sample([], 12.0)
    assert (first["cpu_percent"], second["cpu_percent"]) == (0, 25)
    assert second["cpu_count"] == min(2, len(os.sched_getaffinity(0)))
    assert second["memory_used_bytes"] == 512 * MIB
    assert second["memory_total_bytes"] == GIB


def test_without_a_group_it_is_the_machine(machine):
    found = machine.statistics().sample([], 1.0)
    assert found["memory_used_bytes"] == 2 * GIB
    assert found["memory_total_bytes"] == 8 * GIB
    assert 0 < found["disk_used_bytes"] < found["disk_total_bytes"]


def test_a_folder_that_is_not_there_yet_lies_on_the_disk_of_those_above_it(machine):
    node = Statistics(Settings(0.25, 0.95), str(machine.root / "not" / "yet"), machine.root)
    assert node.sample([], 1.0)["disk_total_bytes"] > 0


def test_network_is_a_rate_and_without_what_stays_on_the_machine(machine):
    node = machine.statistics()
    machine.network(1000, 5000)
    first = node.sample([], 1.0)
    assert first["network_received_bytes_per_s"] == first["network_sent_bytes_per_s"] == 0
    machine.network(3000, 5500)
    found = node.sample([], 3.0)
    assert found["network_received_bytes_per_s"] == 1000
    assert found["network_sent_bytes_per_s"] == 250


def test_executors_tell_what_they_use_and_run(machine):
    node = machine.statistics()
    watched = [
        Watched(1, 501, "task", state="LEASED"),
        Watched(2, 502, "actor", "Counter", "ACTOR"),
        Watched(3, 503, "driver", "train.py"),
    ]
    for pid in (501, 502, 503):
        machine.process(pid, cpu_s=10, rss=8 * MIB)
    first = node.sample(watched, 1.0)["executors"]
    assert [each["cpu_percent"] for each in first] == [0, 0, 0]
    machine.process(502, cpu_s=13, rss=16 * MIB)
    found = node.sample(watched, 3.0)["executors"]
    assert [each["name"] for each in found] == ["work", "Counter", "train.py"]
    assert [each["kind"] for each in found] == ["task", "actor", "driver"]
    assert [each["cpu_percent"] for each in found] == [0, 150, 0]
    assert [each["rss_bytes"] for each in found] == [8 * MIB, 16 * MIB, 8 * MIB]


def test_processes_that_are_gone_are_left_out(machine):
    node = machine.statistics()
    machine.process(501)
    found = node.sample([Watched(1, 501, "task"), Watched(2, 502, "task")], 1.0)["executors"]
    assert [each["pid"] for each in found] == [501]


def test_a_number_that_comes_back_begins_anew(machine):
    node = machine.statistics()
    machine.process(501, cpu_s=50)
    node.sample([Watched(1, 501, "task")], 1.0)
    machine.process(501, cpu_s=0)
    [found] = node.sample([Watched(1, 501, "task")], 2.0)["executors"]
    assert found["cpu_percent"] == 0


def test_every_process_of_a_real_machine_can_be_sampled():
    gpus = Gpus()
    node = Statistics(Settings(0.25, 0.95), "/tmp", gpus=gpus)
    node.sample([Watched(1, os.getpid(), "task")], 1.0)
    found = node.sample([Watched(1, os.getpid(), "task")], 2.0)
    assert 0 <= found["cpu_percent"] <= 100
    assert found["cpu_count"] >= 1
    assert 0 < found["memory_used_bytes"] < found["memory_total_bytes"]
    assert found["executors"][0]["rss_bytes"] > MIB
    assert found["daemon_rss_bytes"] > MIB
    assert found["disk_read_bytes_per_s"] >= 0 <= found["disk_write_bytes_per_s"]


def test_totals_know_from_where_bytes_came():
    totals = Totals()
    totals.pulled(b"\1" * 28, 100)
    totals.pulled(b"\1" * 28, 50)
    totals.pulled(b"\2" * 28, 7)
    assert totals.pulled_bytes == 157
    assert totals.received_from == {"01" * 28: 150, "02" * 28: 7}


# --------------------------------------------------------------------------- GPUs


class NVMLError(Exception):
    pass


def nvml(devices, refuses=()):
    """The part of pynvml that is used; a handle is the device's index."""

    def ask(what, handle, answer):
        if what in refuses:
            raise NVMLError(what)
        return answer(devices[handle])

    return types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: ask("init", 0, lambda d: None),
        nvmlDeviceGetCount=lambda: len(devices),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda h: devices[h][0],
        nvmlDeviceGetMemoryInfo=lambda h: ask(
            "memory", h, lambda d: types.SimpleNamespace(used=d[1], total=d[2])
        ),
        nvmlDeviceGetUtilizationRates=lambda h: ask(
            "rates", h, lambda d: types.SimpleNamespace(gpu=d[3])
        ),
    )


@pytest.fixture
def with_driver(machine):
    machine.file("dev/nvidiactl", "")
    return machine.root


def test_gpus_tell_use_and_memory(with_driver):
    gpus = Gpus(with_driver, nvml([(b"A", 1, 10, 55), ("B", 2, 20, 0)]))
    assert gpus.sample() == [
        {
            "index": 0,
            "name": "A",
            "utilization_percent": 55,
            "memory_used_bytes": 1,
            "memory_total_bytes": 10,
        },
        {
            "index": 1,
            "name": "B",
            "utilization_percent": 0,
            "memory_used_bytes": 2,
            "memory_total_bytes": 20,
        },
    ]


def test_a_gpu_in_parts_does_not_tell_its_use(with_driver):
    [found] = Gpus(with_driver, nvml([("A", 1, 10, 55)], refuses=("rates",))).sample()
    assert found["utilization_percent"] is None
    assert found["memory_used_bytes"] == 1


@pytest.mark.parametrize("what", ["init", "memory"])
def test_a_gpu_that_cannot_be_asked_is_left_out(with_driver, what):
    assert Gpus(with_driver, nvml([("A", 1, 10, 55)], refuses=(what,))).sample() == []


def test_without_a_driver_nothing_is_loaded(machine):
    assert Gpus(machine.root, nvml([("A", 1, 10, 55)])).sample() == []


# --------------------------------------------------------------------------- a real node


def test_a_node_tells_of_its_executors_and_store(ract_start):
    import numpy as np

    ract = ract_start
    from ract.testing import wait_for_condition

    @ract.remote(num_cpus=1)
    class Sleeper:
        def pid(self):
            return os.getpid()

    sleeper = Sleeper.remote()
    pid = ract.get(sleeper.pid.remote())
    kept = ract.put(np.zeros(4 * MIB, np.uint8))
    runtime = ract.util.testing._runtime()

    def node():
        [found] = runtime.link.request("store").values()
        return found

    wait_for_condition(
        lambda: (
            any(e["pid"] == pid for e in node().get("executors", ()))
            and node()["store_pinned"] >= 4 * MIB
        )
    )
    found = node()
    [actor] = [each for each in found["executors"] if each["pid"] == pid]
    assert (actor["kind"], actor["name"], actor["state"]) == ("actor", "Sleeper", "ACTOR")
    assert actor["rss_bytes"] > MIB
    [driver] = [each for each in found["executors"] if each["kind"] == "driver"]
    assert driver["pid"] == os.getpid()
    assert found["executors_forked_total"] >= 1
    assert found["oom_kills_total"] == found["pulls_total"] == 0
    assert found["store_pinned"] <= found["store_used"] <= found["store_capacity"]
    del kept


def test_what_is_pinned_is_what_cannot_be_given_up():
    from ract.worker.node.store import StoreIndex

    store = StoreIndex(64 * MIB)
    mine, *_ = store.allocate(7, 4 * MIB)
    store.seal(b"a", mine.id, 0, 4 * MIB)
    store.close(mine.id)
    copy, *_ = store.allocate(0, 2 * MIB)
    store.seal(b"b", copy.id, 0, 2 * MIB, is_copy=True)
    store.close(copy.id)
    assert store.used_bytes == 6 * MIB
    assert store.pinned_bytes == 4 * MIB
    store.free(b"a")
    assert store.pinned_bytes == 0


def test_idle_executors_are_idle_whatever_they_did_before():
    executor = types.SimpleNamespace(process=5, pid=9, work=None, state="IDLE", exited=None)
    machine = types.SimpleNamespace(executors={5: executor}, drivers={})
    assert statistics.watched(machine) == [Watched(5, 9, "idle", "", "IDLE")]
