"""Streaming generators: the caller's end.

Theory of operation
-------------------
A streaming call makes a `Stream`, which has a pending ref for the item that comes next, the *tail*.
An item that arrives completes the tail and makes a new one; the end completes it with `_END`, after
one more item if the call failed. So waiting for the next item is waiting for a ref, and everything
that waits for refs (``get``, ``wait``, ``await``) can wait for a generator.

Any number of threads may read; each item goes to one of them. Items come from the thread that reads
the channel, and the call may fail on another one (a timeout, a cancellation). So what belongs
together changes under a lock of the stream: the tail with what follows it, the first unread item
with its reader. Refs are completed without the lock, since that calls whoever waits for them.

When an executor dies, the call is repeated from its start; what was received before is passed over.

With a limit to what may be unread, the executor pauses. It is told how many items were read when
half of that has been (`calls.CREDIT`), and at the end of a generator that nobody uses any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ract.client.objects import refs
from ract.client.objects.refs import ERROR, PLAIN, READY, ObjectRef
from ract.client.process.locks import make_lock
from ract.core import calls
from ract.core.errors import StreamingGeneratorReplayInconsistentError

if TYPE_CHECKING:
    from ract.client.calls.call import Call
    from ract.client.objects.held import Held
    from ract.client.process.lending import Lending

FIRST_INDEX = 2
"""Items are returns of their task from this index on; return 1 is its completion."""

UNLIMITED = 2**62

_END = object()


class Home(Protocol):
    """What a stream uses of its process."""

    table: Held
    lending: Lending

    @property
    def apply_result(self) -> Callable[[ObjectRef, tuple[Any, ...]], None]: ...
    @property
    def fail_call(self) -> Callable[[Call, BaseException], None]: ...
    @property
    def await_one(self) -> Callable[[ObjectRef, float | None], None]: ...
    @property
    def expedite(self) -> Callable[[ObjectRef], None]: ...
    def drop_stream(self, stream: Stream) -> None: ...


class Stream:
    """The items of one call.

    Args:
        home: Of this process.
        call: The call; its only ref becomes complete when the call ends.
        limit: How many items may be unread, 0 without limit.
    """

    def __init__(self, home: Home, call: Call, limit: int) -> None:
        self._home = home
        self._call = call
        self._limit = limit
        self._read = 0
        self._credited = 0
        self._dropped = False
        self._lock = make_lock("stream")
        #: The ref that comes next, and its index.
        self._tail = self._make(0)
        self._at = 0
        #: By index, refs of items that have arrived; each goes when it has its value.
        self._arriving: dict[int, ObjectRef] = {}
        #: The tail will be the end, and nothing else: no item is taken any more.
        self._has_ended = False
        #: The item that raises the error of the call, if it failed.
        self._failure: ObjectRef | None = None
        #: The last one is the tail, or the end, which nobody takes: so it is never empty.
        self._unread: deque[ObjectRef] = deque([self._tail])

    def _make(self, index: int) -> ObjectRef:
        return refs.new_ref(self._call.number, self._call.actor_id, FIRST_INDEX + index, self._call)

    @property
    def received(self) -> int:
        """How many items have arrived."""
        return self._at

    # ------------------------------------------------------------------ what the executor says

    def item(self, index: int, result: tuple[Any, ...]) -> None:
        """An item arrived. To repeat this, interrupted at any place, does no harm."""
        with self._lock:
            if index == self._at and not self._has_ended:
                self._arriving[index] = self._advance()
            ref = self._arriving.get(index)
        if ref is None:  # the call is repeated, or has failed
            self._home.table.drop_result(result)
        else:
            self._home.apply_result(ref, result)
            self._arriving.pop(index, None)

    def _advance(self) -> ObjectRef:
        """There is a new tail, under the lock; returns the one before, which gets its value now."""
        ref = self._tail
        self._at += 1
        self._tail = self._make(self._at)
        if not self._dropped:
            self._unread.append(self._tail)
        return ref

    def end(self, count: int) -> None:
        """The call has finished, and made so many items."""
        with self._lock:
            at = self._at
            if self._failure is not None:
                return  # a timeout or a cancellation was faster
            self._has_ended = self._has_ended or count >= at
        if count < at:
            error = StreamingGeneratorReplayInconsistentError(
                f"{self._call.name} was repeated and yielded {count} items; before, it had yielded "
                f"{at} or more"
            )
            self._home.fail_call(self._call, error)
            return
        self._call.refs[0]._complete(PLAIN, None)
        self._finish()

    def _finish(self) -> None:
        self._tail._complete(PLAIN, _END)
        self._call.stream = None  # it is in `_call`: both may go at once now

    def fail(self, result: tuple[Any, ...]) -> None:
        """The call has failed: an item that raises the error, then the end."""
        with self._lock:
            if not self._has_ended:
                self._has_ended = True
                self._failure = self._advance()
            ref = self._failure
        if ref is None or ref._state >= READY:
            self._home.table.drop_result(result)
        else:
            self._home.apply_result(ref, result)
        if ref is None:  # it had ended in order
            return
        self._call.refs[0]._complete(ERROR, ref._value)
        self._finish()

    # ------------------------------------------------------------------ what the generator does

    def peek(self) -> ObjectRef:
        """The ref of the next item, pending until there is one."""
        return self._unread[0]

    def is_over(self) -> bool:
        """Whether all items have been taken."""
        return _is_end(self._unread[0])

    def next(self) -> ObjectRef | None:
        """Wait for the next item and take it; None at the end."""
        while True:
            ref = self._unread[0]
            if ref._state < READY:
                self._home.await_one(ref, None)
            if _is_end(ref):
                return None
            if self._take(ref):
                return ref

    async def next_async(self) -> ObjectRef | None:
        """As `next`, in a coroutine."""
        while True:
            ref = self._unread[0]
            if ref._state < READY:
                await self._until_ready(ref)
            if _is_end(ref):
                return None
            if self._take(ref):
                return ref

    async def _until_ready(self, ref: ObjectRef) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        ref._when_done(lambda _: refs.wake(loop, done))
        with self._home.lending.around(loop):
            await done

    def _take(self, ref: ObjectRef) -> bool:
        """Take the first unread item, which has arrived; False if another thread was faster."""
        with self._lock:
            if self._unread[0] is not ref:
                return False
            self._unread.popleft()
            self._read += 1
            read = self._read
            if self._limit and self._call.extra is not None:
                self._call.extra.read = read  # if it is repeated
            tells = self._limit and read - self._credited >= (self._limit + 1) // 2
            if tells:
                self._credited = read
        if tells:
            self._credit(read)
        return True

    def drop(self) -> None:
        """A finalizer: nobody reads any more. Items go as they come, and the producer goes on."""
        self._home.drop_stream(self)

    def let_go(self) -> None:
        """Forget what nobody has read, and have the producer wait no more (on the IO thread)."""
        with self._lock:
            self._dropped = True
            unread, self._unread = self._unread, deque([self._tail])
        unread.clear()  # without the lock: finalizers run
        if not self._limit:
            return
        if self._call.extra is not None:
            self._call.extra.read = UNLIMITED
        self._credit(UNLIMITED)

    def _credit(self, read: int) -> None:
        """Say how many items were read: of several messages the highest counts."""
        channel = self._call.channel
        if channel is not None and not channel.is_closed:
            channel.say((calls.CREDIT, self._call.seq, read))
            channel.flush()

    def completed(self) -> ObjectRef:
        """The ref of the call itself."""
        return self._call.refs[0]


def _is_end(ref: ObjectRef) -> bool:
    return ref._state == PLAIN and ref._value is _END


def _wake(loop: asyncio.AbstractEventLoop, done: asyncio.Future, ref: ObjectRef) -> None:
    refs.wake(loop, done)


class ObjectRefGenerator:
    """The refs of what a remote generator yields, one by one as they are made.

    Iterate with ``for`` or ``async for``; every item is an `ObjectRef` that is ready. An exception
    of the generator is the last item: getting it raises. The remote generator runs to its end
    whether or not its items are read, unless ``_generator_backpressure_num_objects`` limits how
    many may be unread.

    Several threads may iterate: each item goes to one of them. It belongs to this process: it
    cannot be pickled.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[ObjectRef]:
        return self

    def __next__(self) -> ObjectRef:
        """Wait for the next item. Raises StopIteration at the end."""
        ref = self._stream.next()
        if ref is None:
            raise StopIteration
        return ref

    def __aiter__(self) -> ObjectRefGenerator:
        return self

    async def __anext__(self) -> ObjectRef:
        """Wait for the next item. Raises StopAsyncIteration at the end."""
        ref = await self._stream.next_async()
        if ref is None:
            raise StopAsyncIteration
        return ref

    def completed(self) -> ObjectRef:
        """A ref that is ready when the remote generator has ended; getting it raises its error."""
        return self._stream.completed()

    def next_ready(self) -> bool:
        """Whether ``next`` would not wait."""
        ref = self._stream.peek()
        if ref._state < READY:
            self._stream._home.expedite(ref)
        return ref._state >= READY and not self._stream.is_over()

    def is_finished(self) -> bool:
        """Whether all items have been read."""
        return self._stream.is_over()

    def task_id(self) -> Any:
        """The id of the task."""
        return self._stream.completed().task_id()

    def _unsupported(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            "a remote generator only yields: nothing can be sent to it. ract.cancel() ends it."
        )

    send = throw = close = asend = athrow = aclose = _unsupported

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an ObjectRefGenerator cannot be pickled: it belongs to the process that made the "
            "call. Pass its refs on, or the values."
        )

    def __del__(self) -> None:
        self._stream.drop()

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._stream.completed().hex()})"


class DynamicObjectRefGenerator:
    """The refs of what a task with ``num_returns="dynamic"`` yielded; iterating takes them out."""

    def __init__(self, made: list[ObjectRef]) -> None:
        self._refs = deque(made)

    def __iter__(self) -> Iterator[ObjectRef]:
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self._refs)} refs)"
