"""The fallback IO thread of a process.

A thread that waits for a reply reads the socket itself (`ract.client.calls.channel`): each extra
thread on the path costs about 25 µs a call. The reactor is there for everything that nobody waits
for: control messages from the node, replies while the program computes, buffered calls that must go
out.

Reply channels are registered one-shot: after an event the channel stays silent until somebody who
stops reading it (or the tick) arms it again.

While calls are in flight the thread ticks, so that what the program submits and forgets still
moves. Between bursts it is *asleep*: who has work for it wakes it. It ticks then only if something
is to be done some time (`nap_s`); if nothing is, it is *dormant*. Both are said before it looks for
work for the last time, so that what comes at that moment is seen by one side or the other. Only the
thread itself writes the two flags.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from ract.client.process import locks, user_code

logger = logging.getLogger(__name__)

TICK_S = 0.002
TICKS_IDLE_MAX = 5
"""After this many ticks with nothing to do the thread sleeps until it is woken."""

_READ = select.EPOLLIN | select.EPOLLRDHUP
_READ_ONCE = _READ | select.EPOLLONESHOT
_END_ONCE = select.EPOLLRDHUP | select.EPOLLONESHOT


class Reactor:
    """One daemon thread around an epoll set.

    Args:
        tick: Called every `TICK_S` while work is in flight; returns whether there is any.

    Attributes:
        is_asleep: It does not tick every `TICK_S`.
        is_dormant: It does not tick at all.
        nap_s: Asleep, it ticks after so many seconds all the same; None: not at all. The tick's.
    """

    def __init__(self, tick: Callable[[], bool]) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._handlers: dict[int, Callable[[], None]] = {}
        # A descriptor is forgotten before it is closed. So under this lock a number that still has
        # its handler cannot have become that of another file.
        self._watch_lock = threading.Lock()
        self._tick = tick
        self.is_asleep = False
        self.is_dormant = False
        self.nap_s: float | None = None
        self._closed = False
        self._posted: deque[Callable[[], None]] = deque()
        self.thread = threading.Thread(target=self._run, name="ract-io", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler()`` whenever ``fd`` is readable or closed."""
        with self._watch_lock:
            self._handlers[fd] = handler
            self._epoll.register(fd, _READ)

    def watch_once(self, fd: int, handler: Callable[[], None]) -> None:
        """Register ``fd`` disarmed; `arm` makes it call ``handler()`` once."""
        with self._watch_lock:
            self._handlers[fd] = handler
            self._epoll.register(fd, select.EPOLLONESHOT)

    def arm(self, fd: int, handler: Callable[[], None]) -> None:
        """Make a one-shot descriptor fire again; nothing happens if it is forgotten."""
        self._modify(fd, handler, _READ_ONCE)

    def arm_for_end(self, fd: int, handler: Callable[[], None]) -> None:
        """Make a one-shot descriptor fire when the other end closes, and not before."""
        self._modify(fd, handler, _END_ONCE)

    def _modify(self, fd: int, handler: Callable[[], None], events: int) -> None:
        with self._watch_lock:
            if self._handlers.get(fd) == handler:
                try:
                    self._epoll.modify(fd, events)
                except (OSError, ValueError):  # the epoll set itself is closed
                    pass

    def forget(self, fd: int, handler: Callable[[], None] | None = None) -> None:
        """Stop watching ``fd``, if it is (still) that handler's. Call it before closing ``fd``."""
        with self._watch_lock:
            if handler is not None and self._handlers.get(fd) != handler:
                return
            if self._handlers.pop(fd, None) is not None:
                try:
                    self._epoll.unregister(fd)
                except (OSError, ValueError):  # the epoll set itself is closed
                    pass

    def post(self, function: Callable[[], None]) -> None:
        """Run ``function()`` on the IO thread soon."""
        self._posted.append(function)
        self._notify()

    def wake(self) -> None:
        """Make sure that ticks happen. Cheap when they do; safe in finalizers."""
        if self.is_asleep:
            self._notify()

    def close(self) -> None:
        """Stop the thread (not waiting for itself)."""
        self._closed = True
        self._notify()
        if self.thread.is_alive() and threading.current_thread() is not self.thread:
            self.thread.join(timeout=5)
        self._epoll.close()

    def __del__(self) -> None:
        # Not in `close`: a finalizer in another thread may be about to wake it, and would write to
        # whatever file has the number by then.
        os.close(self._wake_fd)

    def _notify(self) -> None:
        try:
            os.eventfd_write(self._wake_fd, 1)
        except OSError:  # closed
            pass

    def _run(self) -> None:
        locks.this_thread_serves()
        try:
            self._serve()
        finally:
            locks.this_thread_ends()

    def _serve(self) -> None:
        idle = 0
        next_tick = time.monotonic() + TICK_S
        while not self._closed:
            if idle >= TICKS_IDLE_MAX and self._finds_work():
                idle = 0
            if idle >= TICKS_IDLE_MAX:
                timeout = -1 if self.nap_s is None else self.nap_s
            else:
                timeout = max(0.0, next_tick - time.monotonic())
            try:
                events = self._epoll.poll(timeout)
            except (OSError, ValueError):
                return
            if self._closed:
                return
            if events:
                idle = 0
                self.is_asleep = self.is_dormant = False
            while self._posted:
                self._call(self._posted.popleft())
            for fd, _ in events:
                if fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                else:
                    self._call(self._handlers.get(fd))
            now = time.monotonic()
            if now >= next_tick and idle < TICKS_IDLE_MAX:
                next_tick = now + TICK_S
                idle = 0 if self._is_busy() else idle + 1

    def _finds_work(self) -> bool:
        """Look for work before it sleeps (on); False if there is none."""
        self.is_asleep = self.is_dormant = True  # first: who has work from now on wakes it
        if self._is_busy():
            self.is_asleep = self.is_dormant = False
            return True
        self.is_dormant = self.nap_s is None
        return False

    def _is_busy(self) -> bool:
        try:
            return self._tick()
        except BaseException:  # whatever it is, others depend on this thread
            self._log("ract: the IO thread's tick failed")
            return False

    def _call(self, handler: Callable[[], None] | None) -> None:
        if handler is None:
            return
        try:
            handler()
        except BaseException:  # whatever it is, others depend on this thread
            self._log("ract: a handler of the IO thread failed")

    @staticmethod
    def _log(text: str) -> None:
        user_code.log(logger, logging.ERROR, text, exc_info=True)
