"""What a process reads of an executor with which it has nothing under way."""

import socket
import threading

import pytest
from small_process import Process

from ract.client.calls.call import Call
from ract.client.calls.channel import Channel
from ract.client.objects import refs
from ract.client.process import current
from ract.client.process.reactor import Reactor
from ract.core import calls
from ract.worker.executor.callers import Caller


class World:
    """A channel that a real reactor reads; the test is the executor at its other end.

    It is the home of the channel, too.
    """

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.executor = Caller(theirs)
        self.reactor = Reactor(lambda: self.channel.tick())
        process = Process()
        self.session, self.held = process.session, process.table
        self.apply = self.ended = lambda *of_no_interest: None
        self.is_blocked = None
        self.told = threading.Semaphore(0)
        self.channel = Channel(self, 2, lambda: ours, (calls.HELLO, 1, b"job1", b"n", b""))
        self.channel.owner = self
        self.channel.open()
        self.reactor.start()

    # ------------------------------------------------------------------ the owner

    def replied(self, channel, last, n, busy_s): ...
    def closed(self, channel, lost): ...

    def blocked(self, channel, is_blocked):
        self.is_blocked = is_blocked
        self.told.release()

    # ------------------------------------------------------------------ both ends

    def submit(self):
        call = Call(1, b"f", self, "f")
        call.refs = [refs.new_ref(1, None, 1, call)]
        self.channel.send(call)
        return call

    def say(self, *items):
        self.executor.out.extend(items)
        self.executor.flush()


@pytest.fixture
def world():
    made = World()
    yield made
    made.reactor.close()
    made.channel.discard()
    made.executor.close()
    current.install(None)


def test_a_blocked_executor_is_heard_when_it_goes_on_though_nothing_is_under_way(world):
    call = world.submit()
    world.say((calls.BLOCKED,), (call.seq, "done"))
    assert world.told.acquire(timeout=10)
    assert world.is_blocked
    for _ in range(3):  # nothing is left to do: the reactor sleeps
        ticked = threading.Event()
        world.reactor.post(ticked.set)
        assert ticked.wait(10)
        assert not world.channel.tick()
    world.say((calls.UNBLOCKED,))
    assert world.told.acquire(timeout=10)
    assert not world.is_blocked
