"""``ray._private.worker``: the public functions, and facts about this process."""

from __future__ import annotations

from typing import Any

from ract import (
    LOCAL_MODE,
    RESTORE_WORKER_MODE,
    SCRIPT_MODE,
    SPILL_WORKER_MODE,
    WORKER_MODE,
    RactContext,
    cancel,
    get,
    get_actor,
    get_gpu_ids,
    get_runtime_context,
    init,
    is_initialized,
    kill,
    put,
    remote,
    shutdown,
    wait,
)
from ract.client import context
from ract.core import ids

RayContext = RactContext

__all__ = [
    "LOCAL_MODE",
    "RESTORE_WORKER_MODE",
    "SCRIPT_MODE",
    "SPILL_WORKER_MODE",
    "WORKER_MODE",
    "RayContext",
    "cancel",
    "get",
    "get_actor",
    "get_gpu_ids",
    "global_worker",
    "init",
    "is_initialized",
    "kill",
    "put",
    "remote",
    "shutdown",
    "wait",
]


class Worker:
    """Facts about this process and what runs in it; what of Ray's is not here raises."""

    @property
    def connected(self) -> bool:
        """Whether it is in a cluster."""
        return is_initialized()

    def check_connected(self) -> None:
        """Raise RactSystemError if it is in no cluster."""
        from ract.core.errors import RactSystemError

        if not self.connected:
            raise RactSystemError(
                "Ray has not been started yet. You can start Ray with ray.init()."
            )

    @property
    def mode(self) -> int | None:
        """SCRIPT_MODE in a driver, WORKER_MODE in a task or actor, None outside of a cluster."""
        if context.process.is_executor:
            return WORKER_MODE
        return SCRIPT_MODE if self.connected else None

    @property
    def current_job_id(self) -> ids.JobID:
        """The job."""
        if not self.connected:
            return ids.JobID.nil()
        return ids.JobID.from_hex(get_runtime_context().get_job_id())

    @property
    def current_node_id(self) -> ids.NodeID:
        """The node."""
        return ids.NodeID.from_hex(get_runtime_context().get_node_id())

    @property
    def current_task_id(self) -> ids.TaskID:
        """The task that runs; nil in a driver."""
        found = get_runtime_context().get_task_id()
        return ids.TaskID.from_hex(found) if found else ids.TaskID.nil()

    @property
    def actor_id(self) -> ids.ActorID:
        """The actor that this process is; nil if it is none."""
        found = get_runtime_context().get_actor_id()
        return ids.ActorID.from_hex(found) if found else ids.ActorID.nil()

    @property
    def placement_group_id(self) -> ids.PlacementGroupID:
        """The placement group that it runs in; nil if there is none."""
        found = get_runtime_context().get_placement_group_id()
        return ids.PlacementGroupID.from_hex(found) if found else ids.PlacementGroupID.nil()

    @property
    def worker_id(self) -> bytes:
        """This process."""
        return bytes.fromhex(get_runtime_context().get_worker_id())

    @property
    def namespace(self) -> str:
        """Where names of actors live."""
        return get_runtime_context().namespace

    @property
    def node_ip_address(self) -> str:
        """The address of the node."""
        from ract.util.network import get_node_ip_address

        return get_node_ip_address()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"ract, which stands in for Ray here, has no global_worker.{name}")


global_worker = Worker()
