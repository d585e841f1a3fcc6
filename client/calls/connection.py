"""Frames between this process and one executor, which outlive the connections that carry them.

Theory of operation
-------------------
A connection can break while both ends live: a network between two nodes fails for a moment, or a
signal handler interrupts a reader between the socket and the place where it keeps what it has read.
So frames are numbered and kept until they are acknowledged, and the next connection goes on where
the last one ended (`ract.core.calls`). Whoever sends and receives frames notices nothing but a
delay.

States: *open* (frames are written), *greeting* (a new connection says what has come and waits for
the same from the executor; nothing is written meanwhile), *broken* (there is no socket; `dial` is
tried again with growing pauses). That the executor is gone for good is known in two cases: nobody
listens at its socket (`ExecutorGone`), or it knows nothing of this process (`is_over`). A tunnel
to another node says the first if that node can be reached; else the scheduler's word decides.

Locks: the channel's lock guards all that is written here, its ``read_lock`` all that is read. The
socket changes only under both. So a descriptor is never closed, and its number never given to
another file, while a thread uses it.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ract.client.process.reactor import Reactor
from ract.core import calls

RECEIVE_BYTES = 256 * 1024
SLICE_S = 0.05
"""A blocked reader looks around this often: its ref may be completed by another thread."""

RETRY_MIN_S = 0.02
RETRY_MAX_S = 1.0
"""The pause between two attempts to connect doubles from the one to the other."""

ACKNOWLEDGE_FRAMES = 16
ACKNOWLEDGE_BYTES = 256 * 1024
"""After so much the executor is told what has come, so that it need not keep it."""

_RECEIVE_TIMEOUT = struct.pack("ll", 0, int(SLICE_S * 1e6))

_buffers = threading.local()


class ExecutorGone(ConnectionError):
    """Nobody listens at the executor's socket: its process has ended."""


class Connection:
    """One connection after another to the same executor.

    Args:
        dial: Returns a connected socket. Raises ExecutorGone, or OSError if it cannot connect now.
        hello: What this process says of itself: a HELLO without its last item.
        lock: The channel's.
        reactor: Watches the sockets.
        readable: Called by the reactor when there is something to read, or the socket has ended.

    Attributes:
        fd: The descriptor of the socket; -1 while there is none.
        is_open: Whether frames may be written.
        is_over: Whether the executor is gone, or does not know any more what had come.
        trouble: Why there is no open connection; "" if there is one.
        retry_at: When to dial again, on the monotonic clock.
    """

    def __init__(
        self,
        dial: Callable[[], socket.socket],
        hello: tuple[Any, ...],
        lock: Any,
        reactor: Reactor,
        readable: Callable[[], None],
    ) -> None:
        self._dial = dial
        self._hello = hello
        self._lock = lock
        self._reactor = reactor
        self._readable = readable
        self._sock: socket.socket | None = None
        self._poll = select.poll()
        self.fd = -1
        self.is_open = False
        self.is_over = False
        self.trouble = ""
        self.retry_at = 0.0
        self._pause_s = RETRY_MIN_S
        self.lost_at = 0.0  # when the last connection that was answered broke
        self._first_at = 0.0  # when the first connection was made; 0 before it
        self._is_greeting = False
        self._is_torn = False  # a reader was interrupted: what it had in hand is lost
        self._unsent: deque[memoryview] = deque()
        self._sent = calls.SentFrames()
        self._frames = calls.FrameReader()
        self._received = 0  # the number of the newest reply frame that came
        self._told = 0  # the newest of them that the executor was told of
        self._untold_bytes = 0

    # ------------------------------------------------------------------ connecting

    def connect(self, now: float) -> bool:
        """Dial; returns whether there is a socket. The caller holds both locks.

        Raises:
            ExecutorGone: there never will be.
        """
        try:
            sock = self._dial()
        except ExecutorGone:
            raise
        except OSError as error:  # too many open files, no room in a queue, an interruption ...
            self._wait(now, f"cannot connect: {error}")
            return False
        received = self._received if self._first_at else None
        self._is_greeting = received is not None
        self._first_at = self._first_at or now
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEOUT)
        self._sock, self.fd = sock, sock.fileno()
        self._poll.register(sock, select.POLLIN)
        self._frames = calls.FrameReader()
        self._is_torn = False
        self._unsent.clear()
        self._unsent.append(memoryview(calls.frame([(*self._hello, received)])))
        self._reactor.watch_once(self.fd, self._readable)
        if self._is_greeting:
            self.trouble = "it has not greeted on a new connection yet"
            self.flush()
            self.arm()
        else:
            self.is_open, self.trouble = True, ""
        return True

    def lose(self, now: float) -> None:
        """The socket has ended. The caller holds both locks."""
        if self._sock is None:
            return
        if self.is_open or not self.lost_at:
            self.lost_at = now
        self._close_socket()
        if not self._is_torn:
            self._wait(now, "the connection broke")

    def _wait(self, now: float, why: str) -> None:
        self.trouble = why
        self.retry_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)

    def _close_socket(self) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None
        self.is_open = False
        self._reactor.forget(self.fd, self._readable)
        self._poll.unregister(self.fd)
        self.fd = -1
        sock.close()

    def close(self) -> None:
        """Close for good. The caller holds both locks."""
        if self._sock is not None:
            self._close_socket()
        self._unsent.clear()

    def interrupt(self) -> None:
        """End the socket, so that its reader wakes up. The caller holds the channel's lock."""
        if self._sock is not None:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # already
                pass
            self.arm()

    def arm(self) -> None:
        """Have the reactor call `readable` once, when there is something to read."""
        self._reactor.arm(self.fd, self._readable)

    def arm_for_end(self) -> None:
        """Have the reactor call `readable` once, when the other end closes."""
        self._reactor.arm_for_end(self.fd, self._readable)

    # ------------------------------------------------------------------ sending

    @property
    def has_unsent(self) -> bool:
        """Whether the socket has not taken all."""
        return bool(self._unsent)

    def add(self, items: list[Any]) -> None:
        """Number a frame, to be written by `flush`. The caller holds the channel's lock."""
        frame = memoryview(calls.frame(items))
        self._sent.add(frame)
        self._unsent.append(frame)

    def flush(self) -> None:
        """Write what the socket takes; never block. The caller holds the channel's lock."""
        unsent, sock = self._unsent, self._sock
        if sock is None:
            return
        try:
            while unsent:
                sent = sock.send(unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                if sent < len(unsent[0]):
                    unsent[0] = unsent[0][sent:]
                    return
                unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            unsent.clear()  # what of it has not arrived is sent again on the next connection
            self.arm()  # who reads next will see the end

    # ------------------------------------------------------------------ receiving

    def wait_readable(self, seconds: float) -> bool:
        """Wait until there is something to read. The caller holds ``read_lock``."""
        return self.fd >= 0 and bool(self._poll.poll(max(0.0, seconds) * 1000))

    def receive(self, batches: deque[list[Any]], block: bool) -> bool:
        """Receive once; returns False when the socket has ended. The caller holds ``read_lock``.

        Args:
            batches: Gets a list [busy_s, replies, 0] for each frame of replies.
            block: Wait for something, at most for `SLICE_S`.
        """
        sock = self._sock
        if sock is None or self._is_torn:
            return False
        try:
            buffer = _buffers.view
        except AttributeError:
            buffer = _buffers.view = memoryview(bytearray(RECEIVE_BYTES))
        is_whole = False
        try:
            # From here on an exception of a signal handler may lose bytes: `finally` tells.
            n = sock.recv_into(buffer, 0, 0 if block else socket.MSG_DONTWAIT)
            for frame in self._frames.feed(buffer[:n]):
                if self._is_greeting:
                    self._greeted(frame)
                    continue
                busy_s, replies, arrived = frame
                batches.append([busy_s, replies, 0])
                self._received += 1
                self._sent.arrived(arrived)
            self._untold_bytes += n
            is_whole = True
        except (BlockingIOError, InterruptedError):
            is_whole = True
            return True
        except OSError:
            n = 0
        except Exception:  # these bytes are no frame: nothing that comes from there can be trusted
            self.is_over, n = True, 0
        finally:
            if not is_whole:
                self._is_torn = True
        return n > 0

    def _greeted(self, frame: Any) -> None:
        """The executor has said which frames had come on earlier connections."""
        came = frame[1][0][1]
        if came == calls.GONE:
            self.is_over = True
            return
        is_new = not self._received and time.monotonic() - self._first_at < calls.RESUME_S / 2
        if came < 0 and is_new:
            came = 0  # the connection broke before the executor had heard of it
        with self._lock:
            again = self._sent.after(came)  # raises GapError if the executor has forgotten
            self._unsent.extend(again)
            self._is_greeting, self._pause_s = False, RETRY_MIN_S
            self.is_open, self.trouble = True, ""

    def acknowledgement(self) -> tuple[int, int] | None:
        """An item that tells the executor what has come, if it is time to."""
        untold = self._received - self._told
        if untold < ACKNOWLEDGE_FRAMES and self._untold_bytes < ACKNOWLEDGE_BYTES:
            return None
        self._told, self._untold_bytes = self._received, 0
        return (calls.RECEIVED, self._received)
