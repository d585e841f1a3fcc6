"""Tables for people: one function per table, with the column names of Ray's state API.

Theory of operation
-------------------
Rows are dicts of plain values, made on demand from the machine's parts and never kept. Ids are hex.
Times end in ``_ms`` and are milliseconds since the epoch, 0 if not yet. `select` filters: all of
``[key, "=" or "!=", value]`` must hold; text is compared without regard to case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ract.core.messages import ExitCause
from ract.scheduler.group_records import Group
from ract.scheduler.ledger import UNIT
from ract.scheduler.nodes import Node
from ract.scheduler.tasks import ENDED

if TYPE_CHECKING:
    from ract.scheduler.machine import SchedulerMachine

Row = dict[str, Any]

ROWS_MAX = 10_000
WORKER_ID_BYTES = 28


def worker_id(process: int) -> str:
    """Return the hex id under which people see a process number."""
    return process.to_bytes(WORKER_ID_BYTES, "big").hex()


def amounts(quantities: dict[str, int]) -> dict[str, float]:
    """Return resources as people count them."""
    return {name: n / UNIT for name, n in quantities.items()}


def select(rows: Iterable[Row], args: dict[str, Any]) -> dict[str, Any]:
    """Filter and limit rows as a request's ``filters`` and ``limit`` say.

    Raises:
        ValueError: a filter is malformed, or the limit is out of range.
    """
    limit = int(args.get("limit", 100))
    if not 0 < limit <= ROWS_MAX:
        raise ValueError(f"limit {limit} is not in 1..{ROWS_MAX}")
    filters = [tuple(each) for each in args.get("filters") or []]
    for each in filters:
        if len(each) != 3 or each[1] not in ("=", "!="):
            raise ValueError(f"filter {each!r} is not (key, '=' or '!=', value)")
    found = [row for row in rows if all(_holds(row, *each) for each in filters)]
    return {"rows": found[:limit], "total": len(found)}


def ray_nodes(machine: SchedulerMachine) -> list[Row]:
    """``ract.nodes()``: the dead stay, without resources."""
    return [_ray_node(node) for node in machine.nodes.table.values()]


def nodes(machine: SchedulerMachine) -> Iterator[Row]:
    """``list_nodes``."""
    for node in machine.nodes.table.values():
        yield {
            "node_id": node.node_id.hex(),
            "node_ip": node.host,
            "is_head_node": node.is_head,
            "state": "ALIVE" if node.is_alive else "DEAD",
            "state_message": _text(node.cause),
            "node_name": node.name or node.host,
            "resources_total": amounts(node.ledger.total) if node.is_alive else {},
            "labels": node.labels,
            "start_time_ms": _ms(node.joined_at),
            "end_time_ms": _ms(node.died_at),
        }


def actors(machine: SchedulerMachine) -> Iterator[Row]:
    """``list_actors``."""
    for actor_id, actor in machine.actors.table.items():
        spec, body = actor.spec, actor.body
        yield {
            "actor_id": actor_id.hex(),
            "class_name": spec.class_name,
            "state": actor.state,
            "job_id": spec.job_id.hex(),
            "name": spec.name,
            "node_id": body.node.node_id.hex() if body else None,
            "pid": body.pid if body else 0,
            "ray_namespace": spec.namespace,
            "serialized_runtime_env": spec.runtime_env or "{}",
            "required_resources": amounts(spec.running_demand),
            "death_cause": _cause(actor.cause) if actor.state == "DEAD" else None,
            "is_detached": spec.detached,
            "placement_group_id": actor.ask.group_id.hex() or None,
            "repr_name": "",
            "num_restarts": str(actor.restarts),
            "num_restarts_due_to_lineage_reconstruction": "0",
            "call_site": None,
            "label_selector": spec.label_selector,
            "worker_id": worker_id(body.executor) if body and body.executor else None,
            "start_time_ms": _ms(actor.created_at),
            "end_time_ms": _ms(actor.died_at),
        }


def tasks(machine: SchedulerMachine) -> Iterator[Row]:
    """``list_tasks``."""
    for task in machine.tasks.all():
        ended = [(task.state, task.end)] if task.state in ENDED else []
        yield {
            "task_id": task.task_id.hex(),
            "attempt_number": task.attempt,
            "name": task.name,
            "state": task.state,
            "job_id": task.job_id.hex(),
            "actor_id": task.actor_id.hex() or None,
            "type": task.type,
            "func_or_class_name": task.function,
            "parent_task_id": f"{task.parent:016x}" if task.parent else "",
            "node_id": task.node_id.hex(),
            "worker_id": worker_id(task.executor),
            "worker_pid": task.pid,
            "error_type": task.error_type or None,
            "error_message": task.error_message or None,
            "language": "PYTHON",
            "required_resources": {},
            "runtime_env_info": None,
            "placement_group_id": None,
            "events": [
                {"state": state, "created_ms": _ms(at)}
                for state, at in [("RUNNING", task.start), *ended]
            ],
            "profiling_data": {},
            "creation_time_ms": _ms(task.start),
            "start_time_ms": _ms(task.start),
            "end_time_ms": _ms(task.end) or None,
            "task_log_info": None,
            "is_debugger_paused": False,
            "call_site": None,
            "label_selector": {},
        }


def objects(machine: SchedulerMachine) -> Iterator[Row]:
    """``list_objects``: one row per object and holder."""
    for object_id, entry in machine.objects.table.items():
        for number in machine.holds.by_id.get(object_id, {0: 0}):
            process = machine.processes.alive.get(number)
            node = machine.nodes.get(process.node_id) if process else None
            kinds = {"driver": "DRIVER", "executor": "WORKER", "tool": "DRIVER"}
            kept = "CAPTURED_IN_OBJECT" if object_id in machine.holds.contained else "UNKNOWN"
            yield {
                "object_id": object_id.hex(),
                "object_size": entry.size,
                "task_status": "FINISHED" if entry.state == "READY" else entry.state,
                "reference_type": "LOCAL_REFERENCE" if number else kept,
                "call_site": entry.task_name,
                "type": kinds.get(process.kind, "") if process else "",
                "pid": process.pid if process else 0,
                "ip": node.host if node else "",
                "attempt_number": 0,
                "locations": [node_id.hex() for node_id in entry.nodes],
            }


def workers(machine: SchedulerMachine) -> Iterator[Row]:
    """``list_workers``."""
    for process in (*machine.processes.alive.values(), *machine.processes.dead):
        node = machine.nodes.table.get(process.node_id)
        cause = process.cause
        yield {
            "worker_id": worker_id(process.number),
            "is_alive": cause is None,
            "worker_type": "DRIVER" if process.kind == "driver" else "WORKER",
            "exit_type": None if cause is None else _EXITS.get(cause.kind, _INTENDED),
            "node_id": process.node_id.hex(),
            "ip": node.host if node else "",
            "pid": process.pid,
            "job_id": process.job_id.hex(),
            "exit_detail": _text(cause) or None,
            "worker_launch_time_ms": _ms(process.joined_at),
            "worker_launched_time_ms": _ms(process.joined_at),
            "start_time_ms": _ms(process.joined_at),
            "end_time_ms": _ms(process.exited_at),
            "debugger_port": None,
            "num_paused_threads": 0,
        }


def jobs(machine: SchedulerMachine) -> Iterator[Row]:
    """``list_jobs``."""
    for job in machine.processes.jobs.values():
        status = "RUNNING"
        if job.cause is not None:
            status = "FAILED" if job.cause.kind in ("crashed", "node_died") else "SUCCEEDED"
        yield {
            "job_id": job.job_id.hex(),
            "submission_id": job.metadata.get("job_submission_id"),
            "entrypoint": job.entrypoint,
            "type": "SUBMISSION" if "job_submission_id" in job.metadata else "DRIVER",
            "status": status,
            "message": _text(job.cause),
            "error_type": None,
            "driver_info": {
                "id": job.job_id.hex(),
                "node_ip_address": _host(machine, job.node_id),
                "pid": str(job.pid),
            },
            "namespace": job.namespace,
            "metadata": job.metadata,
            "runtime_env": job.runtime_env,
            "start_time": _ms(job.started_at),
            "end_time": _ms(job.finished_at),
            "driver_node_id": job.node_id.hex(),
            "driver_exit_code": job.cause.exit_code if job.cause else None,
        }


def placement_groups(machine: SchedulerMachine) -> Iterator[Row]:
    """``list_placement_groups``."""
    for group_id, group in machine.groups.table.items():
        yield {
            "placement_group_id": group_id.hex(),
            "name": group.spec.name,
            "creator_job_id": group.spec.job_id.hex(),
            "state": group.state,
            "bundles": [
                {
                    "bundle_id": f"{group_id.hex()}_{bundle.index}",
                    "unit_resources": amounts(bundle.demand),
                    "node_id": bundle.node.node_id.hex() if bundle.node else None,
                    "label_selector": bundle.ask.selectors[0],
                }
                for bundle in group.bundles
            ],
            "is_detached": group.spec.detached,
            "stats": _stats(group),
        }


def group(group: Group) -> Row:
    """One group as in ``placement_group_table``."""
    return {
        "placement_group_id": group.spec.group_id.hex(),
        "name": group.spec.name,
        "bundles": {bundle.index: amounts(bundle.demand) for bundle in group.bundles},
        "bundles_to_node_id": {
            bundle.index: bundle.node.node_id.hex() if bundle.node else ""
            for bundle in group.bundles
        },
        "strategy": group.spec.strategy,
        "state": group.state,
        "stats": _stats(group),
    }


def _stats(group: Group) -> Row:
    waited = max(0.0, group.placed_at - group.created_at) * 1000
    states = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}
    return {
        "end_to_end_creation_latency_ms": waited,
        "scheduling_latency_ms": waited,
        "scheduling_attempt": group.attempts,
        "highest_retry_delay_ms": 0.0,
        "scheduling_state": states.get(group.state, "NO_RESOURCES" if group.attempts else "QUEUED"),
    }


TABLES = {
    "placement_groups": placement_groups,
    "actors": actors,
    "tasks": tasks,
    "objects": objects,
    "workers": workers,
    "jobs": jobs,
    "list_nodes": nodes,
}

_INTENDED = "INTENDED_SYSTEM_EXIT"
_EXITS = {
    "crashed": "SYSTEM_ERROR",
    "node_died": "SYSTEM_ERROR",
    "out_of_memory": "NODE_OUT_OF_MEMORY",
}


def _ray_node(node: Node) -> Row:
    cause = node.cause
    expected = cause is not None and cause.kind == "shutdown"
    port = node.address.rpartition(":")[2]
    reasons = {None: "NONE", True: "EXPECTED_TERMINATION", False: "UNEXPECTED_TERMINATION"}
    return {
        "NodeID": node.node_id.hex(),
        "Alive": node.is_alive,
        "alive": node.is_alive,
        "NodeManagerAddress": node.host,
        "NodeManagerHostname": node.hostname,
        "NodeManagerPort": int(port) if port.isdigit() else 0,
        "ObjectManagerPort": 0,
        "ObjectStoreSocketName": node.session_dir + "/node.sock",
        "RayletSocketName": node.session_dir + "/node.sock",
        "MetricsExportPort": 0,
        "NodeName": node.name or node.host,
        "RuntimeEnvAgentPort": 0,
        "DeathReason": list(reasons).index(None if cause is None else expected),
        "DeathReasonMessage": _text(cause),
        "Resources": amounts(node.ledger.total) if node.is_alive else {},
        "Labels": node.labels,
        "Address": node.address,
        "SessionDir": node.session_dir,
        "pid": node.pid,
        "IsHead": node.is_head,
    }


def _holds(row: Row, key: str, sign: str, value: Any) -> bool:
    if key not in row:
        return sign == "!="
    have = row[key]
    if isinstance(have, str) or isinstance(value, str):
        equal = str(have).lower() == str(value).lower()
    else:
        equal = have == value
    return equal == (sign == "=")


def _cause(cause: ExitCause | None) -> Row | None:
    if cause is None:
        return None
    return {
        "kind": cause.kind,
        "detail": cause.detail,
        "exit_code": cause.exit_code,
        "signal": cause.signal,
        "node_id": cause.node_id.hex(),
        "pid": cause.pid,
    }


def _text(cause: ExitCause | None) -> str:
    if cause is None:
        return ""
    return f"{cause.kind}: {cause.detail}" if cause.detail else cause.kind


def _host(machine: SchedulerMachine, node_id: bytes) -> str:
    node = machine.nodes.table.get(node_id)
    return node.host if node else ""


def _hex(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _ms(at: float) -> int:
    return round(at * 1000)
