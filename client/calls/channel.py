"""The caller's end of a direct channel to one executor.

Theory of operation
-------------------
`send` runs in the calling thread. While few calls are in flight a call is written at once; beyond
that calls are buffered and go out together when 64 wait, when a reply arrives, when somebody waits,
or at the next tick. Writing never blocks: what the socket does not take waits in the connection.

Reading belongs to whoever holds ``read_lock``: a thread that waits for a reply of this channel, or
the reactor when nobody does. A reader that leaves while calls are in flight arms the reactor.

A reply is looked up, applied, and only then removed, and applying it twice does no harm: a
KeyboardInterrupt in the middle of a batch loses nothing, because the next reader continues there.

A channel outlives its connections (`ract.client.calls.connection`): calls in flight stay in flight,
and those made meanwhile wait in ``_out``. It ends when the executor is gone or has forgotten this
process, when its owner says that the executor is gone (`abort`), or when a connection breaks that
nobody uses. Only then the owner hears of it (`Owner.closed`), once.
"""

from __future__ import annotations

import itertools
import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.calls.call import Call, extra_of
from ract.client.calls.connection import SLICE_S, Connection, ExecutorGone
from ract.client.calls.rooms import Rooms
from ract.client.objects.refs import PLAIN, READY, ObjectRef, notify
from ract.client.process import interrupts
from ract.client.process.locks import make_lock
from ract.core import calls

if TYPE_CHECKING:
    import socket

    from ract.client.objects.held import Held
    from ract.client.process.reactor import Reactor
    from ract.client.process.session import Session

logger = logging.getLogger(__name__)

SEND_AT_ONCE_MAX = 8
BUFFERED_CALLS_MAX = 64
WORK_AHEAD_MIN = 64
_ANY_SLICE_S = 0.005


class Owner(Protocol):
    """Who sends calls over a channel and hears of their end."""

    def replied(self, channel: Channel, last: Call | None, n: int, busy_s: float) -> None:
        """``n`` calls were answered, ``last`` among them, after ``busy_s`` in user code."""

    def returned(self, channel: Channel, call: Call) -> None:
        """The executor has not begun the call and never will."""

    def closed(self, channel: Channel, calls: list[Call]) -> None:
        """The channel has ended for good, and these calls have no answer: they may have run.

        The executor is gone (then the scheduler says why), or it lives and has forgotten this
        process: a new channel may be opened.
        """

    def blocked(self, channel: Channel, is_blocked: bool) -> None:
        """The executor's task waits in get, or goes on."""


class Home(Protocol):
    """What a channel uses of its process: `ract.client.calls.channels.Channels`."""

    session: Session
    reactor: Reactor
    held: Held

    def apply(self, channel: Channel, call: Call, reply: tuple[Any, ...]) -> None:
        """Apply a reply that is more than one plain value."""

    def ended(self, channel: Channel) -> None:
        """The channel has ended."""


class Channel:
    """A channel to the process with number ``executor``.

    Args:
        home: The channels of this process.
        executor: Its process number.
        dial: Returns a connected socket; see `Connection`.
        hello: What this process says of itself.

    Attributes:
        owner: Who sends calls here and hears of their end; None if nobody does any more.
        inflight: Calls without an answer, by their number on this channel, oldest first.
        is_closed: Whether it has ended for good.
    """

    def __init__(
        self,
        home: Home,
        executor: int,
        dial: Callable[[], socket.socket],
        hello: tuple[Any, ...],
    ) -> None:
        self._home = home
        self._held = home.held
        self._apply_reply = home.apply
        self.executor = executor
        self.owner: Owner | None = None
        self.inflight: dict[int, Call] = {}
        # Not one of the ranked locks: nobody waits for it who holds another lock.
        self.read_lock = threading.Lock()
        self.is_closed = False
        self._is_ending = False  # `abort` was called
        self._lock = make_lock("channel")
        self._reactor = home.reactor
        self._seq = 0
        self._out: list[Any] = []
        self._defined: set[bytes] = set()
        self._batches: deque[list[Any]] = deque()  # [busy_s, replies, position]
        self.rooms = Rooms(self, home.session.check_alive)
        self._watches_end = False  # the reactor calls if the idle connection ends
        self._is_blocked = False  # the executor will say that calls may start there again
        self.connection = Connection(dial, hello, self._lock, home.reactor, self._readable)

    def open(self) -> None:
        """Connect, or begin to try to.

        Raises:
            ExecutorGone: nobody listens there.
        """
        with self.read_lock, self._lock:
            self.connection.connect(time.monotonic())
        self._reactor.wake()  # if that did not succeed, its ticks try again

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
            extra = None
            if call.extra is not None:
                if call.extra.holds:
                    self._held.hand_over(call.extra.holds, self.executor)
                extra = extra_of(call)
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
        if self._out or self.connection.has_unsent:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        connection = self.connection
        if self._out and connection.is_open:
            items, self._out = self._out, []
            connection.add(items)
        connection.flush()

    # ------------------------------------------------------------------ reading

    @property
    def is_readable(self) -> bool:
        """Whether a thread may wait for replies here: there is a socket to wait at."""
        return self.connection.fd >= 0

    def read_until(self, done: Any, deadline: float | None) -> None:
        """Read replies until ``done()`` or the deadline. The caller holds `read_lock`."""
        connection = self.connection
        while not done() and not self.is_closed:
            if self._out or connection.has_unsent:
                self.flush()
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
                if not connection.wait_readable(min(left, SLICE_S)):
                    if not left:
                        return
                    interrupts.check()
                    continue
            if not self._receive(block=deadline is None) or not self.is_readable:
                return

    def wait_for(self, ref: ObjectRef, deadline: float | None) -> None:
        """As `read_until` for one ref without a deadline, which is what `get` does most."""
        if deadline is not None:
            self.read_until(lambda: ref._state >= READY, deadline)
            return
        while ref._state < READY and not self.is_closed and ref._call is not None:
            if self._out or self.connection.has_unsent:
                self.flush()
            if not self._receive(block=True):
                return

    def end_reading(self) -> None:
        """Give up `read_lock`; let the reactor read what is still to come."""
        self.read_lock.release()
        if self.is_closed:
            self._let_go()
        elif self._is_ending:
            self._reactor.post(self._end)  # `abort` came while we had the lock
        elif self.inflight or self.rooms or self._is_blocked:
            self._arm()

    def expedite(self) -> None:
        """Somebody waits without reading: write what is buffered and let the reactor read."""
        self.flush()
        if not self.read_lock.locked():
            self._arm()

    def _arm(self) -> None:
        self._watches_end = False
        self.connection.arm()

    def tick(self) -> bool:
        """Called by the reactor; returns whether anything is to be done."""
        if not self.is_readable:
            return self._connect_again()
        if not (self.inflight or self._out or self.rooms or self.connection.has_unsent):
            # Else nobody would see that an unused executor has ended. A blocked one is read anyway.
            if not (self._watches_end or self._is_blocked):
                self._watches_end = True
                self.connection.arm_for_end()
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
        """Receive once and apply what came. Returns False when there is no connection."""
        if self._batches:  # a reader was interrupted in the middle
            self._apply()
        connection = self.connection
        if not connection.receive(self._batches, block):
            self._broken()
            return False
        if self._batches:
            told = connection.acknowledgement()
            if told is not None:
                self.say(told)
            self._apply()
        elif connection.has_unsent or self._out:  # it was the greeting of a new connection
            self.flush()
        interrupts.check()
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
                            self._apply_reply(self, inflight[seq], reply)
                        batch[2] += 1
                        continue
                    answered += 1
                    call = inflight.get(seq)
                    if call is not None:
                        self._apply_reply(self, call, reply)
                elif seq == calls.ROOM:
                    self.rooms.told(reply[1], reply[2])
                elif seq == calls.RESUMED:  # the tunnel of a first connection leads nowhere
                    self.connection.is_over = True
                else:
                    self._is_blocked = seq == calls.BLOCKED
                    if (owner := self.owner) is not None:
                        owner.blocked(self, self._is_blocked)
                batch[2] += 1
            self._batches.popleft()
            owner = self.owner  # once: it may let go of the channel at this moment
            if owner is not None:
                owner.replied(self, call, answered, busy_s)
            # What is buffered can wait for more as long as the executor has enough to do.
            runs_dry = self._out and len(inflight) - len(self._out) < WORK_AHEAD_MIN
            if runs_dry or self.connection.has_unsent:
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
        with self._held.lock:
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

    # ------------------------------------------------------------------ breaks, and the end

    def _broken(self) -> None:
        """The connection has ended. Only for the holder of `read_lock`."""
        now = time.monotonic()
        with self._lock:
            self.connection.lose(now)
            if self.is_closed:  # `discard`
                return
            is_over = self._is_ending or self.connection.is_over or not self._is_used()
            if not is_over and now >= self.connection.retry_at:
                is_over = not self._connect(now)
        if is_over:
            self.close()
        else:
            self._reactor.wake()  # its ticks connect again

    @property
    def _has_work(self) -> bool:
        return bool(self.inflight or self._out or self.rooms)

    def _is_used(self) -> bool:
        return self._has_work or self.owner is not None

    def _connect(self, now: float) -> bool:
        """Under both locks: try to connect; False if there is nobody any more."""
        self._watches_end = False
        try:
            self.connection.connect(now)
        except ExecutorGone:
            return False
        return True

    def _connect_again(self) -> bool:
        """Called by the reactor while there is no socket; returns whether more ticks are needed."""
        now = time.monotonic()
        if now >= self.connection.retry_at and self.read_lock.acquire(False):
            try:
                with self._lock:
                    is_over = False
                    if not self.is_closed and not self.is_readable:
                        # An executor knows of a caller who is away for so long only.
                        is_late = now >= self.connection.lost_at + calls.RESUME_S
                        is_over = (is_late and not self._has_work) or not self._connect(now)
                if is_over:
                    self.close()
            finally:
                self.end_reading()
        return not self.is_closed

    def abort(self) -> None:
        """The executor is gone, says somebody who knows: end the channel, from any thread, soon."""
        self._is_ending = True
        with self._lock:
            self.connection.interrupt()  # a blocked reader wakes up, and sees that it is to end
        self._reactor.post(self._end)

    def _end(self) -> None:
        # If another thread has the lock it looks at `_is_ending` when it gives it up.
        if self.read_lock.acquire(False):
            try:
                _read_rest(self)
                self.close()
            finally:
                self.read_lock.release()

    def discard(self) -> None:
        """Close without telling anybody: the process leaves the cluster."""
        self.owner = None
        with self._lock:
            self.is_closed = True
            self.connection.interrupt()  # a blocked reader wakes up
        self._let_go()

    def _let_go(self) -> None:
        """Close the socket of a closed channel, unless it is being read.

        Who reads does this when it has done so: it looks after it has given up `read_lock`.
        """
        if self.read_lock.acquire(False):
            with self._lock:
                self.connection.close()
            self.read_lock.release()

    def close(self) -> None:
        """Close; calls in flight go back to the owner. Only for the holder of `read_lock`."""
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.connection.close()
            lost = [call for _, call in sorted(self.inflight.items())]
            self.inflight.clear()
            self._out.clear()
        self._home.ended(self)
        owner = self.owner
        if owner is not None:
            owner.closed(self, lost)

    def describe(self) -> str:
        """What a call that was sent here waits for."""
        trouble = self.connection.trouble
        if not trouble:
            return f"was sent to process {self.executor}, which owes the reply"
        return f"waits for a connection to process {self.executor}: {trouble}"


def read_any(channels: list[Channel], done: Any, deadline: float | None) -> None:
    """Read several channels for a moment, or until ``done()`` or the deadline.

    The caller holds the `read_lock` of all of them. Calls may meanwhile go to other channels, which
    the reactor reads; hence the moment.
    """
    poll = select.poll()
    by_fd = {}
    for channel in channels:
        channel.flush()
        fd = channel.connection.fd
        if fd >= 0:
            by_fd[fd] = channel
            poll.register(fd, select.POLLIN)
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


def _read_rest(channel: Channel) -> None:
    """Apply the last replies of an executor that is gone, which nobody has read.

    The caller holds `read_lock`.
    """
    with channel._lock:
        channel.connection.interrupt()  # it may be another socket than at the time of `abort`
    while channel.is_readable and channel._receive():
        pass
