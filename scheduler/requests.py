"""What processes ask of the scheduler with a `Request`: one function per ``op``.

Theory of operation
-------------------
A request is a question, which `ract.scheduler.queries.queries` answers, or asks for something to be
done: those are here. A function takes the `Cluster`, the asking process and the arguments, and
returns plain values. It raises `Refusal` (or, for malformed arguments, what Python raises) to
answer with an error, whose name is one of `ract.core.errors`. Whatever is asked, there is one
`Reply`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ract.core import wire
from ract.core.messages import ActorSpec, EndNode, ExitCause, GroupSpec, Reply, Request
from ract.scheduler.capacity import groups
from ract.scheduler.cluster import Cluster
from ract.scheduler.placement.ask import Ask
from ract.scheduler.queries import queries, rows
from ract.scheduler.queries.queries import Args, Op, Refusal, bytes_of, hex_of, space_of


def answer(cluster: Cluster, request: Request) -> None:
    """Send the one reply to a request."""
    value: Any = None
    error = ""
    op = OPS.get(request.op)
    try:
        if op is None:
            raise Refusal("ValueError", f"the scheduler knows no request {request.op!r}")
        value = op(cluster, request.process, request.args)
    except Refusal as refusal:
        value, error = str(refusal), refusal.error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as fault:
        value, error = f"request {request.op!r}: {fault}", "ValueError"
    reply = Reply(request.process, request.request, value, error)
    cluster.processes.tell(request.process, reply)


def create_actor(cluster: Cluster, process: int, args: Args) -> Any:
    """``spec``: encoded `ActorSpec`; ``get_if_exists``. Create it unless its name is taken."""
    spec = wire.decode(args["spec"])
    if not isinstance(spec, ActorSpec):
        raise ValueError("spec is not an ActorSpec")
    spec = with_namespace(cluster, process, spec)
    taken = cluster.actors.named(spec.namespace, spec.name) if spec.name else None
    if taken is not None and taken.spec.actor_id != spec.actor_id:
        if args.get("get_if_exists"):
            # In this step, so that it is not out of scope before the asker holds it. A name is free
            # as soon as the end of its actor is decided: so this one is not about to end.
            cluster.holds.change(taken.spec.actor_id, process, 1)
            return {"created": False, **rows.handle(taken)}
        raise Refusal(
            "ActorAlreadyExistsError",
            f"The name {spec.name!r} (namespace={spec.namespace!r}) is already taken. "
            "Use another name, or get_if_exists=True to get the actor that has it.",
        )
    cluster.actors.create(spec)
    return {"created": True, **rows.handle(cluster.actors.table[spec.actor_id])}


def with_namespace(cluster: Cluster, process: int, spec: ActorSpec) -> ActorSpec:
    """Return the spec in the creator's namespace, if it names none."""
    if spec.namespace:
        return spec
    return replace(spec, namespace=cluster.processes.namespace_of(process))


def create_group(cluster: Cluster, process: int, args: Args) -> Any:
    """``spec``: encoded `GroupSpec`, with a name. Reserve it unless its name is taken."""
    spec = wire.decode(args["spec"])
    if not isinstance(spec, GroupSpec):
        raise ValueError("spec is not a GroupSpec")
    spec = groups.with_namespace(spec, cluster.processes.namespace_of(process))
    taken = cluster.groups.named(spec.namespace, spec.name) if spec.name else None
    if taken is not None and taken.spec.group_id != spec.group_id:
        raise Refusal(
            "ValueError",
            f"The placement group name {spec.name!r} (namespace={spec.namespace!r}) is already "
            "taken. Use another name, or get_placement_group() to get the one that has it.",
        )
    cluster.groups.create(spec)
    cluster.groups.watch(process, spec.group_id)
    return True


def kill_node(cluster: Cluster, process: int, args: Args) -> Any:
    """``node_id`` (bytes or hex): shut the node down. False if it is not alive."""
    node_id = args["node_id"]
    node_id = bytes.fromhex(node_id) if isinstance(node_id, str) else node_id
    if cluster.nodes.get(node_id) is None:
        return False
    cluster.turn.send(node_id, EndNode(ExitCause("shutdown", "kill_node was requested")))
    return True


def drain_node(cluster: Cluster, process: int, args: Args) -> Any:
    """``node_id`` (bytes or hex), ``reason``, ``deadline_s`` or None: have the node end at last."""
    node_id = args["node_id"]
    node_id = bytes.fromhex(node_id) if isinstance(node_id, str) else node_id
    node = cluster.nodes.get(node_id)
    if node is None:
        raise Refusal("ValueError", f"there is no node {hex_of(node_id)} (any more)")
    if node.is_head:
        raise Refusal(
            "ValueError",
            f"node {node.short} has the scheduler and cannot be drained; stop the cluster",
        )
    deadline_s = args.get("deadline_s")
    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s must be more than 0 seconds, got {deadline_s}")
    cluster.drains.begin(node, str(args.get("reason") or "requested"), deadline_s)
    return {"left": cluster.drains.what_is_left(node)}


def request_resources(cluster: Cluster, process: int, args: Args) -> Any:
    """``bundles``, ``selectors``: what there should be room for; replaces earlier requests."""
    cluster.scaling.requested = [
        Ask.of(bundle, {}, selector)
        for bundle, selector in zip(args["bundles"], args["selectors"], strict=True)
    ]
    return cluster.scaling.wanted()


def kv_put(cluster: Cluster, process: int, args: Args) -> Any:
    """``key``, ``value``, ``overwrite`` (True), ``namespace``: whether the key is new."""
    overwrite = bool(args.get("overwrite", True))
    return cluster.kv.put(space_of(args), bytes_of(args["key"]), bytes_of(args["value"]), overwrite)


def kv_del(cluster: Cluster, process: int, args: Args) -> Any:
    """``key``, ``namespace``, ``by_prefix``: how many were removed."""
    by_prefix = bool(args.get("by_prefix"))
    return cluster.kv.delete(space_of(args), bytes_of(args["key"]), by_prefix)


OPS: dict[str, Op] = {
    **queries.OPS,
    "create_actor": create_actor,
    "create_group": create_group,
    "kill_node": kill_node,
    "drain_node": drain_node,
    "request_resources": request_resources,
    "kv_put": kv_put,
    "kv_del": kv_del,
}
