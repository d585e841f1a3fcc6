"""Views of objects: what nodes store, every published object, one of them; what moved."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from ract.core.ids import TaskID, process_of
from ract.dashboard.views import table, tasks
from ract.dashboard.views.nodes import measured, stat
from ract.dashboard.views.table import Args, Row, Table, View
from ract.scheduler.books.processes import Process
from ract.scheduler.cluster import Cluster
from ract.scheduler.objects.directory import Entry

HOLDERS_SHOWN_MAX = 5
CONTAINED_SHOWN_MAX = 50

PUT = "ract.put(), or a call that is not remembered"


def stores(cluster: Cluster, args: Args) -> Row:
    """Per living node, in bytes: what its store holds and has room for.

    ``pinned`` are objects that live there (no copies, which may be evicted); ``reusable`` is shared
    memory that is mapped, but free for new objects.
    """
    found = []
    for node in cluster.nodes.alive:
        said = measured(node)
        objects = stat(node.stats, "store_object_bytes")
        pinned = stat(node.stats, "store_pinned_bytes", "store_pinned")
        if pinned is None:
            pinned = _pinned(cluster, node.node_id)
        used, total, spilled = said["store_used"], said["store_total"], said["spilled"] or 0
        if total is None:
            continue
        in_memory = min(used, max(0, (objects or 0) - spilled))
        pinned = min(in_memory, pinned)
        found.append(
            {
                "key": node.node_id.hex(),
                "node_id": node.node_id.hex(),
                "node": node.short,
                "total": total,
                "used": used,
                "objects": said["store_objects"],
                "pinned": pinned,
                "copies": in_memory - pinned,
                "reusable": used - in_memory,
                "free": max(0, total - used),
                "spilled": spilled,
            }
        )
    found.sort(key=lambda row: -row["used"])
    return table.listed(found, args)


def _pinned(cluster: Cluster, node_id: bytes) -> int:
    """Bytes of the objects that the directory says live there, as far as they are in memory."""
    found = cluster.objects.table
    here = cluster.objects.by_node.get(node_id, ())
    return sum(found[each].size for each in here if found[each].nodes.get(node_id))


def _row(cluster: Cluster, entry: Entry) -> Row:
    holders: list[Row] = []
    counts = cluster.holds.by_id.get(entry.object_id, {})
    for number in list(counts)[:HOLDERS_SHOWN_MAX]:
        process = cluster.processes.alive.get(number)
        if process is not None:
            holders.append(_process_link(cluster, process))
    if len(counts) > HOLDERS_SHOWN_MAX:
        holders.append({"text": f"{len(counts) - HOLDERS_SHOWN_MAX} more processes"})
    contained = cluster.holds.contained.get(entry.object_id, 0)
    if contained:
        holders.append({"text": f"{contained} other objects or actors"})
    where: list[Row] = [_node_link(cluster, node_id) for node_id in entry.nodes]
    if not where and entry.blob is not None:
        where = [{"text": "scheduler"}]
    return {
        "key": entry.object_id.hex(),
        "object_id": entry.object_id.hex(),
        "size": entry.size,
        "state": entry.state,
        "is_error": entry.is_error,
        "task_name": entry.task_name,
        "made_by": entry.task_name or "put",
        "site": entry.call_site,
        "holders": holders or [{"text": "nobody"}],
        "where": where,
        "waiting": len(entry.seekers),
    }


def _what(cluster: Cluster, process: Process) -> str:
    """The class of the actor that a process is, or its kind."""
    actor_id = cluster.actors.by_executor.get(process.number)
    return cluster.actors.table[actor_id].spec.class_name if actor_id else process.kind


def _process_link(cluster: Cluster, process: Process) -> Row:
    actor_id = cluster.actors.by_executor.get(process.number)
    link = f"actor?id={actor_id.hex()}" if actor_id else f"node?id={process.node_id.hex()}"
    return {"text": f"{_what(cluster, process)} {process.pid}", "link": link}


def _node_link(cluster: Cluster, node_id: bytes) -> Row:
    return {"text": table.node_name(cluster, node_id), "link": f"node?id={node_id.hex()}"}


def _entries(cluster: Cluster, args: Args) -> Iterable[Entry]:
    node_id = table.bytes_of(args.get("node_id", ""), "a node")
    entries = cluster.objects.table
    if node_id:
        return [entries[each] for each in cluster.objects.by_node.get(node_id, ())]
    return entries.values()


OBJECTS = Table(
    items=_entries,
    row=_row,
    text=lambda entry: f"{entry.object_id.hex()} {entry.task_name} {entry.state} {entry.call_site}",
    sorts={
        "size": lambda entry: entry.size,
        "made_by": lambda entry: entry.task_name,
        "site": lambda entry: entry.call_site,
        "state": lambda entry: entry.state,
    },
    facets={"state": lambda entry: entry.state},
)


# --------------------------------------------------------------------------- one object


def _found(cluster: Cluster, args: Args) -> Entry:
    object_id = table.bytes_of(args.get("id", ""), "an object")
    entry = cluster.objects.table.get(object_id)
    if entry is None:
        raise LookupError(
            f"there is no object {object_id.hex()} (any more), or it has never left its process"
        )
    return entry


def object(cluster: Cluster, args: Args) -> Row:
    """``id``: the facts about one object. Raises LookupError, ValueError."""
    entry = _found(cluster, args)
    task_id = entry.object_id[: TaskID.SIZE]
    try:
        made = tasks.task(cluster, {"id": task_id.hex()})
    except LookupError:
        made = None
    name, link = entry.task_name, f"tasks?q={quote(entry.task_name)}#calls"
    if made is not None:
        name, link = made["name"], f"task?id={task_id.hex()}"
    maker = cluster.processes.alive.get(process_of(entry.object_id))
    contained = cluster.holds.contained.get(entry.object_id, 0)
    contains = [each.object_id for each in entry.contains]
    return {
        "object_id": entry.object_id.hex(),
        "state": entry.state,
        "size": entry.size,
        "is_error": entry.is_error or None,
        "made_by": [{"text": name, "link": link}] if name else [{"text": PUT}],
        "maker": [_process_link(cluster, maker)] if maker is not None else [{"text": "gone"}],
        "site": entry.call_site or (made["site"] if made is not None else ""),
        "holders": len(cluster.holds.by_id.get(entry.object_id, {})),
        "contained": contained or None,
        "contains": _object_links(cluster, contains) or None,
        "seekers": [_node_link(cluster, node_id) for node_id in entry.seekers] or None,
    }


def _object_links(cluster: Cluster, ids: list[bytes]) -> list[Row]:
    """Links to what an object contains: objects, and handles of actors."""
    found: list[Row] = []
    for id_ in ids[:CONTAINED_SHOWN_MAX]:
        actor = cluster.actors.table.get(id_)
        if actor is not None:
            found.append({"text": actor.spec.class_name, "link": f"actor?id={id_.hex()}"})
        else:
            found.append({"text": id_.hex().lstrip("0")[:16], "link": f"object?id={id_.hex()}"})
    if len(ids) > CONTAINED_SHOWN_MAX:
        found.append({"text": f"{len(ids) - CONTAINED_SHOWN_MAX} more"})
    return found


def copies(cluster: Cluster, args: Args) -> Row:
    """``id``: where one object lies. What only nodes know, they add (`ract.dashboard.data`)."""
    entry = _found(cluster, args)
    found = [
        {
            "key": node_id.hex(),
            "object_id": entry.object_id.hex(),
            "node": table.node_name(cluster, node_id),
            "node_id": node_id.hex(),
            "role": "lives here" if is_kept else "a copy, may be evicted",
            "where": "",
            "place": "",
        }
        for node_id, is_kept in entry.nodes.items()
    ]
    if not found and entry.blob is not None:
        inline = {"key": "scheduler", "node": "scheduler", "node_id": "", "object_id": ""}
        found.append({**inline, "role": "small: inline", "where": "memory", "place": ""})
    return table.listed(found, args)


def _holders(cluster: Cluster, args: Args) -> Iterable[tuple[Process, int]]:
    counts = cluster.holds.by_id.get(_found(cluster, args).object_id, {})
    alive = cluster.processes.alive
    return [(alive[number], count) for number, count in counts.items() if number in alive]


def _holder_row(cluster: Cluster, held: tuple[Process, int]) -> Row:
    process, count = held
    return {
        "key": str(process.number),
        "what": _what(cluster, process),
        "actor_id": cluster.actors.by_executor.get(process.number, b"").hex(),
        "node": table.node_name(cluster, process.node_id),
        "node_id": process.node_id.hex(),
        "pid": process.pid,
        "process": process.number,
        "job": process.job_id.hex(),
        "count": count,
    }


HOLDERS = Table(
    items=_holders,
    row=_holder_row,
    text=lambda held: f"{held[0].kind} {held[0].pid}",
    sorts={"count": lambda held: held[1], "pid": lambda held: held[0].pid},
)


def transfers(cluster: Cluster, args: Args) -> Row:
    """Bytes that each node has received from each other since it started."""
    nodes = [
        {"node_id": node.node_id.hex(), "node": node.short, "sender": node.node_id.hex()}
        for node in cluster.nodes.alive
    ]
    cells = []
    is_reported = False
    for node in cluster.nodes.alive:
        received = node.stats.get("received_from_bytes")
        if received is None:
            continue
        is_reported = True
        for source, count in sorted(received.items()):
            known = cluster.nodes.table.get(bytes.fromhex(source))
            cells.append(
                {
                    "to": node.short,
                    "from": known.short if known is not None else source[:8],
                    "bytes": count,
                }
            )
    return {"nodes": nodes, "cells": cells, "is_reported": is_reported}


VIEWS: dict[str, View] = {
    "stores": stores,
    "objects": OBJECTS,
    "object": object,
    "object_copies": copies,
    "object_holders": HOLDERS,
    "transfers": transfers,
}
