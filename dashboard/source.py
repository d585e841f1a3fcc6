"""Who answers the pages: the scheduler's plugin, in its own process.

The views and the history are imported when the first page is asked for, or the first sample is due;
neither brings Bokeh.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ract.dashboard.history import History
    from ract.scheduler.cluster import Cluster


class Source(Protocol):
    """Whoever knows the cluster."""

    @property
    def cluster(self) -> Cluster:
        """The cluster as the scheduler knows it."""

    @property
    def history(self) -> History:
        """What was before."""

    def query(self, op: str, args: dict[str, Any]) -> Any:
        """Answer a question of `ract.scheduler.queries.queries` with plain data."""

    async def log_files(self, node_id: str) -> list[dict[str, Any]]:
        """The log files of a node, the newest first: see `ract.core.logs.list_files`.

        Raises:
            LookupError: The node is unknown, or cannot be asked (any more).
        """

    async def read_log(self, node_id: str, name: str, **wanted: Any) -> dict[str, Any]:
        """A piece of a log file: see `ract.core.logs.read`.

        Raises:
            LookupError: There is no such node or file, or it cannot be asked (any more).
        """

    async def stored(self, node_id: str, object_id: str) -> dict[str, Any]:
        """Where a node has an object: see `ract.scheduler.host.asking.stored`.

        Raises:
            LookupError: The node is unknown or cannot be asked, or has it no more.
        """


def look(source: Source, name: str, args: dict[str, str]) -> Any:
    """What the view ``name`` says. Raises KeyError (no such view), LookupError, ValueError."""
    from ract.dashboard.views import VIEWS

    return VIEWS[name](source.cluster, args)


FIRST_SAMPLE_S = 1.0


class PluginSource:
    """The plugin of a scheduler as a `Source`."""

    def __init__(self, scheduler: Any, plugin: Any) -> None:
        self._scheduler = scheduler
        self._plugin = plugin
        self._history: History | None = None
        self._timer: Any = None

    @property
    def cluster(self) -> Cluster:
        return self._plugin.cluster

    def query(self, op: str, args: dict[str, Any]) -> Any:
        from ract.scheduler.queries import queries

        # Asked by nobody: 0 is no process' number.
        return queries.OPS[op](self.cluster, 0, args)

    @property
    def history(self) -> History:
        if self._history is None:
            from ract.dashboard.history import History

            self._history = History(self.cluster)
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
        found = await self._look_up("log_files", node_id=node_id)
        if found["errors"]:
            raise LookupError(next(iter(found["errors"].values())))
        files = found["files"].get(node_id, [])
        return sorted(files, key=lambda file: -file["modified_ms"])

    async def read_log(self, node_id: str, name: str, **wanted: Any) -> dict[str, Any]:
        return await self._look_up("log", node_id=node_id, filename=name, **wanted)

    async def stored(self, node_id: str, object_id: str) -> dict[str, Any]:
        return await self._look_up("stored", node_id=node_id, object_id=object_id)

    async def _look_up(self, op: str, **args: Any) -> Any:
        from ract.scheduler.host.asking import NodeError

        try:
            return await self._plugin.look_up(op, args)
        except (NodeError, ValueError) as error:
            raise LookupError(str(error)) from error
