"""``distributed.worker.preload=ract.worker.preload`` makes a Dask worker a node of ract."""

from __future__ import annotations

from distributed import Worker

from ract.core.session import set_switch_interval
from ract.worker.host.adapter import RactWorkerPlugin


async def dask_setup(worker: Worker) -> None:
    """Install the plugin; called by distributed when the worker starts."""
    set_switch_interval()
    if RactWorkerPlugin.name not in worker.plugins:
        await worker.plugin_add(RactWorkerPlugin(), name=RactWorkerPlugin.name)
