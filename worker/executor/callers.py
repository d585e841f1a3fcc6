"""The executor's end of direct channels: reading calls, writing replies."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections import deque
from typing import Any

from ract.client.process.metrics import recorder
from ract.core import calls

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 256 * 1024
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
    """One connected caller.

    Attributes:
        process: Its process number (0 until it has said hello).
        job_id: The job on whose behalf it calls.
        actor_id: The actor that it is, if it is one.
        out: Replies not yet encoded. Threads append while another one flushes.
        streams: Running generators, by the number of their call on this channel.
        busy_s: Time in user code for the replies in ``out``.
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
        self._frames = calls.FrameReader()
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._unsent: deque[memoryview] = deque()
        # While the thread that runs calls is about to wait, the IO thread answers in its place.
        self._flush_lock = threading.Lock()

    @classmethod
    def accept(cls, listener: socket.socket) -> Caller | None:
        """Whoever connects next; None if nobody does, or another user (frames are pickles)."""
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
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
        except Exception as error:  # whatever bytes that are no frame make of pickle
            logger.warning("dropped a caller (process %d): %r", self.process, error)
            self.is_closed = True
        return items

    @property
    def has_unsent(self) -> bool:
        """Whether replies wait for the socket to take them."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Write replies, as far as the socket takes them; any thread may."""
        with self._flush_lock:
            self._flush()

    def _flush(self) -> None:
        if self.out:
            if recorder.is_dirty:
                recorder.flush_before_reply()
            replies = [self.out.popleft() for _ in range(len(self.out))]
            busy_s, self.busy_s = self.busy_s, 0.0
            self._unsent.append(memoryview(calls.frame((busy_s, replies))))
        unsent = self._unsent
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
            # The caller is gone; its results have nobody to go to.
            unsent.clear()
            self.is_closed = True

    def credit(self, seq: int, read: int) -> None:
        """The caller has read so many items of a stream."""
        stream = self.streams.get(seq)
        if stream is not None:
            stream.credit(read)

    def close(self) -> None:
        """Close the socket; generators need not wait for this caller any more."""
        self.is_closed = True
        for stream in list(self.streams.values()):
            stream.credit(stream.unlimited)
        self.sock.close()
