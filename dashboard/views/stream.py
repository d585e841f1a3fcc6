"""What the task stream and the graph of a job are drawn from.

A page can draw a few thousand bars, and a cluster ends hundreds of thousands of calls a second. So
calls of one function that follow each other closely on one executor are one bar, which says how
many they are; nothing is left out unless there are still too many bars, which the answer then says.
Of what the table of tasks has forgotten, the time and number of calls are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ract.core.events import ACTOR_CREATION_TASK
from ract.core.ids import COUNTER_BITS
from ract.dashboard.views import table
from ract.dashboard.views.table import Args, Row, View
from ract.scheduler.cluster import Cluster
from ract.scheduler.people.task_records import ENDED, Run, Task
from ract.scheduler.people.task_stats import Part

BARS_MAX = 3_000
BARS_PER_RUN_MAX = 100
WINDOW_S = 60.0
GAP_PART = 0.002
"""Of the window: calls that are closer than this look like one."""

GRAPH_CALLS_MAX = 50_000
GRAPH_NODES_MAX = 60

SINGLE_CALLS_MAX = 40
SINGLE_CALLS_DEEP_MAX = 6
"""Of a job with so few calls, that call each other no deeper, each call is shown."""

SUMMED = "SUMMED"
"""How calls ended that the table has forgotten: they finished, between these times."""

Bar = tuple[float, float, int, str, str, str]
"""(start, end, calls, function, lane, how they ended)"""


def stream(cluster: Cluster, args: Args) -> Row:
    """``window_s``, ``job_id``, ``actor_id``: bars of the calls that ended in the last seconds.

    One that died with its process before that told when it began gets the shortest bar.
    """
    window = min(3600.0, max(1.0, float(args.get("window_s") or WINDOW_S)))
    now = cluster.turn.epoch_s
    wanted = {
        name: value
        for name in ("job_id", "actor_id")
        if (value := table.bytes_of(args.get(name, ""), name))
    }
    lanes: dict[int, str] = {}
    bars: list[Bar] = []
    calls = 0
    is_cut = False
    for part in reversed(cluster.tasks.stats.parts):
        if len(bars) >= BARS_MAX // 2:
            break
        if part.end >= now - window and all(getattr(part, k) == v for k, v in wanted.items()):
            lane = lanes.setdefault(part.executor, _lane(cluster, part))
            calls += part.count
            bars.append((part.start, part.end, part.count, part.name, lane, SUMMED))
    for item in _newest(cluster, now - window, wanted):
        if len(bars) >= BARS_MAX:
            is_cut = True
            break
        if item.executor not in lanes:
            lanes[item.executor] = _lane(cluster, item)
        lane = lanes[item.executor]
        if isinstance(item, Run):
            calls += len(item.numbers)
            bars.extend(_bars(item, lane, window * GAP_PART, now - window))
        else:
            calls += 1
            end = item.end or now
            start = item.start if item.start >= 0 else end - window * GAP_PART
            bars.append((start, end, 1, item.name, lane, item.state))
    return {
        "bars": bars,
        "lanes": sorted(lanes.values()),
        "calls": calls,
        "is_cut": is_cut,
        "from_ms": (now - window) * 1000,
        "until_ms": now * 1000,
    }


def _newest(cluster: Cluster, since: float, wanted: dict[str, bytes]) -> Iterator[Task | Run]:
    """What ended after ``since``; failures, of which there are few, first."""
    for task in reversed(cluster.tasks.table.values()):
        if task.state in ENDED and task.end < since:
            break
        if all(getattr(task, name) == value for name, value in wanted.items()):
            yield task
    for run in reversed(cluster.tasks.runs):
        if run.times[-1] < since - 5:  # batches overtake each other by a second or two
            break
        if run.times[-1] < since:
            continue
        if all(getattr(run, name) == value for name, value in wanted.items()):
            yield run


def _lane(cluster: Cluster, item: Task | Run | Part) -> str:
    actor = cluster.actors.table.get(item.actor_id) if item.actor_id else None
    what = actor.spec.class_name if actor is not None else "tasks"
    return f"{table.node_name(cluster, item.node_id)}  {what} {item.pid}"


def _bars(run: Run, lane: str, gap: float, since: float) -> Iterator[Bar]:
    """The calls of a run, those close to each other as one."""
    times = run.times
    first = 0
    count = len(run.numbers)
    gap = max(gap, (times[-1] - times[0]) / BARS_PER_RUN_MAX / 2)
    for i in range(1, count + 1):
        if i < count and times[2 * i] - times[2 * i - 1] < gap:
            if times[2 * i + 1] - times[2 * first] < gap or times[2 * i + 1] - times[2 * i] < gap:
                continue
        if times[2 * i - 1] >= since:
            yield times[2 * first], times[2 * i - 1], i - first, run.name, lane, "FINISHED"
        first = i


# --------------------------------------------------------------------------- who calls whom


def graph(cluster: Cluster, args: Args) -> Row:
    """``job_id`` (default: the newest job with calls): who calls whom, with counts.

    ``by`` says what the nodes are: single calls (``call``) if there are few, else ``function``.

    A call knows the number of the call that made it, which gives the function if that is remembered
    too; else its own number says which process made it, hence what ran there. Made of the newest
    `GRAPH_CALLS_MAX` calls that are remembered.
    """
    job_id = table.bytes_of(args.get("job_id", ""), "a job") or _newest_job(cluster)
    made: Counter[tuple[int, int, str]] = Counter()  # (parent, process that made it, name)
    failed: Counter[str] = Counter()
    ran_in: dict[int, Counter[str]] = {}
    actors: dict[str, bytes] = {}
    seen = 0
    singles, runs = _of_job(cluster, job_id)
    everything: list[Task | Run] = [*singles, *runs]
    for item in everything:
        count = len(item.numbers) if isinstance(item, Run) else 1
        seen += count
        ran_in.setdefault(item.executor, Counter())[item.name] += count
        if item.actor_id:
            actors[item.name] = item.actor_id
    if seen <= SINGLE_CALLS_MAX:
        single = _by_call(cluster, job_id, singles, runs, ran_in)
        if single is not None:
            return single
    for task in singles:
        made[task.parent, _maker(cluster, task), task.name] += 1
        failed[task.name] += task.state == "FAILED"
    for run in runs:
        parents = run.parents or [0] * len(run.numbers)
        for (parent, process), count in Counter(
            zip(parents, (number >> COUNTER_BITS for number in run.numbers), strict=True)
        ).items():
            made[parent, process, run.name] += count
    names = _names_of({parent for parent, _, _ in made if parent}, singles, runs)
    merged: Counter[tuple[str, str]] = Counter()
    for (parent, process, name), count in made.items():
        caller = names.get(parent) or _caller(cluster, process, job_id, ran_in)
        merged[caller, name] += count
    return _cut(merged, failed, actors, job_id, seen)


def _by_call(
    cluster: Cluster,
    job_id: bytes,
    singles: list[Task],
    runs: list[Run],
    ran_in: dict[int, Counter[str]],
) -> Row | None:
    """The graph of single calls, all attempts at one together; None if it is too deep."""
    every = [*singles, *(task for run in runs for task in run.tasks())]
    every.sort(key=lambda task: (task.start, task.attempt))
    known = {_number(t): t.task_id.hex() for t in every if t.type != ACTOR_CREATION_TASK}
    nodes: dict[str, Row] = {}
    edges: dict[str, Row] = {}  # by the call that was made
    for task in every:
        ident = task.task_id.hex()
        caller = known.get(task.parent) if task.parent else None
        if caller is None:
            name = _caller(cluster, _maker(cluster, task), job_id, ran_in)
            caller = f"by {name}"
            outside = {"id": caller, "name": name, "kind": "driver", "calls": 0, "failed": 0}
            nodes.setdefault(caller, outside)
        edges[ident] = {"from": caller, "to": ident, "calls": 1}
        kind = "method" if task.actor_id else "task"
        node = nodes.setdefault(ident, {"id": ident, "kind": kind, "calls": 0, "failed": 0})
        node["calls"] += 1
        node["failed"] += task.state == "FAILED"
        took = task.end - task.start if task.end and task.start >= 0 else None
        node.update(name=task.name, state=task.state, took_s=took)
    if any(_depth(ident, edges) > SINGLE_CALLS_DEEP_MAX for ident in edges):
        return None
    found = {"nodes": [*nodes.values()], "edges": [*edges.values()], "calls": len(every)}
    return {"job": job_id.hex(), "by": "call", **found, "left_out": 0}


def _depth(ident: str, edges: dict[str, Row]) -> int:
    """How many calls stand between a call and who has begun; a circle is deep enough."""
    deep = 0
    while ident in edges and deep <= SINGLE_CALLS_DEEP_MAX:
        ident, deep = edges[ident]["from"], deep + 1
    return deep


def _of_job(cluster: Cluster, job_id: bytes) -> tuple[list[Task], list[Run]]:
    """The newest calls of a job: single ones, and runs."""
    singles = [task for task in reversed(cluster.tasks.table.values()) if task.job_id == job_id]
    singles = singles[:GRAPH_CALLS_MAX]
    room = GRAPH_CALLS_MAX - len(singles)
    runs = []
    for run in reversed(cluster.tasks.runs):
        if room <= 0:
            break
        if run.job_id == job_id:
            runs.append(run)
            room -= len(run.numbers)
    return singles, runs


def _names_of(parents: set[int], singles: list[Task], runs: list[Run]) -> dict[int, str]:
    """The functions of these calls, as far as they are remembered."""
    if not parents:
        return {}
    found = {number: task.name for task in singles if (number := _number(task)) in parents}
    for run in runs:
        found.update(dict.fromkeys(parents.intersection(run.numbers), run.name))
    return found


def _maker(cluster: Cluster, task: Task) -> int:
    """The process that made a call."""
    actor = cluster.actors.table.get(task.actor_id)
    if task.type == ACTOR_CREATION_TASK and actor is not None:
        return actor.spec.owner
    return _number(task) >> COUNTER_BITS


def _number(task: Task) -> int:
    return int.from_bytes(task.task_id[:8], "big")


def _cut(
    merged: Counter[tuple[str, str]],
    failed: Counter[str],
    actors: dict[str, bytes],
    job_id: bytes,
    seen: int,
) -> Row:
    calls: Counter[str] = Counter()
    for (_, name), count in merged.items():
        calls[name] += count
    kept = {name for name, _ in calls.most_common(GRAPH_NODES_MAX)}
    edges: list[dict[str, Any]] = [
        {"from": caller, "to": name, "calls": count}
        for (caller, name), count in merged.most_common()
        if name in kept
    ]
    names = dict.fromkeys(name for edge in edges for name in (edge["from"], edge["to"]))
    return {
        "job": job_id.hex(),
        "by": "function",
        "nodes": [
            {
                "id": name,
                "name": name,
                "calls": calls.get(name, 0),
                "failed": failed.get(name, 0),
                "kind": "method" if name in actors else "task" if name in calls else "driver",
            }
            for name in names
        ],
        "edges": edges,
        "calls": seen,
        "left_out": len(calls) - len(kept),
    }


def _newest_job(cluster: Cluster) -> bytes:
    for job in reversed(cluster.processes.jobs.values()):
        if any(run.job_id == job.job_id for run in reversed(cluster.tasks.runs)):
            return job.job_id
        if any(task.job_id == job.job_id for task in cluster.tasks.table.values()):
            return job.job_id
    return next(reversed(cluster.processes.jobs), b"")


def _caller(cluster: Cluster, process: int, job_id: bytes, ran_in: dict[int, Counter[str]]) -> str:
    job = cluster.processes.jobs.get(job_id)
    if job is not None and job.driver == process:
        return "driver"
    ran = ran_in.get(process)
    if not ran:
        return "another process"
    names = [name for name, _ in ran.most_common(2)]
    return (
        names[0] if len(names) == 1 else f"{names[0]} or {names[1]}" if len(ran) == 2 else "tasks"
    )


VIEWS: dict[str, View] = {"stream": stream, "graph": graph}
