"""Asking a cluster for its tables: ``list_actors()`` and the like.

Every function takes ``address`` (default: the cluster that this process is in, else the newest on
this machine), ``filters`` (a list of ``(column, "=" or "!=", value)``, all of which must hold; text
is compared without regard to case) and ``limit`` (1..10,000 rows).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ract.client.refs import ObjectRef
from ract.client.runtime import current
from ract.client.tool import ask_cluster
from ract.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    MAX_LIMIT,
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    StateRow,
    TaskState,
    WorkerState,
)
from ract.util.state.exception import RayStateApiException, ServerUnavailable

Filters = list[tuple[str, str, Any]] | None
Row = TypeVar("Row", bound=StateRow)


def _ask(address: str | None, table: str, **arguments: Any) -> Any:
    runtime = current()
    if address in (None, "auto") and runtime is not None and not runtime.closed:
        return runtime.link.request(table, **arguments)
    try:
        return ask_cluster(None if address == "auto" else address, table, **arguments)
    except OSError as error:
        raise ServerUnavailable(f"no cluster to ask: {error}") from error


def _rows(
    kind: type[Row], table: str, address: str | None, filters: Filters, limit: int
) -> list[Row]:
    if limit > MAX_LIMIT:
        raise RayStateApiException(f"limit={limit}: at most {MAX_LIMIT} rows can be asked for")
    for each in filters or []:
        if len(each) != 3 or each[1] not in ("=", "!="):
            raise ValueError(f"the filter {each!r} is not (column, '=' or '!=', value)")
    wanted = [list(each) for each in filters or []]
    found = _ask(address, table, filters=wanted, limit=limit)
    return [kind(row) for row in found["rows"]]


def _lister(kind: type[Row], table: str, what: str) -> Callable[..., list[Row]]:
    def list_rows(
        address: str | None = None,
        filters: Filters = None,
        limit: int = DEFAULT_LIMIT,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[Row]:
        return _rows(kind, table, address, filters, limit)

    list_rows.__doc__ = f"{what}. Raises RayStateApiException, ValueError."
    return list_rows


list_actors = _lister(ActorState, "actors", "The actors, dead ones included")
list_tasks = _lister(TaskState, "tasks", "The tasks and actor calls that are known")
list_nodes = _lister(NodeState, "list_nodes", "The nodes, dead ones included")
list_workers = _lister(WorkerState, "workers", "Drivers and executors")
list_objects = _lister(ObjectState, "objects", "The objects that the cluster knows, per holder")
list_jobs = _lister(JobState, "jobs", "The jobs, finished ones included")
list_placement_groups = _lister(
    PlacementGroupState, "placement_groups", "The placement groups, removed ones included"
)


def _getter(kind: type[Row], table: str, what: str) -> Callable[..., Row | None]:
    def get_row(
        id: str,
        address: str | None = None,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        _explain: bool = False,
    ) -> Row | None:
        found = _rows(kind, table, address, [(kind.ID, "=", id)], 1)
        return found[0] if found else None

    get_row.__doc__ = f"The {what} with this id (hex), or None."
    return get_row


get_actor = _getter(ActorState, "actors", "actor")
get_node = _getter(NodeState, "list_nodes", "node")
get_worker = _getter(WorkerState, "workers", "process")
get_job = _getter(JobState, "jobs", "job")
get_placement_group = _getter(PlacementGroupState, "placement_groups", "placement group")


def get_task(
    id: str | ObjectRef,
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> TaskState | list[TaskState] | None:
    """The task with this id (hex), or that makes this ref; a list if it had several attempts."""
    text = id.task_id().hex() if isinstance(id, ObjectRef) else id
    found = _rows(TaskState, "tasks", address, [("task_id", "=", text)], MAX_LIMIT)
    return found if len(found) > 1 else found[0] if found else None


def get_objects(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> list[ObjectState]:
    """The object with this id (hex), per holder."""
    return _rows(ObjectState, "objects", address, [("object_id", "=", id)], MAX_LIMIT)


def summarize_tasks(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many tasks are in which state, by name."""
    found = _ask(address, "summary_tasks")
    summary = {
        name: {"func_or_class_name": name, **entry} for name, entry in found["summary"].items()
    }
    return {
        "cluster": {"summary": summary, "total_tasks": found["total"], "summary_by": "func_name"}
    }


def summarize_actors(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many actors are in which state, by class."""
    summary: dict[str, Any] = {}
    actors = list_actors(address, limit=MAX_LIMIT)
    for actor in actors:
        entry = summary.setdefault(
            actor.class_name, {"class_name": actor.class_name, "state_counts": {}}
        )
        counts = entry["state_counts"]
        counts[actor.state] = counts.get(actor.state, 0) + 1
    return {"cluster": {"summary": summary, "total_actors": len(actors), "summary_by": "class"}}
