"""`ract.testing` on an embedded cluster."""

import gc
import os
import re
import time
import weakref

import numpy as np
import psutil
import pytest

import ract
from ract import testing
from ract.exceptions import ObjectFreedError

BIG = 200_000


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def echo(x):
    return x


@ract.remote
def wait_for(signal, *others):
    ract.get(signal.wait.remote())
    return len(others)


def test_signal_opens_for_all_who_wait():
    signal = testing.SignalActor.remote()
    refs = [wait_for.remote(signal) for _ in range(3)]
    testing.wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 3)
    assert ract.wait(refs, timeout=0)[0] == []
    ract.get(signal.send.remote())
    assert ract.get(refs) == [0, 0, 0]
    assert ract.get(wait_for.remote(signal)) == 0
    assert ract.get(signal.wait.remote(should_wait=False)) is None


def test_signal_can_close_behind_those_who_wait():
    signal = testing.SignalActor.remote()
    first = signal.wait.remote()
    testing.wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)
    ract.get(signal.send.remote(clear=True))
    ract.get(first)
    assert ract.wait([signal.wait.remote()], timeout=0.05)[0] == []


def test_semaphore():
    semaphore = testing.Semaphore.remote(2)
    ract.get([semaphore.acquire.remote(), semaphore.acquire.remote()])
    assert ract.get(semaphore.locked.remote())
    third = semaphore.acquire.remote()
    assert ract.wait([third], timeout=0.05)[0] == []
    ract.get(semaphore.release.remote())
    ract.get(third)


def test_wait_for_condition_says_what_did_not_happen():
    def never(x):
        raise KeyError(x)

    with pytest.raises(RuntimeError, match="never was not true within 0 s: KeyError: 3") as caught:
        testing.wait_for_condition(never, timeout=0, x=3)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(KeyError):
        testing.wait_for_condition(never, raise_exceptions=True, x=3)


def test_reference_counts_of_variables_and_submitted_calls():
    signal = testing.SignalActor.remote()
    small, big = ract.put(1), ract.put(np.zeros(BIG))
    ids = [small.hex(), big.hex()]
    one = {"local": 1, "submitted": 0}
    counts = testing.reference_counts()
    assert [counts[i] for i in ids] == [one, one]
    call = wait_for.remote(signal, big, [small])
    counts = testing.reference_counts()
    assert [counts[i] for i in ids] == [{"local": 1, "submitted": 1}] * 2
    del small, big
    counts = testing.reference_counts()
    assert [counts[i] for i in ids] == [{"local": 0, "submitted": 1}] * 2
    assert counts[call.hex()] == one
    ract.get(signal.send.remote())
    assert ract.get(call) == 2
    counts = testing.reference_counts()
    assert not set(ids) & set(counts)


def test_reference_counts_of_calls_of_a_late_argument():
    signal = testing.SignalActor.remote()
    late = wait_for.remote(signal)
    follow = echo.remote(late)
    id = late.hex()
    assert testing.reference_counts()[id] == {"local": 1, "submitted": 1}
    del late
    assert testing.reference_counts()[id] == {"local": 0, "submitted": 1}
    ract.get(signal.send.remote())
    assert ract.get(follow) == 0
    assert id not in testing.reference_counts()


@pytest.mark.parametrize("value", [1, [1], np.zeros(BIG)], ids=["plain", "inline", "stored"])
def test_freed_objects_are_gone_though_refs_remain(value):
    ref = ract.put(value)
    assert testing.object_exists(ref)
    testing.free(ref)
    with pytest.raises(ObjectFreedError, match=ref.hex()):
        ract.get(ref)
    assert not testing.object_exists(ref)
    with pytest.raises(ObjectFreedError):
        ract.get(echo.remote(ref))


def test_freed_objects_are_gone_for_other_processes_too():
    ref = ract.put(np.zeros(BIG))
    inner = ract.get(echo.remote([ref]))[0]
    testing.free([inner])

    @ract.remote
    def read(refs):
        return ract.get(refs[0]).sum()

    with pytest.raises(ObjectFreedError):
        ract.get(read.remote([ref]))


def test_object_that_is_not_ready_does_not_exist_and_is_not_freed():
    signal = testing.SignalActor.remote()
    ref = wait_for.remote(signal)
    assert not testing.object_exists(ref)
    testing.free([ref])
    ract.get(signal.send.remote())
    assert ract.get(ref) == 0
    assert testing.object_exists(ref)
    with pytest.raises(TypeError, match="str"):
        testing.free(["x"])


def test_memory_summary_counts_stored_objects():
    ref = ract.put(np.zeros(BIG))
    testing.wait_for_condition(lambda: ref.hex() in testing.memory_summary())
    text = testing.memory_summary(group_by="STACK_TRACE", num_entries=1)
    assert text.startswith("Grouping by stack trace...")
    assert "Mem Used by Objects  Local References  Pinned" in text
    (line,) = [line for line in testing.memory_summary().splitlines() if ref.hex() in line]
    cells = [cell.strip() for cell in line.split("|")]
    assert (cells[1], cells[2], cells[7]) == (str(os.getpid()), "Driver", "LOCAL_REFERENCE")
    short = testing.memory_summary(stats_only=True)
    assert re.search(r"Plasma memory usage \d+ MiB, \d+ objects, [\d.]+% full, .*% needed", short)
    assert ref.hex() not in short
    with pytest.raises(ValueError, match=r"units='KiB' is not one of"):
        testing.memory_summary(units="KiB")


def test_session_dir_and_processes():
    folder = testing.session_dir()
    assert os.path.exists(os.path.join(folder, "node.sock"))
    assert testing.all_processes_alive()


def test_printed_lines_are_messages():
    @ract.remote
    def say():
        print("hello from a task")

    ract.get(say.remote())
    testing.wait_for_condition(
        lambda: any("hello from a task" in m["lines"] for m in testing.log_messages())
    )


def test_a_demand_that_nothing_satisfies_is_a_message():
    @ract.remote(resources={"Unobtainium": 1})
    def never():
        pass

    ref = never.remote()
    testing.wait_for_condition(
        lambda: any("Unobtainium" in m["message"] for m in testing.error_messages())
    )
    assert "Unobtainium" in ract.explain(ref)
    ract.cancel(ref)


def test_a_cancelled_demand_is_not_asked_for_any_more():
    from ract.client.runtime import current_runtime

    def waiting():
        demands = current_runtime().link.request("status")["pending_demands"]
        return [name for demand in demands for name in demand["names"] if "unwanted" in name]

    @ract.remote(resources={"Nowhere": 1})
    def unwanted():
        pass

    ref = unwanted.remote()
    testing.wait_for_condition(lambda: len(waiting()) == 1)
    ract.cancel(ref)
    testing.wait_for_condition(lambda: not waiting())


def test_kill_node_knows_the_nodes_of_this_machine():
    with pytest.raises(ValueError, match="no node 00"):
        testing.kill_node("00" * 28)


def test_kill_node_kills_this_node_without_goodbye():
    ract.shutdown()
    with pytest.raises(RuntimeError, match="call ract"):
        testing.session_dir()
    before = {child.pid for child in psutil.Process().children()}
    ract.init(num_cpus=1)
    node = ract.nodes()[0]
    testing.kill_node(node["NodeID"])
    testing.wait_for_condition(lambda: not testing.all_processes_alive())
    ract.shutdown()
    alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    assert {child.pid for child in alive} <= before
    ract.init(num_cpus=2)
    assert time.time() > 0


@ract.remote
class Idle:
    def wait_for(self, signal):
        ract.get(signal.wait.remote())

    def nothing(self):
        pass


@ract.remote
class Litters:
    def litter(self):
        gc.disable()
        cycle = Cycle()
        cycle.me = cycle
        self.watched = weakref.ref(cycle)

    def is_there(self):
        return self.watched() is not None


class Cycle:
    pass


def test_garbage_is_collected_in_all_executors():
    litters = [Litters.remote() for _ in range(2)]
    ract.get([each.litter.remote() for each in litters])
    assert ract.get([each.is_there.remote() for each in litters]) == [True, True]
    testing.collect_garbage()
    testing.wait_for_condition(
        lambda: not any(ract.get([each.is_there.remote() for each in litters]))
    )


def is_told_of(type):
    testing.wait_for_condition(lambda: any(m["type"] == type for m in testing.error_messages()))
    return True


def test_a_crash_is_pushed_to_the_driver():
    with pytest.raises(ract.exceptions.WorkerCrashedError):
        ract.get(ract.remote(max_retries=0)(os._exit).remote(1))
    assert is_told_of("worker_died")


def test_too_many_waiting_calls_of_an_actor_are_pushed_to_the_driver(monkeypatch):
    monkeypatch.setattr("ract.client.actors.client.EXCESS_CALLS", 10)
    signal, idle = testing.SignalActor.remote(), Idle.remote()
    refs = [idle.wait_for.remote(signal), *(idle.nothing.remote() for _ in range(11))]
    assert is_told_of("excess_queueing_warning")
    ract.get(signal.send.remote())
    ract.get(refs)


def test_a_detached_actor_in_a_random_namespace_is_warned_of():
    actor = Idle.options(lifetime="detached").remote()
    assert is_told_of("detached_actor_anonymous_namespace")
    ract.kill(actor)
