"""The plots, by name: what pages are made of and what can be embedded alone.

Import this lazily: it brings Bokeh.
"""

from __future__ import annotations

from collections.abc import Callable

from ract.dashboard.plots import graph, lines, memory, stream
from ract.dashboard.plots.base import Drawing, Given

PLOTS: dict[str, Callable[[Given], Drawing]] = {
    "cpus": lines.cpus,
    "throughput": lines.throughput,
    "cluster-memory": lines.cluster_memory,
    "waiting": lines.waiting,
    "nodes-cpu": lines.nodes_cpu,
    "nodes-memory": lines.nodes_memory,
    "nodes-store": lines.nodes_store,
    "nodes-network": lines.nodes_network,
    "node-cpu": lines.node_cpu,
    "node-memory": lines.node_memory,
    "node-disk": lines.node_disk,
    "node-network": lines.node_network,
    "node-gpu": lines.node_gpu,
    "node-gpu-memory": lines.node_gpu_memory,
    "task-stream": stream.TaskStream,
    "actor-stream": stream.ActorStream,
    "task-graph": graph.TaskGraph,
    "store": memory.Stores,
    "transfers": memory.Transfers,
}
