"""Waiting for values: get and wait.

Theory of operation
-------------------
A thread waits until refs are complete (`Waiter`), then until what lies on other nodes was copied to
this one (`Values.await_here`), and then loads the values. Whatever it waits for, it looks up now
and then: the process may have left the cluster or lost its node, the thread may have been
interrupted, and the time may be over. A task that waits for more than a moment lends its CPUs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

from ract.client.calls.channels import Channels
from ract.client.calls.waiting import SLEEP_S, Waiter, describe_wait, split
from ract.client.objects import refs
from ract.client.objects.refs import ERROR, READY, STORED, ObjectRef
from ract.client.objects.values import Values
from ract.client.process import finalizers, interrupts
from ract.client.process.lending import BLOCK_GRACE_S, FETCH_GRACE_S, Lending
from ract.client.process.session import Session
from ract.core import errors, naming
from ract.core.events import IN_GET, IN_WAIT

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Who waits for longer than this makes sure that it may wait at all."""


class Getting:
    """Get and wait of one process.

    Args:
        session: Says whether it is worth waiting.
        values: The values of this process.
        channels: Its channels, which a thread that waits reads.
        lending: Lends the CPUs of a task that waits.
    """

    def __init__(
        self, session: Session, values: Values, channels: Channels, lending: Lending
    ) -> None:
        self._session = session
        self._values = values
        self._channels = channels
        self._lending = lending

    def one(self, ref: ObjectRef, timeout: float | None) -> Any:
        """Wait for one value."""
        if ref._home is not self._values:
            raise refs.left_cluster(ref)
        if timeout is None:
            if ref._state < READY:
                self.await_one(ref, None)
        else:
            deadline = time.monotonic() + timeout
            if ref._state < READY:
                self.await_one(ref, timeout)
            self._fetch([ref], timeout, deadline)
        return ref._load()

    def await_one(self, ref: ObjectRef, timeout: float | None) -> None:
        """Wait until a ref is complete. Raises GetTimeoutError."""
        if ref._state < READY:
            if finalizers.amid:
                finalizers.check_may_wait("get()")
            call = ref._call
            channel = call.channel if call is not None else None
            # The usual case of `_await`, with nothing else to look after.
            if channel is not None and timeout is None and not self._lending.is_needed:
                if channel.read_lock.acquire(False):
                    try:
                        channel.wait_for(ref, None)
                    finally:
                        channel.end_reading()
            if ref._state < READY:
                self._await([ref], 1, timeout, for_get=True)

    def many(self, wanted: list[ObjectRef], timeout: float | None) -> list[Any]:
        """Wait for all values, or until one is an error."""
        for ref in wanted:
            if ref._home is not self._values:
                raise refs.left_cluster(ref)
        deadline = None if timeout is None else time.monotonic() + timeout
        if any(ref._state < READY for ref in wanted):
            self._await(wanted, len(wanted), timeout, for_get=True)
            # One that failed while others are still running is raised at once.
            for ref in wanted:
                if ref._state == ERROR:
                    ref._load()
        self._fetch(wanted, timeout, deadline)
        return [ref._load() for ref in wanted]

    def _fetch(
        self, wanted: list[ObjectRef], timeout: float | None, deadline: float | None
    ) -> None:
        """Have the values of complete refs copied to this node, all at once.

        Raises:
            GetTimeoutError: not by the deadline.
        """
        far = [ref for ref in wanted if not self._values.is_here(ref)]
        if far and not self._values.await_here(*far, deadline=deadline):
            late = [ref for ref in far if not self._values.is_here(ref)]
            places = [
                value[0] for ref in late[:8] for state, value in [ref._outcome()] if state == STORED
            ]
            where = ", ".join(dict.fromkeys(place.hex()[:8] for place in places))
            raise errors.GetTimeoutError(
                f"{len(late)} of {len(wanted)} values were not fetched from other nodes ({where}) "
                f"within {timeout} s, or not made again if they were lost there: {late[0]!r}"
            )

    def wait(
        self,
        wanted: list[ObjectRef],
        num_returns: int,
        timeout: float | None,
        fetch_local: bool = True,
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Split refs into at most ``num_returns`` complete ones and the rest, in order.

        With ``fetch_local`` those that lie on other nodes are complete once they were copied here.

        Raises:
            ValueError: a ref of a cluster that this process has left.
        """
        for ref in wanted:
            if ref._home is not self._values:
                raise refs.left_cluster(ref)
        deadline = None if timeout is None else time.monotonic() + timeout
        found = split(wanted, num_returns)
        if len(found[0]) < num_returns:
            try:
                self._await(wanted, num_returns, timeout, for_get=False)
            except errors.GetTimeoutError:
                pass
            found = split(wanted, num_returns)
        if fetch_local and not all(map(self._values.is_here, found[0])):
            self._bring(wanted, num_returns, deadline)
            here = [ref for ref in wanted if self._values.is_here(ref)][:num_returns]
            chosen = set(here)
            return here, [ref for ref in wanted if ref not in chosen]
        return found

    def _bring(self, wanted: list[ObjectRef], n: int, deadline: float | None) -> None:
        """Have complete refs copied here until ``n`` of all can be read, or the deadline."""
        arrived = threading.Event()
        asked: set[ObjectRef] = set()
        lend_at = time.monotonic() + FETCH_GRACE_S
        with self._lending.on_demand(IN_WAIT) as lend:
            while sum(map(self._values.is_here, wanted)) < n:
                for ref in wanted:
                    if ref._state == STORED and ref not in asked:
                        asked.add(ref)
                        self._values.localize(ref, arrived.set)
                self._session.check_alive()
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    return
                if now >= lend_at:
                    lend()
                arrived.wait(_wait_s(SLEEP_S, deadline))  # others may be complete meanwhile
                arrived.clear()

    def _await(
        self, wanted: list[ObjectRef], n: int, timeout: float | None, *, for_get: bool
    ) -> None:
        """Return when ``n`` of the refs are complete, or (for get) one of them is an error.

        Raises:
            GetTimeoutError: not in time.
        """
        self._values.seek_all(wanted)
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = Waiter(self._values, self._channels, wanted, n, for_get)
        if waiter.is_done():
            return
        if timeout is not None and timeout <= 0:
            waiter.poll_once()
            if waiter.is_done():
                return
            raise self._timeout_error(wanted, timeout)
        what = "get()" if for_get else "wait()"
        finalizers.check_may_wait(what)
        if self._lending.is_needed:
            _warn_in_coroutine(for_get)
        block_at = time.monotonic() + BLOCK_GRACE_S if self._lending.is_needed else None
        blocked = False
        look_at = time.monotonic() + LOOK_S
        try:
            while not waiter.is_done():
                self._session.check_alive()
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise self._timeout_error(wanted, timeout)
                if block_at is not None and not blocked and now >= block_at:
                    blocked = True
                    self._lending.block(IN_GET if for_get else IN_WAIT)
                if now >= look_at:
                    look_at = now + LOOK_S
                    finalizers.check_may_wait(what, also_locks=True)
                stop = deadline
                if block_at is not None and not blocked:
                    stop = block_at if deadline is None else min(block_at, deadline)
                waiter.wait(stop)
                interrupts.check()  # though all is there now: what waited was to be interrupted
        finally:
            if blocked:
                self._lending.unblock()

    def _timeout_error(self, wanted: list[ObjectRef], timeout: float | None) -> Exception:
        late = [ref for ref in wanted if ref._state < READY]
        what = "; ".join(describe_wait(ref) for ref in late[:3])
        more = f" and {len(late) - 3} more" if len(late) > 3 else ""
        return errors.GetTimeoutError(
            f"{len(late)} of {len(wanted)} objects were not ready within {timeout} s: {what}{more}"
        )


def _wait_s(longest: float, deadline: float | None) -> float:
    """How long to wait at once."""
    return longest if deadline is None else max(0.0, min(longest, deadline - time.monotonic()))


_warned_in_coroutine = False


def _warn_in_coroutine(for_get: bool) -> None:
    """Say once that get or wait stops an event loop."""
    global _warned_in_coroutine
    if not _warned_in_coroutine and asyncio._get_running_loop() is not None:
        _warned_in_coroutine = True
        name, instead = ("get", "await the ref") if for_get else ("wait", "use asyncio.wait")
        logger.warning(
            "Using blocking %s.%s inside an async actor: nothing else of it runs meanwhile. "
            "Rather %s.",
            naming.program,
            name,
            instead,
        )
