"""Answers about all tasks, actors or objects at once: counts, and when what ran where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ract.scheduler.cluster import Cluster
from ract.scheduler.people.task_records import Run, Task
from ract.scheduler.queries import rows

Args = dict[str, Any]


def summary_tasks(cluster: Cluster, process: int, args: Args) -> Any:
    """Counts of task attempts by name and state."""
    found = cluster.tasks.summary()
    total = sum(sum(entry["state_counts"].values()) for entry in found.values())
    return {"summary": found, "total": total, "left_out": cluster.tasks.left_out}


def summary_actors(cluster: Cluster, process: int, args: Args) -> Any:
    """Counts of actors by class and state."""
    found: dict[str, dict[str, Any]] = {}
    for actor in cluster.actors.table.values():
        entry = found.setdefault(actor.spec.class_name, {"state_counts": {}})
        counts = entry["state_counts"]
        counts[actor.state] = counts.get(actor.state, 0) + 1
    return {"summary": dict(sorted(found.items())), "total": len(cluster.actors.table)}


def summary_objects(cluster: Cluster, process: int, args: Args) -> Any:
    """Counts and sizes of objects by call site."""
    found: dict[str, dict[str, Any]] = {}
    for entry in cluster.objects.table.values():
        site = entry.call_site or entry.task_name or "unknown"
        group = found.setdefault(
            site,
            {
                "total_objects": 0,
                "total_size": 0,
                "total_num_workers": 0,
                "total_num_nodes": 0,
                "task_state_counts": {},
                "task_attempt_number_counts": {},
                "ref_type_counts": {},
                "_workers": {},
                "_nodes": {},
            },
        )
        holders = cluster.holds.by_id.get(entry.object_id, {})
        group["total_objects"] += 1
        group["total_size"] += entry.size
        group["_workers"].update(dict.fromkeys(holders))
        group["_nodes"].update(dict.fromkeys(entry.nodes))
        _count_in(group["task_state_counts"], "FINISHED" if entry.state == "READY" else entry.state)
        _count_in(group["task_attempt_number_counts"], "1")
        _count_in(group["ref_type_counts"], "LOCAL_REFERENCE" if holders else "UNKNOWN")
    for group in found.values():
        group["total_num_workers"] = len(group.pop("_workers"))
        group["total_num_nodes"] = len(group.pop("_nodes"))
    total = sum(group["total_objects"] for group in found.values())
    size = sum(group["total_size"] for group in found.values())
    return {"summary": found, "total": total, "total_size": size}


def task_spans(cluster: Cluster, process: int, args: Args) -> Any:
    """When which task ran where, in columns, and what programs have marked there.

    ``since``: those that ended later, in seconds.
    """
    since = float(args.get("since") or 0.0)
    hosts = {node.node_id: node.host for node in cluster.nodes.table.values()}
    runs = [_run_span(run) for run in cluster.tasks.runs if run.times[-1] > since]
    single = [
        _task_span(task, cluster.turn.epoch_s)
        for task in cluster.tasks.table.values()
        if rows.has_started(task) and (not task.end or task.end > since)
    ]
    marked = [span for span in cluster.spans.newest if span[5] > since]
    forgotten = cluster.tasks.forgotten + cluster.spans.forgotten
    return {
        "runs": runs,
        "tasks": single,
        "marked": marked,
        "hosts": hosts,
        "forgotten": forgotten,
    }


OPS: dict[str, Callable[[Cluster, int, Args], Any]] = {
    "summary_tasks": summary_tasks,
    "summary_actors": summary_actors,
    "summary_objects": summary_objects,
    "task_spans": task_spans,
}


def _run_span(run: Run) -> list[Any]:
    numbers, times = run.numbers.tobytes(), run.times.tobytes()
    where = [run.node_id, run.pid, run.executor]
    return [run.name, run.type, *where, run.actor_id, run.job_id, numbers, times]


def _task_span(task: Task, now: float) -> list[Any]:
    where = [task.node_id, task.pid, task.executor]
    how = [task.start, task.end or now, task.state, task.error_type]
    return [task.name, task.type, *where, task.task_id, task.attempt, *how]


def _count_in(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
