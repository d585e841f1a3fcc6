"""The nodes that a scheduler waits for when it has come back with its journal.

Until when a node is waited for is kept beside the journal: a scheduler that crashes often would
otherwise wait for ever for a node that is dead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ract.core.errors import JournalError

if TYPE_CHECKING:  # it brings SQLite, which most heads do without
    from ract.scheduler.durable.journal import Journal

GRACE_S = 1.0
"""So long a scheduler that is back waits at least, whatever those before it have waited."""


class Awaited:
    """Nodes that have yet to come back after a restart.

    Args:
        journal: Beside which it is kept until when.
        nodes: Those that were there before.
        patience_s: How long they are waited for.
        lose: Called for each that does not come, with why; it calls `no_more`.
        all_back: Called when nobody is waited for any more.
        on_error: Called if the journal cannot be written.

    Raises:
        JournalError: the journal cannot be written.
    """

    def __init__(
        self,
        journal: Journal,
        nodes: Iterable[bytes],
        patience_s: float,
        lose: Callable[[bytes, str], None],
        all_back: Callable[[], None],
        on_error: Callable[[JournalError], None],
    ) -> None:
        self._journal = journal
        self._patience_s = patience_s
        self._lose = lose
        self._all_back = all_back
        self._on_error = on_error
        self._timer: asyncio.TimerHandle | None = None
        known, until = journal.get("awaited") or {}, time.time() + patience_s
        #: By node until when, in seconds since the epoch.
        self.until: dict[bytes, float] = {
            each: min(until, known.get(each, until)) for each in nodes
        }
        journal.put("awaited", self.until)

    def begin(self) -> None:
        """Wait, on the running event loop."""
        delay_s = min(GRACE_S, self._patience_s)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._give_up)
        self._look()

    def no_more(self, node_id: bytes) -> None:
        """A node has come back, or is lost."""
        if self.until.pop(node_id, None) is not None:
            try:
                self._journal.put("awaited", self.until)
            except JournalError as error:
                self._on_error(error)
            self._look()

    def stop(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        for node_id, until in list(self.until.items()):
            if until <= time.time():
                why = f"it did not come back within {self._patience_s:g} s to the scheduler"
                self._lose(node_id, why)
        if self.until:
            delay_s = max(0.01, min(self.until.values()) - time.time())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._give_up)

    def _look(self) -> None:
        if not self.until:
            self.stop()
            self._all_back()
