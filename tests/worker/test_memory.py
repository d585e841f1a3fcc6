"""Whose process ends when a node runs out of memory (the pure policy, and the node machine)."""

from __future__ import annotations

import random

import pytest

from ract.core import messages as m
from ract.worker.node import events as ev
from ract.worker.node.machine import Config, NodeMachine
from ract.worker.node.memory import Candidate, Consumer, Victim, choose, explain

GB = 10**9
ADA, BOB = 100, 200


def task(process, owner=ADA, since=None, held=GB, **more):
    return Candidate(process, owner, process if since is None else since, held, **more)


def chosen(*candidates):
    return choose(candidates, 10 * GB)


def test_without_executors_nobody_is_chosen():
    assert chosen() is None


def test_the_newest_task_of_a_caller_goes_first():
    assert chosen(task(1), task(3), task(2)) == Victim(3)


def test_the_caller_with_most_tasks_loses_one():
    assert chosen(task(1), task(2), task(3, BOB)) == Victim(2)


def test_of_two_callers_with_as_many_the_later_one_loses():
    assert chosen(task(1), task(4), task(2, BOB), task(3, BOB)) == Victim(3)


def test_work_that_runs_again_goes_before_work_that_does_not():
    assert chosen(task(1), task(2), task(3, is_retriable=False)) == Victim(2)
    assert chosen(task(1, is_actor=True), task(2, is_retriable=False)) == Victim(1)


def test_tasks_go_before_actors():
    assert chosen(task(1), task(2), task(3, is_actor=True)) == Victim(2)
    lasting = task(2, is_actor=True, is_retriable=False)
    assert chosen(task(1, is_retriable=False), lasting) == Victim(1, is_final=True)


def test_the_only_task_of_its_caller_does_not_run_again():
    assert chosen(task(1), task(2, BOB)) == Victim(2, is_final=True)


def test_a_restartable_actor_is_never_final():
    assert chosen(task(1, is_actor=True)) == Victim(1)


def test_who_holds_next_to_nothing_is_passed_over():
    small = GB // 100
    assert chosen(task(1), task(2, held=small), task(3, BOB, held=small)) == Victim(1)


def test_small_fellows_still_count_as_the_callers_tasks():
    assert chosen(task(1), task(2, held=0)) == Victim(1)
    assert chosen(task(1), task(2, BOB, held=0)) == Victim(1, is_final=True)


def test_if_all_are_small_one_of_them_goes():
    assert chosen(task(1, held=1), task(2, held=1)) == Victim(2)


def test_a_large_executor_without_work_goes_before_all_others():
    assert chosen(task(1), task(2, owner=0), task(3, owner=0, held=2 * GB)) == Victim(3)


def test_a_small_executor_without_work_is_left_alone():
    assert chosen(task(1), task(2), task(3, owner=0, held=1)) == Victim(2)
    assert chosen(task(3, owner=0, held=1)) is None


@pytest.mark.parametrize("part", ["950 of 1000 MB", "95%", "400 MB", "500 MB", "f (pid 7) 400 MB"])
def test_the_explanation_has_the_figures(part):
    consumers = [Consumer(7, "f", 400 * 10**6)]
    assert part in explain(950 * 10**6, GB, 0.95, 400 * 10**6, 500 * 10**6, consumers)


# --------------------------------------------------------------------------- the node machine


class Node:
    """A node with executors, on which a driver has tasks and actors run."""

    def __init__(self) -> None:
        config = Config(b"h" * 28, "/s", "/s/m", 0, GB, prestart=False)
        self.machine = NodeMachine(config, random.Random(0))
        self.now = 1.0
        self.held: dict[int, int] = {}
        self.do(m.NodeAccepted(b"h" * 28, b"c" * 28, 1, 4096))

    def do(self, event):
        commands = self.machine.handle(event, self.now)
        self.machine.check()
        return commands

    def run(self, lease, requester=ADA, held=GB, **shape):
        """Start a task; returns the process number."""
        self.now += 1.0
        start = m.StartLease(lease, m.Shape({}, b"job0", **shape), requester)
        [fork] = [c for c in self.do(start) if isinstance(c, ev.Fork)]
        pid = 1000 + fork.process
        self.do(ev.ExecutorForked(fork.process, pid))
        self.do(ev.Connected(fork.process, m.Hello("executor", pid, fork.process)))
        self.held[pid] = held
        return fork.process

    def high(self, at=None):
        """Memory is short; returns the processes that are killed."""
        at = self.now if at is None else at
        peaks = {pid: 2 * held for pid, held in self.held.items()}
        consumers = (Consumer(77, "hog", 3 * GB),)
        event = ev.MemoryHigh(at, 9 * GB, 9 * GB, 0.95, self.held, peaks, consumers)
        return [c.process for c in self.do(event) if isinstance(c, ev.Signal)]

    def gone(self, process):
        """The process has ended; returns the cause that the scheduler hears."""
        self.now += 1.0
        commands = self.do(ev.ExecutorExited(process, 1000 + process, 9))
        commands += self.do(ev.Disconnected(process))
        del self.held[1000 + process]
        messages = [c.message for c in commands if isinstance(c, ev.ToScheduler)]
        return next(each.cause for each in messages if isinstance(each, m.ProcessExited))


@pytest.fixture
def node():
    return Node()


def test_the_victims_end_is_told_with_figures(node):
    node.run(1)
    victim = node.run(2)
    assert node.high() == [victim]
    cause = node.gone(victim)
    assert (cause.kind, cause.is_final) == ("out_of_memory", False)
    for figure in ("9000 of 9000 MB", "1000 MB", "2000 MB", "hog (pid 77) 3000 MB"):
        assert figure in cause.detail


def test_nobody_else_ends_before_the_first_is_gone_and_memory_is_measured_again(node):
    first, second = node.run(1), node.run(2)
    assert node.high() == [second]
    assert node.high() == []
    measured_at = node.now
    node.gone(second)
    assert node.high(measured_at) == []
    node.now += 1.0
    assert node.high() == [first]
    assert node.gone(first).is_final


def test_the_node_knows_which_tasks_run_again(node):
    again = node.run(1)
    for lease in (2, 3):
        node.run(lease, is_retriable=False)
    assert node.high() == [again]


def test_the_node_knows_whose_tasks_they_are(node):
    node.run(1)
    newest = node.run(2)
    node.run(3, BOB)
    assert node.high() == [newest]


def test_an_executor_that_nobody_measured_is_left_alone(node):
    node.run(1)
    node.held.clear()
    assert node.high() == []
