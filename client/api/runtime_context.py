"""`ract.get_runtime_context`: who and where the running code is."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

from ract.client.actors.handles import ActorHandle
from ract.client.api import auto_init
from ract.client.process import context
from ract.core import ids
from ract.core.accelerators import ACCELERATORS, VENDORS, visible
from ract.core.errors import AsyncioActorExit
from ract.core.messages import EndProcess, ExitCause


class RuntimeContext:
    """Facts about the running driver, task or actor. All ids are hex strings."""

    def __init__(self) -> None:
        self._runtime = auto_init.runtime()

    def get_job_id(self) -> str:
        """The job, 8 hex digits."""
        return self._runtime.job_id.hex()

    def get_node_id(self) -> str:
        """The node that this process runs on."""
        return self._runtime.node_id.hex()

    def get_worker_id(self) -> str:
        """This process."""
        return ids.worker_id_bytes(self._runtime.process).hex()

    def get_task_id(self) -> str | None:
        """The running task or actor call; None in a driver."""
        running = context.running()
        if running is None:
            return None
        spec = context.process.actor_spec
        actor_id = spec.actor_id if spec is not None else b""
        return ids.task_id_bytes(running.number, self._runtime.job_id, actor_id).hex()

    def get_actor_id(self) -> str | None:
        """The actor that this process is; None elsewhere."""
        spec = context.process.actor_spec
        return spec.actor_id.hex() if spec is not None else None

    def get_actor_name(self) -> str | None:
        """The actor's name, "" if it has none; None outside actors."""
        spec = context.process.actor_spec
        return spec.name if spec is not None else None

    def get_task_name(self) -> str | None:
        """The running call's name, as shown in the state API; None in a driver."""
        running = context.running()
        return running.name if running is not None else None

    def get_task_function_name(self) -> str | None:
        """The running call's function or method; None in a driver."""
        running = context.running()
        return running.function_name if running is not None else None

    def get_placement_group_id(self) -> str | None:
        """The placement group of the running task or actor; None outside."""
        return context.process.group[0].hex() or None

    def get_assigned_resources(self) -> dict[str, float]:
        """The resources that the running task or actor holds.

        Raises:
            AssertionError: in a driver.
        """
        assert context.process.is_executor, (
            "This method should not be called in a driver: it holds no resources."
        )
        spec, shape = context.process.actor_spec, context.process.shape
        demand = spec.running_demand if spec is not None else shape.demand if shape else {}
        return {name: units / 10_000 for name, units in demand.items()}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Ids of the accelerators assigned to the running task or actor, as strings.

        By resource name, of those that ract knows. In a driver: those to which its environment
        restricts it.
        """
        return {name: _accelerator_ids(name) for name in ACCELERATORS}

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON."""
        return self._runtime.runtime_env or "{}"

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment."""
        return json.loads(self.get_runtime_env_string())

    @property
    def namespace(self) -> str:
        """Where names of actors live."""
        return self._runtime.namespace

    @property
    def gcs_address(self) -> str:
        """The scheduler's address."""
        return self._runtime.link.welcome.scheduler_address

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor is not in its first incarnation."""
        return context.process.actor_incarnation > 1

    @property
    def current_actor(self) -> ActorHandle:
        """A (weak) handle to the actor that this process is.

        Raises:
            RuntimeError: outside actors.
        """
        spec = context.process.actor_spec
        if spec is None:
            raise RuntimeError("This method is only available in an actor.")
        from ract.client.api.actor_class import handle_from_lookup

        return handle_from_lookup(
            self._runtime, {"actor_id": spec.actor_id, "methods": spec.methods}
        )

    def is_canceled(self) -> bool:
        """Whether the running call was asked to stop (`ract.cancel`).

        Raises:
            RuntimeError: in a driver or an async actor.
        """
        running = context.running()
        if running is None or getattr(context.process.server, "is_async", False):
            raise RuntimeError(
                "is_canceled() is for tasks and for sync and threaded actors; a coroutine gets "
                "asyncio.CancelledError."
            )
        return running.is_cancelled

    def get_temp_dir(self) -> str:
        """The session directory of this node."""
        return self._runtime.link.welcome.session_dir

    def get_session_name(self) -> str:
        """The session's name."""
        return os.path.basename(self._runtime.link.welcome.session_dir)

    def get_node_labels(self) -> dict[str, str]:
        """The labels of this process' node."""
        me = self.get_node_id()
        nodes = self._runtime.link.request("nodes")
        return next((node["Labels"] for node in nodes if node["NodeID"] == me), {})

    # ------------------------------------------------------------------ older names

    @property
    def job_id(self) -> ids.JobID:
        """Deprecated: `get_job_id`."""
        _deprecated("job_id")
        return ids.JobID.from_hex(self.get_job_id())

    @property
    def node_id(self) -> ids.NodeID:
        """Deprecated: `get_node_id`."""
        _deprecated("node_id")
        return ids.NodeID.from_hex(self.get_node_id())

    @property
    def task_id(self) -> ids.TaskID | None:
        """Deprecated: `get_task_id`."""
        _deprecated("task_id")
        found = self.get_task_id()
        return None if found is None else ids.TaskID.from_hex(found)

    @property
    def actor_id(self) -> ids.ActorID | None:
        """Deprecated: `get_actor_id`."""
        _deprecated("actor_id")
        found = self.get_actor_id()
        return None if found is None else ids.ActorID.from_hex(found)

    @property
    def current_placement_group_id(self) -> ids.PlacementGroupID | None:
        """Deprecated: `get_placement_group_id`."""
        _deprecated("placement_group_id")
        found = self.get_placement_group_id()
        return None if found is None else ids.PlacementGroupID.from_hex(found)

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks that this one submits go to its placement group."""
        return context.process.group[1]

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Deprecated: `get_accelerator_ids`."""
        _deprecated("accelerator_ids")
        return self.get_accelerator_ids()

    def get(self) -> dict[str, Any]:
        """Deprecated: ids and names as one dict."""
        _deprecated("")
        found: dict[str, Any] = {
            "job_id": ids.JobID.from_hex(self.get_job_id()),
            "node_id": ids.NodeID.from_hex(self.get_node_id()),
            "namespace": self.namespace,
        }
        if (task_id := self.get_task_id()) is not None:
            found["task_id"] = ids.TaskID.from_hex(task_id)
        if (actor_id := self.get_actor_id()) is not None:
            found["actor_id"] = ids.ActorID.from_hex(actor_id)
        return found


def _deprecated(name: str) -> None:
    method = f"get_{name}()" if name else "the methods get_...()"
    warnings.warn(f"use {method}", DeprecationWarning, stacklevel=3)


def get_runtime_context() -> RuntimeContext:
    """Facts about the running driver, task or actor."""
    return RuntimeContext()


def get_gpu_ids() -> list[int | str]:
    """The GPUs assigned to the running task or actor; in a driver those that are visible."""
    auto_init.runtime()
    return [int(i) if i.isdecimal() else i for i in _accelerator_ids("GPU")]


def _accelerator_ids(resource: str) -> list[str]:
    if context.process.is_executor:
        return list(context.process.assigned.get(resource, ()))
    vendors = (vendor for vendor in VENDORS.values() if vendor.resource == resource)
    return next(filter(None, (visible(vendor, os.environ) for vendor in vendors)), [])


def exit_actor() -> None:
    """End the current actor after the calls it was sent before; exit handlers run.

    The process ends even if user code catches the exception that this raises.

    Raises:
        TypeError: outside an actor.
    """
    spec = context.process.actor_spec
    if spec is None:
        raise TypeError("exit_actor called in a process that is not an actor")
    server = context.process.server
    runtime = auto_init.runtime()
    cause = ExitCause("exited", "exit_actor() was called")
    if server.ending is None:
        server.end(cause)
    else:
        runtime.tell(EndProcess(runtime.process, cause))
    if getattr(server, "is_async", False):
        raise AsyncioActorExit("exit_actor() was called")
    raise SystemExit(0)
