"""``ray.core.generated.gcs_pb2``: the numbers of states in Ray's tables."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ActorTableData", "GcsNodeInfo", "PlacementGroupTableData"]


class _States(IntEnum):
    @classmethod
    def Name(cls, number: int) -> str:
        """The name of a state."""
        return cls(number).name

    @classmethod
    def Value(cls, name: str) -> int:
        """The number of a state."""
        return int(cls[name])


class _ActorState(_States):
    DEPENDENCIES_UNREADY = 0
    PENDING_CREATION = 1
    ALIVE = 2
    RESTARTING = 3
    DEAD = 4


class _GroupState(_States):
    PENDING = 0
    PREPARED = 1
    CREATED = 2
    REMOVED = 3
    RESCHEDULING = 4


class _NodeState(_States):
    ALIVE = 0
    DEAD = 1


class ActorTableData:
    """States of actors."""

    ActorState = _ActorState
    DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING, DEAD = _ActorState


class PlacementGroupTableData:
    """States of placement groups."""

    PlacementGroupState = _GroupState
    PENDING, PREPARED, CREATED, REMOVED, RESCHEDULING = _GroupState


class GcsNodeInfo:
    """States of nodes."""

    GcsNodeState = _NodeState
    ALIVE, DEAD = _NodeState
