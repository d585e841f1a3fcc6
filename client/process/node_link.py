"""The control connection of a process to the daemon of its node (``node.sock``).

Theory of operation
-------------------
Messages are written from the calling thread, in order, under one lock; the daemon always reads, so
writing does not block for long. They are read by the reactor. Changes of holds are collected (also
by finalizers, which must not write) and always go out before any later message.

What is to be written goes through ``_unsent``. So a thread that is interrupted in the middle of a
message leaves the rest of it to the next one, and a signal handler that sends while its own thread
is sending adds to what that thread writes.

The connection ends once: by `close`, or because the node is gone. From then on every question is
answered with the reason (`_ended`), those that wait for an answer included. The socket is closed
when nobody uses it any more: under the lock of the writers, and that of the reader.
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
from collections.abc import Callable
from functools import partial
from typing import Any

from ract.client.process import finalizers, interrupts, user_code
from ract.client.process.locks import make_lock
from ract.core import wire
from ract.core.errors import LeftClusterError, RactSystemError, error_by_name
from ract.core.messages import (
    Hello,
    Hold,
    HoldsChanged,
    Refused,
    Reply,
    Request,
    Waiting,
    Warned,
    Welcome,
)

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")
HOLDS_PER_MESSAGE_MAX = 4096

LOOK_S = 0.05
"""Who waits for an answer looks so often whether it is interrupted."""

WELCOME_TIMEOUT_S = 30.0
"""A cluster that is well answers a newcomer in milliseconds."""


class NodeLink:
    """A connection that has said hello.

    Attributes:
        welcome: What the node answered.
        on_message: Called on the reactor's thread with every message but replies.
        on_lost: Called once when the connection ends without `close`.
    """

    def __init__(self, path: str, hello: Hello) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.connect(path)
            self._lock = make_lock("link")  # of all that is written
            self._reading = threading.Lock()  # nothing else is taken by who has it
            self._inbox = bytearray()
            self._early: list[Any] = []
            self._sock.sendall(_framed(hello))
            self._sock.settimeout(WELCOME_TIMEOUT_S)
            self.welcome = self._receive_welcome()
            self._sock.settimeout(None)
        except TimeoutError:
            waited_s = self._sock.gettimeout()
            self._sock.close()
            raise ConnectionError(
                f"the cluster did not accept this process within {waited_s:.0f} s; the output of "
                "the scheduler, and of the node, says why"
            ) from None
        except BaseException:
            self._sock.close()
            raise
        self.process = self.welcome.process
        self.hold_changes: deque[tuple[bytes, int, int]] = deque()  # (id, process, change)
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_lost: Callable[[], None] = lambda: None
        self.is_closed = False
        self._unsent: deque[memoryview] = deque()
        self._is_writing = False
        self._room = select.poll()  # for what is written
        self._room.register(self._sock, select.POLLOUT)
        self._ended: Callable[[], BaseException] | None = None  # why there are no answers any more
        # Guards `_ended` and `_requests`; apart from `_lock`, so that an answer never waits for a
        # thread that writes. Nothing else is taken by who has it.
        self._asking = threading.RLock()  # reentrant for signal handlers that ask
        self._requests: dict[int, _Waiter] = {}
        self._numbers = itertools.count(1)

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._sock.fileno()

    def _receive_welcome(self) -> Welcome:
        messages, self._early = self._early, []
        while not messages:
            messages = self._receive()
        # What follows the welcome at once is kept until somebody listens.
        first, *self._early = messages
        if isinstance(first, Waiting):
            logger.warning("ract: waiting for the cluster: %s", first.detail)
            self._sock.settimeout(first.seconds + WELCOME_TIMEOUT_S)
            return self._receive_welcome()
        if isinstance(first, Refused):
            raise error_by_name(first.error, first.detail)
        if not isinstance(first, Welcome):
            raise RactSystemError(ConnectionError(f"unexpected {type(first).__name__}"))
        return first

    # ------------------------------------------------------------------ sending

    def send(self, *messages: Any) -> None:
        """Send messages after all changes of holds made so far.

        Raises:
            RactSystemError: the node is gone.
            LeftClusterError: this process has left the cluster.
        """
        data = b"".join(map(_framed, messages))
        with self._lock:
            if self.hold_changes:
                self._add_holds()
            self._unsent.append(memoryview(data))
            self._write()

    def _write(self) -> None:
        if self._ended is not None:  # the socket may be closed, and its number another file's
            self._unsent.clear()
            self.check_open()
        if self._is_writing:  # a signal handler runs in the middle of it: `_write` below goes on
            return
        self._is_writing = True
        try:
            unsent = self._unsent
            while unsent:
                # Never waits: else a signal could come after a part was written, and before it is
                # known here how large that part was.
                try:
                    sent = self._sock.send(unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    self._room.poll()
                    continue
                if sent < len(unsent[0]):
                    unsent[0] = unsent[0][sent:]
                else:
                    unsent.popleft()
        except OSError as error:
            self._unsent.clear()
            self.check_open()
            raise RactSystemError(ConnectionError(f"the node is gone: {error}")) from None
        finally:
            self._is_writing = False

    def check_open(self) -> None:
        """Raise LeftClusterError, or RactSystemError, if the connection has ended."""
        if self._ended is not None:
            raise self._ended()

    def tell(self, *messages: Any) -> None:
        """Send messages; without a node there is nobody to tell."""
        try:
            self.send(*messages)
        except (LeftClusterError, RactSystemError) as error:
            if not self.is_closed:
                # Whoever tells may hold locks, under which no handler of the program may run.
                kind = type(messages[0]).__name__
                user_code.log(logger, logging.DEBUG, "ract: could not send %s: %s", kind, error)

    def warn(self, type: str, text: str) -> None:
        """Have the driver of this job told of something; its tests can wait for the type."""
        self.tell(Warned(self.process, type, text))

    def flush_holds(self) -> bool:
        """Send collected changes of holds; returns whether there were any.

        Without a node there is nobody who counts them.
        """
        if not self.hold_changes or self.is_closed:
            return False
        with self._lock:
            self._add_holds()
            try:
                self._write()
            except (LeftClusterError, RactSystemError):
                return False
        return True

    def _add_holds(self) -> None:
        changes = self.hold_changes
        net: dict[tuple[bytes, int], int] = {}
        for _ in range(len(changes)):
            object_id, process, change = changes.popleft()
            key = (object_id, process)
            net[key] = net.get(key, 0) + change
        # A hold may come too early, never too late: what was taken and dropped meanwhile was kept
        # by something else, whose release is among these.
        holds = [Hold(*key, n) for key, n in net.items() if n > 0]
        holds += [Hold(*key, n) for key, n in net.items() if n < 0]
        for i in range(0, len(holds), HOLDS_PER_MESSAGE_MAX):
            part = holds[i : i + HOLDS_PER_MESSAGE_MAX]
            self._unsent.append(memoryview(_framed(HoldsChanged(self.process, part))))

    def request(self, op: str, timeout: float | None = 60.0, **args: Any) -> Any:
        """Ask the scheduler; returns its answer.

        Raises:
            Exception: the typed error that the scheduler answered.
            TimeoutError: no answer in time.
            RactSystemError: the node is gone.
            LeftClusterError: this process has left the cluster.
        """
        number = next(self._numbers)
        return self.ask(number, Request(self.process, number, op, args), timeout, what=op)

    def next_request(self) -> int:
        """A number for a question whose answer carries it."""
        return next(self._numbers)

    def ask(self, number: int, message: Any, timeout: float | None, what: str) -> Any:
        """Send a question and wait for the answer with that number.

        Raises:
            Exception: the typed error that was answered.
            KeyboardInterrupt: this is the main thread, and it was interrupted.
            TimeoutError: no answer in time.
        """
        finalizers.check_may_wait(f"a question to the cluster ({what})", also_locks=True)
        waiter = _Waiter()
        with self._asking:
            self.check_open()
            self._requests[number] = waiter
        try:
            self.send(message)
            if not waiter.wait(timeout):
                raise TimeoutError(f"the cluster did not answer {what!r} within {timeout} s")
        finally:
            with self._asking:
                del self._requests[number]
        if waiter.error is not None:
            raise waiter.error
        return waiter.value

    # ------------------------------------------------------------------ receiving

    def readable(self) -> None:
        """Read what has come and dispatch it (on the reactor's thread)."""
        try:
            messages = self._receive()
        except (OSError, wire.ProtocolError) as error:
            if not self.is_closed:
                self._lost(error)
            return
        self._dispatch(messages)

    def begin(self) -> None:
        """Dispatch what came together with the welcome (on the reactor's thread)."""
        early, self._early = self._early, []
        self._dispatch(early)

    def _dispatch(self, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, Reply):
                error_ = error_by_name(message.error, str(message.value)) if message.error else None
                self.answer(message.request, message.value, error_)
            else:
                try:
                    self.on_message(message)
                except BaseException:  # whatever it is, what follows is for others
                    text, kind = "ract: could not handle %s", type(message).__name__
                    user_code.log(logger, logging.ERROR, text, kind, exc_info=True)

    def answer(self, number: int, value: Any, error: BaseException | None = None) -> bool:
        """Wake who asked question ``number``; False if it has given up, or has its answer."""
        with self._asking:
            waiter = self._requests.get(number)
            return waiter is not None and waiter.finish(value, error)

    def _receive(self) -> list[Any]:
        with self._reading:
            data = self._sock.recv(256 * 1024)
        if not data:
            raise ConnectionError("the node closed the connection")
        inbox = self._inbox
        inbox += data
        messages = []
        start = 0
        while len(inbox) - start >= 4:
            (size,) = _LENGTH.unpack_from(inbox, start)
            if size > wire.FRAME_BYTES_MAX:
                raise wire.ProtocolError(f"frame of {size} bytes")
            if len(inbox) - start - 4 < size:
                break
            messages.append(wire.decode(bytes(inbox[start + 4 : start + 4 + size])))
            start += 4 + size
        del inbox[:start]
        return messages

    def _lost(self, error: Exception) -> None:
        if self._end(partial(RactSystemError, ConnectionError(f"the node is gone: {error}"))):
            self.on_lost()

    def close(self) -> None:
        """Close the connection; the node takes that as the end of the process."""
        self._end(partial(LeftClusterError, "ract.shutdown() was called before this was answered"))
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads, if there is one
        except OSError:  # the node went first, or it is closed
            pass
        with self._reading, self._lock:
            self._sock.close()

    def _end(self, why: Callable[[], BaseException]) -> bool:
        """Answer all questions with an error, also later ones; returns False if that was done."""
        with self._asking:
            if self._ended is not None:
                return False
            self._ended, self.is_closed = why, True
            for waiter in list(self._requests.values()):
                waiter.finish(None, why())
        return True


class _Waiter:
    """Who waits for an answer; the first one counts."""

    __slots__ = ("done", "error", "value")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def wait(self, timeout: float | None) -> bool:
        """Wait for the answer; False if there is none after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        look_s = LOOK_S
        while True:
            if deadline is not None:
                look_s = min(LOOK_S, deadline - time.monotonic())
            if self.done.wait(max(0.0, look_s)):
                return True
            if look_s < LOOK_S:
                return False
            interrupts.check()

    def finish(self, value: Any, error: BaseException | None) -> bool:
        """Give it its answer; False if it has one."""
        if self.done.is_set():
            return False
        self.value, self.error = value, error
        self.done.set()
        return True


def _framed(message: Any) -> bytes:
    data = wire.encode(message)
    return _LENGTH.pack(len(data)) + data
