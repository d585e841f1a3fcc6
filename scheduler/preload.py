"""``distributed.scheduler.preload=ract.scheduler.preload`` makes a Dask scheduler ours."""

from __future__ import annotations

from distributed import Scheduler

from ract.scheduler.adapter import RactSchedulerPlugin


async def dask_setup(scheduler: Scheduler) -> None:
    """Install the plugin; called by distributed once the scheduler listens."""
    if RactSchedulerPlugin.name in scheduler.plugins:
        return
    plugin = RactSchedulerPlugin()
    await plugin.start(scheduler)  # now: a worker may connect before distributed starts plugins
    scheduler.add_plugin(plugin)
