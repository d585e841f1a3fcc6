"""Which rows of which table: filters, limits, order, pages.

Theory of operation
-------------------
A `Table` has *records*, which are what the machine keeps, and makes rows of those that are asked
for. A filter is ``[column, "=" or "!=", value]``, and all must hold; text is compared without
regard to case. Columns that can be read off a record (`Table.columns`) are looked at before a row
is made, and of a run of tasks, once for all of them: so a question about ten thousand actors or a
million tasks costs little more than the rows that it gets.

Every answer says how many there are in total, so that nobody takes a part for the whole.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ract.scheduler import rows
from ract.scheduler.rows import Row
from ract.scheduler.tasks import Run

if TYPE_CHECKING:
    from ract.scheduler.machine import SchedulerMachine

ROWS_MAX = 10_000
PREDICATES = ("=", "!=")

Column = Callable[[Any], Any]
Filter = tuple[str, str, Any]


@dataclass(frozen=True)
class Table:
    """How a table is made.

    Attributes:
        records: All of them; a `Run` stands for its tasks.
        row: A record as a dict of plain values.
        columns: What can be told without making the row.
        count: How many rows there are, if that is known without looking.
        note: What the table leaves out, if anything.
    """

    records: Callable[[SchedulerMachine], Iterable[Any]]
    row: Callable[[SchedulerMachine, Any], Row]
    columns: dict[str, Column] = field(default_factory=dict)
    count: Callable[[SchedulerMachine], int] | None = None
    note: Callable[[SchedulerMachine], str] = lambda machine: ""


def select(machine: SchedulerMachine, table: Table, args: dict[str, Any]) -> dict[str, Any]:
    """Answer a question about a table.

    Args:
        machine: Whose records.
        table: What they become.
        args: ``filters``, ``limit`` (100), ``offset`` (0), ``sort``: a column, with "-" in front
            for the largest first.

    Returns:
        ``rows``, ``total`` (how many pass the filters), ``num_after_truncation`` (all), ``note``.

    Raises:
        ValueError: a filter is malformed, or the limit is out of range.
    """
    limit, offset = int(args.get("limit", 100)), int(args.get("offset", 0))
    if not 0 < limit <= ROWS_MAX:
        raise ValueError(f"limit {limit} is not in 1..{ROWS_MAX}")
    if offset < 0:
        raise ValueError(f"offset {offset} is negative")
    filters = [parse(each) for each in args.get("filters") or []]
    sort = str(args.get("sort") or "")
    if sort:
        found = _sorted(machine, table, filters, sort)
        page = [row() for row in found[offset : offset + limit]]
        return {"rows": page, "total": len(found), "note": table.note(machine)}
    page, total = [], 0
    for row, count in _passing(machine, table, filters):
        wanted = max(0, min(count, offset + limit - total))
        page += [row(i) for i in range(max(0, offset - total), wanted)]
        total += count
        if not filters and table.count is not None and total >= offset + limit:
            total = table.count(machine)
            break
    return {"rows": page, "total": total, "note": table.note(machine)}


def parse(each: Any) -> Filter:
    """A filter as it was given.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(each, list | tuple) or len(each) != 3 or each[1] not in PREDICATES:
        raise ValueError(f"filter {each!r} is not (key, '=' or '!=', value)")
    return str(each[0]), each[1], each[2]


def holds(have: Any, sign: str, value: Any) -> bool:
    """Whether a value passes a filter."""
    if isinstance(have, str) or isinstance(value, str):
        equal = str(have).lower() == str(value).lower()
    else:
        equal = have == value
    return equal == (sign == "=")


def row_holds(row: Row, filters: Iterable[Filter]) -> bool:
    """Whether a row passes all filters; one about a column that it lacks is passed by "!=" only."""
    return all(
        holds(row[key], sign, value) if key in row else sign == "!=" for key, sign, value in filters
    )


_Rows = Callable[[int], Row]
"""Makes the i-th of some rows."""


def _passing(
    machine: SchedulerMachine, table: Table, filters: list[Filter]
) -> Iterator[tuple[_Rows, int]]:
    """(how to make the rows, how many) of what passes."""
    cheap = [each for each in filters if each[0] in table.columns]
    rest = [each for each in filters if each[0] not in table.columns]
    readers = [(table.columns[key], sign, value) for key, sign, value in cheap]
    for record in table.records(machine):
        if isinstance(record, Run):
            yield from of_run(machine, table, record, filters)
        elif all(holds(read(record), sign, value) for read, sign, value in readers):
            if not rest:
                yield partial(_row_of, machine, table, record), 1
            elif row_holds(row := table.row(machine, record), rest):
                yield partial(_made, row), 1


def of_run(
    machine: Any, table: Table, run: Run, filters: list[Filter]
) -> Iterator[tuple[_Rows, int]]:
    """Likewise of one run; a task's row needs no machine, so it may be None."""
    if not run.numbers:
        return
    own = []
    first = run.task(0)
    for key, sign, value in filters:
        if key in OF_EACH or key not in table.columns:
            own.append((key, sign, value))
        elif not holds(table.columns[key](first), sign, value):
            return
    if not own:
        yield lambda i: table.row(machine, run.task(i)), len(run.numbers)
        return
    readers = [(table.columns[key], sign, v) for key, sign, v in own if key in table.columns]
    rest = [each for each in own if each[0] not in table.columns]
    for task in run.tasks():
        if all(holds(read(task), sign, value) for read, sign, value in readers):
            if not rest or row_holds(table.row(machine, task), rest):
                yield partial(_row_of, machine, table, task), 1


def _sorted(
    machine: SchedulerMachine, table: Table, filters: list[Filter], sort: str
) -> list[Callable[[], Row]]:
    """How to make the rows, in order. What has no value in the column comes last."""
    key, reverse = sort.lstrip("-"), sort.startswith("-")
    read = table.columns.get(key)
    found: list[tuple[Any, Callable[[], Row]]] = []
    if read is not None:
        for record in _records(machine, table, filters):
            found.append((read(record), partial(_row_of, machine, table, record, 0)))
    else:
        for rows_of, count in _passing(machine, table, filters):
            for row in map(rows_of, range(count)):
                found.append((row.get(key), partial(_made, row, 0)))
    there = [each for each in found if each[0] is not None]
    missing = [make for value, make in found if value is None]
    try:
        there.sort(key=lambda each: each[0], reverse=reverse)
    except TypeError:
        there.sort(key=lambda each: str(each[0]), reverse=reverse)
    return [make for _, make in there] + missing


def _row_of(machine: Any, table: Table, record: Any, i: int) -> Row:
    return table.row(machine, record)


def _made(row: Row, i: int) -> Row:
    return row


def _records(machine: SchedulerMachine, table: Table, filters: list[Filter]) -> Iterator[Any]:
    readers = [(table.columns[k], sign, v) for k, sign, v in filters if k in table.columns]
    rest = [each for each in filters if each[0] not in table.columns]
    for block in table.records(machine):
        for record in block.tasks() if isinstance(block, Run) else (block,):
            if all(holds(read(record), sign, value) for read, sign, value in readers):
                if not rest or row_holds(table.row(machine, record), rest):
                    yield record


# --------------------------------------------------------------------------- the tables

OF_EACH = frozenset(
    {"task_id", "parent_task_id", "start_time_ms", "end_time_ms", "creation_time_ms"}
)
"""Columns in which the tasks of a run differ."""


def _actors(machine: SchedulerMachine) -> Iterable[Any]:
    return machine.actors.table.values()


def _count_actors(machine: SchedulerMachine) -> int:
    return len(machine.actors.table)


def _tasks(machine: SchedulerMachine) -> Iterable[Any]:
    return machine.tasks.blocks()


def _count_tasks(machine: SchedulerMachine) -> int:
    return machine.tasks.size


def _workers(machine: SchedulerMachine) -> Iterable[Any]:
    return itertools.chain(machine.processes.alive.values(), machine.processes.dead)


def _count_workers(machine: SchedulerMachine) -> int:
    return len(machine.processes.alive) + len(machine.processes.dead)


def _jobs(machine: SchedulerMachine) -> Iterable[Any]:
    return machine.processes.jobs.values()


def _nodes(machine: SchedulerMachine) -> Iterable[Any]:
    return machine.nodes.table.values()


def _groups(machine: SchedulerMachine) -> Iterable[Any]:
    return machine.groups.table.values()


def _events(machine: SchedulerMachine) -> Iterable[Any]:
    return machine.turn.chronicle


def _count_events(machine: SchedulerMachine) -> int:
    return len(machine.turn.chronicle)


def _held(machine: SchedulerMachine) -> Iterator[Any]:
    for object_id, entry in machine.objects.table.items():
        for number in machine.holds.by_id.get(object_id, {0: 0}):
            yield entry, number


def _environments(machine: SchedulerMachine) -> Iterator[tuple[str, int]]:
    used = Counter(job.runtime_env for job in machine.processes.jobs.values() if job.is_running)
    for actor in machine.actors.table.values():
        if actor.state != "DEAD":
            used[actor.spec.runtime_env] += 1
    for want in machine.leases.wants.values():
        used[want.shape.runtime_env] += want.held
    for env, count in used.items():
        if env not in ("", "{}") and count:
            yield env, count


def _of_tasks(machine: SchedulerMachine) -> str:
    notes = []
    if machine.tasks.left_out:
        notes.append(
            f"{machine.tasks.left_out} more tasks wait that are only counted: their processes tell "
            "of those that have waited longest"
        )
    if machine.tasks.forgotten:
        notes.append(
            f"{machine.tasks.forgotten} older tasks are not in memory any more; they are in the "
            "history (--session current), as far as its quota goes"
        )
    return "; ".join(notes)


TABLES: dict[str, Table] = {
    "actors": Table(
        _actors,
        rows.actor,
        {
            "actor_id": lambda actor: actor.spec.actor_id.hex(),
            "class_name": lambda actor: actor.spec.class_name,
            "state": lambda actor: actor.state,
            "name": lambda actor: actor.spec.name,
            "job_id": lambda actor: actor.spec.job_id.hex(),
            "ray_namespace": lambda actor: actor.spec.namespace,
            "start_time_ms": lambda actor: rows.ms(actor.created_at),
            "end_time_ms": lambda actor: rows.ms(actor.died_at),
            "is_detached": lambda actor: actor.spec.detached,
        },
        _count_actors,
    ),
    "tasks": Table(
        _tasks,
        rows.task,
        {
            "task_id": lambda task: task.task_id.hex(),
            "attempt_number": lambda task: task.attempt,
            "name": lambda task: task.name,
            "state": lambda task: task.state,
            "job_id": lambda task: task.job_id.hex(),
            "actor_id": lambda task: task.actor_id.hex() or None,
            "type": lambda task: task.type,
            "func_or_class_name": lambda task: task.function,
            "node_id": lambda task: task.node_id.hex() or None,
            "worker_id": lambda task: rows.worker_id(task.executor) if task.executor else None,
            "worker_pid": lambda task: task.pid or None,
            "error_type": lambda task: task.error_type or None,
            "start_time_ms": lambda task: rows.ms(task.start) if rows.has_started(task) else None,
            "end_time_ms": lambda task: rows.ms(task.end) or None,
            "parent_task_id": rows.parent_of,
        },
        _count_tasks,
        _of_tasks,
    ),
    "objects": Table(
        _held,
        rows.object,
        {
            "object_id": lambda held: held[0].object_id.hex(),
            "object_size": lambda held: held[0].size,
        },
    ),
    "workers": Table(
        _workers,
        rows.worker,
        {
            "worker_id": lambda process: rows.worker_id(process.number),
            "is_alive": lambda process: process.cause is None,
            "pid": lambda process: process.pid,
            "node_id": lambda process: process.node_id.hex(),
        },
        _count_workers,
    ),
    "jobs": Table(_jobs, rows.job),
    "list_nodes": Table(_nodes, rows.node),
    "placement_groups": Table(
        _groups,
        rows.placement_group,
        {
            "placement_group_id": lambda group: group.spec.group_id.hex(),
            "name": lambda group: group.spec.name,
            "state": lambda group: group.state,
        },
    ),
    "runtime_envs": Table(_environments, rows.runtime_env),
    "cluster_events": Table(
        _events,
        rows.cluster_event,
        {
            "severity": lambda event: event.severity,
            "source_type": lambda event: event.source,
            "event_type": lambda event: event.kind,
            "time": lambda event: rows.ms(event.at),
        },
        _count_events,
    ),
}
