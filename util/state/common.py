"""Rows of the state API: attributes, and items as of a dict, by the names of Ray's state API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAX_LIMIT = 10_000
DEFAULT_LIMIT = 100
DEFAULT_RPC_TIMEOUT = 30


class StateRow(Mapping[str, Any]):
    """One row of a table.

    Args:
        columns: Values by name, as the scheduler has them (`ract.scheduler.rows`).
    """

    ID = ""
    """The column that names the row."""

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


class TaskState(StateRow):
    """An attempt at a task."""

    ID = "task_id"


class NodeState(StateRow):
    """A node."""

    ID = "node_id"


class WorkerState(StateRow):
    """A process."""

    ID = "worker_id"


class ObjectState(StateRow):
    """An object, as one of its holders has it."""

    ID = "object_id"


class PlacementGroupState(StateRow):
    """A placement group."""

    ID = "placement_group_id"


class JobState(StateRow):
    """A job."""

    ID = "job_id"
