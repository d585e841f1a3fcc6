"""``distributed.scheduler.preload=ract.scheduler.preload`` makes a Dask scheduler ours."""

from __future__ import annotations

import os

import dask
from distributed import Scheduler

from ract.core.session import set_switch_interval
from ract.core.system_config import settings
from ract.scheduler.host.adapter import RactSchedulerPlugin


async def dask_setup(scheduler: Scheduler) -> None:
    """Install the plugin; called by distributed once the scheduler listens."""
    if RactSchedulerPlugin.name in scheduler.plugins:
        return
    set_switch_interval()
    plugin = dask.config.get("ract.plugin", None) or make(dask.config.get("ract.journal", None))
    await plugin.start(scheduler)  # now: a worker may connect before distributed starts plugins
    scheduler.add_plugin(plugin)


def make(path: str | None, *, full: bool = False) -> RactSchedulerPlugin:
    """The plugin, with a journal in the file ``path`` if one is named.

    Raises:
        JournalError: the journal cannot be used.
    """
    config = settings(dask.config.get("ract.system-config", {}), os.environ)
    if not path:
        return RactSchedulerPlugin(config)
    from ract.scheduler.durable.journal import Journal  # with SQLite, which most heads do without

    return RactSchedulerPlugin(config, Journal(path, full=full))
