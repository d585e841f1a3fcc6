"""Passing bytes between pairs of sockets, on a thread of its own.

A synchronous call to another node passes four of these on its way there and back, so what counts is
the time between a byte's coming and going. An event loop takes five times as long for that as a
thread that does nothing else.

Either socket may be a TLS one: decrypted bytes can wait inside of it while its descriptor has none,
so it is read until it says that it would block.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("ract.worker")

BUFFER_BYTES = 256 * 1024
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _End:
    """One socket of a pair.

    Attributes:
        other: The other one.
        unsent: What came from the other one and this one has not taken yet; meanwhile the other one
            is not read.
        is_last: The other one has ended: so does this one, when it has taken ``unsent``.
        is_over: The caller has been told of the end.
    """

    def __init__(self, sock: socket.socket, on_end: Callable[[], object]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.on_end = on_end
        self.unsent: memoryview | None = None
        self.is_last = False
        self.is_over = False
        self.other = self


class Relay:
    """Passes bytes both ways between pairs of connected stream sockets."""

    def __init__(self) -> None:
        self._ends: dict[int, _End] = {}
        self._new: deque[_End] = deque()
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, _READ)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="ract-relay", daemon=True)
        self._thread.start()

    def join(self, one: socket.socket, two: socket.socket, on_end: Callable[[], object]) -> None:
        """Connect two sockets until either ends.

        From here on nobody else uses them. ``on_end`` is called once, on the relay's thread, and
        then they are the caller's again, to close.
        """
        first, second = _End(one, on_end), _End(two, on_end)
        first.other, second.other = second, first
        self._new.append(first)
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """End all pairs, and the thread."""
        self._is_closed = True
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        self._epoll.close()

    def __del__(self) -> None:
        os.close(self._wake_fd)  # not before: `join` may still write to it

    def _run(self) -> None:
        while not self._is_closed:
            for fd, events in self._epoll.poll():
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
                    self._take_new()
                    continue
                end = self._ends.get(fd)
                if end is not None:
                    self._attend(end, events)
        self._take_new()
        for end in list(self._ends.values()):
            self._end(end)

    def _take_new(self) -> None:
        while self._new:
            end = self._new.popleft()
            try:
                for each in (end, end.other):
                    self._epoll.register(each.fd, _READ)
                    self._ends[each.fd] = each
            except (OSError, ValueError) as error:
                logger.warning("a connection cannot be relayed: %s", error)
                self._drop(end)
                continue
            for each in (end, end.other):  # what a TLS socket has decrypted already
                self._attend(each, _READ)

    def _attend(self, end: _End, events: int) -> None:
        try:
            if events & ~_READ and end.unsent is not None:
                self._write(end)
            if events & ~_WRITE and end.other.unsent is None:
                self._read(end)
        except OSError as error:
            logger.debug("a relayed connection ended: %s", error)
            self._end(end)
        except Exception:  # one connection is lost, not the thread that serves all of them
            logger.exception("a relayed connection failed")
            self._drop(end)

    def _read(self, end: _End) -> None:
        """Pass on what there is, until there is no more or the other one takes no more."""
        other = end.other
        while other.unsent is None:
            try:
                n = end.sock.recv_into(self._buffer)
            except _NOT_NOW:
                return
            if n == 0:
                self._end(end)
                return
            try:
                sent = other.sock.send(self._buffer[:n])
            except _NOT_NOW:
                sent = 0
            if sent < n:
                other.unsent = memoryview(bytes(self._buffer[sent:n]))
                self._watch(end)
                self._watch(other)
            elif n < len(self._buffer) and not isinstance(end.sock, ssl.SSLSocket):
                return  # most likely that was all

    def _write(self, end: _End) -> None:
        assert end.unsent is not None
        try:
            while end.unsent:
                end.unsent = end.unsent[end.sock.send(end.unsent) :]
        except _NOT_NOW:
            return
        end.unsent = None
        if end.is_last:
            self._end(end)
            return
        self._watch(end)
        self._watch(end.other)
        self._read(end.other)

    def _watch(self, end: _End) -> None:
        events = _READ if end.other.unsent is None else 0
        self._epoll.modify(end.fd, events | (_WRITE if end.unsent is not None else 0))

    def _end(self, end: _End) -> None:
        """``end`` has nothing more to say."""
        other = end.other
        if end.fd not in self._ends:
            return
        if other.unsent is not None and not other.is_last and not self._is_closed:
            try:
                self._epoll.modify(end.fd, 0)
            except OSError:  # its descriptor is closed: nothing can be sent through it either
                self._drop(end)
                return
            other.is_last = True
            return
        self._drop(end)

    def _drop(self, end: _End) -> None:
        """Forget a pair at once, whatever is left to send, and give it back to the caller."""
        for each in (end, end.other):
            if self._ends.get(each.fd) is each:
                del self._ends[each.fd]
                try:
                    self._epoll.unregister(each.fd)
                except (OSError, ValueError):  # the descriptor is closed
                    pass
        if not end.is_over:
            end.is_over = end.other.is_over = True
            try:
                end.on_end()
            except Exception:
                logger.exception("nobody could be told of the end of a relayed connection")
