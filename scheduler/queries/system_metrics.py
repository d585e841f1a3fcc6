"""What the cluster says of itself in numbers: the families of ``/metrics`` that are no program's.

Theory of operation
-------------------
`FAMILIES` has every name, with its kind, its meaning and the labels that it has: a name that is
there stays, because people's graphs and alarms hang on it. `collect` makes the plain families of
`ract.core.metrics` from the machine when somebody asks. It takes what is counted anyway and goes
over nodes and the names of functions, never over tasks, objects or dead actors.

Labels are bounded: `FUNCTIONS_MAX` functions have a name of their own, those that were seen first,
so that a counter never goes back; the rest are `OTHER` together.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ract.core.metrics import COUNTER, GAUGE, Batch
from ract.core.resources import UNIT

if TYPE_CHECKING:
    from ract.scheduler.books.nodes import Node
    from ract.scheduler.cluster import Cluster

FUNCTIONS_MAX = 500
OTHER = "(other)"

_NODE = ("NodeId",)

#: {name: (kind, meaning, labels)}
FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ract_nodes": (GAUGE, "Nodes: ALIVE, DRAINING (alive, to end), DEAD", ("State",)),
    "ract_node_info": (GAUGE, "1 per living node", ("NodeId", "NodeName", "NodeAddress")),
    "ract_resources": (
        GAUGE,
        "Resources of living nodes: USED and AVAILABLE together are all",
        ("Name", "NodeId", "State"),
    ),
    "ract_jobs": (GAUGE, "Jobs: RUNNING, FINISHED", ("State",)),
    "ract_processes": (GAUGE, "Living processes: driver, executor, tool", ("Kind",)),
    "ract_tasks": (GAUGE, "Tasks and actor calls that are not over", ("Name", "State")),
    "ract_tasks_finished": (COUNTER, "Tasks and actor calls that returned", ("Name",)),
    "ract_tasks_failed": (COUNTER, "Tasks and actor calls that failed, attempts each", ("Name",)),
    "ract_actors": (GAUGE, "Actors, the dead ones that are remembered included", ("State",)),
    "ract_placement_groups": (GAUGE, "Placement groups", ("State",)),
    "ract_leases": (GAUGE, "Executors that run tasks for somebody", ()),
    "ract_leases_waiting": (GAUGE, "Executors that are asked for and not granted", ()),
    "ract_objects": (GAUGE, "Objects that are shared between processes", ()),
    "ract_messages_dropped": (COUNTER, "Messages that came too late: they are normal", ()),
    "ract_metric_values_refused": (COUNTER, "Values of programs' metrics not taken", ()),
    "ract_node_cpu_percent": (GAUGE, "CPU use, 100: all that the node may use", _NODE),
    "ract_node_cpu_count": (GAUGE, "CPUs that the node may use", _NODE),
    "ract_node_memory_used_bytes": (GAUGE, "Memory in use, of the machine or its group", _NODE),
    "ract_node_memory_total_bytes": (GAUGE, "Memory that the node may use", _NODE),
    "ract_node_disk_used_bytes": (GAUGE, "Use of the disk where objects are spilled", _NODE),
    "ract_node_disk_total_bytes": (GAUGE, "Size of that disk", _NODE),
    "ract_node_disk_read_bytes_per_second": (GAUGE, "Read from all disks", _NODE),
    "ract_node_disk_write_bytes_per_second": (GAUGE, "Written to all disks", _NODE),
    "ract_node_network_received_bytes_per_second": (GAUGE, "From other machines", _NODE),
    "ract_node_network_sent_bytes_per_second": (GAUGE, "To other machines", _NODE),
    "ract_node_daemon_rss_bytes": (GAUGE, "Resident memory of the node daemon", _NODE),
    "ract_gpu_utilization_percent": (GAUGE, "GPU use", ("NodeId", "GpuIndex", "GpuName")),
    "ract_gpu_memory_used_bytes": (GAUGE, "GPU memory in use", ("NodeId", "GpuIndex", "GpuName")),
    "ract_gpu_memory_total_bytes": (GAUGE, "GPU memory", ("NodeId", "GpuIndex", "GpuName")),
    "ract_executors": (GAUGE, "Executors: task, actor, idle", ("NodeId", "Kind")),
    "ract_executors_cpu_percent": (GAUGE, "Their CPU use, 100: one CPU", ("NodeId", "Kind")),
    "ract_executors_rss_bytes": (GAUGE, "Their resident memory", ("NodeId", "Kind")),
    "ract_executors_forked": (COUNTER, "Executors that were started", _NODE),
    "ract_oom_kills": (COUNTER, "Executors ended for lack of memory while they worked", _NODE),
    "ract_object_store_capacity_bytes": (GAUGE, "Shared memory for objects", _NODE),
    "ract_object_store_used_bytes": (GAUGE, "Of that in use", _NODE),
    "ract_object_store_pinned_bytes": (GAUGE, "Of that not to be given up", _NODE),
    "ract_object_store_spilled_bytes": (GAUGE, "Objects that lie on disk instead", _NODE),
    "ract_object_store_objects": (GAUGE, "Objects and copies on the node", _NODE),
    "ract_spills": (COUNTER, "Segments of objects that were moved to disk", _NODE),
    "ract_spilled_bytes": (COUNTER, "Bytes of these", _NODE),
    "ract_pulls": (COUNTER, "Objects that were copied from other nodes", _NODE),
    "ract_pulled_bytes": (COUNTER, "Bytes of these", _NODE),
    "ract_serves": (COUNTER, "Objects that were copied to other nodes", _NODE),
    "ract_served_bytes": (COUNTER, "Bytes of these", _NODE),
}

_OF_STATS = {
    "ract_node_cpu_percent": "cpu_percent",
    "ract_node_cpu_count": "cpu_count",
    "ract_node_memory_used_bytes": "memory_used_bytes",
    "ract_node_memory_total_bytes": "memory_total_bytes",
    "ract_node_disk_used_bytes": "disk_used_bytes",
    "ract_node_disk_total_bytes": "disk_total_bytes",
    "ract_node_disk_read_bytes_per_second": "disk_read_bytes_per_s",
    "ract_node_disk_write_bytes_per_second": "disk_write_bytes_per_s",
    "ract_node_network_received_bytes_per_second": "network_received_bytes_per_s",
    "ract_node_network_sent_bytes_per_second": "network_sent_bytes_per_s",
    "ract_node_daemon_rss_bytes": "daemon_rss_bytes",
    "ract_executors_forked": "executors_forked_total",
    "ract_oom_kills": "oom_kills_total",
    "ract_object_store_capacity_bytes": "store_capacity",
    "ract_object_store_used_bytes": "store_used",
    "ract_object_store_pinned_bytes": "store_pinned",
    "ract_object_store_spilled_bytes": "store_spilled",
    "ract_object_store_objects": "store_objects",
    "ract_spills": "spills_total",
    "ract_spilled_bytes": "spilled_bytes_total",
    "ract_pulls": "pulls_total",
    "ract_pulled_bytes": "pulled_bytes_total",
    "ract_serves": "serves_total",
    "ract_served_bytes": "served_bytes_total",
}
"""Of these a node sends one number a second, under the name on the right."""


class _Found:
    """The points of each family, in the order of `FAMILIES`."""

    def __init__(self) -> None:
        self.points: dict[str, list[Any]] = {name: [] for name in FAMILIES}

    def add(self, name: str, value: float, *labels: str) -> None:
        """One point, its labels in the order in which the family has them."""
        keys = FAMILIES[name][2]
        flat = [word for pair in zip(keys, labels, strict=True) for word in pair]
        self.points[name].append([flat, value])

    def add_all(self, name: str, counts: Counter[str]) -> None:
        """A point for each value of the only label."""
        for label, n in sorted(counts.items()):
            self.add(name, n, label)

    def families(self) -> Batch:
        """Those that have points."""
        return [
            [name, kind, meaning, [], self.points[name]]
            for name, (kind, meaning, _) in FAMILIES.items()
            if self.points[name]
        ]


def collect(cluster: Cluster) -> Batch:
    """All families, those of programs last; plain, as `ract.core.metrics` describes them."""
    found = _Found()
    _cluster(cluster, found)
    _tasks(cluster, found)
    for node in cluster.nodes.alive:
        _node(node, found)
    return [*found.families(), *cluster.metrics.table.batch()]


def _cluster(cluster: Cluster, found: _Found) -> None:
    nodes = cluster.nodes
    found.add_all("ract_nodes", Counter(map(_state_of, nodes.table.values())))
    jobs = cluster.processes.jobs.values()
    found.add_all("ract_jobs", Counter("RUNNING" if j.is_running else "FINISHED" for j in jobs))
    found.add_all("ract_processes", Counter(p.kind for p in cluster.processes.alive.values()))
    found.add_all("ract_actors", Counter(a.state for a in cluster.actors.table.values()))
    found.add_all("ract_placement_groups", Counter(g.state for g in cluster.groups.table.values()))
    found.add("ract_leases", len(cluster.leases.table))
    found.add("ract_leases_waiting", sum(want.need for want in cluster.leases.wants.values()))
    found.add("ract_objects", len(cluster.objects.table))
    found.add("ract_messages_dropped", sum(cluster.turn.dropped.values()))
    found.add("ract_metric_values_refused", cluster.metrics.refused)


def _state_of(node: Node) -> str:
    if not node.is_alive:
        return "DEAD"
    return "DRAINING" if node.is_draining else "ALIVE"


def _tasks(cluster: Cluster, found: _Found) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    shown: dict[str, str] = {}
    for (name, _, state), n in cluster.tasks.counts.items():  # in the order in which they came
        label = shown.get(name)
        if label is None:
            label = shown[name] = name if len(shown) < FUNCTIONS_MAX else OTHER
        counts[label, state] += n
    for (name, state), n in counts.items():
        family = {"FINISHED": "ract_tasks_finished", "FAILED": "ract_tasks_failed"}.get(state)
        if family is not None:
            found.add(family, n, name)
        elif n:
            found.add("ract_tasks", n, name, state)


def _node(node: Node, found: _Found) -> None:
    node_id, stats = node.node_id.hex(), node.stats
    found.add("ract_node_info", 1, node_id, node.name or node.hostname, node.host)
    free = node.ledger.free
    for name, total in node.ledger.total.items():
        if not name.startswith("node:"):  # these only pin things to a node
            available = free.get(name, 0)
            found.add("ract_resources", (total - available) / UNIT, name, node_id, "USED")
            found.add("ract_resources", available / UNIT, name, node_id, "AVAILABLE")
    for family, key in _OF_STATS.items():
        value = stats.get(key)
        if isinstance(value, int | float):
            found.add(family, value, node_id)
    for gpu in stats.get("gpus", ()):
        labels = (node_id, str(gpu["index"]), str(gpu["name"]))
        if gpu["utilization_percent"] is not None:
            found.add("ract_gpu_utilization_percent", gpu["utilization_percent"], *labels)
        found.add("ract_gpu_memory_used_bytes", gpu["memory_used_bytes"], *labels)
        found.add("ract_gpu_memory_total_bytes", gpu["memory_total_bytes"], *labels)
    kinds: dict[str, list[float]] = {}
    for each in stats.get("executors", ()):
        if each["kind"] != "driver":
            sums = kinds.setdefault(each["kind"], [0, 0, 0])
            for i, n in enumerate((1, each["cpu_percent"], each["rss_bytes"])):
                sums[i] += n
    for kind, (count, cpu_percent, rss_bytes) in sorted(kinds.items()):
        found.add("ract_executors", count, node_id, kind)
        found.add("ract_executors_cpu_percent", round(cpu_percent, 1), node_id, kind)
        found.add("ract_executors_rss_bytes", rss_bytes, node_id, kind)
