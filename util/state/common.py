"""Rows of the state API: attributes, and items as of a dict, by the names of Ray's state API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

MAX_LIMIT = 10_000
DEFAULT_LIMIT = 100
DEFAULT_RPC_TIMEOUT = 30

Row = TypeVar("Row")


class StateRow(Mapping[str, Any]):
    """One row of a table.

    Args:
        columns: Values by name, as the scheduler has them (`ract.scheduler.queries.rows`).
    """

    ID = ""
    """The column that names the row."""
    COLUMNS: tuple[str, ...] = ()
    """What a table shows of it; the rest is detail."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_columns"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no column {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateRow) and self._columns == other._columns

    __hash__ = None  # type: ignore[assignment]

    def asdict(self) -> dict[str, Any]:
        """The columns as a dict."""
        return dict(self._columns)

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}={value!r}" for name, value in self._columns.items())
        return f"{type(self).__name__}({columns})"


class ActorState(StateRow):
    """An actor."""

    ID = "actor_id"
    COLUMNS = (
        "actor_id",
        "class_name",
        "state",
        "job_id",
        "name",
        "node_id",
        "pid",
        "ray_namespace",
    )


class TaskState(StateRow):
    """An attempt at a task."""

    ID = "task_id"
    COLUMNS = (
        "task_id",
        "attempt_number",
        "name",
        "state",
        "job_id",
        "actor_id",
        "type",
        "func_or_class_name",
        "parent_task_id",
        "node_id",
        "worker_id",
        "worker_pid",
        "error_type",
    )


class NodeState(StateRow):
    """A node."""

    ID = "node_id"
    COLUMNS = (
        "node_id",
        "node_ip",
        "is_head_node",
        "state",
        "state_message",
        "node_name",
        "resources_total",
        "labels",
    )


class WorkerState(StateRow):
    """A process."""

    ID = "worker_id"
    COLUMNS = (
        "worker_id",
        "is_alive",
        "worker_type",
        "exit_type",
        "node_id",
        "ip",
        "pid",
    )


class ObjectState(StateRow):
    """An object, as one of its holders has it."""

    ID = "object_id"
    COLUMNS = (
        "object_id",
        "object_size",
        "task_status",
        "attempt_number",
        "reference_type",
        "call_site",
        "type",
        "pid",
        "ip",
    )


class PlacementGroupState(StateRow):
    """A placement group."""

    ID = "placement_group_id"
    COLUMNS = (
        "placement_group_id",
        "name",
        "creator_job_id",
        "state",
    )


class JobState(StateRow):
    """A job."""

    ID = "job_id"
    COLUMNS = (
        "job_id",
        "submission_id",
        "entrypoint",
        "type",
        "status",
        "message",
        "error_type",
        "driver_info",
    )


class RuntimeEnvState(StateRow):
    """A runtime environment that is in use."""

    ID = "runtime_env"
    COLUMNS = (
        "runtime_env",
        "success",
        "creation_time_ms",
        "node_id",
        "ref_cnt",
        "error",
    )


class ClusterEventState(StateRow):
    """Something that happened to the cluster."""

    ID = "event_id"
    COLUMNS = (
        "severity",
        "time",
        "source_type",
        "event_type",
        "message",
        "event_id",
    )


class Rows(list[Row]):
    """The rows that were asked for.

    Attributes:
        total: How many there are that pass the filters.
        note: What is left out for other reasons; "" if nothing is.
    """

    def __init__(self, rows: Iterable[Row], total: int, note: str = "") -> None:
        super().__init__(rows)
        self.total = total
        self.note = note


class StateResource(Enum):
    """What can be listed."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


@dataclass
class ListApiOptions:
    """How to list, for `StateApiClient.list`."""

    limit: int = DEFAULT_LIMIT
    timeout: int = DEFAULT_RPC_TIMEOUT
    detail: bool = False
    filters: list[tuple[str, str, Any]] | None = None


@dataclass
class GetApiOptions:
    """How to get one, for `StateApiClient.get`."""

    timeout: int = DEFAULT_RPC_TIMEOUT


@dataclass
class SummaryApiOptions:
    """How to summarize, for `StateApiClient.summary`."""

    timeout: int = DEFAULT_RPC_TIMEOUT
