"""Answers to questions: one function per ``op``, in the table `OPS`.

Theory of operation
-------------------
A function takes the `Cluster`, the asking process and the arguments, looks at the cluster only, and
returns plain values. It raises `Refusal` (or, for malformed arguments, what Python raises) to
answer with an error, whose name is one of `ract.core.errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ract.core.resources import UNIT, describe
from ract.scheduler.books.nodes import Node
from ract.scheduler.cluster import Cluster
from ract.scheduler.objects.promises import owed_by
from ract.scheduler.placement.group_records import Group
from ract.scheduler.queries import rows, summaries, system_metrics, tables
from ract.scheduler.queries.explain import explain

STORE_MEMORY = "object_store_memory"

ALERTS_TOLD = 10
"""So many of the newest are part of ``status``."""

Args = dict[str, Any]

STORE_MEMORY = "object_store_memory"
Op = Callable[["Cluster", int, Args], Any]


class Refusal(Exception):
    """The answer is an error: the name of its class in `ract.core.errors`, and what to say."""

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error = error


# --------------------------------------------------------------------------- actors and names


def get_actor(cluster: Cluster, process: int, args: Args) -> Any:
    """``name``, ``namespace`` ("" for the asker's): what a handle needs."""
    namespace = args.get("namespace") or cluster.processes.namespace_of(process)
    actor = cluster.actors.named(namespace, args["name"])
    if actor is None:
        raise Refusal(
            "ValueError",
            f"Failed to look up actor with name {args['name']!r} in namespace {namespace!r}. "
            "It does not exist (any more), is in another namespace, or is not named.",
        )
    return rows.handle(actor)


def list_named_actors(cluster: Cluster, process: int, args: Args) -> Any:
    """``all_namespaces``, ``namespace``: names that `get_actor` would find."""
    mine = args.get("namespace") or cluster.processes.namespace_of(process)
    return [
        {"name": name, "namespace": namespace}
        for namespace, name in sorted(cluster.actors.names)
        if args.get("all_namespaces") or namespace == mine
    ]


# --------------------------------------------------------------------------- placement groups


def get_group(cluster: Cluster, process: int, args: Args) -> Any:
    """``name`` in the asker's namespace, or ``id``: what a handle needs."""
    if "id" in args:
        group = cluster.groups.table.get(args["id"])
    else:
        group = cluster.groups.named(cluster.processes.namespace_of(process), args["name"])
    if group is None:
        what = repr(args["name"]) if "name" in args else args["id"].hex()
        raise Refusal("ValueError", f"Failed to look up placement group {what}: there is none.")
    bundles = [rows.amounts(bundle.demand) for bundle in group.bundles]
    return {"group_id": group.spec.group_id, "bundles": bundles, "state": group.state}


def group_table(cluster: Cluster, process: int, args: Args) -> Any:
    """``id`` or nothing: as ``placement_group_table`` shows them, by id (hex)."""
    table = cluster.groups.table
    if "id" not in args:
        return {group_id.hex(): rows.group(group) for group_id, group in table.items()}
    found = table.get(args["id"])
    return rows.group(found) if found is not None else {}


# --------------------------------------------------------------------------- cluster


def ray_nodes(cluster: Cluster, process: int, args: Args) -> Any:
    """All nodes with the keys of ``ray.nodes()``."""
    return rows.ray_nodes(cluster)


def cluster_resources(cluster: Cluster, process: int, args: Args) -> Any:
    """Totals of the living nodes."""
    return _summed([node.ledger.total for node in cluster.nodes.alive])


def available_resources(cluster: Cluster, process: int, args: Args) -> Any:
    """What is free now; resources with nothing free are left out, as in Ray.

    What placement groups have reserved is not in it but under names of its own:
    ``CPU_group_<id>`` and, per bundle, ``CPU_group_<index>_<id>``. What objects take is no longer
    free of ``object_store_memory``, spilled or not.
    """
    reserved = [_reserved(group) for group in cluster.groups.table.values()]
    free = _summed([*(node.ledger.free for node in cluster.nodes.alive), *reserved])
    if STORE_MEMORY in free:
        free[STORE_MEMORY] -= sum(cluster.objects.bytes_on.values())
    return {name: n for name, n in free.items() if n > 0}


def store(cluster: Cluster, process: int, args: Args) -> Any:
    """What each node last said of itself, and the bytes the directory knows on it."""
    known: dict[bytes, int] = {}
    for entry in cluster.objects.table.values():
        for node_id in entry.nodes:
            known[node_id] = known.get(node_id, 0) + entry.size
    return {
        node.node_id.hex(): {
            **node.stats,
            "object_bytes": known.get(node.node_id, 0),
            "objects": len(cluster.objects.by_node.get(node.node_id, {})),
        }
        for node in cluster.nodes.alive
    }


def status(cluster: Cluster, process: int, args: Args) -> Any:
    """Nodes, use of resources, what waits, actors by state."""
    demands: dict[str, dict[str, Any]] = {}
    for want in cluster.leases.wants.values():
        if want.need:
            _add_demand(demands, want.ask.key, want.ask.demand, want.need, want.names)
    for line in cluster.actors.waiting.values():
        names = sorted({actor.spec.class_name for actor in line.actors.values()})
        ask = next(iter(line.actors.values())).ask
        _add_demand(demands, ask.key, ask.demand, len(line.actors), names)
    for queue, waiting in cluster.groups.waiting.items():
        group = cluster.groups.table[next(iter(waiting))]
        _add_demand(demands, queue, group.whole.demand, len(waiting), ["placement group"])
    states: dict[str, int] = {}
    for actor in cluster.actors.table.values():
        states[actor.state] = states.get(actor.state, 0) + 1
    total = cluster_resources(cluster, process, args)
    free = _summed([node.ledger.free for node in cluster.nodes.alive])
    return {
        "cluster_id": cluster.cluster_id.hex(),
        "nodes": [rows.node(cluster, node) for node in cluster.nodes.table.values()],
        "resources": {name: {"used": n - free[name], "total": n} for name, n in total.items()},
        "pending_demands": list(demands.values()),
        "requested": [rows.amounts(ask.demand) for ask in cluster.scaling.requested],
        "draining": {
            drain.node.node_id.hex(): cluster.drains.what_is_left(drain.node)
            for drain in cluster.drains.table.values()
        },
        "actors": states,
        "leases": len(cluster.leases.table),
        "objects": len(cluster.objects.table),
        "jobs": sum(job.is_running for job in cluster.processes.jobs.values()),
        "dropped_messages": dict(cluster.turn.dropped),
        "usage": {node.node_id.hex(): _used(node) for node in cluster.nodes.alive},
        "alerts": [
            rows.cluster_event(cluster, event)
            for event in list(cluster.turn.chronicle.alerts)[-ALERTS_TOLD:]
        ],
        "dashboard_address": cluster.dashboard_address,
    }


def metrics(cluster: Cluster, process: int, args: Args) -> Any:
    """What ``/metrics`` shows, in the form of `ract.core.metrics`."""
    return system_metrics.collect(cluster)


def scaling(cluster: Cluster, process: int, args: Args) -> Any:
    """What waits and was asked for, the nodes, and those that could go."""
    return cluster.scaling.view()


def drain_left(cluster: Cluster, process: int, args: Args) -> Any:
    """``node_id`` (hex): what a node that is drained still has; empty if it is gone."""
    node = cluster.nodes.get(bytes.fromhex(args["node_id"]))
    return cluster.drains.what_is_left(node) if node is not None else []


# --------------------------------------------------------------------------- tables and the rest


def job(cluster: Cluster, process: int, args: Args) -> Any:
    """``job_id``: what an executor must know of a job it works for; its driver may have ended."""
    found = cluster.processes.jobs.get(args["job_id"])
    if found is None:
        raise Refusal("ValueError", f"there is no job {hex_of(args['job_id'])} (any more)")
    return {
        "metadata": found.metadata,
        "namespace": found.namespace,
        "runtime_env": found.runtime_env,
    }


def reference_counts(cluster: Cluster, process: int, args: Args) -> Any:
    """Holds of the asker (local) and of others (submitted), per object that the asker holds."""
    found = {}
    for id_ in cluster.holds.by_process.get(process, {}):
        counts = cluster.holds.by_id[id_]
        mine = counts[process]
        others = sum(counts.values()) - mine + cluster.holds.contained.get(id_, 0)
        found[id_.hex()] = {"local": mine, "submitted": others}
    return found


def owed(cluster: Cluster, process: int, args: Args) -> Any:
    """The ids of what the asking process has promised to others who still want it."""
    return list(owed_by(cluster.objects, process))


def object_exists(cluster: Cluster, process: int, args: Args) -> Any:
    """Whether the directory has a value for ``id``."""
    entry = cluster.objects.table.get(args["id"])
    return entry is not None and entry.state == "READY"


def kv_get(cluster: Cluster, process: int, args: Args) -> Any:
    """``key``, ``namespace``: the value or None."""
    return cluster.kv.get(space_of(args), bytes_of(args["key"]))


def kv_exists(cluster: Cluster, process: int, args: Args) -> Any:
    """``key``, ``namespace``: whether there is a value."""
    return cluster.kv.get(space_of(args), bytes_of(args["key"])) is not None


def kv_list(cluster: Cluster, process: int, args: Args) -> Any:
    """``prefix``, ``namespace``: keys, sorted."""
    return cluster.kv.keys(space_of(args), bytes_of(args.get("prefix", b"")))


def _table(name: str) -> Op:
    def op(cluster: Cluster, process: int, args: Args) -> Any:
        return tables.select(cluster, tables.TABLES[name], args)

    return op


OPS: dict[str, Op] = {
    "get_actor": get_actor,
    "list_named_actors": list_named_actors,
    "get_group": get_group,
    "group_table": group_table,
    "nodes": ray_nodes,
    "cluster_resources": cluster_resources,
    "available_resources": available_resources,
    "store": store,
    "status": status,
    "metrics": metrics,
    "drain_left": drain_left,
    "scaling": scaling,
    "job": job,
    "reference_counts": reference_counts,
    "object_exists": object_exists,
    "owed": owed,
    "explain": explain,
    **summaries.OPS,
    "kv_get": kv_get,
    "kv_exists": kv_exists,
    "kv_list": kv_list,
    **{name: _table(name) for name in tables.TABLES},
}


def _summed(parts: list[dict[str, int]]) -> dict[str, float]:
    summed: dict[str, int] = {}
    for part in parts:
        for name, n in part.items():
            summed[name] = summed.get(name, 0) + n
    return rows.amounts(summed)


def _used(node: Node) -> dict[str, dict[str, float]]:
    total, free = rows.amounts(node.ledger.total), rows.amounts(node.ledger.free)
    return {name: {"used": n - free[name], "total": n} for name, n in total.items()}


def _reserved(group: Group) -> dict[str, int]:
    names: dict[str, int] = {}
    ident = group.spec.group_id.hex()
    for bundle in group.bundles:
        if bundle.ledger is not None:  # Ray's names for "anything of this bundle"
            names[f"bundle_group_{bundle.index}_{ident}"] = 1000 * UNIT
            names[f"bundle_group_{ident}"] = names.get(f"bundle_group_{ident}", 0) + 1000 * UNIT
        for name, n in (bundle.ledger.free if bundle.ledger is not None else {}).items():
            names[f"{name}_group_{bundle.index}_{ident}"] = n
            names[f"{name}_group_{ident}"] = names.get(f"{name}_group_{ident}", 0) + n
    return names


def _add_demand(
    demands: dict[str, dict[str, Any]], key: str, demand: dict[str, int], n: int, names: list[str]
) -> None:
    empty = {"demand": rows.amounts(demand), "text": describe(demand), "count": 0, "names": []}
    entry = demands.setdefault(key, empty)
    entry["count"] += n
    entry["names"] = sorted({*entry["names"], *names})


def space_of(args: Args) -> bytes:
    """The ``namespace`` of a key, b"" if none is named."""
    return bytes_of(args.get("namespace") or b"")


def hex_of(value: Any) -> str:
    """An id for an error's text, whatever was given for one."""
    return value.hex() if isinstance(value, bytes) else repr(value)


def bytes_of(value: Any) -> bytes:
    """A key or value, which may be given as text. Raises TypeError, ValueError."""
    return value.encode() if isinstance(value, str) else bytes(value)
