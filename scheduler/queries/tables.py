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

import heapq
import itertools
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from ract.core.ids import task_number
from ract.scheduler.cluster import Cluster
from ract.scheduler.people.task_records import Run
from ract.scheduler.queries import rows
from ract.scheduler.queries.rows import Row

ROWS_MAX = 10_000
PREDICATES = ("=", "!=")

Column = Callable[[Any], Any]
Filter = tuple[str, str, Any]


@dataclass(frozen=True)
class Table:
    """How a table is made.

    Attributes:
        records: All of them; a `Run` stands for its tasks.
        row: A record (after the machine) as a dict of plain values; tasks need no machine.
        columns: What can be told without making the row.
        count: How many rows there are, if that is known without looking.
        note: What the table leaves out, if anything.
    """

    records: Callable[[Cluster], Iterable[Any]]
    row: Callable[[Any, Any], Row]
    columns: dict[str, Column] = field(default_factory=dict)
    count: Callable[[Cluster], int] | None = None
    note: Callable[[Cluster], str] = lambda cluster: ""


def select(cluster: Cluster, table: Table, args: dict[str, Any]) -> dict[str, Any]:
    """Answer a question about a table.

    Args:
        machine: Whose records.
        table: What they become.
        args: ``filters``, ``limit`` (100), ``offset`` (0), ``sort``: a column, with "-" in front
            for the largest first.

    Returns:
        ``rows``, ``total``: how many pass the filters, ``note``: what the table leaves out.

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
        found, total = _sorted(cluster, table, filters, sort, offset + limit)
        page = [_row(cluster, table, *hit) for hit in found[offset : offset + limit]]
        return {"rows": page, "total": total, "note": table.note(cluster)}
    page, total = [], 0
    for record, places in _hits(cluster, table, filters):
        first, end = max(0, offset - total), max(0, min(len(places), offset + limit - total))
        page += [_row(cluster, table, record, i) for i in places[first:end]]
        total += len(places)
        if not filters and table.count is not None and total >= offset + limit:
            total = table.count(cluster)
            break
    return {"rows": page, "total": total, "note": table.note(cluster)}


def parse(each: Any) -> Filter:
    """A filter as it was given.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(each, list | tuple) or len(each) != 3 or each[1] not in PREDICATES:
        raise ValueError(f"filter {each!r} is not (key, '=' or '!=', value)")
    return str(each[0]), each[1], each[2]


def matcher(sign: str, value: Any) -> Callable[[Any], bool]:
    """What says whether a value passes a filter."""
    wanted = sign == "="
    text, is_text = str(value).lower(), isinstance(value, str)

    def matches(have: Any) -> bool:
        if is_text or isinstance(have, str):
            return (str(have).lower() == text) == wanted
        return (have == value) == wanted

    return matches


def row_holds(row: Row, filters: Iterable[Filter]) -> bool:
    """Whether a row passes all filters; one about a column that it lacks is passed by "!=" only."""
    return all(
        matcher(sign, value)(row[key]) if key in row else sign == "!="
        for key, sign, value in filters
    )


Places = Sequence[int]
_ONE = (0,)


def _hits(cluster: Cluster, table: Table, filters: list[Filter]) -> Iterator[tuple[Any, Places]]:
    """Records that pass, with the places of those tasks of a run that do."""
    checks = _checks(table, filters)
    rest = [each for each in filters if each[0] not in table.columns]
    for record in table.records(cluster):
        if isinstance(record, Run):
            places = of_run(table, record, filters)
            if places:
                yield record, places
        elif all(matches(read(record)) for read, matches in checks):
            if not rest or row_holds(table.row(cluster, record), rest):
                yield record, _ONE


def of_run(table: Table, run: Run, filters: list[Filter]) -> Places:
    """The places of those tasks of a run that pass."""
    if not run.numbers:
        return ()
    first = run.task(0)
    own = []
    places: Places = range(len(run.numbers))
    for key, sign, value in filters:
        if key == "task_id" and sign == "=":
            places = _place_of(run, str(value))
        elif key in OF_EACH:
            own.append((key, sign, value))
        elif key in table.columns:
            if not matcher(sign, value)(table.columns[key](first)):
                return ()
        elif not row_holds(table.row(None, first), [(key, sign, value)]):
            return ()  # what is no column of a record is the same for all tasks of a run
    checks = _checks(table, own)
    if not checks:
        return places
    return [i for i in places if all(matches(read(run.task(i))) for read, matches in checks)]


def _place_of(run: Run, task_id: str) -> Places:
    """Where in a run a task is, found by its number."""
    try:
        wanted = bytes.fromhex(task_id)
        i = run.numbers.index(task_number(wanted))
    except (ValueError, struct.error):
        return ()
    return (i,) if run.task(i).task_id == wanted else ()


def _checks(table: Table, filters: list[Filter]) -> list[tuple[Column, Callable[[Any], bool]]]:
    return [
        (table.columns[key], matcher(sign, value))
        for key, sign, value in filters
        if key in table.columns
    ]


def _row(cluster: Any, table: Table, record: Any, i: int) -> Row:
    return table.row(cluster, record.task(i) if isinstance(record, Run) else record)


def _sorted(
    cluster: Cluster, table: Table, filters: list[Filter], sort: str, most: int
) -> tuple[list[tuple[Any, int]], int]:
    """The first ``most`` records and places in order, and how many there are in total.

    What has no value in the column comes last.

    Raises:
        ValueError: so many rows can only be sorted by other columns.
    """
    key, reverse = sort.lstrip("-"), sort.startswith("-")
    there: list[tuple[Any, Any, int]] = []
    missing: list[tuple[Any, int]] = []
    total = 0
    for record, places in _hits(cluster, table, filters):
        total += len(places)
        if key not in table.columns and total > ROWS_MAX:
            known = ", ".join(table.columns)
            raise ValueError(f"more than {ROWS_MAX} rows can only be sorted by {known}")
        for value, i in _values(cluster, table, record, places, key, reverse, most):
            if value is None:
                missing.append((record, i))
            else:
                there.append((value, record, i))
    try:
        there.sort(key=itemgetter(0), reverse=reverse)
    except TypeError:
        there.sort(key=lambda each: str(each[0]), reverse=reverse)
    return [(record, i) for _, record, i in there[:most]] + missing, total


def _values(
    cluster: Cluster,
    table: Table,
    record: Any,
    places: Places,
    key: str,
    reverse: bool,
    most: int,
) -> Iterable[tuple[Any, int]]:
    """(what is in a column, place); of a run, no more than can be among the first ``most``."""
    read = table.columns.get(key)
    if not isinstance(record, Run):
        return [(read(record) if read else table.row(cluster, record).get(key), places[0])]
    if key in ("start_time_ms", "end_time_ms"):
        times = record.times[1::2] if key == "end_time_ms" else record.times[::2]
        best = heapq.nlargest if reverse else heapq.nsmallest
        return [(rows.ms(times[i]), i) for i in best(most, places, times.__getitem__)]
    if read is not None and key not in OF_EACH:
        value = read(record.task(0))
        return [(value, i) for i in places[:most]]
    found = (record.task(i) for i in places)
    if read is not None:
        return [(read(task), i) for task, i in zip(found, places, strict=True)]
    return [(table.row(cluster, task).get(key), i) for task, i in zip(found, places, strict=True)]


# --------------------------------------------------------------------------- the tables

OF_EACH = frozenset(
    {"task_id", "parent_task_id", "start_time_ms", "end_time_ms", "creation_time_ms", "events"}
)
"""Columns in which the tasks of a run differ, beside ``events``."""


def _actors(cluster: Cluster) -> Iterable[Any]:
    return cluster.actors.table.values()


def _count_actors(cluster: Cluster) -> int:
    return len(cluster.actors.table)


def _tasks(cluster: Cluster) -> Iterable[Any]:
    return cluster.tasks.blocks()


def _count_tasks(cluster: Cluster) -> int:
    return cluster.tasks.size


def _workers(cluster: Cluster) -> Iterable[Any]:
    return itertools.chain(cluster.processes.alive.values(), cluster.processes.dead)


def _count_workers(cluster: Cluster) -> int:
    return len(cluster.processes.alive) + len(cluster.processes.dead)


def _jobs(cluster: Cluster) -> Iterable[Any]:
    return cluster.processes.jobs.values()


def _nodes(cluster: Cluster) -> Iterable[Any]:
    return cluster.nodes.table.values()


def _groups(cluster: Cluster) -> Iterable[Any]:
    return cluster.groups.table.values()


def _events(cluster: Cluster) -> Iterable[Any]:
    return cluster.turn.chronicle


def _count_events(cluster: Cluster) -> int:
    return len(cluster.turn.chronicle)


def _held(cluster: Cluster) -> Iterator[Any]:
    for object_id, entry in cluster.objects.table.items():
        for number in cluster.holds.by_id.get(object_id, {0: 0}):
            yield entry, number


def _environments(cluster: Cluster) -> Iterator[tuple[str, int]]:
    used = Counter(job.runtime_env for job in cluster.processes.jobs.values() if job.is_running)
    for actor in cluster.actors.table.values():
        if actor.state != "DEAD":
            used[actor.spec.runtime_env] += 1
    for want in cluster.leases.wants.values():
        used[want.shape.runtime_env] += want.held
    for env, count in used.items():
        if env not in ("", "{}") and count:
            yield env, count


def _of_tasks(cluster: Cluster) -> str:
    notes = []
    if cluster.tasks.left_out:
        notes.append(
            f"{cluster.tasks.left_out} more tasks wait that are only counted: their processes tell "
            "of those that have waited longest"
        )
    if cluster.tasks.forgotten:
        notes.append(
            f"{cluster.tasks.forgotten} older tasks are not in memory any more; they are in the "
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
            "error_message": lambda task: task.error_message or None,
            "placement_group_id": lambda task: (
                task.facts["group"].hex() if "group" in task.facts else None
            ),
            "call_site": lambda task: task.facts.get("site"),
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
