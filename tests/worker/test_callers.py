"""The executor's end of a connection: replies go out whole, and in order, whoever sends them."""

import socket
import sys
import threading

import pytest

from ract.core import calls
from ract.worker.executor.callers import Caller, Callers

ROUNDS = 2_000


@pytest.fixture
def impatient():
    """Threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_two_threads_may_flush_at_once(impatient):
    ours, theirs = socket.socketpair()
    caller = Caller(ours)
    received = []
    failures = []

    def read():
        frames = calls.FrameReader()
        while len(received) < 2 * ROUNDS:
            for _, replies, _ in frames.feed(memoryview(theirs.recv(1 << 16))):
                received.extend(replies)

    def write(who):
        try:
            for i in range(ROUNDS):
                caller.out.append((i, who))
                caller.flush()
        except Exception as error:
            failures.append(error)

    reader = threading.Thread(target=read, daemon=True)
    writers = [threading.Thread(target=write, args=(who,)) for who in "ab"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    assert failures == []
    while caller.out or caller.has_unsent:  # what the socket had no room for
        caller.flush()
    reader.join(60)
    for who in "ab":
        assert [i for i, name in received if name == who] == list(range(ROUNDS))
    caller.close()
    theirs.close()


@pytest.fixture
def ends():
    mine, its = socket.socketpair()
    caller = Caller(its)
    yield mine, caller
    mine.close()
    caller.close()


def stream_call(seq):
    return (calls.CALL, seq, 7, b"f", (), {"returns": "streaming", "backpressure": 2}, 0)


def test_a_credit_for_a_stream_whose_call_still_waits_counts_when_it_begins(ends):
    mine, caller = ends
    mine.sendall(calls.frame([stream_call(0)]))
    assert len(caller.receive()) == 1
    caller.credit(0, 2**62)  # its generator was dropped, before the call could begin
    stream = caller.open_stream(0, 2, 0)
    stream.count = 100
    assert not stream.is_full


def test_nothing_is_kept_of_credits_for_streams_that_have_ended_or_never_began(ends):
    mine, caller = ends
    mine.sendall(calls.frame([stream_call(0), stream_call(1)]))
    caller.receive()
    caller.out.append((0, calls.RETURNED, None))
    caller.open_stream(1, 2, 0)
    del caller.streams[1]
    caller.out.append((1, calls.END, 0))
    caller.flush()
    caller.credit(0, 1)
    caller.credit(1, 1)
    assert not caller._early


def connected(callers, process):
    """A caller that has said hello; returns it and its own end."""
    mine, its = socket.socketpair()
    caller = Caller(its)
    caller.process = process
    callers.add(caller)
    return caller, mine


def test_replies_for_a_process_that_is_gone_are_not_waited_for():
    unwatched = []
    callers = Callers(unwatched.append)
    away, its_end = connected(callers, 5)
    away.out.append((0, 7))
    its_end.close()
    while not away.is_closed:
        away.flush()
        away.receive()
    callers.here.pop(away.fileno(), None)
    callers.away[5] = away
    away.away_since = callers._clock()
    here, other_end = connected(callers, 5)
    other, third_end = connected(callers, 6)
    assert not callers.are_served
    assert set(callers.process_gone(5)) == {away, here}
    assert callers.are_served
    assert list(callers.here.values()) == [other]
    assert here.fileno() == -1
    for each in (other_end, third_end):
        each.close()
    other.close()
