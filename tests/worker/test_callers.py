"""The executor's end of a connection: replies go out whole, and in order, whoever sends them."""

import socket
import sys
import threading

import pytest

from ract.core import calls
from ract.worker.executor.callers import Caller

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
