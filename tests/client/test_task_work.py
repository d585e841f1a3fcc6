"""What becomes of the calls of one shape (pure): events in, what to do out."""

from dataclasses import dataclass

import pytest

from ract.client.tasks.leases import Lease
from ract.client.tasks.work import CANCELLED, CAUSE_TIMEOUT_S, DIED, Patience, Work
from ract.core.messages import ExitCause


@dataclass(eq=False)
class Call:
    number: int
    retries: int = 0
    priority: int = 0
    target: str = "f"
    cancelled: bool = False
    channel: object = None
    oom_deaths: int = 0
    attempt: int = 0

    def more(self):
        return self


class Scene:
    """A machine, and what it has asked for."""

    def __init__(self):
        self.patience = Patience()
        self.work = Work(lambda: self.patience)
        self.now = 0.0
        self.released = []

    def does(self, todo):
        for lease in todo.release if todo is not None else ():
            self.released.append(lease.id)
        return todo

    def lease(self, number=1):
        return self.does(self.work.granted(Lease(number, 100 + number), self.now))

    def run(self, *calls):
        """Have calls sent to executor 101."""
        self.work.leases.finished("f")
        for call in calls:
            self.does(self.work.submitted(call, self.now))
        self.lease()
        assert not self.work.leases.queue
        for call in calls:
            call.channel = "way"


def numbers(calls):
    return [call.number for call in calls]


def pushed(todo):
    return [(lease.executor, call.number) for lease, call in todo.pushes]


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.work.check()


def test_of_the_calls_of_a_dead_executor_those_not_begun_run_again_at_no_cost(scene):
    calls = [Call(1), Call(2, retries=1), Call(3), Call(4)]
    for call in calls[:3]:
        call.retries = 0
    scene.work.granted(Lease(1, 101), 0.0)
    for call in calls:
        call.channel = "way"
    todo = scene.work.broken(101, calls, 1.0)
    assert todo.failed == []  # nobody has said why
    assert numbers(scene.work.parked) == [1, 2, 3, 4]
    cause = ExitCause("crashed", task=2)
    todo = scene.work.lost(1, cause, is_open=False, now=2.0)
    assert todo.lost == [(101, calls)]
    assert [(call.number, reason) for call, reason, _ in todo.failed] == [(1, DIED), (2, DIED)]
    assert numbers(scene.work.leases.queue) == [3, 4]
    assert all(call.channel is None for call in calls)


def test_a_call_with_retries_runs_again_and_knows_its_attempt(scene):
    call = Call(1, retries=2)
    scene.run(call)
    todo = scene.work.lost(1, ExitCause("crashed"), is_open=True, now=1.0)
    assert todo.abort == [101]
    todo = scene.work.broken(101, [call], 1.1)
    assert todo.ended == [(call, 0, 101, ExitCause("crashed"))]
    assert (call.retries, call.attempt) == (1, 1)
    assert numbers(scene.work.leases.queue) == [1]


def test_a_retry_may_have_to_wait(scene):
    scene.patience = Patience(retry_delay_s=3.0)
    call = Call(1, retries=-1)
    scene.run(call)
    scene.work.broken(101, [call], 1.0)
    scene.work.lost(1, ExitCause("crashed"), is_open=False, now=1.0)
    assert scene.work.is_active
    assert numbers(scene.work.waiting) == [1]
    scene.work.tick(3.9)
    assert not scene.work.leases.queue
    assert scene.work.tick(4.0).backlog == 1
    assert call.retries == -1


def test_a_lack_of_memory_costs_no_retries_and_waits_longer_each_time(scene):
    scene.patience = Patience(oom_delay_s=1.0, oom_retries=2)
    call, now = Call(1, retries=1), 0.0
    cause = ExitCause("out_of_memory")
    for delay_s in (1.0, 2.0):
        scene.now = now
        scene.run(call) if now == 0.0 else scene.lease()
        scene.work.broken(101, [call], now)
        scene.work.lost(1, cause, is_open=False, now=now)
        scene.work.tick(now + delay_s - 0.01)
        assert not scene.work.leases.queue
        now += delay_s
        scene.work.tick(now)
        assert numbers(scene.work.leases.queue) == [1]
    assert call.retries == 1
    scene.now = now
    scene.lease()
    scene.work.broken(101, [call], now)
    todo = scene.work.lost(1, cause, is_open=False, now=now)
    assert todo.failed == [(call, DIED, cause)]


def test_a_broken_way_to_an_executor_that_lives_does_not_keep_its_lease(scene):
    kept, unlucky = Call(1, retries=1), Call(2)
    scene.run(kept)
    scene.does(scene.work.broken(101, [kept, unlucky], 1.0))
    scene.does(scene.work.tick(1.0 + CAUSE_TIMEOUT_S))
    assert scene.released == []
    todo = scene.does(scene.work.tick(1.1 + CAUSE_TIMEOUT_S))
    assert scene.released == [1]
    assert [(call.number, reason) for call, reason, _ in todo.failed] == [(2, DIED)]
    assert numbers(scene.work.leases.queue) == [1]
    assert scene.work.lost(1, ExitCause("crashed"), is_open=False, now=9.0).lost == []


def test_an_executor_that_cannot_be_reached_gives_its_lease_back_and_gets_nothing(scene):
    scene.work.submitted(Call(1), 0.0)
    scene.work.out_of_reach(Lease(1, 101), 0.0)
    assert scene.work.tick(1.0).pushes == []
    scene.does(scene.work.tick(CAUSE_TIMEOUT_S + 0.1))
    assert scene.released == [1]
    assert pushed(scene.lease(2)) == [(102, 1)]


def test_what_comes_back_keeps_its_order_and_does_not_count_as_finished(scene):
    calls = [Call(n, target="g") for n in (1, 2, 3)]
    scene.work.granted(Lease(1, 101), 0.0)
    scene.work.blocked(101, True, 3, 0.0)
    for call in calls:
        call.channel = "way"
        scene.work.returned(101, call)
    assert numbers(scene.work.waiting) == [1, 2, 3]
    todo = scene.work.replied(101, 0, 3, calls[-1], 0.0, 0.0)
    assert todo.pushes == []
    assert numbers(scene.work.leases.queue) == [1, 2, 3]
    assert pushed(scene.lease(2)) == [(102, 1)]  # one: nothing of that function has finished


def test_a_call_is_cancelled_wherever_it_waits(scene):
    queued, late = Call(1), Call(2)
    scene.work.submitted(queued, 0.0)
    scene.work.came_late(late)
    for call in (queued, late):
        call.cancelled = True
        assert scene.work.cancelled(call).failed == [(call, CANCELLED, None)]
    assert scene.work.waiting == []
    scene.work.tick(1.0)
    assert scene.work.is_idle


def test_a_cancelled_call_of_a_dead_executor_is_not_run_again(scene):
    call = Call(1, retries=5)
    scene.run(call)
    scene.work.broken(101, [call], 0.0)
    call.cancelled = True
    todo = scene.work.lost(1, ExitCause("crashed"), is_open=False, now=0.0)
    assert todo.failed == [(call, CANCELLED, None)]


def test_calls_of_a_shape_that_nobody_can_run_come_back(scene):
    scene.work.submitted(Call(1), 0.0)
    assert numbers(scene.work.refused()) == [1]
    assert not scene.work.is_active
