"""``distributed.scheduler.preload=[ract.scheduler.preload, ract.dashboard.preload]``: with pages.

A preload of its own, because the scheduler does not know its dashboard: this side looks at it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import dask

from ract.core.security import load_or_create_token
from ract.dashboard.app import install
from ract.dashboard.source import PluginSource


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
    source = PluginSource(scheduler, plugin)
    dashboard = install(scheduler, source, token)
    plugin.dashboard_url = dashboard.login_url()
    plugin.served_at(dashboard.address)
    source.start(asyncio.get_running_loop())
    scheduler.ract_dashboard_source = source


async def dask_teardown(scheduler: Any) -> None:
    """Sample no more."""
    source = getattr(scheduler, "ract_dashboard_source", None)
    if source is not None:
        source.stop()
