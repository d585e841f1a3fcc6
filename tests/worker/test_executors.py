"""How executors leave, on the node machine: who is asked, who stays, who hears of it."""

from __future__ import annotations

import random

import pytest

from ract.core import messages as m
from ract.core.messages import ExitCause
from ract.worker.node import events as ev
from ract.worker.node.executors import ENDING, IDLE, LEAVING
from ract.worker.node.machine import Config, NodeMachine

GB = 10**9
JOB = b"job0"
ACTOR_ID = b"x" * 16


class Node:
    """A node on which a driver has tasks and actors run."""

    def __init__(self, cpus=0):
        config = Config(b"h" * 28, "/s", "/s/m", cpus, GB, prestart=False)
        self.machine = NodeMachine(config, random.Random(0))
        self.now = 1.0
        self.do(m.NodeAccepted(b"h" * 28, b"c" * 28, 1, 4096))

    def do(self, event):
        commands = self.machine.handle(event, self.now)
        self.machine.check()
        return commands

    def says(self, process, message):
        """What the scheduler hears after an executor said something."""
        return told(self.do(ev.FromProcess(process, message)))

    def start(self, work):
        [fork] = [c for c in self.do(work) if isinstance(c, ev.Fork)]
        pid = 1000 + fork.process
        self.do(ev.ExecutorForked(fork.process, pid))
        self.do(ev.Connected(fork.process, m.Hello("executor", pid, fork.process)))
        return fork.process

    def task(self, lease):
        return self.start(m.StartLease(lease, m.Shape({}, JOB), 100))

    def actor(self):
        spec = m.ActorSpec(ACTOR_ID, JOB, 100, "Counter", m.Blob(b""), [], {}, {})
        return self.start(m.StartActor(spec, 1))

    def idle(self, *leases):
        """As many executors as leases, which are over; in order."""
        processes = [self.task(lease) for lease in leases]
        for lease in leases:
            self.do(m.EndLease(lease, False, ExitCause("idle")))
        return processes

    def wait(self, seconds):
        """The processes that are asked to end by ticks meanwhile."""
        until, asked, ticks = self.now + seconds, [], 0
        while (at := self.machine.next_deadline()) is not None and at <= until:
            ticks += 1
            assert ticks < 100, "it would tick for ever"
            self.now = max(at, self.now)
            asked += [c.process for c in self.do(ev.Tick()) if is_request(c)]
        self.now = until
        return asked

    def state(self, process):
        return self.machine.executors[process].state


def is_request(command):
    return isinstance(command, ev.ToProcess) and isinstance(command.message, m.EndProcess)


def told(commands):
    return [c.message for c in commands if isinstance(c, ev.ToScheduler)]


def killed(commands):
    return [c.process for c in commands if isinstance(c, ev.Signal)]


@pytest.fixture
def node():
    return Node()


def test_idle_executors_beyond_the_cpus_are_asked_to_end():
    node = Node(cpus=1)
    first, second = node.idle(1, 2)
    assert node.wait(5.0) == [first]
    assert (node.state(first), node.state(second)) == (LEAVING, IDLE)


def test_who_owes_something_stays_and_is_asked_again(node):
    [process] = node.idle(1)
    assert node.wait(1.0) == [process]
    assert node.says(process, m.StillOwes(process)) == []
    assert node.state(process) == IDLE
    assert node.wait(0.9) == []
    assert node.wait(0.1) == [process]


def test_who_is_known_to_owe_is_asked_after_the_others():
    node = Node(cpus=1)
    owing, other = node.idle(1, 2)
    assert node.wait(1.0) == [owing]
    node.says(owing, m.StillOwes(owing))
    assert node.wait(1.0) == [other]


def test_an_executor_that_was_asked_gets_no_work(node):
    [process] = node.idle(1)
    node.wait(1.0)
    other = node.task(2)
    assert other != process


def test_one_that_declined_gets_work_again(node):
    [process] = node.idle(1)
    node.wait(1.0)
    node.says(process, m.StillOwes(process))
    commands = node.do(m.StartLease(2, m.Shape({}, JOB), 100))
    assert [started.executor for started in told(commands)] == [process]


def test_a_task_process_that_stays_for_its_calls_has_no_lease(node):
    process = node.task(1)
    node.says(process, m.EndProcess(process, ExitCause("max_calls")))
    [leaving] = node.says(process, m.ProcessLeaving(process, ExitCause("max_calls", task=7)))
    assert leaving.cause.kind == "max_calls"
    assert (leaving.cause.task, leaving.cause.pid, leaving.cause.exit_code) == (7, 1001, 0)
    assert node.machine.executors[process].work is None
    assert killed(node.do(m.EndLease(1, True, ExitCause("owner_died")))) == []


def test_an_actor_that_stays_for_its_calls_has_exited(node):
    process = node.actor()
    node.says(process, m.EndProcess(process, ExitCause("exited")))
    exited, leaving = node.says(process, m.ProcessLeaving(process, ExitCause("exited")))
    assert isinstance(exited, m.ActorExited)
    assert (exited.actor_id, exited.cause.kind) == (ACTOR_ID, "exited")
    assert isinstance(leaving, m.ProcessLeaving)


def test_the_end_of_an_actor_is_told_once(node):
    process = node.actor()
    node.says(process, m.EndProcess(process, ExitCause("exited")))
    node.says(process, m.ProcessLeaving(process, ExitCause("exited")))
    node.do(ev.ExecutorExited(process, 1000 + process, 0))
    [gone] = told(node.do(ev.Disconnected(process)))
    assert isinstance(gone, m.ProcessExited)
    assert gone.cause.kind == "exited"


def test_without_debts_the_end_is_told_at_the_exit(node):
    process = node.actor()
    assert node.says(process, m.EndProcess(process, ExitCause("exited"))) == []
    node.do(ev.ExecutorExited(process, 1000 + process, 0))
    kinds = [type(message) for message in told(node.do(ev.Disconnected(process)))]
    assert kinds == [m.ActorExited, m.ProcessExited]


def staying(node):
    process = node.task(1)
    node.says(process, m.EndProcess(process, ExitCause("max_calls")))
    node.says(process, m.ProcessLeaving(process, ExitCause("max_calls")))
    return process


def test_a_process_that_stays_ends_with_its_job(node):
    process = staying(node)
    assert killed(node.do(m.JobFinished(JOB, ExitCause("job_finished")))) == [process]
    assert node.state(process) == ENDING


def test_a_late_cancel_does_not_end_a_process_that_stays(node):
    process = staying(node)
    assert node.do(m.CancelWanted(100, process, 5, True, False)) == []
    assert node.state(process) == LEAVING


def test_an_actor_is_killed_at_once_while_it_leaves(node):
    process = node.actor()
    node.says(process, m.EndProcess(process, ExitCause("exited")))
    stop = m.StopActor(ACTOR_ID, 1, False, ExitCause("killed"))
    assert killed(node.do(stop)) == [process]
    assert node.says(process, m.ProcessLeaving(process, ExitCause("exited"))) == []


def test_memory_takes_a_process_that_stays_only_after_the_idle_ones(node):
    process = staying(node)
    [idle] = node.idle(2)
    held = {1000 + process: GB, 1000 + idle: GB}
    high = ev.MemoryHigh(node.now, 3 * GB, 3 * GB, 0.95, held, {})
    assert killed(node.do(high)) == [idle]


def test_a_process_that_stays_does_not_stop_the_watch_over_memory(node):
    staying(node)
    process = node.task(2)
    high = ev.MemoryHigh(node.now, 3 * GB, 3 * GB, 0.95, {1000 + process: GB}, {})
    assert killed(node.do(high)) == [process]


GONE = ExitCause("owner_died", "the process that submitted its tasks is gone")


def test_an_executor_that_worked_for_a_process_that_is_gone_is_asked_to_end_and_not_killed(node):
    process = node.task(1)
    [asked] = node.do(m.EndLease(1, True, GONE))
    assert asked.message.cause.kind == "idle"
    assert asked.message.gone == 100
    assert node.state(process) == LEAVING


def test_one_that_owes_others_something_goes_on_without_the_lease(node):
    process = node.task(1)
    node.do(m.EndLease(1, True, GONE))
    [over] = node.says(process, m.StillOwes(process))
    assert over.lease == 1
    assert node.state(process) == IDLE
    assert node.wait(10.0) != []  # it is asked again, for idleness


def test_one_that_does_not_stop_is_killed(node):
    process = node.task(1)
    node.do(m.EndLease(1, True, GONE))
    node.now += 4.9
    assert killed(node.do(ev.Tick())) == []
    node.now += 0.2
    assert killed(node.do(ev.Tick())) == [process]
    assert node.state(process) == ENDING


def test_an_actor_that_dies_after_it_was_asked_to_end_has_crashed():
    """It may die in a call, which callers must not take for one that has not begun."""
    node = Node()
    process = node.actor()
    node.do(m.StopActor(ACTOR_ID, 1, True, ExitCause("drained")))
    node.says(process, m.EndProcess(process, ExitCause("drained")))
    node.do(ev.ExecutorExited(process, 1000 + process, 9))
    [exited] = [
        each for each in told(node.do(ev.Disconnected(process))) if type(each) is m.ActorExited
    ]
    assert exited.cause.kind == "crashed"
