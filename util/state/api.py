"""Asking a cluster for its tables: ``list_actors()`` and the like.

Every function takes ``address`` (default: the cluster that this process is in, else the newest on
this machine), ``filters`` (a list of ``(column, "=" or "!=", value)``, all of which must hold; text
is compared without regard to case) and ``limit`` (1..10,000 rows).
"""

from __future__ import annotations

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


def _one(kind: type[Row], table: str, id: str, address: str | None) -> Row | None:
    found = _rows(kind, table, address, [(kind.ID, "=", id)], 1)
    return found[0] if found else None


def list_actors(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ActorState]:
    """The actors, dead ones included. Raises RayStateApiException, ValueError."""
    return _rows(ActorState, "actors", address, filters, limit)


def list_tasks(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[TaskState]:
    """The tasks and actor calls that are known. Raises RayStateApiException, ValueError."""
    return _rows(TaskState, "tasks", address, filters, limit)


def list_nodes(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[NodeState]:
    """The nodes, dead ones included. Raises RayStateApiException, ValueError."""
    return _rows(NodeState, "list_nodes", address, filters, limit)


def list_workers(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[WorkerState]:
    """Drivers and executors. Raises RayStateApiException, ValueError."""
    return _rows(WorkerState, "workers", address, filters, limit)


def list_objects(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ObjectState]:
    """The objects that the cluster knows, per holder. Raises RayStateApiException, ValueError."""
    return _rows(ObjectState, "objects", address, filters, limit)


def list_jobs(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[JobState]:
    """The jobs, finished ones included. Raises RayStateApiException, ValueError."""
    return _rows(JobState, "jobs", address, filters, limit)


def get_actor(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> ActorState | None:
    """The actor with this id (hex), or None."""
    return _one(ActorState, "actors", id, address)


def get_node(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> NodeState | None:
    """The node with this id (hex), or None."""
    return _one(NodeState, "list_nodes", id, address)


def get_worker(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> WorkerState | None:
    """The process with this id (hex), or None."""
    return _one(WorkerState, "workers", id, address)


def get_job(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> JobState | None:
    """The job with this id (hex), or None."""
    return _one(JobState, "jobs", id, address)


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
