"""A thread that waits in get or wait.

Theory of operation
-------------------
Whoever waits reads the channels itself, if nobody else does: `Waiter.wait` takes the `read_lock` of
the channel of the first missing ref (get), or of all that have calls in flight (wait), and reads
until that ref, or enough refs, are complete. If another thread reads, or no channel is concerned,
it sleeps until a ref calls back. It never waits long without looking around: what completes a ref
may come another way than expected.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ract.client.calls.channel import Channel, read_any
from ract.client.objects.refs import ERROR, READY, ObjectRef
from ract.core import ids

if TYPE_CHECKING:
    from ract.client.calls.channels import Channels
    from ract.client.objects.values import Values

SLEEP_S = 0.05
"""A thread that waits looks around this often, whatever it was told."""


def split(refs: list[ObjectRef], n: int) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """(the first ``n`` complete refs, the others); stops looking when it has them."""
    ready: list[ObjectRef] = []
    rest: list[ObjectRef] = []
    for i, ref in enumerate(refs):
        if ref._state < READY:
            rest.append(ref)
        else:
            ready.append(ref)
            if len(ready) == n:
                rest += refs[i + 1 :]
                break
    return ready, rest


def describe_wait(ref: ObjectRef) -> str:
    """What an incomplete ref waits for, in a few words."""
    call = ref._call
    if call is None:
        maker = int.from_bytes(ref.binary()[:8], "big") >> ids.COUNTER_BITS
        return (
            f"{ref!r} is made by process {maker}: the node owes its value (ObjectHere), which "
            f"that process, or who runs the call, has to publish"
        )
    if call.waiting:
        return f"{call.name} waits for {call.waiting} of its arguments"
    if call.channel is None:
        return f"{call.name} waits for {call.owner.what_it_waits_for()}"
    return f"{call.name} {call.channel.describe()}"


class Waiter:
    """A thread that waits for ``n`` of some refs: it reads channels itself where it can."""

    def __init__(
        self,
        values: Values,
        channels: Channels,
        wanted: list[ObjectRef],
        n: int,
        for_get: bool,
    ) -> None:
        self._values = values
        self._channels = channels
        self._wanted = wanted
        self._at = 0  # for get: all before this one are complete
        self._n = n
        self._for_get = for_get
        self._errors = -1

    def is_done(self) -> bool:
        """Whether the wait is over."""
        if not self._for_get:
            return len(split(self._wanted, self._n)[0]) >= self._n
        # In order: the first incomplete ref decides, unless some error came in meanwhile.
        if self._first_incomplete() is None:
            return True
        if self._errors != self._values.error_count:
            self._errors = self._values.error_count
            return any(ref._state == ERROR for ref in self._wanted)
        return False

    def _first_incomplete(self) -> ObjectRef | None:
        wanted = self._wanted
        for i in range(self._at, len(wanted)):
            if wanted[i]._state < READY:
                if self._for_get:
                    self._at = i
                return wanted[i]
        self._at = len(wanted)
        return None

    def poll_once(self) -> None:
        """Read what has already arrived, without waiting."""
        for channel in self._channels.values():
            if channel.inflight and channel.read_lock.acquire(False):
                try:
                    channel.read_until(self.is_done, time.monotonic())
                finally:
                    channel.end_reading()

    def wait(self, deadline: float | None) -> None:
        """Wait a little: until something relevant happens, or the deadline."""
        if self._for_get:
            first = self._first_incomplete()
            if first is None:
                return
            channel = _channel_of(first)
            if channel is not None and channel.is_readable and channel.read_lock.acquire(False):
                self._read_one(channel, first, deadline)
            else:
                self._sleep([first], deadline)
            return
        channels = self._channels.values()
        channels = [c for c in channels if c.inflight and c.is_readable]
        channels = [c for c in channels if c.read_lock.acquire(False)]
        if channels:
            try:
                read_any(channels, self.is_done, deadline)
            finally:
                for channel in channels:
                    channel.end_reading()
        else:
            self._sleep(self._wanted, deadline)

    def _read_one(self, channel: Channel, first: ObjectRef, deadline: float | None) -> None:
        try:
            if len(self._wanted) == 1:
                channel.wait_for(first, deadline)
                return
            seen = self._errors
            channel.read_until(
                lambda: first._state >= READY or self._values.error_count != seen, deadline
            )
        finally:
            channel.end_reading()

    def _sleep(self, refs: list[ObjectRef], deadline: float | None) -> None:
        """Until one of the refs is complete: somebody else reads."""
        lock = threading.Lock()
        lock.acquire()
        wake = _Once(lock)
        for ref in refs:
            ref._when_done(wake)
        left = SLEEP_S if deadline is None else min(SLEEP_S, max(0.0, deadline - time.monotonic()))
        lock.acquire(timeout=left)
        wake.cancel()
        for ref in refs:
            waiters = ref._waiters
            if waiters is not None:
                try:
                    waiters.remove(wake)
                except ValueError:  # it was called
                    pass


class _Once:
    """A callback that releases a lock, once: of threads that call it at once the first one does."""

    __slots__ = ("_locks",)

    def __init__(self, lock: Any) -> None:
        self._locks = [lock]

    def cancel(self) -> None:
        """Release nothing any more."""
        self._locks.clear()

    def __call__(self, _: ObjectRef) -> None:
        try:
            self._locks.pop().release()  # `pop` is one step: only one thread gets the lock
        except IndexError:
            pass


def _channel_of(ref: ObjectRef) -> Channel | None:
    call = ref._call
    return call.channel if call is not None else None
