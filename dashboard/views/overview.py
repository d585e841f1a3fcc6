"""Views of the whole: totals, what waits, and what a person should look at."""

from __future__ import annotations

from typing import Any

from ract.core.resources import describe
from ract.dashboard.views import table
from ract.dashboard.views.nodes import measured, state
from ract.dashboard.views.table import Args, Row, View
from ract.scheduler.books.nodes import ORDERLY
from ract.scheduler.cluster import Cluster
from ract.scheduler.queries import rows

RECENT_S = 3600.0
"""How long a death stays an alert."""

DISK_HIGH = 0.95
MEMORY_HIGH = 0.95


def resources(cluster: Cluster) -> dict[str, tuple[float, float]]:
    """(used, total) of the living nodes, by name."""
    used: dict[str, int] = {}
    total: dict[str, int] = {}
    for node in cluster.nodes.alive:
        free = node.ledger.free
        for name, n in node.ledger.total.items():
            if not name.startswith("node:"):
                total[name] = total.get(name, 0) + n
                used[name] = used.get(name, 0) + n - free[name]
    return {name: (used[name] / rows.UNIT, n / rows.UNIT) for name, n in sorted(total.items())}


def running(cluster: Cluster) -> int:
    """Executors that are lent to callers of tasks, each for one task at a time."""
    return sum(lease.state == "HELD" for lease in cluster.leases.table.values())


def waiting(cluster: Cluster) -> int:
    """Tasks that wait for an executor."""
    return sum(want.need for want in cluster.leases.wants.values())


def overview(cluster: Cluster, args: Args) -> Row:
    """What stands on top of the first page."""
    stats = cluster.tasks.stats
    actors: dict[str, int] = {}
    for actor in cluster.actors.table.values():
        actors[actor.state] = actors.get(actor.state, 0) + 1
    nodes: dict[str, int] = {}
    for node in cluster.nodes.table.values():
        nodes[state(node)] = nodes.get(state(node), 0) + 1
    groups: dict[str, int] = {}
    for group in cluster.groups.table.values():
        groups[group.state] = groups.get(group.state, 0) + 1
    told = [measured(node) for node in cluster.nodes.alive]
    return {
        "cluster_id": cluster.cluster_id.hex(),
        "nodes": nodes,
        "actors": actors,
        "groups": groups,
        "jobs": sum(job.is_running for job in cluster.processes.jobs.values()),
        "resources": {
            name: {"used": used, "total": total}
            for name, (used, total) in resources(cluster).items()
        },
        "finished": stats.finished,
        "failed": stats.failed,
        "waiting": waiting(cluster),
        "running": running(cluster),
        "objects": len(cluster.objects.table),
        "store_used": sum(each["store_used"] or 0 for each in told),
        "store_total": sum(each["store_total"] or 0 for each in told),
        "spilled": sum(each["spilled"] or 0 for each in told),
    }


def alerts(cluster: Cluster, args: Args) -> Row:
    """What a person should look at, the worst first. Empty is good."""
    found = [*_infeasible(cluster), *_dead_nodes(cluster), *_out_of_memory(cluster)]
    for node in cluster.nodes.alive:
        found += _of_node(node.short, node.node_id.hex(), measured(node))
    found.sort(key=lambda alert: alert["level"] != "bad")
    for i, alert in enumerate(found):
        alert["key"] = f"{alert['what']} {alert['text'][:80]} {i}"
    return table.listed(found, args)


def _alert(level: str, what: str, text: str, link: str = "", at: float = 0.0) -> Row:
    return {"level": level, "what": what, "text": text, "link": link, "at_ms": table.ms(at)}


def _infeasible(cluster: Cluster) -> list[Row]:
    found = []
    for demand in demands(cluster, {})["rows"]:
        if not demand["is_feasible"]:
            what = f"{demand['count']} × {demand['text']} ({demand['names']})"
            text = f"{what}: no node can ever take it"
            found.append(_alert("bad", "Infeasible demand", text, "#demands"))
    return found


def _dead_nodes(cluster: Cluster) -> list[Row]:
    now = cluster.turn.epoch_s
    found = []
    for node in cluster.nodes.table.values():
        cause = node.cause
        if node.is_alive or cause is None or now - node.died_at > RECENT_S:
            continue
        level = "note" if cause.kind in ORDERLY else "bad"
        what = "Node gone" if level == "note" else "Node died"
        link = f"node?id={node.node_id.hex()}"
        found.append(
            _alert(level, what, f"{node.short}: {table.cause_text(cause)}", link, node.died_at)
        )
    return found


def _out_of_memory(cluster: Cluster) -> list[Row]:
    now = cluster.turn.epoch_s
    found = []
    for process in reversed(cluster.processes.dead):
        if now - process.exited_at > RECENT_S:
            break
        if process.cause is not None and process.cause.kind == "out_of_memory":
            where = table.node_name(cluster, process.node_id)
            text = f"process {process.pid} on {where} was killed: {process.cause.detail}"
            link = f"node?id={process.node_id.hex()}"
            found.append(_alert("bad", "Out of memory", text, link, process.exited_at))
        if len(found) == 5:
            break
    return found


def _of_node(name: str, node_id: str, said: Row) -> list[Row]:
    found = []
    link = f"node?id={node_id}"
    if said["spilled"]:
        text = f"{name} keeps {table.size_text(said['spilled'])} of objects on disk"
        found.append(_alert("warn", "Spilling", text, "memory"))
    if said["memory_total"] and said["memory_used"] > MEMORY_HIGH * said["memory_total"]:
        part = 100 * said["memory_used"] / said["memory_total"]
        found.append(_alert("warn", "Memory is short", f"{name} uses {part:.0f} % of it", link))
    if said["disk_total"] and said["disk_used"] > DISK_HIGH * said["disk_total"]:
        part = 100 * said["disk_used"] / said["disk_total"]
        found.append(_alert("warn", "Disk is nearly full", f"{name}: {part:.0f} %", link))
    return found


def demands(cluster: Cluster, args: Args) -> Row:
    """What waits for resources, summed up by what is asked for."""
    summed: dict[tuple[str, str], Row] = {}

    def add(kind: str, ask: Any, demand: dict[str, int], count: int, names: list[str]) -> Row:
        entry = summed.setdefault(
            (kind, ask.queue if ask is not None else str(demand)),
            {"kind": kind, "text": describe(demand), "count": 0, "names": {}, "is_feasible": True},
        )
        entry["count"] += count
        entry["names"].update(dict.fromkeys(names))
        if ask is not None:
            entry["is_feasible"] = cluster.placement.verdict(ask).kind != "infeasible"
        return entry

    for want in cluster.leases.wants.values():
        if want.need:
            add("tasks", want.ask, want.ask.demand, want.need, want.names)
    for line in cluster.actors.waiting.values():
        first = next(iter(line.actors.values()))
        names = [actor.spec.class_name for actor in line.actors.values()]
        add("actors", first.ask, first.ask.demand, len(line.actors), names)
    for queue in cluster.groups.waiting.values():
        group = cluster.groups.table[next(iter(queue))]
        label = group.spec.name or group.spec.group_id.hex()[:12]
        entry = add("placement groups", None, group.whole.demand, len(queue), [label])
        entry["is_feasible"] = entry["is_feasible"] and group.could_fit
    found = []
    for (kind, key), entry in summed.items():
        names = list(entry["names"])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        state = "WAITING" if entry["is_feasible"] else "INFEASIBLE"
        found.append(
            {
                **entry,
                "key": f"{kind} {key}",
                "names": ", ".join(names[:5]) + more or "unnamed",
                "state": state,
            }
        )
    found.sort(key=lambda entry: (entry["is_feasible"], -entry["count"]))
    return table.listed(found, args)


def tiles(cluster: Cluster, args: Args) -> list[Row]:
    """The numbers on top of the first page, each with what it means and where there is more."""
    now = overview(cluster, args)
    cpu = now["resources"].get("CPU", {"used": 0, "total": 0})
    dead = now["nodes"].get("DEAD", 0)
    alive = sum(n for name, n in now["nodes"].items() if name != "DEAD")
    waiting_actors = now["actors"].get("PENDING_CREATION", 0) + now["actors"].get("RESTARTING", 0)
    found = [
        _tile("Nodes", alive, "number", f"{dead} dead" if dead else "all alive", "nodes"),
        _tile("CPUs taken", cpu["used"], "number", f"of {cpu['total']:g}", "nodes"),
        _tile("Tasks running", now["running"], "number", f"{now['waiting']:,} waiting", "tasks"),
        _tile("Calls finished", now["finished"], "number", "since the start", "tasks"),
        _tile("Calls failed", now["failed"], "number", "attempts", "tasks#failures"),
        _tile(
            "Actors alive",
            now["actors"].get("ALIVE", 0),
            "number",
            f"{waiting_actors} pending, {now['actors'].get('DEAD', 0)} dead",
            "actors",
        ),
        _tile(
            "Object store",
            now["store_used"],
            "bytes",
            f"of {table.size_text(now['store_total'])}",
            "memory",
        ),
        _tile("Jobs running", now["jobs"], "number", "drivers connected", "jobs"),
    ]
    if now["resources"].get("GPU", {}).get("total"):
        gpu = now["resources"]["GPU"]
        found.insert(2, _tile("GPUs taken", gpu["used"], "number", f"of {gpu['total']:g}", "nodes"))
    return found


def _tile(title: str, value: float, kind: str, note: str, link: str) -> Row:
    return {"key": title, "title": title, "value": value, "kind": kind, "note": note, "link": link}


VIEWS: dict[str, View] = {
    "overview": overview,
    "tiles": tiles,
    "alerts": alerts,
    "demands": demands,
}
