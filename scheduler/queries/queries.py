"""Answers to `Request`: one function per ``op``, in the table `OPS`.

Theory of operation
-------------------
A function takes the machine, the asking process and the arguments, and returns plain values. It
raises `Refusal` (or, for malformed arguments, what Python raises) to answer with an error, whose
name is one of `ract.core.errors`. Whatever is asked, there is one `Reply`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ract.core import wire
from ract.core.messages import ActorSpec, EndNode, ExitCause, GroupSpec, Reply, Request
from ract.core.resources import UNIT, describe
from ract.scheduler.actors.actor_states import Actor
from ract.scheduler.books.nodes import Node
from ract.scheduler.capacity import groups
from ract.scheduler.placement.ask import Ask
from ract.scheduler.placement.group_records import Group
from ract.scheduler.queries import rows, summaries, system_metrics, tables
from ract.scheduler.queries.explain import explain

if TYPE_CHECKING:
    from ract.scheduler.machine import SchedulerMachine

STORE_MEMORY = "object_store_memory"

ALERTS_TOLD = 10
"""So many of the newest are part of ``status``."""

Args = dict[str, Any]

STORE_MEMORY = "object_store_memory"
Op = Callable[["SchedulerMachine", int, Args], Any]


class Refusal(Exception):
    """The answer is an error: the name of its class in `ract.core.errors`, and what to say."""

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error = error


def answer(machine: SchedulerMachine, request: Request) -> None:
    """Send the one reply to a request."""
    value: Any = None
    error = ""
    op = OPS.get(request.op)
    try:
        if op is None:
            raise Refusal("ValueError", f"the scheduler knows no request {request.op!r}")
        value = op(machine, request.process, request.args)
    except Refusal as refusal:
        value, error = str(refusal), refusal.error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as fault:
        value, error = f"request {request.op!r}: {fault}", "ValueError"
    reply = Reply(request.process, request.request, value, error)
    machine.processes.tell(request.process, reply)


# --------------------------------------------------------------------------- actors and names


def create_actor(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``spec``: encoded `ActorSpec`; ``get_if_exists``. Create it unless its name is taken."""
    spec = wire.decode(args["spec"])
    if not isinstance(spec, ActorSpec):
        raise ValueError("spec is not an ActorSpec")
    spec = with_namespace(machine, process, spec)
    taken = machine.actors.named(spec.namespace, spec.name) if spec.name else None
    if taken is not None and taken.spec.actor_id != spec.actor_id:
        if args.get("get_if_exists"):
            return {"created": False, **_handle(taken)}
        raise Refusal(
            "ActorAlreadyExistsError",
            f"The name {spec.name!r} (namespace={spec.namespace!r}) is already taken. "
            "Use another name, or get_if_exists=True to get the actor that has it.",
        )
    machine.actors.create(spec)
    return {"created": True, **_handle(machine.actors.table[spec.actor_id])}


def get_actor(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``name``, ``namespace`` ("" for the asker's): what a handle needs."""
    namespace = args.get("namespace") or machine.processes.namespace_of(process)
    actor = machine.actors.named(namespace, args["name"])
    if actor is None:
        raise Refusal(
            "ValueError",
            f"Failed to look up actor with name {args['name']!r} in namespace {namespace!r}. "
            "It does not exist (any more), is in another namespace, or is not named.",
        )
    return _handle(actor)


def list_named_actors(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``all_namespaces``, ``namespace``: names that `get_actor` would find."""
    mine = args.get("namespace") or machine.processes.namespace_of(process)
    return [
        {"name": name, "namespace": namespace}
        for namespace, name in sorted(machine.actors.names)
        if args.get("all_namespaces") or namespace == mine
    ]


def with_namespace(machine: SchedulerMachine, process: int, spec: ActorSpec) -> ActorSpec:
    """Return the spec in the creator's namespace, if it names none."""
    if spec.namespace:
        return spec
    return replace(spec, namespace=machine.processes.namespace_of(process))


def _handle(actor: Actor) -> dict[str, Any]:
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


# --------------------------------------------------------------------------- placement groups


def create_group(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``spec``: encoded `GroupSpec`, with a name. Reserve it unless its name is taken."""
    spec = wire.decode(args["spec"])
    if not isinstance(spec, GroupSpec):
        raise ValueError("spec is not a GroupSpec")
    spec = groups.with_namespace(spec, machine.processes.namespace_of(process))
    taken = machine.groups.named(spec.namespace, spec.name) if spec.name else None
    if taken is not None and taken.spec.group_id != spec.group_id:
        raise Refusal(
            "ValueError",
            f"The placement group name {spec.name!r} (namespace={spec.namespace!r}) is already "
            "taken. Use another name, or get_placement_group() to get the one that has it.",
        )
    machine.groups.create(spec)
    machine.groups.watch(process, spec.group_id)
    return True


def get_group(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``name`` in the asker's namespace, or ``id``: what a handle needs."""
    if "id" in args:
        group = machine.groups.table.get(args["id"])
    else:
        group = machine.groups.named(machine.processes.namespace_of(process), args["name"])
    if group is None:
        what = repr(args["name"]) if "name" in args else args["id"].hex()
        raise Refusal("ValueError", f"Failed to look up placement group {what}: there is none.")
    bundles = [rows.amounts(bundle.demand) for bundle in group.bundles]
    return {"group_id": group.spec.group_id, "bundles": bundles, "state": group.state}


def group_table(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``id`` or nothing: as ``placement_group_table`` shows them, by id (hex)."""
    table = machine.groups.table
    if "id" not in args:
        return {group_id.hex(): rows.group(group) for group_id, group in table.items()}
    found = table.get(args["id"])
    return rows.group(found) if found is not None else {}


# --------------------------------------------------------------------------- cluster


def ray_nodes(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """All nodes with the keys of ``ray.nodes()``."""
    return rows.ray_nodes(machine)


def cluster_resources(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """Totals of the living nodes."""
    return _summed([node.ledger.total for node in machine.nodes.alive])


def available_resources(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """What is free now; resources with nothing free are left out, as in Ray.

    What placement groups have reserved is not in it but under names of its own:
    ``CPU_group_<id>`` and, per bundle, ``CPU_group_<index>_<id>``. What objects take is no longer
    free of ``object_store_memory``, spilled or not.
    """
    reserved = [_reserved(group) for group in machine.groups.table.values()]
    free = _summed([*(node.ledger.free for node in machine.nodes.alive), *reserved])
    if STORE_MEMORY in free:
        free[STORE_MEMORY] -= sum(machine.objects.bytes_on.values())
    return {name: n for name, n in free.items() if n > 0}


def store(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """What each node last said of itself, and the bytes the directory knows on it."""
    known: dict[bytes, int] = {}
    for entry in machine.objects.table.values():
        for node_id in entry.nodes:
            known[node_id] = known.get(node_id, 0) + entry.size
    return {
        node.node_id.hex(): {
            **node.stats,
            "object_bytes": known.get(node.node_id, 0),
            "objects": len(machine.objects.by_node.get(node.node_id, {})),
        }
        for node in machine.nodes.alive
    }


def status(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """Nodes, use of resources, what waits, actors by state."""
    demands: dict[str, dict[str, Any]] = {}
    for want in machine.leases.wants.values():
        if want.need:
            _add_demand(demands, want.ask.key, want.ask.demand, want.need, want.names)
    for line in machine.actors.waiting.values():
        names = sorted({actor.spec.class_name for actor in line.actors.values()})
        ask = next(iter(line.actors.values())).ask
        _add_demand(demands, ask.key, ask.demand, len(line.actors), names)
    for queue, waiting in machine.groups.waiting.items():
        group = machine.groups.table[next(iter(waiting))]
        _add_demand(demands, queue, group.whole.demand, len(waiting), ["placement group"])
    states: dict[str, int] = {}
    for actor in machine.actors.table.values():
        states[actor.state] = states.get(actor.state, 0) + 1
    total = cluster_resources(machine, process, args)
    free = _summed([node.ledger.free for node in machine.nodes.alive])
    return {
        "cluster_id": machine.cluster_id.hex(),
        "nodes": [rows.node(machine, node) for node in machine.nodes.table.values()],
        "resources": {name: {"used": n - free[name], "total": n} for name, n in total.items()},
        "pending_demands": list(demands.values()),
        "requested": [rows.amounts(ask.demand) for ask in machine.scaling.requested],
        "draining": {
            drain.node.node_id.hex(): machine.drains.what_is_left(drain.node)
            for drain in machine.drains.table.values()
        },
        "actors": states,
        "leases": len(machine.leases.table),
        "objects": len(machine.objects.table),
        "jobs": sum(job.is_running for job in machine.processes.jobs.values()),
        "dropped_messages": dict(machine.turn.dropped),
        "usage": {node.node_id.hex(): _used(node) for node in machine.nodes.alive},
        "alerts": [
            rows.cluster_event(machine, event)
            for event in list(machine.turn.chronicle.alerts)[-ALERTS_TOLD:]
        ],
        "dashboard_address": machine.dashboard_address,
    }


def metrics(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """What ``/metrics`` shows, in the form of `ract.core.metrics`."""
    return system_metrics.collect(machine)


def kill_node(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``node_id`` (bytes or hex): shut the node down. False if it is not alive."""
    node_id = args["node_id"]
    node_id = bytes.fromhex(node_id) if isinstance(node_id, str) else node_id
    if machine.nodes.get(node_id) is None:
        return False
    machine.turn.send(node_id, EndNode(ExitCause("shutdown", "kill_node was requested")))
    return True


def drain_node(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``node_id`` (bytes or hex), ``reason``, ``deadline_s`` or None: have the node end at last."""
    node_id = args["node_id"]
    node_id = bytes.fromhex(node_id) if isinstance(node_id, str) else node_id
    node = machine.nodes.get(node_id)
    if node is None:
        raise Refusal("ValueError", f"there is no node {_hex(node_id)} (any more)")
    if node.is_head:
        raise Refusal(
            "ValueError",
            f"node {node.short} has the scheduler and cannot be drained; stop the cluster",
        )
    deadline_s = args.get("deadline_s")
    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s must be more than 0 seconds, got {deadline_s}")
    machine.drains.begin(node, str(args.get("reason") or "requested"), deadline_s)
    return {"left": machine.drains.what_is_left(node)}


def request_resources(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``bundles``, ``selectors``: what there should be room for; replaces earlier requests."""
    machine.scaling.requested = [
        Ask.of(bundle, {}, selector)
        for bundle, selector in zip(args["bundles"], args["selectors"], strict=True)
    ]
    return machine.scaling.wanted()


def scaling(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """What waits and was asked for, the nodes, and those that could go."""
    return machine.scaling.view()


def drain_left(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``node_id`` (hex): what a node that is drained still has; empty if it is gone."""
    node = machine.nodes.get(bytes.fromhex(args["node_id"]))
    return machine.drains.what_is_left(node) if node is not None else []


# --------------------------------------------------------------------------- tables and the rest


def job(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``job_id``: what an executor must know of a job it works for; its driver may have ended."""
    found = machine.processes.jobs.get(args["job_id"])
    if found is None:
        raise Refusal("ValueError", f"there is no job {_hex(args['job_id'])} (any more)")
    return {
        "metadata": found.metadata,
        "namespace": found.namespace,
        "runtime_env": found.runtime_env,
    }


def reference_counts(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """Holds of the asker (local) and of others (submitted), per object that the asker holds."""
    found = {}
    for id_ in machine.holds.by_process.get(process, {}):
        counts = machine.holds.by_id[id_]
        mine = counts[process]
        others = sum(counts.values()) - mine + machine.holds.contained.get(id_, 0)
        found[id_.hex()] = {"local": mine, "submitted": others}
    return found


def object_exists(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """Whether the directory has a value for ``id``."""
    entry = machine.objects.table.get(args["id"])
    return entry is not None and entry.state == "READY"


def kv_put(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``key``, ``value``, ``overwrite`` (True), ``namespace``: whether the key is new."""
    overwrite = bool(args.get("overwrite", True))
    return machine.kv.put(_space(args), _bytes(args["key"]), _bytes(args["value"]), overwrite)


def kv_get(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``key``, ``namespace``: the value or None."""
    return machine.kv.get(_space(args), _bytes(args["key"]))


def kv_exists(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``key``, ``namespace``: whether there is a value."""
    return machine.kv.get(_space(args), _bytes(args["key"])) is not None


def kv_del(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``key``, ``namespace``, ``by_prefix``: how many were removed."""
    by_prefix = bool(args.get("by_prefix"))
    return machine.kv.delete(_space(args), _bytes(args["key"]), by_prefix)


def kv_list(machine: SchedulerMachine, process: int, args: Args) -> Any:
    """``prefix``, ``namespace``: keys, sorted."""
    return machine.kv.keys(_space(args), _bytes(args.get("prefix", b"")))


def _table(name: str) -> Op:
    def op(machine: SchedulerMachine, process: int, args: Args) -> Any:
        return tables.select(machine, tables.TABLES[name], args)

    return op


OPS: dict[str, Op] = {
    "create_actor": create_actor,
    "get_actor": get_actor,
    "list_named_actors": list_named_actors,
    "create_group": create_group,
    "get_group": get_group,
    "group_table": group_table,
    "nodes": ray_nodes,
    "cluster_resources": cluster_resources,
    "available_resources": available_resources,
    "store": store,
    "status": status,
    "metrics": metrics,
    "kill_node": kill_node,
    "drain_node": drain_node,
    "drain_left": drain_left,
    "request_resources": request_resources,
    "scaling": scaling,
    "job": job,
    "reference_counts": reference_counts,
    "object_exists": object_exists,
    "explain": explain,
    **summaries.OPS,
    "kv_put": kv_put,
    "kv_get": kv_get,
    "kv_exists": kv_exists,
    "kv_del": kv_del,
    "kv_list": kv_list,
    **{name: _table(name) for name in tables.TABLES},
}


def _summed(parts: list[dict[str, int]]) -> dict[str, float]:
    summed: dict[str, int] = {}
    for part in parts:
        for name, n in part.items():
            summed[name] = summed.get(name, 0) + n
    return rows.amounts(summed)


def _used(node: Node) -> dict[str, dict[str, float]]:
    total, free = rows.amounts(node.ledger.total), rows.amounts(node.ledger.free)
    return {name: {"used": n - free[name], "total": n} for name, n in total.items()}


def _reserved(group: Group) -> dict[str, int]:
    names: dict[str, int] = {}
    ident = group.spec.group_id.hex()
    for bundle in group.bundles:
        if bundle.ledger is not None:  # Ray's names for "anything of this bundle"
            names[f"bundle_group_{bundle.index}_{ident}"] = 1000 * UNIT
            names[f"bundle_group_{ident}"] = names.get(f"bundle_group_{ident}", 0) + 1000 * UNIT
        for name, n in (bundle.ledger.free if bundle.ledger is not None else {}).items():
            names[f"{name}_group_{bundle.index}_{ident}"] = n
            names[f"{name}_group_{ident}"] = names.get(f"{name}_group_{ident}", 0) + n
    return names


def _add_demand(
    demands: dict[str, dict[str, Any]], key: str, demand: dict[str, int], n: int, names: list[str]
) -> None:
    empty = {"demand": rows.amounts(demand), "text": describe(demand), "count": 0, "names": []}
    entry = demands.setdefault(key, empty)
    entry["count"] += n
    entry["names"] = sorted({*entry["names"], *names})


def _space(args: Args) -> bytes:
    return _bytes(args.get("namespace") or b"")


def _hex(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
