"""A first-in, first-out queue that drivers, tasks and actors share."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Coroutine, Iterable
from typing import Any

import ract

WAITING_MAX = 1_000_000
"""Blocked calls that a queue serves at once: fewer, and consumers could keep out the producer."""


class Empty(queue.Empty):
    """There is no item, or there are too few."""


class Full(queue.Full):
    """There is no room."""


class Queue:
    """A queue in an actor of its own. It can be passed to tasks and actors, and kept in objects.

    The queue ends when nobody has it any more. An item may be any value that can be pickled; a
    ref given as the item itself is replaced by its value, a ref within the item stays a ref.

    Args:
        maxsize: Items that fit; without limit if it is not positive.
        actor_options: Options of the actor, like ``{"name": "jobs"}``; without ``num_cpus`` it
            takes no CPU.

    Attributes:
        maxsize: As given.
        actor: The handle of the actor.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be an int, not {type(maxsize).__name__}")
        options = {"num_cpus": 0, "max_concurrency": WAITING_MAX, **(actor_options or {})}
        self.maxsize = maxsize
        self.actor: Any = ract.remote(_QueueActor).options(**options).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items there are."""
        return ract.get(self.actor.size.remote())

    def qsize(self) -> int:
        """How many items there are."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item."""
        return ract.get(self.actor.empty.remote())

    def full(self) -> bool:
        """Whether there is no room. A queue without a limit is never full."""
        return ract.get(self.actor.full.remote())

    # ------------------------------------------------------------------ one item

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item.

        Args:
            item: What to add.
            block: Wait for room.
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            Full: no room (in time).
            ValueError: a negative timeout.
            RactActorError: the queue was shut down.
        """
        _check_put(ract.get(self._put(item, block, timeout)))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for coroutines."""
        _check_put(await self._put(item, block, timeout))

    def put_nowait(self, item: Any) -> None:
        """``put(item, block=False)``."""
        self.put(item, block=False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item.

        Args:
            block: Wait for an item.
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            Empty: no item (in time).
            ValueError: a negative timeout.
            RactActorError: the queue was shut down.
        """
        return _item(ract.get(self._get(block, timeout)))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for coroutines."""
        return _item(await self._get(block, timeout))

    def get_nowait(self) -> Any:
        """``get(block=False)``."""
        return self.get(block=False)

    # ------------------------------------------------------------------ several items

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add several items, all or none.

        Raises:
            Full: there is no room for all of them.
            TypeError: not iterable.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"'items' must be iterable; {type(items).__name__} is not")
        taken = list(items)
        if not ract.get(self.actor.put_nowait_batch.remote(taken)):
            raise Full(f"there is no room for {len(taken)} items; maxsize is {self.maxsize}")

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take several items, all or none, the oldest first.

        Raises:
            Empty: there are fewer.
            TypeError: ``num_items`` is not an int. ValueError: it is negative.
        """
        if not isinstance(num_items, int):
            raise TypeError(f"'num_items' must be an int, not {type(num_items).__name__}")
        if num_items < 0:
            raise ValueError(f"'num_items' must not be negative, got {num_items}")
        items = ract.get(self.actor.get_nowait_batch.remote(num_items))
        if items is None:
            raise Empty(f"there are fewer than {num_items} items")
        return items

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue; what is in it is lost, and later calls raise RactActorError.

        Args:
            force: Kill the actor at once. Calls that wait for an item or for room fail.
            grace_period_s: Otherwise, seconds that such calls have before it is killed.
        """
        if not force:
            # Whatever comes of it: if the actor is dead already, that is ready, too.
            ract.wait([self.actor.nobody_waits.remote()], timeout=grace_period_s)
        ract.kill(self.actor)

    # ------------------------------------------------------------------ inside

    def _put(self, item: Any, block: bool, timeout: float | None) -> Any:
        return self.actor.put.remote(item, _wait_s(block, timeout))

    def _get(self, block: bool, timeout: float | None) -> Any:
        return self.actor.get.remote(_wait_s(block, timeout))


class _QueueActor:
    """The items. Refusals are return values: an exception would carry a traceback for nothing."""

    def __init__(self, maxsize: int) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)
        self._waiting = 0
        #: Set if and only if `_waiting` is 0.
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()

    async def size(self) -> int:
        return self._queue.qsize()

    async def empty(self) -> bool:
        return self._queue.empty()

    async def full(self) -> bool:
        return self._queue.full()

    async def put(self, item: Any, wait_s: float | None) -> bool:
        """Whether the item was added within ``wait_s`` (None: wait for ever; 0: do not wait)."""
        try:
            if wait_s == 0:
                self._queue.put_nowait(item)
            else:
                await self._wait(self._queue.put(item), wait_s)
        except (asyncio.QueueFull, TimeoutError):
            return False
        return True

    async def get(self, wait_s: float | None) -> tuple[Any, ...]:
        """The oldest item in a tuple, which is empty if there was none within ``wait_s``."""
        try:
            if wait_s == 0:
                return (self._queue.get_nowait(),)
            return (await self._wait(self._queue.get(), wait_s),)
        except (asyncio.QueueEmpty, TimeoutError):
            return ()

    async def _wait(self, operation: Coroutine[Any, Any, Any], wait_s: float | None) -> Any:
        self._waiting += 1
        self._nobody_waits.clear()
        try:
            return await asyncio.wait_for(operation, wait_s)
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._nobody_waits.set()

    async def nobody_waits(self) -> None:
        """Return once no call waits for an item or for room."""
        await self._nobody_waits.wait()

    async def put_nowait_batch(self, items: list[Any]) -> bool:
        if 0 < self._queue.maxsize < self._queue.qsize() + len(items):
            return False
        for item in items:
            self._queue.put_nowait(item)
        return True

    async def get_nowait_batch(self, num_items: int) -> list[Any] | None:
        if num_items > self._queue.qsize():
            return None
        return [self._queue.get_nowait() for _ in range(num_items)]


def _wait_s(block: bool, timeout: float | None) -> float | None:
    if not block:
        return 0
    if timeout is not None and timeout < 0:
        raise ValueError(f"'timeout' must not be negative, got {timeout}")
    return timeout


def _check_put(is_added: bool) -> None:
    if not is_added:
        raise Full("the queue is full")


def _item(found: tuple[Any, ...]) -> Any:
    if not found:
        raise Empty("the queue is empty")
    return found[0]
