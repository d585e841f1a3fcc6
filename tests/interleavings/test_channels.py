"""Every interleaving of what threads do to one channel while its connections break.

Channel, connection and the executor's callers are the real ones; sockets are lists of bytes, and
the reactor notes what it is to do. When the threads are done, the world runs on until nothing
moves: then each call has been answered once, or has gone back to its owner.
"""

import itertools
import select
import types

import frontrun
import pytest
from small_process import Process

from ract.client.calls import connection as connections
from ract.client.calls.call import Call
from ract.client.calls.channel import Channel
from ract.client.objects import refs
from ract.client.process import current
from ract.core import calls
from ract.worker.executor.callers import Caller, Callers

fds = itertools.count(1000)


class Socket:
    """One end of a connection; nothing ever blocks."""

    def __init__(self):
        self._fd = next(fds)
        self._came = bytearray()
        self._is_over = False
        self.other = None

    def setblocking(self, is_blocking): ...
    def setsockopt(self, *option): ...

    def getsockopt(self, *option):
        return bytes(12)  # a process of another namespace

    def fileno(self):
        return self._fd

    def send(self, data, flags=0):
        if self._is_over or self.other._is_over:
            raise BrokenPipeError
        self.other._came += data
        return len(data)

    def recv_into(self, buffer, size=0, flags=0):
        data = bytes(self._came)
        if not data:
            if self._is_over:
                return 0
            raise BlockingIOError
        self._came.clear()
        buffer[: len(data)] = data
        return len(data)

    def shutdown(self, how):
        for end in (self, self.other):
            end._is_over = True
            end._came.clear()  # what is on its way is lost

    def close(self):
        self.shutdown(0)
        self._fd = -1


class Poll:
    """Looks whether the one socket has anything to read; never waits."""

    sock = None

    def register(self, sock, events):
        self.sock = sock

    def unregister(self, fd):
        self.sock = None

    def poll(self, timeout):
        sock = self.sock
        is_ready = sock is not None and (sock._came or sock._is_over)
        return [(sock._fd, select.POLLIN)] if is_ready else []


class Reactor:
    """Notes what is posted; everything is looked at when the world runs on."""

    is_asleep = False

    def __init__(self):
        self.posted = []

    def watch_once(self, fd, handler): ...
    def arm(self, fd, handler): ...
    def arm_for_end(self, fd, handler): ...
    def forget(self, fd, handler=None): ...
    def wake(self): ...

    def post(self, function):
        self.posted.append(function)


class World:
    """A process and an executor; the executor answers each call with the call's number.

    It is the home of the channel, too.
    """

    def __init__(self):
        self.reactor = Reactor()
        process = Process()
        current.install(process)
        self.session, self.held = process.session, process.table
        self.apply = self.ended = lambda *of_no_interest: None
        self.callers = Callers(lambda fd: None)
        self.listening = True
        self.ran = []
        self.lost = []
        self.refused = []
        self.channel = Channel(self, 2, self._dial, (calls.HELLO, 1, b"job1", b"n", b""))
        self.channel.owner = self
        self.channel.open()
        self.refs = []
        self.numbers = itertools.count(1)
        self.submit()
        self.serve()

    # ------------------------------------------------------------------ the executor

    def _dial(self):
        if not self.listening:
            raise connections.ExecutorGone
        ours, theirs = Socket(), Socket()
        ours.other, theirs.other = theirs, ours
        self.callers.add(Caller(theirs))
        return ours

    def serve(self):
        """The executor does what there is to do."""
        for caller in list(self.callers.here.values()):
            for item in caller.receive():
                if item[0] == calls.HELLO:
                    self.callers.greet(caller, item)
                elif item[0] == calls.CALL:
                    self.ran.append(item[2])
                    caller.out.append((item[1], item[2]))
                elif item[0] == calls.RECEIVED:
                    caller.arrived(item[1])
            if caller.is_closed:
                self.callers.broke(caller)
        for caller in list(self.callers.here.values()):
            caller.flush()

    # ------------------------------------------------------------------ the owner

    def replied(self, channel, last, n, busy_s): ...
    def blocked(self, channel, is_blocked): ...

    def closed(self, channel, lost):
        self.lost += [call.number for call in lost]

    # ------------------------------------------------------------------ what threads do

    def submit(self):
        number = next(self.numbers)
        call = Call(number, b"f", self, "f")
        ref = refs.new_ref(number, None, 1, call)
        call.refs = [ref]
        self.refs.append(ref)
        try:
            self.channel.send(call)
        except ConnectionError:
            self.refused.append(number)

    def read(self):
        channel = self.channel
        if channel.is_readable and channel.read_lock.acquire(False):
            try:
                channel.read_until(lambda: False, 0.0)
            finally:
                channel.end_reading()

    def tear(self):
        with self.channel._lock:
            self.channel.connection.interrupt()

    def tick(self):
        self.channel.tick()

    def abort(self):
        self.channel.abort()

    def discard(self):
        self.channel.discard()

    # ------------------------------------------------------------------ what must hold

    def run_on(self):
        for _ in range(12):
            while self.reactor.posted:
                self.reactor.posted.pop()()
            self.channel.connection.retry_at = 0.0
            self.channel.tick()
            self.channel._readable()
            self.serve()

    def is_each_call_answered_or_lost_once(self):
        self.run_on()
        answered = [ref._value for ref in self.refs if ref._state == refs.PLAIN]
        made = [ref._id[0] for ref in self.refs]
        ends = sorted(answered + self.lost + self.refused)
        is_open = not self.channel.is_closed and not self.lost and not self.refused
        ran_once = self.ran == sorted(set(self.ran))
        return ends == made and ran_once and (is_open or self.channel._is_ending)

    def is_the_socket_closed(self):
        self.run_on()
        return self.channel.is_closed and self.channel.connection.fd == -1 and not self.lost


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch):
    monkeypatch.setattr(connections, "select", types.SimpleNamespace(poll=Poll, POLLIN=1))
    yield
    current.runtime = None


SUBMIT, READ, TEAR, TICK, ABORT = World.submit, World.read, World.tear, World.tick, World.abort


EXECUTIONS_MAX = 60
"""Two readers have thousands of interleavings: so many, spread over all."""


def explore(workers, invariant):
    frontrun.explore(
        setup=World,
        workers=workers,
        invariant=invariant,
        max_executions=EXECUTIONS_MAX,
        search="bit-reversal",
    ).assert_holds()


@pytest.mark.parametrize(
    "workers",
    [
        [SUBMIT, TEAR],
        [READ, TEAR],
        [READ, READ],
        [SUBMIT, READ],
        [READ, TICK],
        [TEAR, TICK],
        [SUBMIT, ABORT],
        [READ, ABORT],
        [TEAR, ABORT],
    ],
)
def test_a_call_is_answered_once_or_goes_back_once(workers):
    explore(workers, World.is_each_call_answered_or_lost_once)


@pytest.mark.parametrize("worker", [SUBMIT, READ, TEAR, TICK])
def test_leaving_the_cluster_closes_the_socket_and_tells_nobody(worker):
    explore([World.discard, worker], World.is_the_socket_closed)
