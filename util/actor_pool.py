"""`ActorPool`: work for a fixed set of actors.

Theory of operation
-------------------
An actor is *idle* or *busy* with one submission; submissions that find no idle actor are queued.
A result is *unfetched* from its submission until `get_next` or `get_next_unordered` returns it,
which also frees the actor. While submissions are queued, waiting for one result watches all busy
actors, and one that finishes early goes on with the queue, so that a slow call does not hold up
the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ract

#: Makes the call: takes an actor and a value, returns a ref (or the list of refs of one call).
Call = Callable[[Any, Any], Any]


class ActorPool:
    """Spreads calls over actors that all do the same.

    Args:
        actors: Handles. May be empty; nothing runs before `push` then.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        #: Actors without a call of this pool, the longest idle first.
        self._idle: deque[Any] = deque(actors)
        #: Actor by the ref of its call, until the actor takes the next one.
        self._busy: dict[Any, Any] = {}
        #: All that can be fetched, in the order of submission: what ``fn`` returned, by its ref.
        self._unfetched: dict[Any, Any] = {}
        #: Unfetched refs that are complete and whose actor has gone on, in order of completion.
        self._finished: dict[Any, None] = {}
        self._queued: deque[tuple[Call, Any]] = deque()
        #: Whether results were taken out of order since nothing was unfetched.
        self._is_unordered = False

    # ------------------------------------------------------------------ whole collections

    def map(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Submit ``fn(actor, value)`` for all values; yield the results in the values' order.

        Submissions that were made before, and not fetched, are discarded.

        Args:
            fn: Calls the actor, as in ``lambda actor, value: actor.double.remote(value)``.
            values: Read to its end at once. The results are waited for as they are asked for.
        """
        self._submit_all(fn, values)
        return self._results(self.get_next)

    def map_unordered(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Like `map`, but yield the results in the order in which they are complete."""
        self._submit_all(fn, values)
        return self._results(self.get_next_unordered)

    def _submit_all(self, fn: Call, values: Iterable[Any]) -> None:
        self._queued.clear()
        self._unfetched.clear()
        self._finished.clear()
        self._is_unordered = False
        for ref in list(self._busy):
            self._free(ref)
        for value in values:
            self.submit(fn, value)

    def _results(self, following: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield following()

    # ------------------------------------------------------------------ one by one

    def submit(self, fn: Call, value: Any) -> None:
        """Call ``fn(actor, value)`` with an idle actor, now or as soon as there is one.

        Raises:
            TypeError: ``fn`` returned no ref.
        """
        if self._idle:
            self._start(fn, value)
        else:
            self._queued.append((fn, value))

    def has_next(self) -> bool:
        """Whether there is a result to fetch, now or later."""
        return bool(self._unfetched)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Wait for the oldest submission that was not fetched and return its result.

        Args:
            timeout: Seconds to wait; None for as long as it takes.
            ignore_if_timedout: If it is not there in time, give its result up: the next call
                returns the one after it.

        Raises:
            StopIteration: nothing is left.
            TimeoutError: not in time.
            ValueError: after `get_next_unordered`, while results are left.
            RactTaskError: the call failed. This was its result.
        """
        self._check_any_left()
        if self._is_unordered:
            raise ValueError("get_next() may not be called after get_next_unordered()")
        oldest = next(iter(self._unfetched))
        if not self._wait_for(oldest, timeout):
            raise self._late(oldest, ignore_if_timedout)
        return self._fetch(oldest)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """Wait for any submission that was not fetched and return its result.

        Args:
            timeout: Seconds to wait; None for as long as it takes.
            ignore_if_timedout: If there is none in time, give up the result of the oldest.

        Raises:
            StopIteration: nothing is left.
            TimeoutError: none in time.
            RactTaskError: the call failed. This was its result.
        """
        self._check_any_left()
        if self._finished:
            found = next(iter(self._finished))
        else:
            ready, _ = ract.wait(list(self._busy), num_returns=1, timeout=timeout)
            if not ready:
                raise self._late(next(iter(self._unfetched)), ignore_if_timedout)
            [found] = ready
        self._is_unordered = len(self._unfetched) > 1
        return self._fetch(found)

    # ------------------------------------------------------------------ the actors

    def has_free(self) -> bool:
        """Whether a submission would start at once.

        An actor is free again when its result was fetched.
        """
        return bool(self._idle) and not self._queued

    def pop_idle(self) -> Any | None:
        """Take an idle actor out of the pool and return it; None if there is none."""
        return self._idle.popleft() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor, which takes up queued work.

        Raises:
            ValueError: it belongs to the pool already.
        """
        if actor in self._idle or actor in self._busy.values():
            raise ValueError(f"{actor!r} already belongs to this ActorPool")
        self._add_idle(actor)

    # ------------------------------------------------------------------ inside

    def _start(self, fn: Call, value: Any) -> None:
        """Give the value to the actor that is idle the longest; if `fn` fails it stays idle."""
        made = fn(self._idle[0], value)
        ref = made[0] if isinstance(made, list) and made else made
        if not isinstance(ref, ract.ObjectRef):
            raise TypeError(
                f"the function given to an ActorPool must return the ref of a call, not "
                f"{type(made).__name__}, as in: lambda actor, value: actor.method.remote(value)"
            )
        self._busy[ref] = self._idle.popleft()
        self._unfetched[ref] = made

    def _add_idle(self, actor: Any) -> None:
        self._idle.append(actor)
        if self._queued:
            self._start(*self._queued.popleft())

    def _free(self, ref: Any) -> None:
        """Whatever happens to its result, the actor of this call can take another."""
        if ref in self._busy:
            self._add_idle(self._busy.pop(ref))

    def _wait_for(self, wanted: Any, timeout: float | None) -> bool:
        """Whether ``wanted`` is complete in time; meanwhile, actors that finish get queued work."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while wanted in self._busy:
            watched = list(self._busy) if self._queued else [wanted]
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = ract.wait(watched, num_returns=1, timeout=left)
            if not ready:
                return False
            if ready[0] is wanted:
                break
            self._finished[ready[0]] = None
            self._free(ready[0])
        return True

    def _fetch(self, ref: Any) -> Any:
        made = self._drop(ref)
        self._free(ref)
        return ract.get(made)

    def _drop(self, ref: Any) -> Any:
        self._finished.pop(ref, None)
        return self._unfetched.pop(ref)

    def _check_any_left(self) -> None:
        if not self._unfetched:
            raise StopIteration("there are no more results to get")

    def _late(self, ref: Any, is_ignored: bool) -> TimeoutError:
        if not is_ignored:
            return TimeoutError("timed out waiting for a result")
        self._drop(ref)
        self._free(ref)
        return TimeoutError(f"timed out waiting for a result; that of {ref!r} is given up")
