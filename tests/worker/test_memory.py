"""Whose process ends when a node runs out of memory (the pure policy, and the node machine)."""

from __future__ import annotations

import pytest

from ract.worker.memory import Candidate, Consumer, Victim, choose, explain

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
