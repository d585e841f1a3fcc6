"""``ray._private.worker``: the public functions, and facts about this process."""

from __future__ import annotations

import os
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
from ract.client.objects.refs import ObjectRef
from ract.client.process import context
from ract.core import ids
from ract.util import testing

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


class CoreWorker:
    """What Ray's tests ask of the process itself."""

    def object_exists(self, object_ref: ObjectRef, memory_store_only: bool = False) -> bool:
        """Whether the value of a ref is kept anywhere."""
        return testing.object_exists(object_ref)

    def get_all_reference_counts(self) -> dict[bytes, dict[str, int]]:
        """References of this process: by hex id, ``local`` and ``submitted`` ones."""
        return {id.encode(): counts for id, counts in testing.reference_counts().items()}

    def get_current_task_id(self) -> ids.TaskID:
        """The task that runs; nil in a driver."""
        return global_worker.current_task_id

    def get_current_job_id(self) -> ids.JobID:
        """The job."""
        return global_worker.current_job_id

    def get_current_node_id(self) -> ids.NodeID:
        """The node."""
        return global_worker.current_node_id

    def get_actor_id(self) -> ids.ActorID:
        """The actor that this process is; nil if it is none."""
        return global_worker.actor_id

    def get_worker_id(self) -> ids.WorkerID:
        """This process."""
        return ids.WorkerID(global_worker.worker_id)

    def get_placement_group_id(self) -> ids.PlacementGroupID:
        """The placement group that it runs in; nil if there is none."""
        return global_worker.placement_group_id

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"ract, which stands in for Ray here, has no core_worker.{name}")


class Node:
    """The node of this process."""

    def __init__(self, address_info: dict[str, Any]) -> None:
        self.address_info = address_info

    @property
    def unique_id(self) -> str:
        """Its id: 56 hex digits."""
        return self.node_id

    @property
    def node_id(self) -> str:
        """Its id: 56 hex digits."""
        return get_runtime_context().get_node_id()

    @property
    def node_ip_address(self) -> str:
        """Its address."""
        return global_worker.node_ip_address

    def get_session_dir_path(self) -> str:
        """The folder of its sockets and logs."""
        return testing.session_dir()

    def get_logs_dir_path(self) -> str:
        """The folder of its logs."""
        return os.path.join(testing.session_dir(), "logs")

    def kill_raylet(self, check_alive: bool = True) -> None:
        """End the node as a crash does, and with it what runs there."""
        testing.kill_node(self.node_id)

    def remaining_processes_alive(self) -> bool:
        """Whether none of its own processes has ended."""
        return testing.all_processes_alive()

    def __getattr__(self, name: str) -> Any:
        known = self.__dict__.get("address_info", {})
        if name not in known:
            raise AttributeError(f"ract, which stands in for Ray here, has no node.{name}")
        return known[name]


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
    def core_worker(self) -> CoreWorker:
        """This process; raises RactSystemError if it is in no cluster."""
        self.check_connected()
        return CoreWorker()

    @property
    def node(self) -> Node | None:
        """The node of this process; None outside of a cluster."""
        return Node(init(ignore_reinit_error=True).address_info) if self.connected else None

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


def __getattr__(name: str) -> Any:
    if name == "_global_node":
        return global_worker.node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
