"""The last hour of the cluster, in rings, so that who opens a page sees what was before.

Theory of operation
-------------------
Once every `PERIOD_S` the scheduler's process reads a few sums off the machine and the newest report
of each node, and writes one number per series into a ring of plain arrays. That is done from the
start on, whether or not anybody looks: it costs a few microseconds per node and sample, and it is
the only way to show the past. Large clusters are sampled less often (`period_s`). A cluster keeps
`SAMPLES_MAX` samples, each node `NODE_SAMPLES_MAX`; a node's ring goes when it is dead.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from ract.dashboard.views import nodes, overview
from ract.scheduler.cluster import Cluster

PERIOD_S = 2.0
SAMPLES_MAX = 1800
NODE_SAMPLES_MAX = 300
NODES_PER_PERIOD = 100
"""For each so many nodes the samples are this much further apart."""

CLUSTER_SERIES = (
    *("cpu_used", "cpu_total", "gpu_used", "gpu_total"),
    *("cpu_percent", "memory_used", "memory_total", "store_used", "store_total", "spilled"),
    *("finished", "failed", "finished_per_s", "failed_per_s", "running", "waiting", "actors"),
)
NODE_SERIES = (
    *("cpu_percent", "memory_used", "store_used", "spilled", "disk_read", "disk_written"),
    *("received", "sent", "gpu_percent", "gpu_memory_used"),
)


class Ring:
    """The newest samples of some series.

    Args:
        series: Their names.
        most: How many samples are kept.
    """

    def __init__(self, series: Sequence[str], most: int) -> None:
        self.count = 0  #: how many samples there were, ever
        self._most = most
        self._times = array("d")
        self._values = {name: array("d") for name in series}

    def add(self, at: float, values: dict[str, float | None]) -> None:
        """Add a sample; what is not given, or is None, is NaN."""
        slot = self.count % self._most
        self._put(self._times, slot, at)
        for name, ring in self._values.items():
            value = values.get(name)
            self._put(ring, slot, math.nan if value is None else value)
        self.count += 1

    def since(self, seen: int, names: Iterable[str]) -> dict[str, list[float]]:
        """The samples after the first ``seen``: ``time`` in seconds since the epoch, and series."""
        first = max(seen, self.count - self._most, 0)
        slots = [i % self._most for i in range(first, self.count)]
        found = {name: [self._values[name][i] for i in slots] for name in names}
        return {"time": [self._times[i] for i in slots], **found}

    def last(self, name: str) -> float:
        """The newest value; NaN if there is none."""
        return self._values[name][(self.count - 1) % self._most] if self.count else math.nan

    @staticmethod
    def _put(ring: array[float], slot: int, value: float) -> None:
        if slot < len(ring):
            ring[slot] = value
        else:
            ring.append(value)


class History:
    """Samples a machine.

    Args:
        machine: Is only looked at.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.cluster = Ring(CLUSTER_SERIES, SAMPLES_MAX)
        self.nodes: dict[bytes, Ring] = {}
        self._last_at = 0.0

    @property
    def period_s(self) -> float:
        """How long to wait for the next sample."""
        return PERIOD_S * (1 + len(self._cluster.nodes.alive) // NODES_PER_PERIOD)

    def sample(self, now: float) -> None:
        """Take one; ``now`` is in seconds since the epoch."""
        cluster = self._cluster
        sums = dict.fromkeys(("memory_used", "memory_total", "store_used", "store_total"), 0.0)
        sums["spilled"] = 0.0
        percents = []
        for node in cluster.nodes.alive:
            said = nodes.measured(node)
            ring = self.nodes.get(node.node_id)
            if ring is None:
                ring = self.nodes[node.node_id] = Ring(NODE_SERIES, NODE_SAMPLES_MAX)
            if node.stats:
                ring.add(now, said)
            for name in sums:
                sums[name] += said[name] or 0.0
            if said["cpu_percent"] is not None:
                percents.append(said["cpu_percent"])
        for gone in [each for each in self.nodes if cluster.nodes.get(each) is None]:
            del self.nodes[gone]
        resources = overview.resources(cluster)
        cpu, gpu = resources.get("CPU", (0.0, 0.0)), resources.get("GPU", (0.0, 0.0))
        stats = cluster.tasks.stats
        self.cluster.add(
            now,
            {
                **sums,
                "cpu_percent": sum(percents) / len(percents) if percents else None,
                "cpu_used": cpu[0],
                "cpu_total": cpu[1],
                "gpu_used": gpu[0],
                "gpu_total": gpu[1],
                "finished": stats.finished,
                "failed": stats.failed,
                "finished_per_s": self._rate("finished", stats.finished, now),
                "failed_per_s": self._rate("failed", stats.failed, now),
                "running": overview.running(cluster),
                "waiting": overview.waiting(cluster),
                "actors": len(cluster.actors.by_executor),
            },
        )
        self._last_at = now

    def _rate(self, name: str, total: int, now: float) -> float:
        before = self.cluster.last(name)
        if math.isnan(before) or now <= self._last_at:
            return 0.0
        return max(0.0, total - before) / (now - self._last_at)

    def node(self, node_id: bytes) -> Ring | None:
        """The ring of a living node."""
        return self.nodes.get(node_id)


def plain(values: dict[str, list[float]]) -> dict[str, list[Any]]:
    """For JSON, which has no NaN."""
    return {
        name: [None if isinstance(x, float) and math.isnan(x) else x for x in column]
        for name, column in values.items()
    }
