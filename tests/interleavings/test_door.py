"""Every interleaving of a call's threads that wait, its end, and the look for long calls."""

import contextlib
import threading
import types

import frontrun

from ract.client.process.context import Running
from ract.core.messages import Blocked, Unblocked
from ract.worker.executor.door import MOMENT_S, Door


class World:
    """An executor in the middle of its first call, the real door in front of it."""

    def __init__(self):
        self.told = []
        self.first, self.second = Running(1, "first"), Running(2, "second")
        nobody = types.SimpleNamespace(here={}, away={})
        reactor = types.SimpleNamespace(watch=lambda *_: None, forget=lambda *_: None)
        self.server = types.SimpleNamespace(
            running=self.first,
            is_actor=False,
            progress=[1],
            callers=nobody,
            listener=types.SimpleNamespace(fileno=lambda: 3),
            read_lock=threading.Lock(),
            flush_all=lambda: None,
            return_inbox=lambda: None,
            runtime=types.SimpleNamespace(process=1, tell=self.told.append, reactor=reactor),
        )
        self.door = Door(self.server)

    # What the threads do, as `SerialServer` does it.

    def wait(self):
        self.door.block()
        self.door.unblock()

    def wait_for_ever(self):
        self.door.block()

    def end(self):
        self.server.running = None
        if self.door.is_long:
            self.door.end_long()
        if self.door.blocked is not None:
            self.door.end_blocked()

    def end_and_begin(self):
        self.end()
        self.server.progress[0] = 2
        self.server.running = self.second

    def look(self):
        self.door.look(0.0)
        self.door.look(2 * MOMENT_S)

    # What must be so in the end.

    def is_balanced(self):
        kinds = [type(message) for message in self.told]
        return kinds == [Blocked, Unblocked] * (len(kinds) // 2)

    def is_open(self):
        return self.is_balanced() and not (self.door._is_shut or self.door.is_long)


def explore(workers, invariant):
    frontrun.explore(setup=World, workers=workers, invariant=invariant).assert_holds()


def test_two_threads_of_a_call_wait():
    explore([World.wait, World.wait], World.is_open)


def test_a_thread_waits_while_its_call_ends():
    explore([World.wait, World.end], World.is_open)


def test_a_thread_that_outlives_its_call_lends_nothing():
    explore([World.wait_for_ever, World.end], World.is_open)


def test_the_next_call_can_lend_although_an_older_thread_waits():
    world = World()
    with contextlib.ExitStack() as stack:
        older = threading.Thread(target=world.wait_for_ever)
        older.start()
        stack.callback(older.join)
    world.end_and_begin()
    world.door.block()
    assert [type(each) for each in world.told] == [Blocked, Unblocked, Blocked]
    world.door.unblock()
    assert world.is_open()


def test_a_call_that_takes_long_ends_while_the_io_thread_looks():
    explore([World.look, World.end], World.is_open)
