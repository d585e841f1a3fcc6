"""One call at a time on the main thread: tasks, and sync actors.

Theory of operation
-------------------
The main thread polls its sockets, reads calls, runs them, replies. A reply is held back while more
calls wait and the next one is known to be quick, so that replies travel in batches; it is never
held longer than `HOLD_S` nor in front of a call that may take long.

While a task waits in get, or runs for long, a task executor gives back what it has not started
(`ract.worker.executor.door`). An actor keeps its calls: they are its own.

Cancelling: the IO thread learns of it, and interrupts the main thread by SIGUSR1 if that very call
is running user code. The handler raises KeyboardInterrupt only between `_interruptible` marks, so
the bookkeeping around user code is never interrupted; nor is what that code calls in the client
(`ract.client.process.interrupts`).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.client.process import context, interrupts, tracing
from ract.core import calls
from ract.core.messages import Blocked, CancelCall, EndProcess, ExitCause, Unblocked
from ract.core.priorities import insert
from ract.worker.executor.callers import Caller, Callers, OutStream, priority_of
from ract.worker.executor.door import Door
from ract.worker.executor.endings import answer_before_ending
from ract.worker.executor.execution import generator_of, is_streaming
from ract.worker.executor.replies import Replies
from ract.worker.executor.titles import set_title

if TYPE_CHECKING:
    from ract.worker.executor.execution import Execution

QUICK_S = 100e-6
HOLD_S = 300e-6
IDLE_TITLE_AFTER_MS = 10
LEASE_TIMEOUT_S = 10.0
CANCELLED_MAX = 10_000
DRAIN_LOOK_MS = 100
"""How often an executor that ends looks whether callers that are away are given up."""

BLOCK_GRACE_MS = 2
"""A generator that waits longer than this for its reader lends its CPUs."""

CREDIT_LOOK_MS = 20
"""How often it then looks whether it was cancelled."""

_WEIGHT = 0.3


class SerialServer:
    """Serves calls on the main thread, one at a time.

    Args:
        execution: How to run one call.
        listener: The bound, listening Unix socket of this executor.
        progress: Its first item becomes the number of each call that is started.
    """

    def __init__(self, execution: Execution, listener: socket.socket, progress: memoryview) -> None:
        self.execution = execution
        self.runtime = execution.runtime
        self.instance: Any = None
        self.is_actor = False
        self.may_interrupt = True  # an actor only if its class says so
        self.posted: deque[Any] = deque()
        self.ending: ExitCause | None = None
        self.listener = listener
        self.progress = progress
        listener.setblocking(False)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        self.callers = Callers(self._unwatch)
        self._inbox: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        self._is_mixed = False  # whether calls of other priorities than 0 may wait
        self._averages: dict[Any, float] = {}
        self._runs: dict[bytes, int] = {}
        self.replies: Replies | None = None
        self._quick_s, self._hold_s = QUICK_S, HOLD_S
        self._held_since = 0.0
        self._now = 0.0  # when the last call ended
        self._names: dict[Any, str] = {}  # of functions and methods, by target
        self._main = threading.main_thread().ident
        self.running: context.Running | None = None
        self._interruptible = False
        self._cancelled: dict[int, bool] = {}  # task number -> recursive; oldest first
        self.read_lock = threading.Lock()
        self._door = Door(self)
        self._running_title = False
        self._on_posted: Callable[[Any], None] = lambda message: None
        self.exit_code = 0
        signal.signal(signal.SIGUSR1, interrupts.handler(self._interrupt))
        answer_before_ending(self._answer_all)
        self.runtime.lending.on_block = self._door.block
        self.runtime.lending.on_unblock = self._door.unblock

    # ------------------------------------------------------------------ the loop

    def serve(self, on_posted: Callable[[Any], None]) -> ExitCause:
        """Run until the executor is to end; returns why. ``on_posted(message)`` runs here."""
        self._on_posted = on_posted
        while True:
            while self.posted:
                self._take_posted()
            while self._inbox and self.ending is None:
                self._run_next()
            self.flush_all()
            if self.ending is not None:
                return self._drain()
            timeout = IDLE_TITLE_AFTER_MS if self._running_title else None
            ready = self._poll.poll(timeout)
            if not ready and timeout is not None:
                self._idle()
                continue
            for fd, _ in ready:
                self._attend(fd)

    def _take_posted(self) -> None:
        posted = self.posted.popleft()
        if callable(posted):
            posted()
        else:
            self._on_posted(posted)

    def _idle(self) -> None:
        self._running_title = False
        set_title(type(self.instance).__name__ if self.is_actor else "IDLE")

    def _attend(self, fd: int) -> None:
        if fd == self._wake_fd:
            os.eventfd_read(self._wake_fd)
        elif fd == self.listener.fileno():
            self.accept()
        else:
            caller = self.callers.here.get(fd)
            if caller is None:  # another connection has taken its place meanwhile
                return
            if caller.has_unsent:
                caller.flush()
            self._read(caller)

    def wake(self) -> None:
        """Make the main thread look at ``posted``."""
        os.eventfd_write(self._wake_fd, 1)

    def accept(self) -> Caller | None:
        """Let the next caller in, if there is one."""
        caller = Caller.accept(self.listener)
        if caller is not None:
            self.callers.add(caller)
            self._poll.register(caller.sock, select.POLLIN)
        return caller

    def _unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        self.runtime.reactor.forget(fd)  # if the IO thread reads it at the moment

    def _read(self, caller: Caller) -> None:
        with self.read_lock:
            for item in caller.receive():
                if item[0] == calls.CALL:
                    self._enqueue(caller, item)
                else:
                    self.control(caller, item)
        self.see_end(caller)

    def see_end(self, caller: Caller) -> None:
        """Note whether the connection of a caller has ended."""
        if caller.is_closed and self.callers.here.get(caller.fileno()) is caller:
            for gone in self.callers.broke(caller):
                self.drop(gone)

    def _enqueue(self, caller: Caller, item: tuple[Any, ...]) -> None:
        extra = item[5]
        if extra is not None and extra.get("priority"):
            self._is_mixed = True
        if self._is_mixed:
            self._is_mixed = bool(self._inbox) or priority_of((caller, item)) != 0
            insert(self._inbox, (caller, item), priority_of)
        else:
            self._inbox.append((caller, item))

    def control(self, caller: Caller, item: tuple[Any, ...]) -> None:
        """Take an item that is not a call."""
        op = item[0]
        if op == calls.DEFINE:
            self.execution.define(item[1], item[2])
        elif op == calls.HELLO:
            gone = self.callers.greet(caller, item)
            if gone is not None:
                self.drop(gone)
        elif op == calls.RECEIVED:
            caller.arrived(item[1])
        elif op == calls.CREDIT:
            caller.credit(item[1], item[2])
        elif op == calls.USE_LEASE:
            self._inbox.append((caller, item))
        elif self.replies is not None:
            self.replies.acknowledged(caller, item)

    def drop(self, gone: Caller) -> None:
        """A caller is gone: what it wanted and has not begun is for nobody."""
        left: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        for caller, item in self._inbox:
            if caller is not gone:
                left.append((caller, item))
            elif item[0] == calls.CALL:
                self.execution.let_go(item[5])
        self._inbox = left
        if self.replies is not None:
            self.replies.left(gone)

    def flush_all(self) -> None:
        """Write all replies that are ready."""
        if self.replies is not None:
            self.replies.commit()
        for caller in list(self.callers.here.values()):
            if caller.out or caller.has_unsent:
                caller.flush()
                events = select.POLLIN | (select.POLLOUT if caller.has_unsent else 0)
                self._poll.modify(caller.fileno(), events)

    # ------------------------------------------------------------------ one call

    def _run_next(self) -> None:
        caller, item = self._inbox.popleft()
        if item[0] == calls.USE_LEASE:
            self.await_lease(item[1])
            return
        _, seq, number, target, args, extra, parent = item
        if number in self._cancelled:
            del self._cancelled[number]
            self.execution.let_go(extra)
            caller.out.append((seq, calls.CANCELLED, None))
        else:
            self.progress[0] = number
            started = time.perf_counter()
            if self.replies is None:
                self._run(caller, seq, number, target, args, extra, parent)
            else:
                self._run_held(self.replies, caller, item)
            self._now = time.perf_counter()
            took = self._now - started
            caller.busy_s += took
            average = self._averages.get(target)
            if average is None:
                self._averages[target] = took
            else:
                self._averages[target] = average + (took - average) * _WEIGHT
        if self._must_flush(target):
            if self.replies is not None:
                self.replies.commit()
            caller.flush()
            self._held_since = 0.0

    def _must_flush(self, target: Any) -> bool:
        if not self._inbox:
            return True
        following = self._inbox[0][1]
        if following[0] != calls.CALL:
            return True
        if self._averages.get(following[3], 1.0) > self._quick_s:
            return True
        if not self._held_since:
            self._held_since = self._now
        return self._now - self._held_since > self._hold_s

    def hold_replies(self, replies: Replies) -> None:
        """From now on replies go out as this policy says."""
        self.replies = replies
        self._quick_s, self._hold_s = replies.quick_s, replies.hold_s

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function on the main thread, between two calls."""

        def due() -> None:
            self.posted.append(function)
            self.wake()

        timer = threading.Timer(seconds, due)
        timer.daemon = True
        timer.start()

    def _run_held(self, replies: Replies, caller: Caller, item: tuple[Any, ...]) -> None:
        taker = replies.taker(caller, item)
        if taker is not None:
            self._run(taker, *item[1:])
            replies.ran(caller, taker, item)

    def _run(
        self, caller: Any, seq: int, number: int, target: Any, args: Any, extra: Any, parent: int
    ) -> None:
        execution = self.execution
        kwargs: dict[str, Any] = {}
        kept: Any = None  # pins what the arguments view while the call runs
        name = self._names.get(target, "")
        running = context.Running(number, name, caller, parent, extra)
        self.running = running  # already: it may wait for its code and its arguments
        execution.active[number] = running
        reactor = self.runtime.reactor
        if reactor.is_dormant or not self._door.is_watched:
            reactor.wake()  # its tick tells of calls that run for long, and sees to what is behind
        token = None
        try:
            if self.is_actor:
                function = self._method(target)
            else:
                function = execution.function(target, extra)
            if not name:
                name = self._names[target] = self._name_of(target, function)
                running.name = running.function_name = name
            if extra is not None:
                if "name" in extra:
                    name = running.name = extra["name"]
                if args is None:
                    args, kwargs, kept = execution.arguments(extra)
                elif "refs" in extra:
                    kept = execution.arguments(extra)[2]
                if "trace" in extra:
                    function = tracing.traced(function, name, extra["trace"])
            token = context.enter(running)
            self._running_title = True
            set_title(name)
            self._allow_interrupts(number)
            value = function(*args, **kwargs)
            if is_streaming(extra):
                self._stream(caller, seq, number, extra, value)
            self._interruptible = False
            if self.is_actor and self.ending is not None and self.ending.kind == "exited":
                return  # it has caught what exit_actor() raises: still there is no result
            if not is_streaming(extra):
                execution.reply(caller, seq, number, extra, value)
            execution.note(running)
        except Exception as error:
            self._interruptible = False
            running.name = name or (target if self.is_actor else "a task")
            execution.reply_error(caller, seq, number, running.name, error)
            execution.note(running, error)
            error.__traceback__ = None
        except KeyboardInterrupt as error:
            self._interruptible = False
            if number not in self._cancelled:
                self._die(caller, error)
                return
            execution.reply_cancelled(caller, seq, running, error)
            execution.note(running, is_cancelled=True)
        except BaseException as error:
            self._interruptible = False
            self._die(caller, error)
            return
        finally:
            self.running = None
            if self._door.is_long:  # in this order: see `Door`
                self._door.end_long()
            if self._door.blocked is not None:
                self._door.end_blocked()
            del execution.active[number]
            self._cancelled.pop(number, None)
            if caller.streams:
                caller.streams.pop(seq, None)
            if token is not None:
                context.leave(token)
        del kept
        if self.ending is None and extra is not None and "max_calls" in extra:
            self._count(target, extra["max_calls"])

    # ------------------------------------------------------------------ generators

    def _stream(
        self, caller: Caller, seq: int, number: int, extra: dict[str, Any], value: Any
    ) -> None:
        """Run a generator; its items go out as they are made."""
        self._interruptible = False
        execution = self.execution
        stream = execution.open_stream(caller, seq, extra)
        generator = generator_of(value, "streaming")
        while True:
            self._allow_interrupts(number)
            try:
                item = next(generator)
            except StopIteration:
                break
            finally:
                self._interruptible = False
            execution.stream_item(caller, seq, number, item)
            self.push(caller)
            if stream.is_full and not self._await_credit(number, stream):
                generator.close()
                raise KeyboardInterrupt
        execution.stream_end(caller, seq)

    def push(self, caller: Caller) -> None:
        """Write all replies: the next item may be long in coming. The caller always reads."""
        caller.flush()
        while caller.has_unsent:
            poll = select.poll()
            poll.register(caller.sock, select.POLLOUT)
            poll.poll()
            caller.flush()

    def _await_credit(self, number: int, stream: OutStream) -> bool:
        """Wait until the caller has read enough; returns False if the call is cancelled.

        This thread reads the channels meanwhile, so what it waits for may arrive. After a moment
        the calls behind this one are given back: the caller may be waiting for one of them.
        """
        blocked = False
        self._door.reads_in_call = True
        if self._door.is_long:
            self._door.end_long()
        try:
            while stream.is_full and number not in self._cancelled:
                ready = self._poll.poll(CREDIT_LOOK_MS if blocked else BLOCK_GRACE_MS)
                if not ready and not blocked:
                    blocked = True
                    self._lend(True)
                for fd, _ in ready:
                    self._attend(fd)
                if blocked and not self.is_actor:
                    self.return_inbox()
                for gone in self.callers.forget_late():  # its generators need not wait any more
                    self.drop(gone)
                self.flush_all()
        finally:
            if blocked:
                self._lend(False)
            self._door.reads_in_call = False
            self.runtime.reactor.wake()  # the generator goes on, and may take long again
        return number not in self._cancelled

    def _lend(self, is_blocked: bool) -> None:
        """The generator that runs here waits, or goes on."""
        if not self.is_actor:
            for caller in self.callers.here.values():
                caller.out.append((calls.BLOCKED if is_blocked else calls.UNBLOCKED,))
        kind = Blocked if is_blocked else Unblocked
        self.runtime.tell(kind(self.runtime.process))
        self.flush_all()

    def _name_of(self, target: Any, function: Any) -> str:
        if self.is_actor:
            return f"{type(self.instance).__name__}.{target}"
        return getattr(function, "__name__", None) or repr(function)

    def _method(self, name: str) -> Any:
        if not name.startswith("__ray_"):
            return getattr(self.instance, name)
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_call__":
            return lambda function, /, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return self._terminate
        return getattr(self.instance, name)

    def _terminate(self) -> None:
        self.end(ExitCause("exited", "__ray_terminate__() was called"))

    def _die(self, caller: Caller, error: BaseException) -> None:
        """User code raised something that ends the process."""
        import traceback

        if isinstance(error, SystemExit):
            code = error.code
            if self.ending is None and code in (None, 0):
                self.end(ExitCause("exited", "sys.exit(0) was called"))
            if self.ending is not None:
                return
            status = code if isinstance(code, int) else 1
        else:
            status = 1
        traceback.print_exception(error)
        self.flush_all()
        self.exit_code = status
        self.ending = ExitCause("crashed", f"{type(error).__name__} was raised", exit_code=status)

    def _count(self, target: bytes, most: int) -> None:
        runs = self._runs[target] = self._runs.get(target, 0) + 1
        if runs >= most:
            self.end(ExitCause("max_calls", f"ran a function with max_calls={most} that often"))

    def _answer_all(self) -> None:
        self.flush_all()
        self.execution.flush_events(at_once=True)

    def end(self, cause: ExitCause) -> None:
        """Leave the loop after the current call; tells the node that this is intended."""
        if self.ending is None:
            self.ending = cause
            self.runtime.tell(EndProcess(self.runtime.process, cause))

    def _drain(self) -> ExitCause:
        """The end: give back what was not started, send what is ready."""
        assert self.ending is not None
        if self.replies is not None:
            self.replies.ends(self.ending)
        if not self.is_actor or self.ending.kind == "drained":
            self.return_inbox()
        self.flush_all()
        while not self.callers.are_served:  # one whose connection broke may come back
            for fd, _ in self._poll.poll(DRAIN_LOOK_MS):
                self._attend(fd)
            self.flush_all()
        return self.ending

    def hang_up(self) -> None:
        """Close what callers are connected to: all that they are to hear has been written."""
        self.listener.close()
        self.callers.hang_up()

    # ------------------------------------------------------------------ leases

    def await_lease(self, lease: int) -> None:
        """Wait until the node has said what the lease is for (it was sent before the grant)."""
        deadline = time.monotonic() + LEASE_TIMEOUT_S
        while context.process.lease < lease and time.monotonic() < deadline:
            while self.posted:
                self._take_posted()
            if context.process.lease < lease:
                poll = select.poll()
                poll.register(self._wake_fd, select.POLLIN)
                if poll.poll(100):
                    os.eventfd_read(self._wake_fd)

    # ------------------------------------------------------------------ cancel

    def cancel(self, message: CancelCall) -> None:
        """On the IO thread: a call is to be cancelled."""
        self._cancelled[message.task] = message.recursive
        while len(self._cancelled) > CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        running = self.running
        if running is not None and running.number == message.task:
            running.is_cancelled = True
            if message.recursive:
                self.runtime.cancelling.cancel_children(message.task)
            if self.may_interrupt and self._main is not None:
                signal.pthread_kill(self._main, signal.SIGUSR1)

    def stop_running(self) -> None:
        """On the IO thread: who wanted the call that runs is gone, so nobody wants it any more."""
        running = self.running
        if running is not None:
            self.cancel(CancelCall(self.runtime.process, running.number, False, True))

    def _allow_interrupts(self, number: int) -> None:
        """User code of the call runs from here on. Raises KeyboardInterrupt if it was cancelled."""
        self._interruptible = self.may_interrupt
        # In this order: a signal that came before found nothing to interrupt, and will not return.
        if number in self._cancelled and self.may_interrupt:
            self._interruptible = False
            raise KeyboardInterrupt

    def _interrupt(self, frame: Any) -> None:
        running = self.running
        if self._interruptible and running is not None and running.number in self._cancelled:
            self._interruptible = False
            raise KeyboardInterrupt

    # ------------------------------------------------------------------ given back

    def look(self, now: float) -> float | None:
        """On the IO thread: see to what waits behind a call that takes long (`Door.look`)."""
        return self._door.look(now)

    def return_inbox(self) -> None:
        """Give back all calls that wait."""
        leases = []
        while self._inbox:
            caller, item = self._inbox.popleft()
            if item[0] == calls.CALL:
                self.give_back(caller, item)
            else:
                leases.append((caller, item))
        self._inbox.extend(leases)

    def give_back(self, caller: Caller, item: tuple[Any, ...]) -> None:
        """Have the caller send a call to somebody else."""
        self.execution.let_go(item[5])
        caller.out.append((item[1], calls.RETURNED, None))
