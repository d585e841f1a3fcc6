"""Views of objects: what each node stores, every published object, and what moved between nodes."""

from __future__ import annotations

from collections.abc import Iterable

from ract.dashboard.views import table
from ract.dashboard.views.nodes import measured, stat
from ract.dashboard.views.table import Args, Row, Table, View
from ract.scheduler.machine import SchedulerMachine
from ract.scheduler.objects import Entry

HOLDERS_SHOWN_MAX = 5


def stores(machine: SchedulerMachine, args: Args) -> Row:
    """Per living node, in bytes: what its store holds and has room for.

    ``pinned`` are objects that live there (no copies, which may be evicted); ``reusable`` is shared
    memory that is mapped, but free for new objects.
    """
    found = []
    for node in machine.nodes.alive:
        said = measured(node)
        objects = stat(node.stats, "store_object_bytes")
        pinned = stat(node.stats, "store_pinned_bytes", "store_pinned")
        if pinned is None:
            pinned = _pinned(machine, node.node_id)
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


def _pinned(machine: SchedulerMachine, node_id: bytes) -> int:
    """Bytes of the objects that the directory says live there, as far as they are in memory."""
    found = machine.objects.table
    here = machine.objects.by_node.get(node_id, ())
    return sum(found[each].size for each in here if found[each].nodes.get(node_id))


def _row(machine: SchedulerMachine, entry: Entry) -> Row:
    holders: list[Row] = []
    counts = machine.holds.by_id.get(entry.object_id, {})
    for number in list(counts)[:HOLDERS_SHOWN_MAX]:
        process = machine.processes.alive.get(number)
        if process is not None:
            actor_id = machine.actors.by_executor.get(number)
            what = machine.actors.table[actor_id].spec.class_name if actor_id else process.kind
            link = f"actor?id={actor_id.hex()}" if actor_id else f"node?id={process.node_id.hex()}"
            holders.append({"text": f"{what} {process.pid}", "link": link})
    if len(counts) > HOLDERS_SHOWN_MAX:
        holders.append({"text": f"{len(counts) - HOLDERS_SHOWN_MAX} more processes"})
    contained = machine.holds.contained.get(entry.object_id, 0)
    if contained:
        holders.append({"text": f"{contained} other objects or actors"})
    where: list[Row] = [
        {"text": table.node_name(machine, node_id), "link": f"node?id={node_id.hex()}"}
        for node_id in entry.nodes
    ]
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


def _entries(machine: SchedulerMachine, args: Args) -> Iterable[Entry]:
    node_id = table.bytes_of(args.get("node_id", ""), "a node")
    entries = machine.objects.table
    if node_id:
        return [entries[each] for each in machine.objects.by_node.get(node_id, ())]
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


def transfers(machine: SchedulerMachine, args: Args) -> Row:
    """Bytes that each node has received from each other since it started."""
    nodes = [
        {"node_id": node.node_id.hex(), "node": node.short, "sender": node.node_id.hex()}
        for node in machine.nodes.alive
    ]
    cells = []
    is_reported = False
    for node in machine.nodes.alive:
        received = node.stats.get("received_from_bytes")
        if received is None:
            continue
        is_reported = True
        for source, count in sorted(received.items()):
            known = machine.nodes.table.get(bytes.fromhex(source))
            cells.append(
                {
                    "to": node.short,
                    "from": known.short if known is not None else source[:8],
                    "bytes": count,
                }
            )
    return {"nodes": nodes, "cells": cells, "is_reported": is_reported}


VIEWS: dict[str, View] = {"stores": stores, "objects": OBJECTS, "transfers": transfers}
