"""Tables for people: one function per table, with the column names of Ray's state API.

Theory of operation
-------------------
Rows are dicts of plain values, made on demand from the machine's parts and never kept. Ids are hex.
Times end in ``_ms`` and are milliseconds since the epoch, 0 if not yet.
`ract.scheduler.queries.tables` says which records become rows.
"""

from __future__ import annotations

from typing import Any

from ract.core.causes import text_of
from ract.core.events import IN_GET, IN_WAIT, RUNNING
from ract.core.ids import driver_task_id, task_id_bytes, worker_id_bytes
from ract.core.messages import ExitCause
from ract.scheduler.actors.actor_states import Actor
from ract.scheduler.books.chronicle import Event
from ract.scheduler.books.ledger import UNIT
from ract.scheduler.books.nodes import ORDERLY, Node
from ract.scheduler.books.processes import FAILURES, Job, Process
from ract.scheduler.cluster import Cluster
from ract.scheduler.objects.directory import Entry
from ract.scheduler.people.task_records import ENDED, WAITING, Task
from ract.scheduler.placement.group_records import Group

Row = dict[str, Any]


def worker_id(process: int) -> str:
    """Return the hex id under which people see a process number."""
    return worker_id_bytes(process).hex()


def amounts(quantities: dict[str, int]) -> dict[str, float]:
    """Return resources as people count them."""
    return {name: n / UNIT for name, n in quantities.items()}


def ray_nodes(cluster: Cluster) -> list[Row]:
    """``ract.nodes()``: the dead stay, without resources."""
    port = cluster.dashboard_address.rpartition(":")[2]
    metrics_port = int(port) if port.isdigit() else 0  # one page, with the head, for all nodes
    return [_ray_node(node, metrics_port) for node in cluster.nodes.table.values()]


def node(cluster: Cluster, node: Node) -> Row:
    """A row of ``list_nodes``."""
    return {
        "node_id": node.node_id.hex(),
        "node_ip": node.host,
        "is_head_node": node.is_head,
        "state": "ALIVE" if node.is_alive else "DEAD",
        "state_message": text_of(node.cause),
        "node_name": node.name or node.host,
        "resources_total": amounts(node.ledger.total) if node.is_alive else {},
        "labels": node.labels,
        "start_time_ms": ms(node.joined_at),
        "end_time_ms": ms(node.died_at),
    }


def actor(cluster: Cluster, actor: Actor) -> Row:
    """A row of ``list_actors``."""
    spec, body = actor.spec, actor.body
    return {
        "actor_id": spec.actor_id.hex(),
        "class_name": spec.class_name,
        "state": actor.state,
        "job_id": spec.job_id.hex(),
        "name": spec.name,
        "node_id": body.node.node_id.hex() if body else _died_on(actor),
        "pid": body.pid if body else actor.cause.pid if actor.cause else 0,
        "ray_namespace": spec.namespace,
        "serialized_runtime_env": spec.runtime_env or "{}",
        "required_resources": amounts(spec.running_demand),
        "death_cause": _cause(actor.cause) if actor.state == "DEAD" else None,
        "is_detached": spec.detached,
        "placement_group_id": actor.ask.group_id.hex() or None,
        "repr_name": actor.repr_name,
        "num_restarts": str(actor.restarts),
        "num_restarts_due_to_lineage_reconstruction": "0",
        "num_restarts_due_to_node_preemption": "0",
        "call_site": spec.call_site or None,
        "label_selector": spec.label_selector,
        "fallback_strategy": spec.strategy.get("fallback"),
        "worker_id": worker_id(body.executor) if body and body.executor else None,
        "start_time_ms": ms(actor.created_at),
        "end_time_ms": ms(actor.died_at),
    }


def _died_on(actor: Actor) -> str | None:
    return actor.cause.node_id.hex() or None if actor.cause is not None else None


def task(cluster: Cluster, task: Task) -> Row:
    """A row of ``list_tasks``."""
    facts = task.facts
    stages = list(task.stages)
    if has_started(task):
        stages.append((RUNNING, task.start))
    if task.state in (IN_GET, IN_WAIT):
        stages.append((task.state, facts.get("since", task.start)))
    if task.state in ENDED:
        stages.append((task.state, task.end))
    created = task.stages[0][1] if task.stages else max(0.0, task.start)
    log = f"worker-{task.executor}-{task.pid}"
    return {
        "task_id": task.task_id.hex(),
        "attempt_number": task.attempt,
        "name": task.name,
        "state": task.state,
        "job_id": task.job_id.hex(),
        "actor_id": task.actor_id.hex() or None,
        "type": task.type,
        "func_or_class_name": task.function,
        "parent_task_id": parent_of(task),
        "node_id": task.node_id.hex() or None,
        "worker_id": worker_id(task.executor) if task.executor else None,
        "worker_pid": task.pid or None,
        "error_type": task.error_type or None,
        "language": "PYTHON",
        "required_resources": amounts(facts.get("demand", {})),
        "runtime_env_info": (
            {"serialized_runtime_env": facts["runtime_env"]} if "runtime_env" in facts else None
        ),
        "placement_group_id": facts["group"].hex() if "group" in facts else None,
        "events": [{"state": state, "created_ms": ms(at)} for state, at in stages],
        "profiling_data": {},
        "creation_time_ms": ms(created),
        "start_time_ms": ms(task.start) if has_started(task) else None,
        "end_time_ms": ms(task.end) or None,
        "task_log_info": (
            {"stdout_file": f"{log}.out", "stderr_file": f"{log}.err"} if task.executor else None
        ),
        "error_message": task.error_message or None,
        "is_debugger_paused": False,
        "call_site": facts.get("site"),
        "label_selector": facts.get("labels", {}),
        "fallback_strategy": None,
    }


def has_started(task: Task) -> bool:
    """Whether it is known when the task began to run."""
    return task.state not in WAITING and task.start >= 0.0


def parent_of(task: Task) -> str:
    """The id of the task that made the call; the driver counts as one."""
    if not task.parent:
        return driver_task_id(task.job_id).hex()
    return task_id_bytes(task.parent, task.job_id, task.facts.get("parent_actor", b"")).hex()


def object(cluster: Cluster, held: tuple[Entry, int]) -> Row:
    """A row of ``list_objects``: an object and one of its holders, 0 if it has none."""
    entry, number = held
    process = cluster.processes.alive.get(number)
    node = cluster.nodes.get(process.node_id) if process else None
    kept = "CAPTURED_IN_OBJECT" if entry.object_id in cluster.holds.contained else "UNKNOWN"
    return {
        "object_id": entry.object_id.hex(),
        "object_size": entry.size,
        "task_status": "FINISHED" if entry.state == "READY" else entry.state,
        "reference_type": "LOCAL_REFERENCE" if number else kept,
        "call_site": entry.call_site or entry.task_name,
        "type": _KINDS.get(process.kind, "") if process else "",
        "pid": process.pid if process else 0,
        "ip": node.host if node else "",
        "attempt_number": 0,
        "locations": [node_id.hex() for node_id in entry.nodes],
    }


def worker(cluster: Cluster, process: Process) -> Row:
    """A row of ``list_workers``."""
    node = cluster.nodes.table.get(process.node_id)
    cause = process.cause
    return {
        "worker_id": worker_id(process.number),
        "is_alive": cause is None,
        "worker_type": "DRIVER" if process.kind == "driver" else "WORKER",
        "exit_type": None if cause is None else _EXITS.get(cause.kind, _INTENDED),
        "node_id": process.node_id.hex(),
        "ip": node.host if node else "",
        "pid": process.pid,
        "job_id": process.job_id.hex(),
        "exit_detail": _end_of(process),
        "worker_launch_time_ms": ms(process.joined_at),
        "worker_launched_time_ms": ms(process.joined_at),
        "start_time_ms": ms(process.joined_at),
        "end_time_ms": ms(process.exited_at),
        "debugger_port": None,
        "num_paused_threads": 0,
    }


def _end_of(process: Process) -> str | None:
    if process.cause is None and process.leaving is not None:
        return f"leaving ({text_of(process.leaving)}): it stays until what it owes is there"
    return text_of(process.cause) or None


def job(cluster: Cluster, job: Job) -> Row:
    """A row of ``list_jobs``."""
    status = "RUNNING"
    if job.cause is not None:
        status = "FAILED" if job.cause.kind in FAILURES else "SUCCEEDED"
    return {
        "job_id": job.job_id.hex(),
        "submission_id": job.metadata.get("job_submission_id"),
        "entrypoint": job.entrypoint,
        "type": "SUBMISSION" if "job_submission_id" in job.metadata else "DRIVER",
        "status": status,
        "message": text_of(job.cause),
        "error_type": None,
        "driver_info": {
            "id": job.job_id.hex(),
            "node_ip_address": _host(cluster, job.node_id),
            "pid": str(job.pid),
        },
        "namespace": job.namespace,
        "metadata": job.metadata,
        "runtime_env": job.runtime_env,
        "start_time": ms(job.started_at),
        "end_time": ms(job.finished_at),
        "driver_node_id": job.node_id.hex(),
        "driver_exit_code": job.cause.exit_code if job.cause else None,
    }


def placement_group(cluster: Cluster, group: Group) -> Row:
    """A row of ``list_placement_groups``."""
    ident = group.spec.group_id.hex()
    return {
        "placement_group_id": ident,
        "name": group.spec.name,
        "creator_job_id": group.spec.job_id.hex(),
        "state": group.state,
        "bundles": [
            {
                "bundle_id": f"{ident}_{bundle.index}",
                "unit_resources": amounts(bundle.demand),
                "node_id": bundle.node.node_id.hex() if bundle.node else None,
                "label_selector": bundle.ask.selectors[0],
            }
            for bundle in group.bundles
        ],
        "is_detached": group.spec.detached,
        "stats": _stats(group),
        "topology_strategy": None,
        "topology_assignments": None,
    }


def runtime_env(cluster: Cluster, found: tuple[str, int]) -> Row:
    """A row of ``list_runtime_envs``: an environment that is in use, and by how many processes."""
    env, count = found
    return {
        "runtime_env": env,
        "success": True,
        "creation_time_ms": None,
        "node_id": None,
        "ref_cnt": count,
        "error": None,
    }


def cluster_event(cluster: Cluster, event: Event) -> Row:
    """A row of ``list_cluster_events``."""
    return {
        "event_id": f"{event.number:x}",
        "severity": event.severity,
        "time": ms(event.at),
        "source_type": event.source,
        "event_type": event.kind,
        "message": event.message,
        "custom_fields": event.ids,
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


_INTENDED = "INTENDED_SYSTEM_EXIT"
_KINDS = {"driver": "DRIVER", "executor": "WORKER", "tool": "DRIVER"}
_EXITS = {
    "crashed": "SYSTEM_ERROR",
    "node_died": "SYSTEM_ERROR",
    "out_of_memory": "NODE_OUT_OF_MEMORY",
}


def _ray_node(node: Node, metrics_port: int) -> Row:
    cause = node.cause
    expected = cause is not None and cause.kind in ORDERLY
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
        "MetricsExportPort": metrics_port if node.is_head else 0,
        "NodeName": node.name or node.host,
        "RuntimeEnvAgentPort": 0,
        "DeathReason": list(reasons).index(None if cause is None else expected),
        "DeathReasonMessage": text_of(cause),
        "Resources": amounts(node.ledger.total) if node.is_alive else {},
        "Labels": node.labels,
        "Address": node.address,
        "SessionDir": node.session_dir,
        "pid": node.pid,
        "IsHead": node.is_head,
    }


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
        "stderr_tail": cause.stderr_tail,
        "time_ms": ms(cause.at),
    }


def _host(cluster: Cluster, node_id: bytes) -> str:
    node = cluster.nodes.table.get(node_id)
    return node.host if node else ""


def ms(at: float) -> int:
    """Seconds since the epoch as people get them."""
    return round(at * 1000)


def handle(actor: Actor) -> dict[str, Any]:
    """What a process needs to make a handle of an actor. Ids are bytes."""
    spec = actor.spec
    return {
        "actor_id": spec.actor_id,
        "class_name": spec.class_name,
        "methods": spec.methods,
        "max_task_retries": spec.max_task_retries,
        "max_pending_calls": spec.max_pending_calls,
        "owner": spec.owner,
        "name": spec.name,
        "namespace": spec.namespace,
        "enable_task_events": spec.enable_task_events,
    }
