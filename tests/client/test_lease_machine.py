"""Which task goes to which leased executor (pure)."""

from dataclasses import dataclass

import pytest

from ract.client.tasks.leases import IDLE_S, Lease, LeaseMachine


@dataclass(eq=False)
class Call:
    name: str
    priority: int = 0
    target: str = "f"
    cancelled: bool = False


@pytest.fixture
def machine():
    return LeaseMachine()


def waiting(machine):
    return [call.name for call in machine.queue]


def test_a_higher_priority_waits_in_front_and_equals_in_order(machine):
    for name, priority in [("a", 0), ("b", 0), ("high", 1), ("low", -1), ("c", 0)]:
        machine.submit(Call(name, priority), 0.0)
    assert waiting(machine) == ["high", "a", "b", "c", "low"]


def test_what_comes_back_goes_before_its_equals_in_its_order(machine):
    for name in "abc":
        machine.submit(Call(name), 0.0)
    machine.resubmit([Call("x"), Call("y")], 0.0)
    assert waiting(machine) == ["x", "y", "a", "b", "c"]


def test_what_comes_back_keeps_its_priority_though_no_other_has_one(machine):
    machine.submit(Call("a"), 0.0)
    machine.resubmit([Call("low", -1), Call("high", 1)], 0.0)
    assert waiting(machine) == ["high", "a", "low"]
    machine.submit(Call("b"), 0.0)
    assert waiting(machine) == ["high", "a", "b", "low"]


def test_idle_leases_are_given_back_at_once_on_request_and_nothing_more_is_wanted(machine):
    call = Call("a")
    assert machine.submit(call, 0.0).backlog == 1
    lease = Lease(1, 7)
    assert [each for _, each in machine.granted(lease, 0.0).pushes] == [call]
    machine.announced = 1  # the scheduler is about to grant another one
    busy = machine.release_idle(0.0)
    assert (busy.release, busy.backlog) == ([], 0)
    machine.replied(lease, 0, 1, 0.001, 0.0)
    assert machine.release_idle(IDLE_S / 10).release == [lease]
    assert not machine.is_active


def test_spread_tasks_get_a_lease_each_and_leave_the_rest_to_others():
    machine = LeaseMachine(spreads=True)
    for name in "abc":
        machine.submit(Call(name), 0.0)
    machine.tick(1.0)
    assert machine.announced == 3
    first = Lease(1, 101)
    todo = machine.granted(first, 1.0)
    assert [call.name for _, call in todo.pushes] == ["a"]
    todo = machine.replied(first, 0, 1, 0.1, 1.1)
    assert (todo.pushes, todo.release) == ([], [first])
    assert machine.granted(Lease(2, 102), 1.2).pushes[0][1].name == "b"


def test_scheduler_hears_when_something_more_urgent_waits(machine):
    for _ in range(4):
        machine.submit(Call("a"), 0.0)
    machine.tick(1.0)
    todo = machine.submit(Call("b", priority=3), 1.0)
    machine.tick(1.0)
    assert machine.priority == 3
    for _ in range(20):
        todo = machine.submit(Call("c", priority=4), 1.0) or todo
    assert todo.backlog is not None


def test_a_call_behind_a_long_one_wants_another_lease_and_goes_there():
    machine = LeaseMachine()
    first = Lease(1, 101)
    machine.submit(Call("quick"), 0.0)
    machine.granted(first, 0.0)
    machine.finished("f")
    machine.replied(first, 0, 1, 1e-5, 0.1)
    machine.submit(Call("long"), 0.2)
    assert first.inflight == 1
    machine.blocked(first, True, 0.3)
    first.inflight = 1
    todo = machine.resubmit([Call("behind")], 0.3)
    assert (todo.pushes, todo.backlog) == ([], 1)
    second = Lease(2, 102)
    assert [each.name for _, each in machine.granted(second, 0.4).pushes] == ["behind"]
