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
