"""How Dask runs in the processes of a cluster, where ract and not Dask does the work."""

from __future__ import annotations

from typing import Any


def common() -> dict[str, Any]:
    """Values of Dask's configuration for schedulers and nodes alike."""
    return {
        # Shared memory counts as the worker's memory; ours has its own limits.
        **{
            f"distributed.worker.memory.{name}": False
            for name in ("target", "spill", "pause", "terminate")
        },
        "distributed.scheduler.work-stealing": False,
        # By default a process that does nothing wakes up 150 times a second: 50 times to measure
        # how late its event loop is, 100 times to profile the tasks of Dask that run. Together
        # that took 4 % of a core.
        "distributed.admin.tick.interval": "500ms",
        "distributed.worker.profile.interval": "200ms",
    }
