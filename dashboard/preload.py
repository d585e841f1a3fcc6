"""``distributed.scheduler.preload=[ract.scheduler.preload, ract.dashboard.preload]``: with pages.

A preload of its own, because the scheduler does not know its dashboard: this side looks at it.
"""

from __future__ import annotations

from typing import Any

import dask

from ract.core.security import load_or_create_token
from ract.dashboard.app import install
from ract.scheduler import queries


class MachineSource:
    """Answers the pages' questions from the scheduler's machine, in its own process."""

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin

    def query(self, op: str, args: dict[str, Any]) -> Any:
        """Answer without a process that asks: 0 is nobody's number."""
        return queries.OPS[op](self._plugin.machine, 0, args)


async def dask_setup(scheduler: Any) -> None:
    """Install pages and guard; ``plugin.dashboard_url`` then is a link that works once.

    The token is ``ract.token`` of Dask's configuration, else the one of this user.

    Raises:
        RuntimeError: ract's scheduler plugin is not there (yet): it must be preloaded before.
    """
    plugin = scheduler.plugins.get("ract")
    if plugin is None:
        raise RuntimeError("preload ract.scheduler.preload before ract.dashboard.preload")
    token = dask.config.get("ract.token", "") or load_or_create_token()
    dashboard = install(scheduler, MachineSource(plugin), token)
    plugin.dashboard_url = dashboard.login_url()
