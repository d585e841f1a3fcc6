"""``ray._private.services``: where a node is."""

from __future__ import annotations

from ract.client.runtime import current_runtime
from ract.util.network import get_node_instance_id, get_node_ip_address
from ract.util.testing import all_processes_alive

__all__ = [
    "get_node_instance_id",
    "get_node_ip_address",
    "get_ray_address_from_environment",
    "remaining_processes_alive",
]


def remaining_processes_alive() -> bool:
    """Whether the processes of this node are alive. Raises RuntimeError outside of a cluster."""
    if current_runtime() is None:
        raise RuntimeError("This process is not in a position to determine whether all are alive.")
    return all_processes_alive()


def get_ray_address_from_environment(addr: str | None, temp_dir: str | None = None) -> str | None:
    """The address of the cluster that ``init`` would join, if it would join one."""
    from ract.client.start.places import resolve

    return resolve(addr)
