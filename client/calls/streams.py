"""Streaming generators: the caller's end.

Theory of operation
-------------------
A streaming call makes a `Stream`, which has a pending ref for the item that comes next, the *tail*.
An item that arrives completes the tail and makes a new one; the end completes it with `_END`, after
one more item if the call failed. So waiting for the next item is waiting for a ref, and everything
that waits for refs (``get``, ``wait``, ``await``) can wait for a generator.

When an executor dies, the call is repeated from its start; what was received before is passed over.

With a limit to what may be unread, the executor pauses. It is told how many items were read when
half of that has been (`calls.CREDIT`), and at the end of a generator that nobody uses any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from ract.client.objects import refs
from ract.client.objects.refs import ERROR, PLAIN, READY, ObjectRef
from ract.core import calls
from ract.core.errors import StreamingGeneratorReplayInconsistentError

if TYPE_CHECKING:
    from ract.client.calls.call import Call
    from ract.client.runtime import Runtime

FIRST_INDEX = 2
"""Items are returns of their task from this index on; return 1 is its completion."""

UNLIMITED = 2**62

_END = object()


class Stream:
    """The items of one call.

    Args:
        runtime: Of this process.
        call: The call; its only ref becomes complete when the call ends.
        limit: How many items may be unread, 0 without limit.
    """

    def __init__(self, runtime: Runtime, call: Call, limit: int) -> None:
        self._runtime = runtime
        self._call = call
        self._limit = limit
        self._read = 0
        self._credited = 0
        self._dropped = False
        tail = self._make(0)
        self._tail = (0, tail)  # with its index; one attribute, so that it changes at once
        self._following: ObjectRef | None = None
        self._unread: deque[ObjectRef] = deque([tail])  # the last one is the tail, or the end

    def _make(self, index: int) -> ObjectRef:
        return refs.new_ref(self._call.number, self._call.actor_id, FIRST_INDEX + index, self._call)

    @property
    def received(self) -> int:
        """How many items have arrived."""
        return self._tail[0]

    # ------------------------------------------------------------------ what the executor says

    def item(self, index: int, result: tuple[Any, ...]) -> None:
        """An item arrived. To repeat this, interrupted at any place, does no harm."""
        at, tail = self._tail
        if index < at:  # the call is repeated
            self._runtime.table.drop_result(result)
            return
        following = self._following
        if following is None or following is tail:
            following = self._following = self._make(at + 1)
            if not self._dropped:
                self._unread.append(following)
        self._runtime.apply_result(tail, result)
        self._tail = (at + 1, following)

    def end(self, count: int) -> None:
        """The call has finished, and made so many items."""
        at = self._tail[0]
        if count < at:
            error = StreamingGeneratorReplayInconsistentError(
                f"{self._call.name} was repeated and yielded {count} items; before, it had yielded "
                f"{at} or more"
            )
            self._runtime.fail_call(self._call, error)
            return
        self._call.refs[0]._complete(PLAIN, None)
        self._finish()

    def _finish(self) -> None:
        self._tail[1]._complete(PLAIN, _END)
        self._call.stream = None  # it is in `_call`: both may go at once now

    def fail(self, result: tuple[Any, ...]) -> None:
        """The call has failed: an item that raises the error, then the end."""
        at, tail = self._tail
        if tail._state < READY:
            self.item(at, result)
            self._call.refs[0]._complete(ERROR, tail._value)
            self._finish()
        else:
            self._runtime.table.drop_result(result)

    # ------------------------------------------------------------------ what the generator does

    def peek(self) -> ObjectRef:
        """The ref of the next item, pending until there is one."""
        return self._unread[0]

    def is_over(self) -> bool:
        """Whether all items have been taken."""
        ref = self._unread[0]
        return ref._state == PLAIN and ref._value is _END

    def take(self) -> ObjectRef:
        """The next item, which has arrived."""
        taken = self._unread.popleft()
        self._read += 1
        if self._limit:
            if self._call.extra is not None:
                self._call.extra["read"] = self._read  # if it is repeated
            if self._read - self._credited >= (self._limit + 1) // 2:
                self._credit(self._read)
        return taken

    def drop(self) -> None:
        """Nobody reads any more: items go as they come, and the producer goes on."""
        self._dropped = True
        self._unread.clear()
        if self._limit:
            self._runtime.drop_stream(self)

    def let_go(self) -> None:
        """Have the producer wait no more."""
        if self._call.extra is not None:
            self._call.extra["read"] = UNLIMITED
        self._credit(UNLIMITED)

    def _credit(self, read: int) -> None:
        self._credited = read
        channel = self._call.channel
        if channel is not None and not channel.is_closed:
            channel.say((calls.CREDIT, self._call.seq, read))
            channel.flush()

    def completed(self) -> ObjectRef:
        """The ref of the call itself."""
        return self._call.refs[0]

    def wait(self) -> None:
        """Until the next item, or the end, is there."""
        ref = self._unread[0]
        if ref._state < READY:
            self._runtime.await_one(ref, None)

    async def wait_async(self) -> None:
        """As `wait`, in a coroutine."""
        ref = self._unread[0]
        if ref._state < READY:
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            ref._when_done(lambda ref: refs.wake(loop, done))
            with self._runtime.lending.around(loop):
                await done


class ObjectRefGenerator:
    """The refs of what a remote generator yields, one by one as they are made.

    Iterate with ``for`` or ``async for``; every item is an `ObjectRef` that is ready. An exception
    of the generator is the last item: getting it raises. The remote generator runs to its end
    whether or not its items are read, unless ``_generator_backpressure_num_objects`` limits how
    many may be unread.

    It belongs to this process: it cannot be pickled. It is not thread-safe.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[ObjectRef]:
        return self

    def __next__(self) -> ObjectRef:
        """Wait for the next item. Raises StopIteration at the end."""
        stream = self._stream
        stream.wait()
        if stream.is_over():
            raise StopIteration
        return stream.take()

    def __aiter__(self) -> ObjectRefGenerator:
        return self

    async def __anext__(self) -> ObjectRef:
        """Wait for the next item. Raises StopAsyncIteration at the end."""
        stream = self._stream
        await stream.wait_async()
        if stream.is_over():
            raise StopAsyncIteration
        return stream.take()

    def completed(self) -> ObjectRef:
        """A ref that is ready when the remote generator has ended; getting it raises its error."""
        return self._stream.completed()

    def next_ready(self) -> bool:
        """Whether ``next`` would not wait."""
        ref = self._stream.peek()
        if ref._state < READY:
            self._stream._runtime.expedite(ref)
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
