"""``ray._private.state``: tables with the column names of Ray's older releases."""

from __future__ import annotations

from typing import Any

from ract import available_resources, cluster_resources, nodes
from ract.util.state.api import list_actors, list_jobs
from ract.util.state.common import MAX_LIMIT, ActorState

__all__ = ["actors", "available_resources", "cluster_resources", "jobs", "nodes"]


def _actor(row: ActorState) -> dict[str, Any]:
    return {
        "ActorID": row.actor_id,
        "ActorClassName": row.class_name,
        "IsDetached": row.is_detached,
        "Name": row.name,
        "JobID": row.job_id,
        "Address": {"IPAddress": "", "Port": 0, "NodeID": row.node_id},
        "OwnerAddress": {"IPAddress": "", "Port": 0, "NodeID": ""},
        "State": row.state,
        "NumRestarts": int(row.num_restarts),
        "Timestamp": row.end_time_ms or row.start_time_ms,
        "StartTime": row.start_time_ms,
        "EndTime": row.end_time_ms,
        "DeathCause": row.death_cause,
        "Pid": row.pid,
    }


def actors(actor_id: str | None = None) -> dict[str, Any]:
    """One actor, or all by id."""
    found = {row.actor_id: _actor(row) for row in list_actors(limit=MAX_LIMIT)}
    return found if actor_id is None else found.get(actor_id, {})


def jobs() -> list[dict[str, Any]]:
    """The jobs."""
    return [
        {"JobID": row.job_id, "IsDead": row.status != "RUNNING", "Entrypoint": row.entrypoint}
        for row in list_jobs(limit=MAX_LIMIT)
    ]
