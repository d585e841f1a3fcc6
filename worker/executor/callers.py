"""The executor's end of direct channels: reading calls, writing replies.

Theory of operation
-------------------
A `Caller` is a process that calls. It outlives its connections (`ract.core.calls`): if one breaks,
its calls go on and its replies are kept. The next connection of the process says which replies
have come, and the caller takes it over (`Callers.greet`). A caller that does not come back within
`calls.RESUME_S`, or whose process is seen to have ended, is gone (`Caller.is_gone`): nobody takes
its replies any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ract.client.process.metrics import recorder
from ract.core import calls

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 256 * 1024
_PF_EXITING = 4  # a flag of /proc/<pid>/stat (see proc(5) and include/linux/sched.h)
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (see unix(7), SO_PEERCRED)


def priority_of(waiting: tuple[Caller, tuple[Any, ...]]) -> int:
    """The priority of a call that waits, with its caller; other items keep their place."""
    item = waiting[1]
    if item[0] != calls.CALL or item[5] is None:
        return 0
    return item[5].get("priority", 0)


class OutStream:
    """The executor's end of a streaming call.

    Args:
        limit: How many items may be unread, 0 without limit.
        read: How many the caller has read of an earlier run.
    """

    unlimited = 2**62

    def __init__(self, limit: int, read: int) -> None:
        self.count = 0
        self._limit = limit or self.unlimited
        self._read = read
        self._credited = threading.Event()

    @property
    def is_full(self) -> bool:
        """Whether the producer must wait."""
        return self.count - self._read >= self._limit

    def credit(self, read: int) -> None:
        """So many items were read."""
        self._read = max(self._read, read)
        self._credited.set()

    def wait(self, timeout: float) -> None:
        """Wait for `credit` by another thread."""
        self._credited.wait(timeout)
        self._credited.clear()


class Caller:
    """One caller.

    Attributes:
        process: Its process number (0 until it has said hello).
        job_id: The job on whose behalf it calls.
        actor_id: The actor that it is, if it is one.
        out: Replies not yet encoded. Threads append while another one flushes.
        streams: Running generators, by the number of their call on this channel.
        busy_s: Time in user code for the replies in ``out``.
        is_closed: Whether its connection has ended.
        is_gone: Whether it will not come back.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.process = 0
        self.job_id = b""
        self.node_id = b""
        self.actor_id = b""
        self.out: deque[Any] = deque()
        self.streams: dict[int, OutStream] = {}
        self.busy_s = 0.0
        self.is_closed = False
        self.is_gone = False
        self.away_since = 0.0
        self._received = -1  # the newest frame that came; the first one of all is the greeting
        self._sent = calls.SentFrames()
        self._frames = calls.FrameReader()
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._unsent: deque[memoryview] = deque()
        #: How many items were read of streams that have not begun: their calls wait here.
        self._early: dict[int, int] = {}
        # While the thread that runs calls is about to wait, the IO thread answers in its place.
        self._flush_lock = threading.Lock()

    @classmethod
    def accept(cls, listener: socket.socket) -> Caller | None:
        """Whoever connects next; None if nobody does, or another user (frames are pickles)."""
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            logger.warning("cannot let a caller in: %s", error)
            _turn_away(listener)
            return None
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(found)
        if uid != os.getuid():
            logger.warning("refused a connection of user %d", uid)
            sock.close()
            return None
        return cls(sock)

    def fileno(self) -> int:
        """The descriptor, for poll."""
        return self.sock.fileno()

    def receive(self) -> list[Any]:
        """Return the items that have come; [] and ``is_closed`` when the caller is gone."""
        try:
            n = self.sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            n = 0
        if n == 0:
            self.is_closed = True
            return []
        items: list[Any] = []
        try:
            for frame in self._frames.feed(self._buffer[:n]):
                items += frame
                self._received += 1
            for item in items:
                if item[0] == calls.CALL and item[5] is not None and "backpressure" in item[5]:
                    self._early[item[1]] = 0
        except Exception as error:  # whatever bytes that are no frame make of pickle
            logger.warning("dropped a caller (process %d): %r", self.process, error)
            self.is_closed = self.is_gone = True
        return items

    @property
    def has_unsent(self) -> bool:
        """Whether replies wait for the socket to take them."""
        return bool(self._unsent)

    @property
    def lacks_replies(self) -> bool:
        """Whether there are replies of which the caller has not said that they arrived."""
        return bool(self.out) or len(self._sent) > 0

    def flush(self) -> None:
        """Write replies, as far as the socket takes them; any thread may."""
        with self._flush_lock:
            self._flush()

    def _flush(self) -> None:
        if self.out:
            if recorder.is_dirty:
                recorder.flush_before_reply()
            replies = [self.out.popleft() for _ in range(len(self.out))]
            if self._early:
                for reply in replies:
                    self._early.pop(reply[0], None)
            busy_s, self.busy_s = self.busy_s, 0.0
            frame = memoryview(calls.frame((busy_s, replies, self._received)))
            self._sent.add(frame)
            self._unsent.append(frame)
        unsent = self._unsent
        if self.is_closed:
            unsent.clear()  # kept in `_sent`, for the next connection
        try:
            while unsent:
                sent = self.sock.send(unsent[0], socket.MSG_NOSIGNAL)
                if sent < len(unsent[0]):
                    unsent[0] = unsent[0][sent:]
                    return
                unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            unsent.clear()
            self.is_closed = True

    def arrived(self, frame: int) -> None:
        """The caller has got the replies up to this frame."""
        try:
            self._sent.arrived(frame)
        except calls.GapError as error:
            logger.warning("dropped a caller (process %d): %s", self.process, error)
            self.is_closed = self.is_gone = True

    def hello(self, item: tuple[Any, ...]) -> None:
        """The caller says who it is."""
        _, self.process, self.job_id, self.node_id, self.actor_id, _ = item

    def take_over(self, other: Caller, received: int) -> bool:
        """Go on with the socket of ``other``, a new connection of the same process.

        Args:
            other: What came with the new connection; it is of no use any more.
            received: The number of the newest frame of replies that the process has got.

        Returns:
            Whether all that it lacks is still here.
        """
        with self._flush_lock:
            try:
                again = self._sent.after(received)
            except calls.GapError:
                return False
            self.sock.close()
            self.sock, self._frames, self._buffer = other.sock, other._frames, other._buffer
            self._unsent = deque([_greeting(self._received), *again])
            self.is_closed = False
        return True

    def greet_unknown(self) -> None:
        """Say that nothing is known of earlier connections of this process."""
        with self._flush_lock:
            self._unsent.append(_greeting(-1))

    def credit(self, seq: int, read: int) -> None:
        """The caller has read so many items of a stream."""
        stream = self.streams.get(seq)
        if stream is not None:
            stream.credit(read)
        elif seq in self._early:
            self._early[seq] = max(self._early[seq], read)

    def open_stream(self, seq: int, limit: int, read: int) -> OutStream:
        """A streaming call begins.

        Args:
            seq: The call's number on this channel.
            limit: How many items may be unread, 0 without limit.
            read: How many the caller has read of an earlier run.
        """
        early = self._early.pop(seq, 0)
        stream = self.streams[seq] = OutStream(limit, max(read, early))
        return stream

    def close(self) -> None:
        """Close the socket; generators need not wait for this caller any more."""
        self.is_closed = self.is_gone = True
        for stream in list(self.streams.values()):
            stream.credit(stream.unlimited)
        self.sock.close()

    def process_ends(self) -> bool:
        """Whether the process at the other end of the socket is seen to be ending, or has ended.

        False if that cannot be known: the other end may be a tunnel.
        """
        found = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(found)
        if pid == 0:  # of another namespace
            return False
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                facts = stat.read().rpartition(b")")[2].split()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return facts[0] in b"ZX" or bool(int(facts[6]) & _PF_EXITING)


def _spare() -> list[int]:
    try:
        return [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
    except OSError:
        return []


_spare_fds = _spare()


def _turn_away(listener: socket.socket) -> None:
    """Close the next connection: there are too many open files. Who connects tries again later.

    Left alone it would be ready at each poll. A descriptor that is kept for this makes room.
    """
    while _spare_fds:
        os.close(_spare_fds.pop())
    with contextlib.suppress(OSError):  # somebody else has taken the room, or nobody is there now
        listener.accept()[0].close()
    _spare_fds.extend(_spare())


def _greeting(received: int) -> memoryview:
    return memoryview(calls.frame((0.0, [(calls.RESUMED, received)], 0)))


class Callers:
    """The callers of one executor: those that are connected, and those that may come back.

    Args:
        unwatch: Called with a descriptor of ``here`` before it is closed.
        clock: Returns seconds that only grow.

    Attributes:
        here: The connected ones, by descriptor.
        away: Those whose connection broke, by process, the longest away first.
    """

    def __init__(
        self, unwatch: Callable[[int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._unwatch = unwatch
        self._clock = clock
        self.here: dict[int, Caller] = {}
        self.away: dict[int, Caller] = {}

    @property
    def are_served(self) -> bool:
        """Whether all replies were written, and nobody who lacks some may come back."""
        self.forget_late()
        is_awaited = any(caller.lacks_replies for caller in self.away.values())
        return not is_awaited and not any(caller.has_unsent for caller in self.here.values())

    def hang_up(self) -> None:
        """Close all connections."""
        for caller in [*self.here.values(), *self.away.values()]:
            caller.close()
        self.here.clear()
        self.away.clear()

    def add(self, caller: Caller) -> None:
        """Somebody has connected, who has yet to say hello."""
        self.here[caller.fileno()] = caller

    def broke(self, caller: Caller) -> list[Caller]:
        """The connection of a caller has ended.

        Returns:
            The callers that are gone now, this one or others; they are closed.
        """
        self._take_away(caller)
        gone = self.forget_late()
        if caller.is_gone or not caller.process or caller.process_ends():
            caller.close()
            return [*gone, caller]
        caller.sock.close()
        caller.is_closed, caller.away_since = True, self._clock()
        self.away[caller.process] = caller
        return gone

    def _take_away(self, caller: Caller) -> None:
        fd = caller.fileno()
        self._unwatch(fd)
        del self.here[fd]

    def forget_late(self) -> list[Caller]:
        """Close those that have been away for too long; returns them."""
        now, gone = self._clock(), []
        for process, caller in list(self.away.items()):
            if now - caller.away_since < calls.RESUME_S:
                break
            del self.away[process]
            caller.close()
            gone.append(caller)
        return gone

    def process_gone(self, process: int) -> list[Caller]:
        """A process has ended, as its node says; returns its callers, which are closed.

        Behind a tunnel this is not to be seen from here.
        """
        gone = [caller for caller in self.here.values() if caller.process == process]
        for caller in gone:
            self._take_away(caller)
        if (known := self.away.pop(process, None)) is not None:
            gone.append(known)
        for caller in gone:
            caller.close()
        return gone

    def greet(self, new: Caller, item: tuple[Any, ...]) -> Caller | None:
        """A new connection says who it is; from now on `here` has its caller.

        Returns:
            A caller that is gone now, and is closed, if there is such a one.
        """
        new.hello(item)
        received = item[5]
        known = self.away.pop(new.process, None) or self._connected_before(new)
        if known is not None and received is not None and known.take_over(new, received):
            self.here[new.fileno()] = known
            return None
        if received is not None:
            new.greet_unknown()
        if known is not None:
            known.close()
        return known

    def _connected_before(self, new: Caller) -> Caller | None:
        """An earlier connection of the same process, whose end has not been seen here."""
        for caller in list(self.here.values()):
            if caller is not new and caller.process == new.process:
                self._take_away(caller)
                return caller
        return None
