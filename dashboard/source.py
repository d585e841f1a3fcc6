"""Who answers the pages: the scheduler's plugin, in its own process.

The views and the history are imported when the first page is asked for, or the first sample is due;
neither brings Bokeh.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ract.dashboard.history import History
    from ract.scheduler.machine import SchedulerMachine


class Source(Protocol):
    """Whoever knows the cluster."""

    @property
    def machine(self) -> SchedulerMachine:
        """The machine: to be looked at only."""

    @property
    def history(self) -> History:
        """What was before."""

    async def log_files(self, node_id: str) -> list[dict[str, Any]]:
        """The log files of a node: name, size (bytes), changed (seconds since the epoch).

        Raises:
            LookupError: There is no such node any more.
            OSError: It does not answer.
        """

    async def read_log(self, node_id: str, name: str, offset: int, size: int) -> dict[str, Any]:
        """A piece of a log file: ``data`` (bytes), ``offset`` where it begins, ``end`` of the file.

        Args:
            offset: Where to begin; negative: so many bytes before the end.
            size: At most so many bytes.

        Raises:
            LookupError: There is no such node, or no such file.
            OSError: It does not answer.
        """


def query(source: Source, name: str, args: dict[str, str]) -> Any:
    """What the view ``name`` says. Raises KeyError (no such view), LookupError, ValueError."""
    from ract.dashboard.views import VIEWS

    return VIEWS[name](source.machine, args)


FIRST_SAMPLE_S = 1.0


class PluginSource:
    """The plugin of a scheduler as a `Source`."""

    def __init__(self, scheduler: Any, plugin: Any) -> None:
        self._scheduler = scheduler
        self._plugin = plugin
        self._history: History | None = None
        self._timer: Any = None

    @property
    def machine(self) -> SchedulerMachine:
        return self._plugin.machine

    @property
    def history(self) -> History:
        if self._history is None:
            from ract.dashboard.history import History

            self._history = History(self.machine)
        return self._history

    def start(self, loop: Any) -> None:
        """Begin to sample, until `stop`: a little later, for who starts a cluster waits for it."""
        self._loop = loop
        self._timer = loop.call_later(FIRST_SAMPLE_S, self._sample)

    def _sample(self) -> None:
        self.history.sample(time.time())
        self._timer = self._loop.call_later(self.history.period_s, self._sample)

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()

    async def log_files(self, node_id: str) -> list[dict[str, Any]]:
        return await self._ask(node_id, "ract_log_files")

    async def read_log(self, node_id: str, name: str, offset: int, size: int) -> dict[str, Any]:
        return await self._ask(node_id, "ract_read_log", name=name, offset=offset, size=size)

    async def _ask(self, node_id: str, op: str, **args: Any) -> Any:
        from ract.scheduler import compat

        address = self._plugin.worker_of(bytes.fromhex(node_id))
        if address is None:
            raise LookupError(f"node {node_id[:8]} is not there (any more), and its logs are not")
        answer = await compat.ask_worker(self._scheduler, address, op, **args)
        if isinstance(answer, dict) and answer.get("error"):
            raise LookupError(answer["error"])
        return answer
