"""When nothing that arrives at a task executor may start there.

Theory of operation
-------------------
While a task waits in get, what is behind it may be what it waits for. While a task runs for long,
the quick ones behind it could run elsewhere. Then the door is *shut*: the executor says BLOCKED,
gives back what it has not started and, on the IO thread, whatever still arrives. When neither
reason holds any more it says UNBLOCKED, and the main thread reads the channels again.

How long a call takes the IO thread sees when it looks (`look`), every `MOMENT_S` while calls come.

The main thread takes calls from the inbox without a lock, between two calls. So the IO thread may
take from it only in the middle of a call. It raises `is_long`, then looks whether that call still
runs; the main thread notes the end of the call, then looks at `is_long`. Since the interpreter runs
one of them at a time, at least one sees what the other did: the IO thread gives up, or the main
thread waits for the lock. Threads of a call that wait, and the main thread, do the same with
`blocked`: a thread that outlives its call is waited for by nobody, and lends nothing.
"""

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.process import context
from ract.core import calls
from ract.core.messages import Blocked, Unblocked

if TYPE_CHECKING:
    from ract.client.runtime import Runtime
    from ract.worker.executor.callers import Caller, Callers

MOMENT_S = 0.01
"""Calls behind one that runs longer than this are given back, to run elsewhere."""


class Server(Protocol):
    """What has a door: `ract.worker.executor.serial.SerialServer`."""

    runtime: Runtime
    is_actor: bool
    running: context.Running | None  #: the call that runs
    progress: memoryview  #: its first item is the number of the call that was started last
    callers: Callers
    listener: socket.socket
    read_lock: threading.Lock  #: held by the thread that reads the channels

    def accept(self) -> Caller | None: ...
    def see_end(self, caller: Caller) -> None: ...
    def flush_all(self) -> None: ...
    def return_inbox(self) -> None: ...
    def give_back(self, caller: Caller, item: tuple[Any, ...]) -> None: ...
    def control(self, caller: Caller, item: tuple[Any, ...]) -> None: ...


class Door:
    """The door of one executor; that of an actor is never shut.

    Attributes:
        is_long: The call that runs takes long.
        reads_in_call: The main thread reads the channels in the middle of a call, and sees to what
            it finds, so the IO thread must not.
        is_watched: The IO thread will look in a moment; else a call that begins wakes it.
        blocked: The call whose CPUs are lent because a thread of it waits.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.is_long = False
        self.reads_in_call = False
        self.is_watched = False
        self._is_shut = False
        self.blocked: context.Running | None = None
        #: By thread, the calls that ran when it began to wait: several if its loop waits for them.
        self._waiting: dict[int, list[context.Running | None]] = {}
        # Threads of the call block and unblock, and the IO thread looks: a change of the state and
        # what callers are told of it are one step.
        self._lock = threading.Lock()
        self._seen: context.Running | None = None  # the call that `look` saw last, and since when
        self._seen_at = 0.0
        self._seen_number = 0

    # ------------------------------------------------------------------ a call that takes long

    def look(self, now: float) -> float | None:
        """On the IO thread: shut the door if a call takes long.

        Returns:
            In how many seconds to look again; None: a call that begins wakes the thread.
        """
        server = self._server
        if server.is_actor:
            self.is_watched = True
            return None
        running = server.running
        if running is None and server.progress[0] == self._seen_number:
            self._seen, self.is_watched = None, False
            running = server.running  # one that has just begun may not have seen that
            if running is None:
                return None
        self.is_watched = True
        self._seen_number = server.progress[0]
        if running is not self._seen:
            self._seen, self._seen_at = running, now
        elif running is not None and now - self._seen_at >= MOMENT_S:
            self._shut_if_runs(running)
            if self.is_long:
                self.is_watched = False
                return None
        return MOMENT_S

    def _shut_if_runs(self, running: context.Running) -> None:
        with self._lock:
            self.is_long = True  # first: see above
            if self.reads_in_call or self._server.running is not running:
                self.is_long = False
                return
            self._shut()

    def end_long(self) -> None:
        """On the main thread: the call that took long is over, or looks after the channels."""
        with self._lock:
            self.is_long = False
            self._open()

    # ------------------------------------------------------------------ blocked in get or wait

    def block(self) -> None:
        """This thread waits; of the threads of the running call the first one counts."""
        server = self._server
        with self._lock:  # to the end: the next one may unblock at once
            call = server.running
            self._waiting.setdefault(threading.get_ident(), []).append(call)
            if call is None or call is self.blocked:
                return
            self.blocked = call  # first: see above
            if server.running is not call:
                self.blocked = None
                return
            self._shut()
            server.flush_all()
            server.runtime.tell(Blocked(server.runtime.process))

    def unblock(self) -> None:
        """This thread goes on; of the threads of the running call the last one counts."""
        with self._lock:
            thread = threading.get_ident()
            calls_of_thread = self._waiting[thread]
            call = calls_of_thread.pop()
            if not calls_of_thread:
                del self._waiting[thread]
            is_last = not any(call in others for others in self._waiting.values())
            if call is not None and call is self.blocked and is_last:
                self._go_on()

    def end_blocked(self) -> None:
        """On the main thread: a call is over of which a thread may still wait."""
        with self._lock:
            if self.blocked is not None and self._server.running is not self.blocked:
                self._go_on()

    # ------------------------------------------------------------------ under the lock

    def _go_on(self) -> None:
        self.blocked = None
        self._server.runtime.tell(Unblocked(self._server.runtime.process))
        self._open()

    def _shut(self) -> None:
        """Give back what waits, and what arrives."""
        server = self._server
        if self._is_shut or server.is_actor:
            return
        self._is_shut = True
        # This first: who gets calls back must not send them here again.
        callers = list(server.callers.here.values())
        for caller in callers:
            caller.out.append((calls.BLOCKED,))
        for away in server.callers.away.values():
            away.out.append((calls.BLOCKED,))
        with server.read_lock:
            server.return_inbox()
        for caller in callers:
            caller.flush()
            server.runtime.reactor.watch(caller.fileno(), partial(self._bounce, caller.fileno()))
        # A caller whose connection broke comes back: it is to hear what is given back.
        server.runtime.reactor.watch(server.listener.fileno(), self._admit)

    def _open(self) -> None:
        """What arrives is kept again, if there is no more reason against it."""
        if not self._is_shut or self.blocked is not None or self.is_long:
            return
        server = self._server
        self._is_shut = False
        server.runtime.reactor.forget(server.listener.fileno())
        with server.read_lock:  # the IO thread is not in the middle of it any more
            callers = list(server.callers.here.values())
            for caller in (*callers, *server.callers.away.values()):
                caller.out.append((calls.UNBLOCKED,))
        for caller in callers:
            server.runtime.reactor.forget(caller.fileno())
            caller.flush()

    def _admit(self) -> None:
        """On the IO thread: somebody connects."""
        server = self._server
        with server.read_lock:
            caller = server.accept() if self._is_shut else None
            if caller is not None:
                fd = caller.fileno()
                server.runtime.reactor.watch(fd, partial(self._bounce, fd))

    def _bounce(self, fd: int) -> None:
        """On the IO thread: nothing that arrives now starts here."""
        server = self._server
        with server.read_lock:
            caller = server.callers.here.get(fd)
            if not self._is_shut or caller is None:
                return
            for item in caller.receive():
                if item[0] == calls.CALL:
                    server.give_back(caller, item)
                else:
                    server.control(caller, item)
            caller = server.callers.here.get(fd, caller)  # it may have come back
            caller.flush()
            server.see_end(caller)
