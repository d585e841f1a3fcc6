"""While a call waits, its CPUs are free for others.

Theory of operation
-------------------
An executor sets `on_block` and `on_unblock`. A driver holds no CPUs and sets neither. A call that
waits for a moment only (`BLOCK_GRACE_S`) lends nothing, since telling costs more than that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from ract.client.process import context
from ract.core.events import RUNNING

BLOCK_GRACE_S = 0.001
"""A task that waits longer than this in get or wait lends its CPUs."""

FETCH_GRACE_S = 1.0
"""A task that waits longer than this for a value of another node lends its CPUs."""


class Lending:
    """Lends what the running call holds.

    Args:
        wake: Makes the IO thread tick, so that it tells in which state the call is.

    Attributes:
        on_block: Called when a call of this process begins to wait; None in a driver.
        on_unblock: Called when it goes on.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.on_block: Callable[[], None] | None = None
        self.on_unblock: Callable[[], None] | None = None

    @property
    def is_needed(self) -> bool:
        """Whether this process holds anything that it could lend."""
        return self.on_block is not None

    def block(self, state: str) -> None:
        """The call of this thread waits: its CPUs are free, and it is seen if it waits for long."""
        call = context.running()
        if call is not None:
            call.wait_in(state)
            self._wake()
        if self.on_block is not None:
            self.on_block()

    def unblock(self) -> None:
        """The call of this thread goes on."""
        call = context.running()
        if call is not None:
            call.go_on()
            if call.reported not in ("", RUNNING):
                self._wake()  # its tick tells that the call runs again
        if self.on_unblock is not None:
            self.on_unblock()

    @contextlib.contextmanager
    def on_demand(self, state: str) -> Iterator[Callable[[], None]]:
        """Gives a function; from its first call on, the CPUs of the task that runs here are free.

        What is waited for may have to be made again, for which CPUs are needed.
        """
        blocked = False

        def lend() -> None:
            nonlocal blocked
            if self.is_needed and not blocked:
                blocked = True
                self.block(state)

        try:
            yield lend
        finally:
            if blocked:
                self.unblock()

    @contextlib.contextmanager
    def around(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """While a coroutine of a task or actor waits in here, its CPUs are free after a moment."""
        if self.on_block is None or self.on_unblock is None:
            yield
            return
        is_blocked = False

        def block() -> None:
            nonlocal is_blocked
            is_blocked = True
            self.on_block()  # type: ignore[misc]

        timer = loop.call_later(BLOCK_GRACE_S, block)
        try:
            yield
        finally:
            timer.cancel()
            if is_blocked:
                self.on_unblock()
