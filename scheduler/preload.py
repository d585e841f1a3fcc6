"""``distributed.scheduler.preload=ract.scheduler.preload`` makes a Dask scheduler ours."""

from __future__ import annotations

import os

import dask
from distributed import Scheduler

from ract.core.system_config import settings
from ract.scheduler.adapter import RactSchedulerPlugin


async def dask_setup(scheduler: Scheduler) -> None:
    """Install the plugin; called by distributed once the scheduler listens."""
    if RactSchedulerPlugin.name in scheduler.plugins:
        return
    given = dask.config.get("ract.system-config", {})
    plugin = RactSchedulerPlugin(settings(given, os.environ))
    await plugin.start(scheduler)  # now: a worker may connect before distributed starts plugins
    scheduler.add_plugin(plugin)
