"""Every interleaving of a thread that waits for refs and of threads that complete them."""

import types

import frontrun
import pytest
from small_process import Process

from ract.client.calls.call import Call
from ract.client.calls.waiting import Waiter
from ract.client.objects import refs
from ract.client.process import current


class World:
    """Two refs of calls that somebody else answers, and a thread that waits for one or both."""

    n = 1
    for_get = False

    def __init__(self):
        self.process = Process()
        current.install(self.process)
        self.refs = []
        for number in (1, 2):
            call = Call(number, b"f", None, "f")
            call.refs = [refs.new_ref(number, None, 1, call)]
            self.refs += call.refs
        channels = types.SimpleNamespace(values=list)
        self.waiter = Waiter(self.process.values, channels, self.refs, self.n, self.for_get)
        self.errors = []
        self.returned = False

    def wait(self):
        while not self.waiter.is_done():
            self.waiter.wait(None)
        self.returned = True

    def first(self):
        self._complete(0)

    def second(self):
        self._complete(1)

    def _complete(self, i):
        try:
            self.refs[i]._complete(refs.PLAIN, i)
        except Exception as error:  # it would end the reading of a channel
            self.errors.append(error)

    def fail(self):
        self.refs[1]._fail((b"", [], []))
        self.process.values.count_error()

    def has_returned(self):
        left_over = [ref for ref in self.refs if ref._waiters]
        return self.returned and not self.errors and not left_over


class Both(World):
    n = 2
    for_get = True


@pytest.fixture(autouse=True)
def _no_process_stays():
    yield
    current.install(None)


EXECUTIONS_MAX = 60
"""A waiter looks up again and again: so many interleavings, spread over all."""


def explore(world, *workers):
    frontrun.explore(
        setup=world,
        workers=list(workers),
        invariant=World.has_returned,
        max_executions=EXECUTIONS_MAX,
        search="bit-reversal",
        clock="virtual",
    ).assert_holds()


def test_the_first_of_two_wakes_who_waits_for_any():
    explore(World, World.wait, World.first, World.second)


def test_who_gets_both_returns_when_both_are_there():
    explore(Both, World.wait, World.first, World.second)


def test_who_gets_both_returns_when_one_fails():
    explore(Both, World.wait, World.fail)
