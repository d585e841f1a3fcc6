"""Actors that run several calls at once: on one event loop (async) or in threads.

Theory of operation
-------------------
Both kinds keep the main thread on an asyncio loop that reads calls and writes replies. An async
actor runs its methods there, plain ones included (they block the loop, as documented); those of a
named concurrency group run on the group's own loop, so that groups never delay each other. A
threaded actor hands each call to the thread pool of its concurrency group. Concurrency is bounded
per group; calls beyond it wait, by priority and then by arrival.

An actor whose mailbox is bounded is served this way too, with one thread if it is a plain one: its
callers are told whether there is room while a call runs.

Replies are collected and written once per turn of the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ract.client.process import context
from ract.core import calls
from ract.core.errors import error_from_exit
from ract.core.messages import Blocked, CancelCall, EndProcess, ExitCause, Unblocked
from ract.core.priorities import insert
from ract.worker.executor.attempt import Attempt
from ract.worker.executor.callers import Caller, Callers, priority_of
from ract.worker.executor.endings import answer_before_ending
from ract.worker.executor.execution import generator_of, is_streaming
from ract.worker.executor.mailbox import Mailbox
from ract.worker.executor.replies import Replies
from ract.worker.executor.titles import set_title

if TYPE_CHECKING:
    from ract.worker.executor.execution import Execution

ASYNC_CONCURRENCY = 1000
TERMINATE = "__ray_terminate__"

CANCELLED_MAX = 10_000
"""So many calls are remembered that were cancelled and have not come: some never will."""

DRAIN_LOOK_S = 0.02
"""How often an actor that ends looks whether its callers have taken its last replies."""

UNSTARTED = ("exited", "drained")
"""Ends after which calls that wait are not begun."""


class ConcurrentServer:
    """Serves an actor's calls concurrently.

    Args:
        execution: How to run one call.
        listener: The listening socket.
        is_async: One event loop; else threads.
        groups: ``{name: limit}``; "" is the default group.
        mailbox_size: How many calls may wait, 0 without limit.
    """

    def __init__(
        self,
        execution: Execution,
        listener: socket.socket,
        is_async: bool,
        groups: dict[str, int],
        mailbox_size: int = 0,
    ) -> None:
        self.execution = execution
        self.runtime = execution.runtime
        self.instance: Any = None
        self.is_async = is_async
        self.posted: deque[Any] = deque()
        self.ending: ExitCause | None = None
        self.exit_code = 0
        self.loop = asyncio.new_event_loop()
        self._listener = listener
        self._callers = Callers(self._unwatch)
        self._groups = {name: _Group(limit) for name, limit in groups.items()}
        self._method_groups: dict[str, str] = {}
        self._active = execution.active
        self._names: dict[str, str] = {}  # of methods
        self._mailbox = Mailbox(mailbox_size) if mailbox_size else None
        self.replies: Replies | None = None
        self._cancelled: dict[int, None] = {}  # of calls that have not come, oldest first
        self._flush_due = False
        self._threads_blocked = 0
        self._block_lock = threading.Lock()
        answer_before_ending(self._answer_all, in_any_thread=True)
        self.runtime.lending.on_block = self._block
        self.runtime.lending.on_unblock = self._unblock
        self._done = self.loop.create_future()
        self._thread = threading.get_ident()
        for name, group in self._groups.items():
            if not is_async:
                group.pool = ThreadPoolExecutor(group.limit, f"ract-{name or 'default'}")
            elif name:
                group.loop = asyncio.new_event_loop()
                threading.Thread(
                    target=group.loop.run_forever, name=f"ract-{name}", daemon=True
                ).start()

    # ------------------------------------------------------------------ the loop

    def serve(self, construct: Callable[[], Any], on_posted: Callable[[Any], None]) -> ExitCause:
        """Construct the actor (on the loop), then run until it is to end."""
        self._on_posted = on_posted
        asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(self._serve(construct))

    async def _serve(self, construct: Callable[[], Any]) -> ExitCause:
        made = construct()
        if inspect.isawaitable(made):
            await made
        if self.ending is not None:
            return self.ending
        for name in dir(type(self.instance)):
            options = getattr(getattr(type(self.instance), name), "__ract_method_options__", None)
            if options and options.get("concurrency_group"):
                self._method_groups[name] = options["concurrency_group"]
        self._listener.setblocking(False)
        self.loop.add_reader(self._listener.fileno(), self._accept)
        self._take_posted()
        await self._done
        assert self.ending is not None
        if self.replies is not None:
            self.replies.ends(self.ending)
        self._flush()
        while not self._callers.are_served:  # one whose connection broke may come back
            await asyncio.sleep(DRAIN_LOOK_S)
            self._flush()
        assert self.ending is not None
        return self.ending

    def hang_up(self) -> None:
        """Close what callers are connected to: all that they are to hear has been written.

        The loop stays open: threads of the program may still call something on it.
        """
        self.loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for fd in list(self._callers.here):
            self._unwatch(fd)
        self._callers.hang_up()

    def wake(self) -> None:
        """Make the loop look at ``posted`` (from any thread)."""
        self.loop.call_soon_threadsafe(self._take_posted)

    def _take_posted(self) -> None:
        while self.posted:
            self._on_posted(self.posted.popleft())
        self._maybe_end()

    def end(self, cause: ExitCause) -> None:
        """Accept nothing more, let running calls finish, then leave (from any thread)."""
        if self.ending is None:
            self.ending = cause
            self.runtime.tell(EndProcess(self.runtime.process, cause))
            self.loop.call_soon_threadsafe(self._maybe_end)

    def _maybe_end(self) -> None:
        if self.ending is None or self._done.done():
            return
        for group in self._groups.values() if self.ending.kind in UNSTARTED else ():
            while group.queue:
                self._send_away(*group.queue.popleft())
        waiting = any(group.queue for group in self._groups.values())
        if not self._active and not waiting:
            self._done.set_result(None)

    def _accept(self) -> None:
        caller = Caller.accept(self._listener)
        if caller is not None:
            self._callers.add(caller)
            fd = caller.fileno()
            self.loop.add_reader(fd, self._readable, fd)

    def _readable(self, fd: int) -> None:
        caller = self._callers.here[fd]
        for item in caller.receive():
            op = item[0]
            if op == calls.CALL:
                self._arrived(caller, item)
            elif op == calls.CREDIT:
                caller.credit(item[1], item[2])
            elif op == calls.RECEIVED:
                caller.arrived(item[1])
            elif op == calls.ASK and self._mailbox is not None:
                self._mailbox.ask(caller, item[1], item[2])
                self._flush_soon()
            elif op == calls.VACATE and self._mailbox is not None:
                self._mailbox.vacated(caller)
                self._flush_soon()
            elif op == calls.HELLO:
                gone = self._callers.greet(caller, item)
                if gone is not None:
                    self._left(gone)
                caller = self._callers.here[fd]
                self._flush_soon()
            else:
                self._acknowledged(caller, item)
        if caller.is_closed:
            for left in self._callers.broke(caller):
                self._left(left)
            if self._callers.away:
                self.loop.call_later(calls.RESUME_S, self._forget_late)

    def _unwatch(self, fd: int) -> None:
        self.loop.remove_reader(fd)
        self.loop.remove_writer(fd)

    def _forget_late(self) -> None:
        for gone in self._callers.forget_late():
            self._left(gone)

    def _acknowledged(self, caller: Caller, item: tuple[Any, ...]) -> None:
        """A caller says what it has."""
        if self.replies is not None:
            self.replies.acknowledged(caller, item)

    def _left(self, caller: Caller) -> None:
        """A caller has gone."""
        if self._mailbox is not None:
            self._mailbox.left(caller)
        if self.replies is not None:
            self.replies.left(caller)

    # ------------------------------------------------------------------ calls

    def _arrived(self, caller: Caller, item: tuple[Any, ...]) -> None:
        _, seq, number, target, _, extra, _ = item
        if self._mailbox is not None and _has_room(item):
            self._mailbox.arrived(caller)
        if number in self._cancelled:
            self._cancelled.pop(number, None)
            self._drop(caller, item)
            return
        name = (extra or {}).get("group") or self._method_groups.get(target, "")
        group = self._groups.get(name)
        if group is None:
            known = sorted(n for n in self._groups if n)
            error = ValueError(f"unknown concurrency group {name!r}; the actor has {known}")
            full_name = f"{type(self.instance).__name__}.{target}"
            self.execution.reply_error(caller, seq, number, full_name, error)
            self.execution.let_go(extra)
            self._waits_no_more(item)
            self._flush_soon()
            return
        if self.ending is not None and self.ending.kind in UNSTARTED:
            self._send_away(caller, item)
            return
        if group.running >= group.limit or self.ending is not None:
            insert(group.queue, (caller, item), priority_of)
            return
        self._start(group, caller, item)

    def _drop(self, caller: Caller, item: tuple[Any, ...]) -> None:
        """Answer a call that is cancelled before it started."""
        caller.out.append((item[1], calls.CANCELLED, None))
        self.execution.let_go(item[5])
        self._waits_no_more(item)
        self._flush_soon()

    def _send_away(self, caller: Caller, item: tuple[Any, ...]) -> None:
        """Answer a call that is not begun because the actor leaves: it failed, or goes along.

        At once: others may run for as long as they like before it is gone.
        """
        assert self.ending is not None
        if self.ending.kind == "drained":
            caller.out.append((item[1], calls.RETURNED, None))
        else:
            self.answer_exit(caller, item)
        self.execution.let_go(item[5])
        self._waits_no_more(item)
        self._flush_soon()

    def answer_exit(self, caller: Caller, item: tuple[Any, ...]) -> None:
        assert self.ending is not None
        spec, runtime = context.process.actor_spec, self.runtime
        cause = replace(self.ending, node_id=runtime.node_id, pid=os.getpid(), at=time.time())
        error = error_from_exit(
            cause,
            what=spec.class_name,
            actor_id=spec.actor_id,
            class_name=spec.class_name,
            name=spec.name,
            namespace=spec.namespace,
            restarts=context.process.actor_incarnation - 1,
        )
        caller.out.append((item[1], calls.ERROR, pickle.dumps(error, 5), [], []))

    def _waits_no_more(self, item: tuple[Any, ...]) -> None:
        if self._mailbox is not None and _has_room(item):
            self._mailbox.started()
            self._flush_soon()

    def _start(self, group: _Group, caller: Caller, item: tuple[Any, ...]) -> None:
        group.running += 1
        self._waits_no_more(item)
        _, _, number, target, _, extra, parent = item
        name = self._names.get(target)
        if name is None:
            name = self._names[target] = f"{type(self.instance).__name__}.{target}"
        running = context.Running(number, name, caller, parent, extra)
        if extra is not None and "name" in extra:
            name = running.name = extra["name"]
        self._active[number] = running
        if self.runtime.reactor.is_dormant:
            self.runtime.reactor.wake()  # its tick tells of calls that run for long
        set_title(name)
        if self.is_async:
            run = self._serve_async(group, running, caller, item)
            if group.loop is None:
                running.task = self.loop.create_task(run)
            else:
                running.task = asyncio.run_coroutine_threadsafe(run, group.loop)
        else:
            assert group.pool is not None
            group.pool.submit(self._serve_in_thread, group, running, caller, item)

    async def _serve_async(
        self, group: _Group, running: context.Running, caller: Caller, item: tuple[Any, ...]
    ) -> None:
        try:
            taker = self._taker(caller, item)
            if taker is not None:
                await self._run_async(running, taker, item)
                self._ran(caller, taker, item)
        finally:
            self._on_loop(self._finished, group, item[2])

    def _serve_in_thread(
        self, group: _Group, running: context.Running, caller: Caller, item: tuple[Any, ...]
    ) -> None:
        try:
            taker = self._taker(caller, item)
            if taker is not None:
                self._run_in_thread(running, taker, item)
                self._ran(caller, taker, item)
        finally:
            self._on_loop(self._finished, group, item[2])

    def _taker(self, caller: Caller, item: tuple[Any, ...]) -> Any:
        return caller if self.replies is None else self.replies.taker(caller, item)

    def _ran(self, caller: Caller, taker: Any, item: tuple[Any, ...]) -> None:
        if self.replies is not None:
            self.replies.ran(caller, taker, item)

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function on the loop, that much later."""
        self.loop.call_later(seconds, function)

    def soon(self, function: Callable[[], None]) -> None:
        """Call a function on the loop, from any thread."""
        self._on_loop(function)

    async def _run_async(self, running: context.Running, taker: Any, item: tuple[Any, ...]) -> None:
        extra, target = item[5], item[3]
        with Attempt(self.execution, running, taker, item, self) as attempt:
            if extra is not None and (item[4] is None or "refs" in extra):
                await self._dependencies_here(extra)
            args, kwargs = attempt.arguments()
            value = attempt.traced(self._method(target))(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
            if is_streaming(extra):
                await self._stream_async(taker, item[1], item[2], extra, value)
            elif target != TERMINATE:  # the end of the process is the answer
                attempt.reply(value)

    def _run_in_thread(self, running: context.Running, taker: Any, item: tuple[Any, ...]) -> None:
        extra, target = item[5], item[3]
        with Attempt(self.execution, running, taker, item, self) as attempt:
            args, kwargs = attempt.arguments()
            value = attempt.traced(self._method(target))(*args, **kwargs)
            if is_streaming(extra):
                self._stream_in_thread(taker, item[1], item[2], extra, value)
            elif target != TERMINATE:
                attempt.reply(value)

    def _on_loop(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function on the loop that serves the callers, from wherever this is."""
        if threading.get_ident() == self._thread:
            function(*args)
        else:
            self.loop.call_soon_threadsafe(function, *args)

    async def _dependencies_here(self, extra: dict[str, Any]) -> None:
        """Values on other nodes are fetched without blocking the loop."""
        places = [dep[1:] for dep in extra.get("deps", ()) if dep[0] == calls.STORED]
        if "stored" in extra:
            places.append(extra["stored"])
        far = [place[0] for place in places if place[1] != self.runtime.node_id]
        if far:
            refs = [self.runtime.table.borrow(object_id) for object_id in far]
            for ref in refs:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(None, self.runtime.values.await_here, ref)

    async def _stream_async(
        self, caller: Caller, seq: int, number: int, extra: dict[str, Any], value: Any
    ) -> None:
        """Run a generator on the loop; a plain one leaves it between its items only."""
        execution = self.execution
        execution.open_stream(caller, seq, {})
        if inspect.isasyncgen(value):
            async for item in value:
                execution.stream_item(caller, seq, number, item)
                self._on_loop(self._flush_soon)
        else:
            for item in generator_of(value, "streaming"):
                execution.stream_item(caller, seq, number, item)
                self._on_loop(self._flush_soon)
                await asyncio.sleep(0)
        execution.stream_end(caller, seq)

    def _stream_in_thread(
        self, caller: Caller, seq: int, number: int, extra: dict[str, Any], value: Any
    ) -> None:
        execution = self.execution
        stream = execution.open_stream(caller, seq, extra)
        for item in generator_of(value, "streaming"):
            execution.stream_item(caller, seq, number, item)
            self._on_loop(self._flush_soon)
            while stream.is_full:
                stream.wait(1.0)
        execution.stream_end(caller, seq)

    def _method(self, name: str) -> Any:
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_call__":
            return lambda function, /, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == TERMINATE:
            return lambda: self.end(ExitCause("exited", "__ray_terminate__() was called"))
        return getattr(self.instance, name)

    def _finished(self, group: _Group, number: int) -> None:
        self._active.pop(number, None)
        self._cancelled.pop(number, None)
        group.running -= 1
        while group.queue and group.running < group.limit and self.ending is None:
            caller, item = group.queue.popleft()
            if item[2] in self._cancelled:
                del self._cancelled[item[2]]
                self._drop(caller, item)
            else:
                self._start(group, caller, item)
        self._flush_soon()
        if self.ending is not None:
            self._maybe_end()

    def die(self, error: BaseException) -> None:
        if self.ending is not None:  # exit_actor() has seen to it
            return
        if isinstance(error, SystemExit) and error.code in (None, 0):
            self.end(ExitCause("exited", "sys.exit(0) was called"))
            return
        import traceback

        traceback.print_exception(error)
        code = error.code if isinstance(error, SystemExit) else 1
        self.exit_code = code if isinstance(code, int) else 1
        os._exit(self.exit_code)  # after `_answer_all`

    # ------------------------------------------------------------------ replies, cancelling

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if not self._active:
            set_title(type(self.instance).__name__)
        for caller in list(self._callers.here.values()):
            if caller.out or caller.has_unsent:
                caller.flush()
                if caller.has_unsent:
                    self.loop.add_writer(caller.fileno(), self._writable, caller)

    def _answer_all(self) -> None:
        """The process ends at once: what is ready goes out, from whatever thread this is."""
        for caller in list(self._callers.here.values()):
            caller.flush()
        self.execution.flush_events(at_once=True)

    def _writable(self, caller: Caller) -> None:
        caller.flush()
        if not caller.has_unsent:
            self.loop.remove_writer(caller.fileno())

    def _block(self) -> None:
        """A call waits in get or wait: the actor's CPUs are free as long as one does."""
        with self._block_lock:
            self._threads_blocked += 1
            if self._threads_blocked == 1:
                self.runtime.tell(Blocked(self.runtime.process))

    def _unblock(self) -> None:
        with self._block_lock:
            self._threads_blocked -= 1
            if not self._threads_blocked:
                self.runtime.tell(Unblocked(self.runtime.process))

    def cancel(self, message: CancelCall) -> None:
        """On the IO thread: a call is to be cancelled."""
        self.loop.call_soon_threadsafe(self._cancel, message.task, message.recursive)

    def _cancel(self, number: int, recursive: bool) -> None:
        running = self._active.get(number)
        if running is None:
            self._cancelled[number] = None
            while len(self._cancelled) > CANCELLED_MAX:
                del self._cancelled[next(iter(self._cancelled))]
            for group in self._groups.values():
                for entry in list(group.queue):
                    if entry[1][2] == number:
                        group.queue.remove(entry)
                        self._drop(*entry)
                        self._cancelled.pop(number, None)
            self._flush_soon()
            return
        running.is_cancelled = True
        if recursive:
            self.runtime.cancelling.cancel_children(number)
        if running.task is not None:
            running.task.cancel()


class _Group:
    """A concurrency group: how many run, what waits, and the threads or the loop that run it.

    An async actor's default group has no loop of its own: it is that which serves the callers.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.queue: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        self.pool: ThreadPoolExecutor | None = None
        self.loop: asyncio.AbstractEventLoop | None = None


def _has_room(item: tuple[Any, ...]) -> bool:
    """Whether a call counts in the mailbox."""
    return item[5] is not None and item[5].get("room") is True
