"""Refs of unfinished calls outlive the wish of their submitter to end."""

import os

import psutil
import pytest

import ract
from ract.exceptions import RactError
from ract.testing import SignalActor, wait_for_condition
from ract.util.state import list_workers


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote(num_cpus=1)
def inner(gate, value):
    ract.get(gate.wait.remote())
    return value


@ract.remote(num_cpus=1, max_calls=1)
def once(gate, value):
    return os.getpid(), [inner.remote(gate, value)]


@ract.remote
def late(opened, value):
    return value


@ract.remote(num_cpus=0)
def idle(gate, value):
    ract.get(gate.wait.remote())
    # It waits for an argument: no other process of these is busy with it.
    return os.getpid(), [late.remote(gate.wait.remote(), value)] if value else []


@ract.remote(num_cpus=0)
class Actor:
    def start(self, gate, value):
        return os.getpid(), [inner.remote(gate, value)]

    def start_for_itself(self, gate):
        self.kept = inner.remote(gate, 0)
        return os.getpid()

    def leave(self):
        ract.actor.exit_actor()


def is_gone(pid):
    return not psutil.pid_exists(pid)


def is_leaving(pid):
    rows = list_workers(filters=[("pid", "=", pid)])
    return any("leaving" in (row.exit_detail or "") for row in rows)


def test_a_process_that_has_run_as_often_as_it_may_stays_for_its_calls():
    gate = SignalActor.remote()
    pid, [ref] = ract.get(once.remote(gate, 1))
    wait_for_condition(lambda: is_leaving(pid))
    assert "runs nothing else any more" in str(ract.explain(ref))
    gate.send.remote()
    assert ract.get(ref, timeout=60) == 1
    wait_for_condition(lambda: is_gone(pid))


def test_it_does_not_keep_the_cpu_that_its_call_needs():
    gate = SignalActor.remote()
    started = ract.get([once.remote(gate, n) for n in range(4)])  # with two CPUs
    gate.send.remote()
    assert ract.get([ref for _, [ref] in started], timeout=60) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["exit_actor", "handles"])
def test_an_actor_that_is_over_stays_for_calls_that_others_wait_for(how):
    gate = SignalActor.remote()
    actor = Actor.remote()
    pid, [ref] = ract.get(actor.start.remote(gate, 2))
    if how == "exit_actor":
        with pytest.raises(RactError):
            ract.get(actor.leave.remote())
    else:
        del actor
    wait_for_condition(lambda: is_leaving(pid))
    gate.send.remote()
    assert ract.get(ref, timeout=60) == 2
    wait_for_condition(lambda: is_gone(pid))


def test_an_actor_does_not_stay_for_calls_that_only_it_knows_of():
    gate = SignalActor.remote()
    actor = Actor.remote()
    pid = ract.get(actor.start_for_itself.remote(gate))
    del actor
    wait_for_condition(lambda: is_gone(pid))


def test_an_actor_does_not_stay_for_refs_that_nobody_holds_any_more():
    gate = SignalActor.remote()
    actor = Actor.remote()
    pid, [ref] = ract.get(actor.start.remote(gate, 2))
    del actor
    wait_for_condition(lambda: is_leaving(pid))
    del ref
    wait_for_condition(lambda: is_gone(pid))


def test_a_killed_actor_does_not_stay():
    gate = SignalActor.remote()
    actor = Actor.remote()
    pid, [ref] = ract.get(actor.start.remote(gate, 2))
    ract.kill(actor)
    with pytest.raises(RactError):
        ract.get(ref, timeout=60)
    wait_for_condition(lambda: is_gone(pid))


def test_idle_processes_stay_for_their_calls():
    gate = SignalActor.remote()
    refs = [idle.remote(gate, n) for n in range(6)]  # six processes, four beyond the CPUs
    wait_for_condition(lambda: ract.get(gate.cur_num_waiters.remote()) == 6, timeout=30)
    gate.send.remote(clear=True)
    (debtless, _), *started = ract.get(refs)
    pids = {pid for pid, _ in started}
    assert len(pids) == 5
    # When the one that owes nothing has gone, others have been asked to.
    wait_for_condition(lambda: is_gone(debtless), timeout=30)
    gate.send.remote()
    assert ract.get([ref for _, [ref] in started], timeout=60) == [1, 2, 3, 4, 5]
    wait_for_condition(lambda: sum(psutil.pid_exists(pid) for pid in pids) <= 2, timeout=30)
