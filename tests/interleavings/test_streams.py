"""Every interleaving of what threads do to the items of one generator, on the real stream."""

import threading

import frontrun
import pytest
from small_process import Process

from ract.client.calls.call import Call
from ract.client.calls.streams import Stream
from ract.client.objects import refs
from ract.client.objects.refs import ERROR, PLAIN, READY
from ract.client.process import current
from ract.core import calls

NUMBER = 16 << 36 | 5


class World:
    """One call that streams; two items have arrived."""

    arrived = 2

    def __init__(self):
        self.taken = []
        self.dropped = []
        runtime = Process()
        runtime.apply_result, runtime.await_one = self.apply, self.await_one
        runtime.table.drop_result = self.dropped.append
        self.call = Call(NUMBER, b"", None, "f")
        self.call.refs = [refs.new_ref(NUMBER, None, 1, self.call)]
        self.stream = self.call.stream = Stream(runtime, self.call, 0)
        for i in range(self.arrived):
            self.item(i)

    def apply(self, ref, result):
        state = ERROR if result[0] == calls.ERROR else PLAIN
        ref._complete(state, result[1])

    def await_one(self, ref, timeout):
        done = threading.Event()
        ref._when_done(lambda ref: done.set())
        done.wait()

    # what the channel and others do

    def item(self, i):
        self.stream.item(i, (calls.PLAIN, i))

    def last_item_and_end(self):
        self.item(self.arrived)
        self.stream.end(self.arrived + 1)

    def fail(self):
        self.stream.fail((calls.ERROR, "error"))

    # what readers do

    def read_one(self):
        ref = self.stream.next()
        self.taken.append("end" if ref is None else ref._value)

    def read_all(self):
        while (ref := self.stream.next()) is not None:
            self.taken.append(ref._value)

    def rest(self):
        """What a reader who comes now would get; every ref of it must be complete."""
        assert all(ref._state >= READY for ref in self.stream._unread)
        found = []
        while (ref := self.stream.next()) is not None:
            found.append(ref._value)
        return found


@pytest.fixture(autouse=True)
def _no_runtime_stays():
    yield
    current.install(None)


EXECUTIONS_MAX = 40
"""The worlds with waiting readers have thousands of interleavings: so many, spread over all."""

ATTEMPTS = 60
"""Random schedules see what the search does not: conflicts inside of a deque."""


def explore(workers, invariant):
    frontrun.explore(
        setup=World,
        workers=workers,
        invariant=invariant,
        max_executions=EXECUTIONS_MAX,
        search="bit-reversal",
    ).assert_holds()
    frontrun.explore(
        setup=World,
        workers=workers,
        invariant=invariant,
        strategy="random",
        max_attempts=ATTEMPTS,
        seed=1,
    ).assert_holds()


def test_each_item_goes_to_one_reader_in_order():
    explore([World.read_one, World.read_one], lambda world: sorted(world.taken) == [0, 1])


def test_a_reader_gets_what_comes_while_it_reads():
    explore([World.read_all, World.last_item_and_end], lambda world: world.taken == [0, 1, 2])


def test_two_readers_get_all_items_once_and_both_hear_of_the_end():
    explore(
        [World.read_all, World.read_all, World.last_item_and_end],
        lambda world: sorted(world.taken) == [0, 1, 2],
    )


def test_a_call_that_fails_while_an_item_comes_still_ends():
    def holds(world):
        found = world.rest()
        return (found, len(world.dropped)) in (
            ([0, 1, 2, "error"], 0),  # all came before
            ([0, 1, "error"], 1),  # the item was too late
        ) and world.call.refs[0]._state in (PLAIN, ERROR)

    explore([World.last_item_and_end, World.fail], lambda w: holds(w) or ended_first(w))


def ended_first(world):
    """The call had ended in order, and the failure was too late."""
    return world.call.refs[0]._state == PLAIN and len(world.dropped) == 1


def test_a_call_that_fails_twice_has_one_error():
    explore([World.fail, World.fail], lambda world: world.rest() == [0, 1, "error"])


def test_a_generator_that_nobody_uses_any_more_keeps_nothing():
    def holds(world):
        return len(world.stream._unread) == 1

    explore([World.last_item_and_end, lambda world: world.stream.let_go()], holds)
