"""Asking a cluster for its tables: ``list_actors()`` and the like.

Every function takes ``address`` (default: the cluster that this process is in, else the newest on
this machine), ``timeout`` in seconds, and ``session``: instead of a cluster that runs, the history
of one on this machine (``"last"``: the newest that has ended; ``"current"``; or the beginning of a
name). Lists take ``filters`` (``(column, "=" or "!=", value)``, all of which must hold; text is
compared without regard to case) and ``limit`` (1..10,000 rows). They are `Rows`, which say how many
there are in ``total``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ract.client.objects.refs import ObjectRef
from ract.client.runtime import current_runtime
from ract.client.start.tool import ask_cluster
from ract.core import history
from ract.scheduler.durable import history as ended
from ract.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    MAX_LIMIT,
    ActorState,
    ClusterEventState,
    GetApiOptions,
    JobState,
    ListApiOptions,
    NodeState,
    ObjectState,
    PlacementGroupState,
    Rows,
    RuntimeEnvState,
    StateResource,
    StateRow,
    SummaryApiOptions,
    TaskState,
    WorkerState,
)
from ract.util.state.exception import DataSourceUnavailable, RayStateApiException, ServerUnavailable

logger = logging.getLogger(__name__)

Filters = list[tuple[str, str, Any]] | None

#: Table of the scheduler, and what its rows are, by resource.
KINDS: dict[StateResource, tuple[str, type[StateRow]]] = {
    StateResource.ACTORS: ("actors", ActorState),
    StateResource.JOBS: ("jobs", JobState),
    StateResource.PLACEMENT_GROUPS: ("placement_groups", PlacementGroupState),
    StateResource.NODES: ("list_nodes", NodeState),
    StateResource.WORKERS: ("workers", WorkerState),
    StateResource.TASKS: ("tasks", TaskState),
    StateResource.OBJECTS: ("objects", ObjectState),
    StateResource.RUNTIME_ENVS: ("runtime_envs", RuntimeEnvState),
    StateResource.CLUSTER_EVENTS: ("cluster_events", ClusterEventState),
}
IN_HISTORY = ("actors", "jobs", "placement_groups", "list_nodes", "tasks", "cluster_events")


def ask(address: str | None, op: str, timeout: float = DEFAULT_RPC_TIMEOUT, **args: Any) -> Any:
    """The scheduler's answer to a request.

    Raises:
        ServerUnavailable: there is no cluster.
        DataSourceUnavailable: a part of it did not answer.
        RayStateApiException: it refused.
    """
    runtime = current_runtime()
    try:
        if address in (None, "auto") and runtime is not None and not runtime.closed:
            return runtime.link.request(op, timeout, **args)
        return ask_cluster(None if address == "auto" else address, op, timeout, **args)
    except TimeoutError as error:
        raise DataSourceUnavailable(str(error)) from error
    except OSError as error:
        raise ServerUnavailable(f"no cluster to ask: {error}") from error
    except ValueError as error:
        raise RayStateApiException(str(error)) from error
    except RuntimeError as error:
        raise DataSourceUnavailable(str(error)) from error


def rows(
    resource: StateResource,
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    session: str | None = None,
    offset: int = 0,
    sort: str = "",
) -> Rows[Any]:
    """Rows of a table.

    Args:
        resource: Which table.
        address: Of the cluster.
        filters: See the module.
        limit: At most so many rows.
        timeout: Seconds.
        session: The history of a cluster instead.
        offset: So many rows are passed over.
        sort: By this column; with "-" in front, the largest first.

    Raises:
        RayStateApiException: the limit is too large; nothing could be found out.
        ValueError: a filter is malformed; there is no column to sort by.
    """
    if not 0 < limit <= MAX_LIMIT:
        raise RayStateApiException(f"limit={limit}: 1 to {MAX_LIMIT} rows can be asked for")
    for each in filters or []:
        if len(each) != 3 or each[1] not in ("=", "!="):
            raise ValueError(f"the filter {each!r} is not (column, '=' or '!=', value)")
    table, kind = KINDS[resource]
    asked = {"filters": [list(each) for each in filters or []], "limit": limit, "offset": offset}
    if session is not None:
        found = _in_history(session, table, asked)
    else:
        found = ask(address, table, timeout, sort=sort, **asked)
    made = Rows((kind(row) for row in found["rows"]), found["total"], found.get("note", ""))
    wanted = [key for key, _, _ in filters or [] if key not in kind.COLUMNS]
    if wanted and not made and session is None:  # perhaps because no row can pass
        found = ask(address, table, timeout, filters=[], limit=1)
    row = next(iter(found["rows"]), None)
    unknown = [key for key in wanted if row is not None and key not in row]
    if unknown:
        logger.warning("%s have no column %s to filter by", resource.value, ", ".join(unknown))
    column = sort.removeprefix("-")
    if column and row is not None and column not in row:
        known = ", ".join(row)
        raise ValueError(f"{resource.value} have no column {column} to sort by; they have {known}")
    return made


def _in_history(session: str, table: str, asked: dict[str, Any]) -> dict[str, Any]:
    if table not in IN_HISTORY:
        known = ", ".join(name.removeprefix("list_") for name in IN_HISTORY)
        raise RayStateApiException(f"the history has no {table}; it has {known}")
    try:
        return ended.read(history.find(session), table, asked)
    except LookupError as error:
        raise ServerUnavailable(str(error)) from error


def _warn_of_missing(found: Rows[Any], limit: int) -> None:
    """Nobody should take a part for the whole who did not ask for a part."""
    if limit == DEFAULT_LIMIT and found.total > len(found):
        logger.warning(
            "%d of %d rows were asked for: limit= gives up to %d, filters= others",
            len(found),
            found.total,
            MAX_LIMIT,
        )


def _lister(resource: StateResource, what: str) -> Callable[..., Rows[Any]]:
    def list_rows(
        address: str | None = None,
        filters: Filters = None,
        limit: int = DEFAULT_LIMIT,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
        *,
        session: str | None = None,
    ) -> Rows[Any]:
        found = rows(resource, address, filters, limit, timeout, session)
        _warn_of_missing(found, limit)
        return found

    list_rows.__name__ = list_rows.__qualname__ = f"list_{resource.value}"
    list_rows.__doc__ = f"{what}. Raises RayStateApiException, ValueError."
    return list_rows


list_actors = _lister(StateResource.ACTORS, "The actors, dead ones included")
list_tasks = _lister(StateResource.TASKS, "The tasks and actor calls that are known")
list_nodes = _lister(StateResource.NODES, "The nodes, dead ones included")
list_workers = _lister(StateResource.WORKERS, "Drivers and executors")
list_objects = _lister(StateResource.OBJECTS, "The objects that the cluster knows, per holder")
list_jobs = _lister(StateResource.JOBS, "The jobs, finished ones included")
list_placement_groups = _lister(
    StateResource.PLACEMENT_GROUPS, "The placement groups, removed ones included"
)
list_runtime_envs = _lister(StateResource.RUNTIME_ENVS, "The runtime environments in use")
list_cluster_events = _lister(
    StateResource.CLUSTER_EVENTS, "What happened: nodes that came and went, deaths, alerts"
)


def _getter(resource: StateResource, what: str) -> Callable[..., Any]:
    def get_row(
        id: str,
        address: str | None = None,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        _explain: bool = False,
        *,
        session: str | None = None,
    ) -> StateRow | None:
        key = KINDS[resource][1].ID
        found = rows(resource, address, [(key, "=", id)], 1, timeout, session)
        return found[0] if found else None

    get_row.__name__ = get_row.__qualname__ = f"get_{resource.value.removesuffix('s')}"
    get_row.__doc__ = f"The {what} with this id (hex), or None."
    return get_row


get_actor = _getter(StateResource.ACTORS, "actor")
get_node = _getter(StateResource.NODES, "node")
get_worker = _getter(StateResource.WORKERS, "process")
get_job = _getter(StateResource.JOBS, "job")
get_placement_group = _getter(StateResource.PLACEMENT_GROUPS, "placement group")


def get_task(
    id: str | ObjectRef,
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
    *,
    session: str | None = None,
) -> TaskState | list[TaskState] | None:
    """The task with this id (hex), or that makes this ref; a list if it had several attempts."""
    text = id.task_id().hex() if isinstance(id, ObjectRef) else id
    wanted = [("task_id", "=", text)]
    found = rows(StateResource.TASKS, address, wanted, MAX_LIMIT, timeout, session)
    found.sort(key=lambda task: task.attempt_number)
    return found if len(found) > 1 else found[0] if found else None


def get_objects(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> list[ObjectState]:
    """The object with this id (hex), per holder."""
    return rows(StateResource.OBJECTS, address, [("object_id", "=", id)], MAX_LIMIT, timeout)


# --------------------------------------------------------------------------- summaries


def summarize_tasks(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many tasks are in which state, by name; all that there were, those forgotten included."""
    found = ask(address, "summary_tasks", timeout)
    summary = {
        name: {"func_or_class_name": name, **entry} for name, entry in found["summary"].items()
    }
    totals = {"NORMAL_TASK": 0, "ACTOR_TASK": 0, "ACTOR_CREATION_TASK": 0}
    for entry in summary.values():
        totals[entry["type"]] += sum(entry["state_counts"].values())
    return {
        "cluster": {
            "summary": summary,
            "total_tasks": totals["NORMAL_TASK"],
            "total_actor_tasks": totals["ACTOR_TASK"],
            "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
            "summary_by": "func_name",
        }
    }


def summarize_actors(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many actors are in which state, by class."""
    found = ask(address, "summary_actors", timeout)
    summary = {name: {"class_name": name, **entry} for name, entry in found["summary"].items()}
    total = found["total"]
    return {"cluster": {"summary": summary, "total_actors": total, "summary_by": "class"}}


def summarize_objects(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many objects there are and how large they are, by call site."""
    found = ask(address, "summary_objects", timeout)
    summary = found["summary"]
    for entry in summary.values():
        entry["total_size_mb"] = entry["total_size"] / 2**20
    return {
        "cluster": {
            "summary": summary,
            "total_objects": found["total"],
            "total_size_mb": found["total_size"] / 2**20,
            "callsite_enabled": any(":" in site for site in summary),
            "summary_by": "callsite",
        }
    }


class StateApiClient:
    """The same as an object that knows its cluster.

    Args:
        address: Of the cluster.
    """

    def __init__(self, address: str | None = None, **_: Any) -> None:
        self._address = address

    def list(
        self,
        resource: StateResource,
        options: ListApiOptions,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> Rows[Any]:
        """As `list_actors` and the like."""
        return rows(resource, self._address, options.filters, options.limit, options.timeout)

    def get(
        self,
        resource: StateResource,
        id: str,
        options: GetApiOptions | None,
        _explain: bool = False,
    ) -> Any:
        """As `get_actor` and the like; objects and tasks with several attempts are lists."""
        timeout = (options or GetApiOptions()).timeout
        if resource is StateResource.TASKS:
            return get_task(id, self._address, timeout)
        if resource is StateResource.OBJECTS:
            return get_objects(id, self._address, timeout)
        return _getter(resource, resource.value)(id, self._address, timeout)

    def summary(
        self,
        resource: StateResource,
        *,
        options: SummaryApiOptions,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> dict[str, Any]:
        """As `summarize_tasks` and the like.

        Raises:
            ValueError: there is no summary of this resource.
        """
        known = {
            StateResource.TASKS: summarize_tasks,
            StateResource.ACTORS: summarize_actors,
            StateResource.OBJECTS: summarize_objects,
        }
        if resource not in known:
            raise ValueError(f"there is no summary of {resource.value}")
        return known[resource](self._address, options.timeout)
