"""The caller's end of a direct channel to one executor.

Theory of operation
-------------------
`send` runs in the calling thread. While few calls are in flight a call is written at once; beyond
that calls are buffered and go out together when 64 wait, when a reply arrives, when somebody waits,
or at the next tick. Writing never blocks: what the socket does not take stays in ``_unsent``.

Reading belongs to whoever holds ``read_lock``: a thread that waits for a reply of this channel, or
the reactor when nobody does. A reader that leaves while calls are in flight arms the reactor.

A reply is looked up, applied, and only then removed, and applying it twice does no harm: a
KeyboardInterrupt in the middle of a batch loses nothing, because the next reader continues there.
"""

from __future__ import annotations

import itertools
import logging
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.objects.refs import PLAIN, READY, ObjectRef, notify
from ract.core import calls

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

logger = logging.getLogger(__name__)

SEND_AT_ONCE_MAX = 8
BUFFERED_CALLS_MAX = 64
WORK_AHEAD_MIN = 64
RECEIVE_BYTES = 256 * 1024
_SLICE_S = 0.05
_ANY_SLICE_S = 0.005
_RECEIVE_TIMEOUT = struct.pack("ll", 0, int(_SLICE_S * 1e6))
"""A blocked reader looks around this often: its ref may be completed by another thread."""

_buffers = threading.local()


class Call:
    """A task or actor call on its way.

    Attributes:
        number: The task number (64 bits).
        refs: The refs that it completes.
        target, args, extra: As on the wire (`ract.core.calls`).
        definition: (key, pickled function) that the executor needs, or None.
        kept: Objects that must live until the reply: refs in the arguments, handles.
        owner: The lease pool or actor client that sent it.
        priority: A higher one goes first.
        waiting: Number of argument refs that are not ready.
        is_over: Whether it has ended; known only of calls without refs, which cannot tell.
        recipe: How to make again what it has left in shared memory (`ract.client.calls.lineage`).
    """

    # Most calls differ from these in a few attributes only: setting all of them would cost as much
    # as the rest of a submission.
    args: Any = ()
    extra: dict[str, Any] | None = None
    definition: tuple[bytes, bytes] | None = None
    refs: Sequence[ObjectRef] = ()
    kept: Sequence[Any] = ()
    retries = 0
    oom_deaths = 0
    waiting = 0
    is_over = False
    seq = -1
    channel: Channel | None = None
    cancelled = False
    parent = 0
    priority = 0
    retry_exceptions: Any = False
    actor_id: bytes | None = None
    stream: Any = None
    recipe: Any = None

    def __init__(self, number: int, target: Any, owner: Any, name: str) -> None:
        self.number = number
        self.target = target
        self.owner = owner
        self.name = name

    def refs_task_id(self) -> str:
        """The task's id in hex, for messages."""
        return self.refs[0].task_id().hex() if self.refs else f"{self.number:016x}"


def next_attempt(call: Call) -> None:
    """The call is to run once more: who runs it then is told which attempt it is."""
    call.extra = call.extra or {}
    call.extra["attempt"] = call.extra.get("attempt", 0) + 1


class Owner(Protocol):
    """Who sends calls over a channel and hears of their end."""

    def replied(self, channel: Channel, last: Call | None, n: int, busy_s: float) -> None: ...
    def returned(self, channel: Channel, call: Call) -> None: ...
    def closed(self, channel: Channel, calls: list[Call]) -> None: ...
    def blocked(self, channel: Channel, is_blocked: bool) -> None: ...


class Channel:
    """A connected channel. ``executor`` is the process number at the other end."""

    def __init__(self, runtime: Runtime, sock: socket.socket, executor: int) -> None:
        self.runtime = runtime
        self.executor = executor
        self.owner: Owner | None = None
        self.inflight: dict[int, Call] = {}
        self.read_lock = threading.Lock()
        self.is_closed = False
        self._lock = threading.RLock()
        self._sock = sock
        self._reactor = runtime.reactor
        self._seq = 0
        self._out: list[Any] = []
        self._unsent: deque[memoryview] = deque()
        self._defined: set[bytes] = set()
        self._frames = calls.FrameReader()
        self._batches: deque[list[Any]] = deque()  # [busy_s, replies, position]
        self._asked: dict[int, bool | None] = {}  # number -> the answer, None before it
        self._questions = itertools.count()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEOUT)
        self._fd = sock.fileno()
        runtime.reactor.watch_once(self._fd, self._readable)

    # ------------------------------------------------------------------ sending

    def say(self, item: tuple[Any, ...]) -> None:
        """Queue an item that is not a call; it goes out in order with the calls."""
        with self._lock:
            self._out.append(item)

    def acknowledge(self) -> None:
        """Tell a durable actor, some time, up to where its replies have arrived."""
        with self._lock:
            self._out.append((calls.DONE, next(iter(self.inflight), self._seq)))

    def unanswered(self) -> list[Call]:
        """The calls that are under way."""
        with self._lock:
            return list(self.inflight.values())

    def send(self, call: Call) -> None:
        """Send a call, now or with the next ones. Raises ConnectionError on a closed channel."""
        with self._lock:
            if self.is_closed:
                raise ConnectionError(f"the channel to process {self.executor} is closed")
            definition = call.definition
            if definition is not None and definition[0] not in self._defined:
                self._defined.add(definition[0])
                self._out.append((calls.DEFINE, *definition))
            extra = call.extra
            if extra is not None and "refs" in extra:
                self.runtime.table.hand_over(extra["refs"], self.executor)
            seq = self._seq
            self._seq = seq + 1
            call.seq = seq
            call.channel = self
            inflight = self.inflight
            inflight[seq] = call
            out = self._out
            out.append((calls.CALL, seq, call.number, call.target, call.args, extra, call.parent))
            if len(inflight) < SEND_AT_ONCE_MAX or len(out) >= BUFFERED_CALLS_MAX:
                self._flush()
        if self._reactor.is_asleep:
            self._reactor.wake()

    def flush(self) -> None:
        """Write what is buffered, as far as the socket takes it."""
        if self._out or self._unsent:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        unsent = self._unsent
        if self._out:
            items, self._out = self._out, []
            unsent.append(memoryview(calls.frame(items)))
        try:
            while unsent:
                sent = self._sock.send(unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                if sent < len(unsent[0]):
                    unsent[0] = unsent[0][sent:]
                    return
                unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            # The other end is gone: the reader will find out and see to the calls.
            unsent.clear()
            self.runtime.reactor.arm(self._fd)

    # ------------------------------------------------------------------ reading

    def read_until(self, done: Any, deadline: float | None) -> None:
        """Read replies until ``done()`` or the deadline. The caller holds `read_lock`."""
        while not done():
            if self.is_closed:
                return
            if self._out or self._unsent:
                self.flush()
            if deadline is None:
                alive = self._receive(block=True)
            else:
                left = deadline - time.monotonic()
                if left <= 0 and not self._poll.poll(0):
                    return
                alive = not self._poll.poll(max(0.0, min(left, _SLICE_S)) * 1000) or self._receive()
            if not alive:
                return

    def wait_for(self, ref: ObjectRef, deadline: float | None) -> None:
        """As `read_until` for one ref without a deadline, which is what `get` does most."""
        if deadline is not None:
            self.read_until(lambda: ref._state >= READY, deadline)
            return
        while ref._state < READY and not self.is_closed and ref._call is not None:
            if self._out or self._unsent:
                self.flush()
            if not self._receive(block=True):
                return

    def end_reading(self) -> None:
        """Give up `read_lock`; let the reactor read what is still to come."""
        self.read_lock.release()
        if (self.inflight or self._asked) and not self.is_closed:
            self.runtime.reactor.arm(self._fd)

    def expedite(self) -> None:
        """Somebody waits without reading: write what is buffered and let the reactor read."""
        self.flush()
        if not self.read_lock.locked():
            self.runtime.reactor.arm(self._fd)

    def ask_for_room(self, wait: bool) -> bool:
        """Whether the actor's mailbox has room for one more call, which is kept for it.

        Args:
            wait: Until there is some.

        Raises:
            ConnectionError: the channel is closed.
        """
        asked, number = self._asked, next(self._questions)
        asked[number] = None
        self.say((calls.ASK, number, wait))
        try:
            while asked[number] is None:
                self.runtime.check_alive()
                if self.is_closed:
                    raise ConnectionError(f"the channel to process {self.executor} is closed")
                if self.read_lock.acquire(timeout=_SLICE_S):
                    try:
                        self.read_until(lambda: asked[number] is not None, None)
                    finally:
                        self.end_reading()
            return bool(asked[number])
        finally:
            del asked[number]

    def tick(self) -> bool:
        """Called by the reactor; returns whether anything is in flight."""
        if not self.inflight and not self._out:
            return False
        self.expedite()
        return True

    def _readable(self) -> None:
        if self.read_lock.acquire(False):
            try:
                self._receive()
            finally:
                self.end_reading()

    def _receive(self, block: bool = False) -> bool:
        """Receive once and apply what came. Returns False when the channel is over."""
        if self._batches:  # a reader was interrupted in the middle
            self._apply()
        try:
            buffer = _buffers.view
        except AttributeError:
            buffer = _buffers.view = memoryview(bytearray(RECEIVE_BYTES))
        try:
            n = self._sock.recv_into(buffer, 0, 0 if block else socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            n = 0
        if n == 0:
            self.close()
            return False
        for busy_s, replies in self._frames.feed(buffer[:n]):
            self._batches.append([busy_s, replies, 0])
        self._apply()
        return True

    def _apply(self) -> None:
        while self._batches:
            batch = self._batches[0]
            busy_s, replies, _ = batch
            inflight = self.inflight
            call = None
            answered = 0
            while batch[2] < len(replies):
                reply = replies[batch[2]]
                seq = reply[0]
                if seq >= 0 and len(reply) == 2:
                    for call in self._complete_plain(replies, batch[2]):
                        answered += 1
                        if call is not None:
                            ref = call.refs[0]
                            if ref._waiters is not None:
                                notify(ref)
                            call.kept = ()
                            inflight.pop(call.seq, None)
                        batch[2] += 1
                    continue
                if seq >= 0:
                    if len(reply) == 4 and reply[1] == calls.ITEM:
                        if seq in inflight:
                            self.runtime.apply_reply(self, inflight[seq], reply)
                        batch[2] += 1
                        continue
                    answered += 1
                    call = inflight.get(seq)
                    if call is not None:
                        self.runtime.apply_reply(self, call, reply)
                elif seq == calls.ROOM:
                    if reply[1] in self._asked:
                        self._asked[reply[1]] = reply[2]
                elif self.owner is not None:
                    self.owner.blocked(self, seq == calls.BLOCKED)
                batch[2] += 1
            self._batches.popleft()
            if self.owner is not None:
                self.owner.replied(self, call, answered, busy_s)
            # What is buffered can wait for more as long as the executor has enough to do.
            if self._unsent or (self._out and len(inflight) - len(self._out) < WORK_AHEAD_MIN):
                self.flush()

    def _complete_plain(self, replies: list[Any], start: int) -> list[Call | None]:
        """Complete refs with the plain values that follow each other from ``start`` on.

        A ref may escape at this moment, and is completed under the lock for that. One lock for all
        of the values costs next to nothing; nobody is called back, and nothing let go of, under it.

        Returns:
            Their calls, in order; None for one that is not in flight any more.
        """
        inflight = self.inflight
        answered: list[Call | None] = []
        with self.runtime.table.lock:
            for reply in itertools.islice(replies, start, None):
                if len(reply) != 2 or reply[0] < 0:
                    break
                call = inflight.get(reply[0])
                answered.append(call)
                if call is not None:
                    ref = call.refs[0]
                    if ref._holds:
                        if ref._state < READY:
                            ref._settle(PLAIN, reply[1])
                    elif ref._state < READY:  # the same as `_settle`, without a call
                        ref._value = reply[1]
                        ref._state = PLAIN
                        ref._call = None
        return answered

    # ------------------------------------------------------------------ the end

    def abort(self) -> None:
        """End the connection from any thread; whoever reads it notices and calls `close`."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # already
            pass
        self.runtime.reactor.arm(self._fd)

    def discard(self) -> None:
        """Close without telling anybody: the process leaves the cluster."""
        self.is_closed = True
        self._sock.close()

    def close(self) -> None:
        """Close; calls in flight go back to the owner. Only for the holder of `read_lock`."""
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.runtime.reactor.forget(self._fd)
            self._sock.close()
            lost = [call for _, call in sorted(self.inflight.items())]
            self.inflight.clear()
            self._out.clear()
            self._unsent.clear()
        self.runtime.channel_closed(self)
        if self.owner is not None:
            self.owner.closed(self, lost)


def read_any(channels: list[Channel], done: Any, deadline: float | None) -> None:
    """Read several channels for a moment, or until ``done()`` or the deadline.

    The caller holds the `read_lock` of all of them. Calls may meanwhile go to other channels, which
    the reactor reads; hence the moment.
    """
    poll = select.poll()
    by_fd = {}
    for channel in channels:
        channel.flush()
        by_fd[channel._fd] = channel
        poll.register(channel._fd, select.POLLIN)
    stop = time.monotonic() + _ANY_SLICE_S
    if deadline is not None:
        stop = min(stop, deadline)
    while not done():
        left = stop - time.monotonic()
        ready = poll.poll(max(0.0, left) * 1000)
        if not ready:
            return
        for fd, _ in ready:
            if not by_fd[fd]._receive():
                return
