"""``ray._private.state``: tables with the column names of Ray's older releases."""

from __future__ import annotations

from typing import Any

from ract import available_resources, cluster_resources, get_runtime_context, nodes
from ract.client.api import auto_init
from ract.core.resources import from_units
from ract.util.placement_group import PlacementGroup, placement_group_table
from ract.util.state.api import list_actors, list_jobs
from ract.util.state.common import MAX_LIMIT, ActorState

__all__ = [
    "GlobalState",
    "actors",
    "available_resources",
    "available_resources_per_node",
    "cluster_resources",
    "current_node_id",
    "jobs",
    "node_ids",
    "nodes",
    "state",
    "total_resources_per_node",
]


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


def node_ids() -> list[str]:
    """The resource that only one node has, of each node that is alive."""
    return [
        name
        for node in nodes()
        for name in node["Resources"]
        if name.startswith("node:") and name != "node:__internal_head__"
    ]


def current_node_id() -> str:
    """The resource that only this node has."""
    mine = get_runtime_context().get_node_id()
    [name] = [
        name
        for node in nodes()
        if node["NodeID"] == mine
        for name in node["Resources"]
        if name.startswith("node:") and name != "node:__internal_head__"
    ]
    return name


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """What is free, by node."""
    return _per_node("free")


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """What there is, by node."""
    return _per_node("total")


def _per_node(which: str) -> dict[str, dict[str, float]]:
    view = auto_init.runtime().link.request("scaling")
    return {
        node_id: {name: from_units(n) for name, n in node[which].items() if n}
        for node_id, node in view["nodes"].items()
    }


class GlobalState:
    """The same tables as methods."""

    def node_table(self) -> list[dict[str, Any]]:
        """The nodes."""
        return nodes()

    def actor_table(self, actor_id: str | None = None) -> dict[str, Any]:
        """One actor, or all by id."""
        return actors(actor_id)

    def job_table(self) -> list[dict[str, Any]]:
        """The jobs."""
        return jobs()

    def placement_group_table(self, placement_group_id: Any = None) -> dict[str, Any]:
        """One placement group, or all by id."""
        known = placement_group_id is not None
        return placement_group_table(PlacementGroup(placement_group_id) if known else None)

    def cluster_resources(self) -> dict[str, float]:
        """What there is."""
        return cluster_resources()

    def available_resources(self) -> dict[str, float]:
        """What is free."""
        return available_resources()

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        """What is free, by node."""
        return available_resources_per_node()

    def total_resources_per_node(self) -> dict[str, dict[str, float]]:
        """What there is, by node."""
        return total_resources_per_node()


state = GlobalState()
