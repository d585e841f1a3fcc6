"""Views of nodes and of the processes on them.

What a node says of itself comes in `ract.core.messages.NodeStats`; what it does not say is None,
and the pages then write "not reported".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ract.dashboard.views import table
from ract.dashboard.views.table import Args, Row, Table, View
from ract.scheduler.books.nodes import NODE_ID_LABEL, Node
from ract.scheduler.books.processes import Process
from ract.scheduler.cluster import Cluster
from ract.scheduler.queries import rows

Stats = dict[str, Any]


def stat(stats: Stats, *names: str) -> Any:
    """The first of these that the node reports, else None."""
    for name in names:
        if stats.get(name) is not None:
            return stats[name]
    return None


def gpus(stats: Stats) -> list[dict[str, Any]]:
    """What is reported of each GPU."""
    return [gpu for gpu in stats.get("gpus") or () if isinstance(gpu, dict)]


def measured(node: Node) -> Row:
    """What a node said of its machine, under names that do not change."""
    stats = node.stats
    cards = gpus(stats)
    utilization = [
        g["utilization_percent"] for g in cards if g.get("utilization_percent") is not None
    ]
    return {
        "cpu_percent": stat(stats, "cpu_percent"),
        "memory_used": stat(stats, "memory_used_bytes", "memory_used"),
        "memory_total": stat(stats, "memory_total_bytes", "memory_total"),
        "store_used": stat(stats, "store_used_bytes", "store_used"),
        "store_total": stat(stats, "store_capacity_bytes", "store_capacity"),
        "store_objects": stat(stats, "store_objects"),
        "spilled": stat(stats, "store_spilled_bytes", "store_spilled"),
        "disk_used": stat(stats, "disk_used_bytes"),
        "disk_total": stat(stats, "disk_total_bytes"),
        "disk_read": stat(stats, "disk_read_bytes_per_s"),
        "disk_written": stat(stats, "disk_write_bytes_per_s"),
        "received": stat(stats, "network_received_bytes_per_s"),
        "sent": stat(stats, "network_sent_bytes_per_s"),
        "gpu_percent": sum(utilization) / len(utilization) if utilization else None,
        "gpu_memory_used": sum(g.get("memory_used_bytes") or 0 for g in cards) if cards else None,
        "gpu_memory_total": sum(g.get("memory_total_bytes") or 0 for g in cards) if cards else None,
        "gpu_count": len(cards),
    }


def state(node: Node) -> str:
    """ALIVE, DRAINING or DEAD."""
    if not node.is_alive:
        return "DEAD"
    return "DRAINING" if node.is_draining else "ALIVE"


def used_cpus(node: Node) -> float | None:
    """The part of its CPUs that is taken; None if it has none."""
    total = node.ledger.total.get("CPU", 0)
    return 100 * (total - node.ledger.free.get("CPU", 0)) / total if total else None


def _row(cluster: Cluster, node: Node) -> Row:
    total, free = node.ledger.total, node.ledger.free
    taken = {
        name: f"{used / rows.UNIT:g} of {n / rows.UNIT:g}"
        for name, n in sorted(total.items())
        if not name.startswith("node:")
        and name not in table.BYTES_NAMES
        and (used := n - free.get(name, 0)) is not None
    }
    return {
        "key": node.node_id.hex(),
        "node_id": node.node_id.hex(),
        "node": node.short,
        "name": node.name or node.hostname or node.host,
        "host": node.host,
        "address": node.address,
        "state": state(node),
        "is_head": node.is_head,
        "pid": node.pid,
        "taken": ", ".join(f"{name} {text}" for name, text in taken.items()) or "none",
        "cpus_taken": used_cpus(node),
        "joined_ms": table.ms(node.joined_at),
        "died_ms": table.ms(node.died_at),
        "cause": table.cause_text(node.cause),
        "labels": ", ".join(
            f"{k}={v}" for k, v in sorted(node.labels.items()) if k != NODE_ID_LABEL
        ),
        **(measured(node) if node.is_alive else {}),
    }


def _measure(name: str) -> Any:
    return lambda node: stat(measured(node), name) or 0.0 if node.is_alive else -1.0


NODES = Table(
    items=lambda cluster, args: cluster.nodes.table.values(),
    row=_row,
    text=lambda node: f"{node.short} {node.node_id.hex()} {node.host} {node.address} {state(node)}",
    sorts={
        "name": lambda node: node.name or node.hostname or node.host,
        "state": lambda node: state(node),
        "joined_ms": lambda node: node.joined_at,
        "cpus_taken": lambda node: used_cpus(node) or 0.0,
        **{
            name: _measure(name)
            for name in (
                *("cpu_percent", "memory_used", "store_used", "spilled", "disk_used"),
                *("received", "sent", "gpu_percent"),
            )
        },
    },
    facets={"state": state},
)


def found(cluster: Cluster, args: Args) -> Node:
    """The node that ``id`` names. Raises LookupError, ValueError."""
    node_id = table.bytes_of(args.get("id", ""), "a node")
    node = cluster.nodes.table.get(node_id)
    if node is None:
        raise LookupError(f"there is no node {node_id.hex()} (any more)")
    return node


def node(cluster: Cluster, args: Args) -> Row:
    """``id``: the facts about one node. Raises LookupError, ValueError."""
    one = found(cluster, args)
    return {**_row(cluster, one), "session_dir": one.session_dir, "gpus": gpus(one.stats)}


# --------------------------------------------------------------------------- processes


def _processes(cluster: Cluster, args: Args) -> Iterable[tuple[Process, Row]]:
    """Those of one node, or of one job, or all; with what their node says of them."""
    node_id = table.bytes_of(args.get("node_id", ""), "a node")
    job_id = table.bytes_of(args.get("job_id", ""), "a job")
    said: dict[int, Row] = {}
    for node in cluster.nodes.alive:
        if not node_id or node.node_id == node_id:
            for each in node.stats.get("executors") or ():
                said[each.get("process", 0)] = each
    for process in (*cluster.processes.alive.values(), *reversed(cluster.processes.dead)):
        if (node_id and process.node_id != node_id) or (job_id and process.job_id != job_id):
            continue
        yield process, said.get(process.number, {})


def _process_row(cluster: Cluster, item: tuple[Process, Row]) -> Row:
    process, said = item
    actor_id = cluster.actors.by_executor.get(process.number)
    actor = cluster.actors.table.get(actor_id) if actor_id else None
    does = process.kind
    if actor is not None:
        does = actor.spec.class_name
    elif said.get("name") or said.get("state"):
        does = str(said.get("name") or said.get("state"))
    return {
        "key": str(process.number),
        "process": process.number,
        "pid": process.pid,
        "kind": "actor" if actor is not None else process.kind,
        "state": "ALIVE" if process.cause is None else "DEAD",
        "does": does,
        "actor_id": actor_id.hex() if actor_id else "",
        "node": table.node_name(cluster, process.node_id),
        "node_id": process.node_id.hex(),
        "job": process.job_id.hex(),
        "cpu_percent": said.get("cpu_percent"),
        "rss": said.get("rss_bytes"),
        "joined_ms": table.ms(process.joined_at),
        "died_ms": table.ms(process.exited_at),
        "cause": table.cause_text(process.cause),
    }


PROCESSES = Table(
    items=_processes,
    row=_process_row,
    text=lambda item: f"{item[0].pid} {item[0].kind} {item[1].get('name', '')} {item[0].number}",
    sorts={
        "joined_ms": lambda item: item[0].joined_at,
        "pid": lambda item: item[0].pid,
        "cpu_percent": lambda item: item[1].get("cpu_percent") or 0.0,
        "rss": lambda item: item[1].get("rss_bytes") or 0,
        "died_ms": lambda item: item[0].exited_at,
        "state": lambda item: item[0].cause is not None,
    },
    facets={
        "state": lambda item: "ALIVE" if item[0].cause is None else "DEAD",
        "kind": lambda item: item[0].kind,
    },
)

VIEWS: dict[str, View] = {"nodes": NODES, "node": node, "processes": PROCESSES}
