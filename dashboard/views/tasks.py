"""Views of calls: progress by function, failures by error, and the calls that are remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ract.core import events
from ract.core.ids import task_id_bytes
from ract.dashboard.views import table
from ract.dashboard.views.actors import CALL_SORTS, call_row
from ract.dashboard.views.table import Args, Row, Table, View
from ract.scheduler.cluster import Cluster
from ract.scheduler.people.task_records import ENDED, Run, Task
from ract.scheduler.people.task_stats import CallStats, ErrorStats, headline
from ract.scheduler.queries import rows

# --------------------------------------------------------------------------- by function


@dataclass(frozen=True, slots=True)
class Function:
    """One function: what ended, what runs and what waits for an executor."""

    stats: CallStats
    running: int
    waiting: int
    now: float


def waiting_by_name(cluster: Cluster) -> dict[tuple[str, str], int]:
    """Calls that wait, by function and type.

    Those that have waited for a second are told one by one; others are known by what they ask for.
    """
    found: dict[tuple[str, str], int] = {}
    for queue in cluster.tasks.queues.values():
        for task in queue.tasks.values():
            found[task.name, task.type] = found.get((task.name, task.type), 0) + 1
    told = {name for name, _ in found}
    for want in cluster.leases.wants.values():
        if want.need and want.names and not told.intersection(want.names):
            key = (", ".join(sorted(want.names)), events.NORMAL_TASK)
            found[key] = found.get(key, 0) + want.need
    return found


def _functions(cluster: Cluster, args: Args) -> Iterable[Function]:
    now, stats = cluster.turn.now, cluster.tasks.stats.functions
    waiting = waiting_by_name(cluster)
    running: dict[tuple[str, str], int] = {}
    for (name, type_, state), count in cluster.tasks.counts.items():
        if state not in ENDED and count:
            running[name, type_] = running.get((name, type_), 0) + count
    return [
        Function(stats.get(key) or CallStats(*key), running.get(key, 0), waiting.get(key, 0), now)
        for key in dict.fromkeys((*stats, *running, *waiting))
    ]


def _function_row(cluster: Cluster, item: Function) -> Row:
    return {
        **call_row((item.stats, item.now)),
        "running": item.running,
        "waiting": item.waiting,
        "total": item.stats.finished + item.stats.failed + item.running + item.waiting,
    }


def _of_calls(name: str) -> Callable[[Function], Any]:
    return lambda item: CALL_SORTS[name]((item.stats, item.now))


FUNCTIONS = Table(
    items=_functions,
    row=_function_row,
    text=lambda item: f"{item.stats.name} {item.stats.type}",
    sorts={
        "last_ms": lambda item: (bool(item.running or item.waiting), item.stats.last_at),
        "running": lambda item: item.running,
        "waiting": lambda item: item.waiting,
        **{name: _of_calls(name) for name in CALL_SORTS if name != "last_ms"},
    },
    facets={"type": lambda item: item.stats.type},
)

# --------------------------------------------------------------------------- failures


def _error_row(cluster: Cluster, error: ErrorStats) -> Row:
    return {
        "key": f"{error.function} {error.error_type} {error.kind}",
        "function": error.function,
        "error_type": error.error_type,
        "kind": error.kind,
        "count": error.count,
        "first_ms": table.ms(error.first_at),
        "last_ms": table.ms(error.last_at),
        "message": headline(error.examples[-1].error_message),
        "examples": [_task_row(cluster, task) for task in reversed(error.examples)],
    }


FAILURES = Table(
    items=lambda cluster, args: cluster.tasks.stats.errors.values(),
    row=_error_row,
    text=lambda error: f"{error.function} {error.kind} {error.examples[-1].error_message}",
    sorts={
        "last_ms": lambda error: error.last_at,
        "count": lambda error: error.count,
        "function": lambda error: error.function,
        "kind": lambda error: error.kind,
    },
    facets={"error_type": lambda error: error.error_type},
)

# --------------------------------------------------------------------------- the calls themselves


def _task_row(cluster: Cluster, task: Task) -> Row:
    return {
        "key": f"{task.task_id.hex()}.{task.attempt}",
        "task_id": task.task_id.hex(),
        "attempt": task.attempt,
        "name": task.name,
        "type": task.type,
        "state": task.state,
        "node": table.node_name(cluster, task.node_id),
        "node_id": task.node_id.hex(),
        "pid": task.pid or None,
        "process": task.executor,
        "actor_id": task.actor_id.hex(),
        "job": task.job_id.hex(),
        "start_ms": table.ms(task.start) if task.start > 0 else None,
        "took_s": task.end - task.start if task.end and task.start > 0 else None,
        "error_type": task.error_type,
        "message": headline(task.error_message),
        "traceback": task.error_message if "\n" in task.error_message else "",
        "parent": rows.parent_of(task) if task.parent else "",
        "site": task.facts.get("site", ""),
    }


@dataclass(slots=True)
class _Wanted:
    """What the filters of the page say."""

    state: str
    type: str
    words: list[str]
    ids: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, args: Args) -> _Wanted:
        ids = {
            name: value
            for name in ("actor_id", "job_id", "node_id")
            if (value := table.bytes_of(args.get(name, ""), f"of {name}"))
        }
        words = args.get("q", "").lower().split()
        return cls(args.get("state", ""), args.get("type", ""), words, ids)

    def takes(self, item: Task | Run, state: str, more: str = "") -> bool:
        """Whether a call, or all calls of a run, are to be shown."""
        if (self.state and state != self.state) or (self.type and item.type != self.type):
            return False
        if any(getattr(item, name) != value for name, value in self.ids.items()):
            return False
        return not self.words or table.holds(f"{item.name} {item.pid} {more}", self.words)


def tasks(cluster: Cluster, args: Args) -> Row:
    """The calls that are remembered: those that wait, failed or run; then the finished ones.

    Each the newest first.

    Whole batches are passed over, so that it costs the same with a million calls. ``id`` (hex)
    shows one task.
    """
    wanted = _Wanted.of(args)
    one = table.bytes_of(args.get("id", ""), "a task")
    waiting = [task for queue in cluster.tasks.queues.values() for task in queue.tasks.values()]
    singles = [
        task
        for task in (*waiting, *reversed(cluster.tasks.table.values()))
        if wanted.takes(task, task.state, f"{task.task_id.hex()} {task.error_message}")
        and (not one or task.task_id == one)
    ]
    runs = [run for run in reversed(cluster.tasks.runs) if wanted.takes(run, events.FINISHED)]
    if one:
        runs, singles = [], [*singles, *_in_runs(runs, one)]
    matched = len(singles) + sum(len(run.numbers) for run in runs)
    number, size = table.page_of(args, matched)
    shown = _slice(singles, runs, number * size, size)
    total = cluster.tasks.size
    states: dict[str, int] = {}
    types: dict[str, int] = {}
    for entry in cluster.tasks.summary().values():
        for state, count in entry["state_counts"].items():
            states[state] = states.get(state, 0) + count
            types[entry["type"]] = types.get(entry["type"], 0) + count
    found_rows = [_task_row(cluster, task) for task in shown]
    answer = table.answer(found_rows, total, matched, args, {"state": states, "type": types})
    return {**answer, "forgotten": cluster.tasks.forgotten}


def task(cluster: Cluster, args: Args) -> Row:
    """``id``: the newest attempt of one task. Raises LookupError, ValueError."""
    found = tasks(cluster, {"id": args.get("id", "") or "00"})["rows"]
    if not found:
        raise LookupError(
            f"no task {args.get('id', '')} is remembered: it has not ended, or was forgotten"
        )
    return max(found, key=lambda row: row["attempt"])


def _in_runs(runs: list[Run], task_id: bytes) -> Iterator[Task]:
    for run in runs:
        if (run.actor_id and task_id[8:] != run.actor_id) or task_id[20:] != run.job_id:
            continue
        for i, number in enumerate(run.numbers):
            if task_id_bytes(number, run.job_id, run.actor_id) == task_id:
                yield run.task(i)


def _slice(singles: list[Task], runs: list[Run], skip: int, size: int) -> list[Task]:
    shown = singles[skip : skip + size]
    skip = max(0, skip - len(singles))
    for run in runs:
        if len(shown) >= size:
            break
        count = len(run.numbers)
        if skip < count:
            newest = count - skip
            oldest = max(0, newest - (size - len(shown)))
            shown += map(run.task, range(newest - 1, oldest - 1, -1))
        skip = max(0, skip - count)
    return shown


VIEWS: dict[str, View] = {
    "functions": FUNCTIONS,
    "failures": FAILURES,
    "tasks": tasks,
    "task": task,
}
