"""The calls of one process that wait for one actor (pure): events in, what to do out."""

from dataclasses import dataclass, field

import pytest

from ract.client.actors.line import (
    ALIVE,
    CANCELLED,
    CONNECT_PERIOD_S,
    CONNECT_PERIOD_S_MAX,
    DEAD,
    DEATH,
    RESTARTING,
    UNAVAILABLE,
    WORD_TIMEOUT_S,
    Line,
    Place,
)
from ract.core.messages import ExitCause


@dataclass(eq=False)
class Call:
    number: int
    retries: int = 0
    waiting: int = 0
    cancelled: bool = False
    attempt: int = 0
    channel: object = None

    def more(self):
        return self


@dataclass(eq=False)
class Way:
    executor: int
    inflight: dict = field(default_factory=dict)
    is_closed: bool = False


def place(incarnation=1):
    return Place(incarnation, 100 + incarnation, b"n", f"address {incarnation}")


def alive(line, incarnation=1, now=0.0):
    """Have the actor alive and connected; returns the way and what was to be done."""
    todo = line.changed(ALIVE, place(incarnation), None, now)
    assert todo.connect == place(incarnation)
    way = Way(100 + incarnation)
    todo = line.connected(way, place(incarnation))
    sent(way, todo)
    return way, todo


def sent(way, todo):
    for call in todo.sends:
        call.channel = way
        way.inflight[call.number] = call


def breaks(line, way, now=0.0):
    way.is_closed = True
    lost, way.inflight = list(way.inflight.values()), {}
    return line.broken(way, lost, now)


def gone(line, state, kind, incarnation, now=0.0):
    return line.changed(state, Place(incarnation, 0, b"", ""), ExitCause(kind), now)


def numbers(calls):
    return [call.number for call in calls]


@pytest.fixture
def line():
    made = Line()
    yield made
    made.check()


def test_calls_wait_until_the_actor_can_be_reached_and_go_in_order(line):
    for number in (1, 2, 3):
        assert line.submitted(Call(number)).sends == []
    _, todo = alive(line)
    assert numbers(todo.sends) == [1, 2, 3]
    assert line.is_open
    assert numbers(line.submitted(Call(4)).sends) == [4]


def test_a_late_call_holds_back_those_behind_it_only_where_order_is_promised():
    for is_ordered, expected in ((True, [1]), (False, [1, 3])):
        line = Line()
        line.is_ordered = is_ordered
        late = Call(2, waiting=1)
        for call in (Call(1), late, Call(3)):
            line.submitted(call)
        assert numbers(alive(line)[1].sends) == expected
        late.waiting = 0
        assert sorted([*expected, *numbers(line.ready().sends)]) == [1, 2, 3]
        line.check()


def test_a_cancelled_call_that_is_late_does_not_hold_back_the_others(line):
    late = Call(1, waiting=1)
    line.submitted(late)
    line.submitted(Call(2))
    alive(line)
    late.cancelled = True
    todo = line.cancelled(late)
    assert todo.failed == [(late, CANCELLED)]
    assert numbers(todo.sends) == [2]


def test_after_a_crash_calls_with_retries_go_first_and_the_others_fail(line):
    kept, unlucky, behind = Call(1, retries=2), Call(2), Call(3)
    way, _ = alive(line)
    for call in (kept, unlucky):
        sent(way, line.submitted(call))
    assert not breaks(line, way).failed  # nobody has said yet what became of the actor
    line.submitted(behind)
    todo = gone(line, RESTARTING, "crashed", 2)
    assert todo.lost == [(101, [kept, unlucky])]
    assert todo.failed == [(unlucky, UNAVAILABLE)]
    assert (kept.retries, kept.attempt, kept.channel) == (1, 1, None)
    assert numbers(alive(line, 2)[1].sends) == [1, 3]


def test_the_word_of_the_scheduler_may_come_before_the_way_breaks(line):
    way, _ = alive(line)
    call = Call(1)
    sent(way, line.submitted(call))
    assert gone(line, RESTARTING, "crashed", 2).abort == [way]
    assert breaks(line, way).failed == [(call, UNAVAILABLE)]


def test_all_calls_to_a_dead_actor_fail_and_so_do_later_ones(line):
    way, _ = alive(line)
    running, late, again = Call(1, retries=5), Call(2, waiting=1), Call(3, retries=5)
    sent(way, line.submitted(running))
    line.submitted(late)
    assert gone(line, DEAD, "killed", 1).failed == [(late, DEATH)]
    assert breaks(line, way).failed == [(running, DEATH)]
    assert line.submitted(Call(4)).failed[0][1] == DEATH
    assert line.retried(again).failed == [(again, DEATH)]


def test_a_way_that_breaks_while_the_actor_lives_is_opened_again_and_nothing_waits_for_ever(line):
    way, _ = alive(line)
    kept, unlucky = Call(1, retries=1), Call(2)
    for call in (kept, unlucky):
        sent(way, line.submitted(call))
    breaks(line, way, now=1.0)
    line.submitted(Call(3))
    assert line.tick(1.0).connect is None
    assert line.needs_ticks
    assert line.tick(1.0 + CONNECT_PERIOD_S).connect == place()
    todo = line.connected(Way(101), place())
    assert todo.failed == [(unlucky, UNAVAILABLE)]
    assert numbers(todo.sends) == [1, 3]
    assert not line.needs_ticks


def test_a_refused_way_is_tried_later_each_time_and_what_waits_says_so(line):
    line.submitted(Call(1))
    line.changed(ALIVE, place(), None, 0.0)
    now, waits = 0.0, []
    for _ in range(20):
        line.refused(place(), now)
        assert "could not be reached" in line.describe()
        at = line._connect_at
        assert line.tick(at - 1e-6).connect is None
        assert line.tick(at).connect == place()
        waits.append(round(at - now, 6))
        now = at
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(CONNECT_PERIOD_S_MAX)


def test_what_is_said_of_an_old_place_or_incarnation_changes_nothing(line):
    line.changed(ALIVE, place(1), None, 0.0)
    line.changed(ALIVE, place(2), None, 0.0)
    early = Way(101)
    assert line.connected(early, place(1)).abort == [early]
    line.refused(place(1), 0.0)
    assert line.tick(100.0).connect is None
    way = Way(102)
    line.connected(way, place(2))
    assert gone(line, RESTARTING, "crashed", 1) == type(line.tick(0.0))()
    assert line.way is way


def test_without_a_word_of_the_scheduler_parked_calls_fail_after_a_while(line):
    way, _ = alive(line)
    call = Call(1)
    sent(way, line.submitted(call))
    breaks(line, way, now=5.0)
    line.tick(5.0 + CONNECT_PERIOD_S)
    line.refused(place(), 5.1)
    assert line.tick(5.0 + WORD_TIMEOUT_S).failed == []
    assert line.tick(5.1 + WORD_TIMEOUT_S).failed == [(call, UNAVAILABLE)]


def test_an_actor_that_moves_gets_what_it_gave_back_after_its_last_answers(line):
    way, _ = alive(line)
    begun, first, second = Call(1), Call(2), Call(3)
    for call in (begun, first, second):
        sent(way, line.submitted(call))
    for call in (second, first):  # whatever order they come back in
        del way.inflight[call.number]
        line.returned_by(way, call)
    gone(line, RESTARTING, "drained", 2)
    later = Call(4)
    line.submitted(later)
    after, todo = alive(line, 2)
    assert todo.sends == []  # the old one may still apply what it has begun
    del way.inflight[1]
    todo = line.replied(way)
    assert numbers(todo.sends) == [2, 3, 4]
    sent(after, todo)
    assert not breaks(line, way).failed


def test_nothing_reaches_an_incarnation_that_this_process_has_killed(line):
    way, _ = alive(line)
    assert line.killed().abort == [way]
    assert line.submitted(Call(1)).sends == []
    assert line.changed(ALIVE, place(1), None, 0.0).connect is None
    assert numbers(alive(line, 2)[1].sends) == [1]


def test_a_send_that_fails_leaves_the_calls_in_their_order(line):
    for number in (1, 2, 3):
        line.submitted(Call(number))
    way, todo = alive(line)
    way.inflight.clear()
    line.unsent(todo.sends[1:])
    breaks(line, way)
    line.submitted(Call(4))
    assert numbers(line.waiting) == [2, 3, 4]


def test_holds_are_given_back_once_when_no_handle_and_no_call_is_left(line):
    line.held(2)
    way, _ = alive(line)
    sent(way, line.submitted(Call(1)))
    assert line.handle_dropped().farewell == 0
    line.handle_made()  # somebody got one in the meantime
    del way.inflight[1]
    assert line.ended().farewell == 0
    assert line.handle_dropped().farewell == 2
    assert line.handle_dropped().farewell == 0
    assert line.holds == 0


def test_a_durable_actor_hears_what_may_come_again_when_no_other_way_is_open(line):
    way, todo = alive(line)
    assert todo.unfinished == []
    sent(way, line.submitted(Call(1, retries=1)))
    gone(line, RESTARTING, "crashed", 2)
    after, todo = alive(line, 2)
    assert todo.unfinished is None  # calls of the old way are not known yet
    todo = breaks(line, way)
    assert todo.unfinished == [1]
    assert line.way is after


def test_an_actor_does_not_end_while_it_is_found_out_whether_a_call_runs_again(line):
    line.held(1)
    way, _ = alive(line)
    call = Call(1, retries=1)
    sent(way, line.submitted(call))
    line.undecided[1] = call
    del way.inflight[1]
    assert line.handle_dropped().farewell == 0
    sent(way, line.retried(call))
    del line.undecided[1]
    assert line.ended().farewell == 0
    del way.inflight[1]
    assert line.ended().farewell == 1
