"""Why something is pending: ``ract.explain`` in words and in data.

Theory of operation
-------------------
An explanation is ``{"id", "kind", "state", "text", "reasons": [...]}``. Each reason is a dict with
a ``what``: a node (or bundle) that was looked at, what it lacks and who holds that; what is ahead
in the queue; who has yet to bring a value; why something ended. ``text`` says the same in plain
language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ract.core import events
from ract.core.causes import text_of
from ract.core.ids import TaskID, process_of
from ract.core.resources import describe
from ract.scheduler.actors.actor_states import Actor
from ract.scheduler.books.ledger import Allocation, Ledger
from ract.scheduler.books.nodes import Node
from ract.scheduler.cluster import Cluster
from ract.scheduler.leases.lease_records import Want
from ract.scheduler.objects.directory import Entry
from ract.scheduler.people.task_records import Task
from ract.scheduler.placement.ask import Ask, lacks, short_of
from ract.scheduler.placement.bundles import search
from ract.scheduler.placement.group_records import Group

Explanation = dict[str, Any]
Reason = dict[str, Any]

HOLDERS_MAX = 5
"""So many holders of what is lacking are told of in the text."""

BUNDLES_MAX = 8
"""So many bundles of a group are told of."""


def explain(cluster: Cluster, process: int, args: dict[str, Any]) -> Explanation:
    """Explain what has an ``id``, or a lease shape of ``process`` by ``shape_key``."""
    if "shape_key" in args:
        key = int(args["shape_key"])
        want = cluster.leases.wants.get((process, key))
        return (
            _made(str(key), "lease", "NONE", "nothing of this shape is wanted", [])
            if (want is None)
            else _want(cluster, want)
        )
    id_ = args.get("id", b"")
    try:
        id_ = bytes.fromhex(id_) if isinstance(id_, str) else id_
    except ValueError:
        raise ValueError(f"{id_!r} is not an id in hex digits") from None
    if id_ in cluster.actors.table:
        return _actor(cluster, cluster.actors.table[id_])
    if id_ in cluster.groups.table:
        return _group(cluster, cluster.groups.table[id_])
    if id_ in cluster.objects.table:
        return _object(cluster, cluster.objects.table[id_])
    if id_ in cluster.nodes.table:
        return _node(cluster, cluster.nodes.table[id_])
    # What a call makes is local to its process until it is handed on; the call may be known.
    attempts = [task for task in cluster.tasks.all() if task.task_id == id_[: TaskID.SIZE]]
    if attempts:
        return _task(cluster, attempts)
    text = (
        "The scheduler knows no such object, task, actor, placement group or node: it is local to "
        "a process (tasks are told of when they have waited or run for a second), or gone."
    )
    return _made(id_.hex(), "unknown", "UNKNOWN", text, [])


def _want(cluster: Cluster, want: Want) -> Explanation:
    ident = str(want.key[1])
    who = ", ".join(want.names) or "tasks"
    if not want.need:
        text = (
            f"{who}: {want.held} leases held and {want.starting} starting; nothing waits "
            "for resources."
        )
        state = "STARTING" if want.starting else "GRANTED"
        return _made(ident, "lease", state, text, [])
    reasons = _lookup(cluster, want.ask)
    ahead = cluster.leases.queues[want.ask.key].ahead_of(want.key, cluster.leases.of_job)
    if ahead:
        text = f"{ahead} other processes are ahead in the queue of this demand"
        reasons.append({"what": "queue", "ahead": ahead, "text": text})
    count = "1 more executor" if want.need == 1 else f"{want.need} more executors"
    lead = f"{who} waits for {count} with {describe(want.ask.demand)}"
    return _pending(cluster, ident, "lease", want.ask, lead, reasons)


def _actor(cluster: Cluster, actor: Actor) -> Explanation:
    ident = actor.spec.actor_id.hex()
    who = f"actor {actor.spec.class_name}({ident[:8]})"
    body = actor.body
    if actor.waits:
        reasons = _lookup(cluster, actor.ask)
        ahead = list(cluster.actors.waiting[actor.ask.key].actors).index(actor.spec.actor_id)
        if ahead:
            text = f"{ahead} actors wait longer"
            reasons.append({"what": "queue", "ahead": ahead, "text": text})
        lead = f"{who} is {actor.state} and waits for {describe(actor.ask.demand)}"
        return _pending(cluster, ident, "actor", actor.ask, lead, reasons)
    if actor.state == "DEAD":
        cause = actor.cause
        why = f"{cause.kind}: {cause.detail}" if cause else "unknown"
        return _made(ident, "actor", "DEAD", f"{who} is dead: {why}", [])
    assert body is not None, "neither waiting nor dead: it has a body"
    if actor.state == "ALIVE":
        text = f"{who} runs on node {body.node.short}, process {body.executor}, pid {body.pid}."
    elif body.incarnation < actor.incarnation:
        text = f"{who} restarts as soon as its old process on node {body.node.short} has ended."
    else:
        text = f"{who} is being constructed on node {body.node.short}."
    return _made(ident, "actor", actor.state, text, [])


def _node(cluster: Cluster, node: Node) -> Explanation:
    ident = node.node_id.hex()
    if not node.is_alive:
        return _made(ident, "node", "DEAD", f"Node {node.short} is gone: {text_of(node.cause)}", [])
    if node.is_draining:
        left = ", ".join(cluster.drains.what_is_left(node)) or "nothing"
        text = f"Node {node.short} is being drained; what is left on it: {left}."
        return _made(ident, "node", "DRAINING", text, [])
    text = f"Node {node.short} is alive; free: {describe(node.ledger.free)}."
    return _made(ident, "node", "ALIVE", text, [])


def _task(cluster: Cluster, attempts: list[Task]) -> Explanation:
    task = max(attempts, key=lambda each: each.attempt)
    ident = task.task_id.hex()
    again = f" (attempt {task.attempt + 1})" if task.attempt else ""
    who = f"task {task.name}{again}"
    reasons: list[Reason] = []
    if task.state == events.ARGS:
        text = f"{who} waits for its arguments: what makes them has not finished."
    elif task.state == events.PLACE:
        text = f"{who} waits for an executor."
        submitter = process_of(task.task_id)
        if task.actor_id in cluster.actors.table:
            waiting = _actor(cluster, cluster.actors.table[task.actor_id])
            text, reasons = f"{who} waits for its actor: {waiting['text']}", waiting["reasons"]
        for want in cluster.leases.wants.values():
            if not task.actor_id and want.key[0] == submitter and task.name in want.names:
                waiting = _want(cluster, want)
                text = f"{who}: {waiting['text']}"
                reasons = waiting["reasons"]
    elif task.state == events.SUBMITTED:
        text = f"{who} was sent to an executor and waits there until earlier calls are done."
    else:
        node = cluster.nodes.table.get(task.node_id)
        where = f" on node {node.short}, pid {task.pid}" if node is not None else ""
        why = f": {task.error_type}: {task.error_message}" if task.error_type else ""
        text = f"{who} is {task.state}{where}{why}"
    return _made(ident, "task", task.state, text, reasons)


def _group(cluster: Cluster, group: Group) -> Explanation:
    ident = group.spec.group_id.hex()
    who = f"placement group {group.spec.name or ident[:8]} ({group.spec.strategy})"
    if not group.waits:
        nodes = ", ".join(bundle.node.short for bundle in group.bundles if bundle.node is not None)
        where = f"is reserved on {nodes}" if nodes else f"was removed: {group.detail}"
        return _made(ident, "placement_group", group.state, f"{who} {where}.", [])
    nodes_alive = cluster.nodes.alive
    could = search(group, nodes_alive, lambda node: node.ledger.total) is not None
    reasons = []
    for bundle in group.missing[:BUNDLES_MAX]:
        for reason in _lookup(cluster, bundle.ask):
            text = f"For bundle {bundle.index}: {reason['text'][:1].lower()}{reason['text'][1:]}"
            reasons.append({**reason, "bundle": bundle.index, "text": text})
    ahead = list(cluster.groups.waiting[group.queue]).index(group.spec.group_id)
    if ahead:
        text = f"{ahead} groups of the same bundles wait longer"
        reasons.append({"what": "queue", "ahead": ahead, "text": text})
    demands = ", ".join(describe(bundle.demand) for bundle in group.missing[:BUNDLES_MAX])
    text = f"{who} is {group.state} and waits for {demands}"
    if not could:
        text += "; the nodes of the cluster can never hold it"
    text += ". " + " ".join(f"{reason['text']}." for reason in reasons)
    state = "PENDING" if could else "INFEASIBLE"
    return _made(ident, "placement_group", state, text, reasons)


def _object(cluster: Cluster, entry: Entry) -> Explanation:
    ident = entry.object_id.hex()
    name = f" of task {entry.task_name}" if entry.task_name else ""
    reasons: list[Reason] = []
    if entry.state == "PENDING":
        process = cluster.processes.alive.get(entry.publisher)
        where = f" ({process.kind}, pid {process.pid})" if process else ""
        text = f"The value{name} is not there yet: process {entry.publisher}{where} will bring it."
        if process is not None and process.leaving is not None:
            why = text_of(process.leaving)
            text += f" It runs nothing else any more ({why}) and ends when nobody waits for it."
        reasons.append({"what": "publisher", "process": entry.publisher, "text": text})
        for want in cluster.leases.wants.values():
            if want.key[0] == entry.publisher and want.need and entry.task_name in want.names:
                waiting = _want(cluster, want)
                text += " " + waiting["text"]
                reasons.extend(waiting["reasons"])
    elif entry.state == "READY":
        nodes = [cluster.nodes.table[n].short for n in entry.nodes]
        where = "inline at the scheduler" if entry.blob else "on " + ", ".join(nodes)
        text = f"The value{name} is there: {entry.size} bytes, {where}."
    elif entry.state == "UNKNOWN":
        text = "Somebody asks for it, but nobody has published it yet."
    else:
        text = f"The value{name} is gone: {entry.answer.decode(errors='replace')}"
    return _made(ident, "object", entry.state, text, reasons)


def _pending(
    cluster: Cluster,
    ident: str,
    kind: str,
    ask: Ask,
    lead: str,
    reasons: list[Reason],
) -> Explanation:
    verdict = cluster.placement.verdict(ask)
    state = {
        "wait": "PENDING",
        "infeasible": "INFEASIBLE",
        "refused": "REFUSED",
        "removed": "REMOVED",
    }[verdict.kind]
    if verdict.kind == "infeasible":
        lead += "; no node of the cluster can ever satisfy it"
    text = lead + ". " + " ".join(f"{reason['text']}." for reason in reasons)
    return _made(ident, kind, state, text, reasons)


def _lookup(cluster: Cluster, ask: Ask) -> list[Reason]:
    """One reason per place that was looked at: nodes, or the bundles of a group."""
    if ask.group_id:
        return _in_group(cluster, ask)
    reasons = []
    for node in cluster.nodes.alive:
        never = lacks(node, ask, node.ledger.total)
        now = lacks(node, ask, node.ledger.free)
        holders = _holders(cluster, node.ledger, ask.demand) if now and not never else []
        claim = node.claim
        if never:
            text = f"Node {node.short} can never run it ({'; '.join(never)})"
        elif now:
            text = f"Node {node.short} is busy ({'; '.join(now)}){_held_by(holders)}"
        elif claim is not None and claim.queue != ask.queue:
            text = f"Node {node.short} is kept for others who have waited longer"
        else:
            text = f"Node {node.short} has room"
        reason = {"what": "node", "node_id": node.node_id.hex(), "feasible": not never}
        reasons.append({**reason, "lacks": never or now, "holders": holders, "text": text})
    return reasons


def _in_group(cluster: Cluster, ask: Ask) -> list[Reason]:
    group = cluster.groups.table.get(ask.group_id)
    if group is None:
        return []
    who = f"placement group {group.spec.name or ask.group_id.hex()[:8]}"
    if group.waits:
        text = f"{who[0].upper()}{who[1:]} is {group.state}: {_group(cluster, group)['text']}"
        return [{"what": "placement_group", "id": ask.group_id.hex(), "text": text.rstrip(".")}]
    reasons = []
    for bundle in group.bundles if ask.bundle < 0 else group.bundles[ask.bundle :][:1]:
        if bundle.ledger is None or bundle.node is None:
            continue
        now = short_of(ask.demand, bundle.ledger.free)
        holders = _holders(cluster, bundle.ledger, ask.demand) if now else []
        where = f"Bundle {bundle.index} of {who} on node {bundle.node.short}"
        text = (
            f"{where} is busy ({'; '.join(now)}){_held_by(holders)}" if now else f"{where} has room"
        )
        reason = {"what": "bundle", "bundle": bundle.index, "node_id": bundle.node.node_id.hex()}
        reasons.append({**reason, "lacks": now, "holders": holders, "text": text})
    return reasons


def _holders(cluster: Cluster, ledger: Ledger, demand: Mapping[str, int]) -> list[str]:
    """Say who holds what is asked, in these books."""
    found: dict[str, int] = {}

    def count(who: str, allocation: Allocation | None) -> None:
        if allocation is not None and allocation.ledger is ledger:
            if any(allocation.in_use(name) for name in demand):
                found[who] = found.get(who, 0) + 1

    for lease in cluster.leases.table.values():
        want = cluster.leases.wants.get(lease.want_key)
        names = ", ".join(want.names) if want is not None and want.names else "tasks"
        count(f"task {names} of process {lease.want_key[0]}", lease.allocation)
    for actor_id, actor in cluster.actors.table.items():
        body = actor.body
        name = f" {actor.spec.name!r}" if actor.spec.name else ""
        who = f"actor {actor.spec.class_name}{name}({actor_id.hex()[:8]})"
        count(who, body.allocation if body is not None else None)
    for group_id, group in cluster.groups.table.items():
        for bundle in group.bundles:
            count(f"placement group {group.spec.name or group_id.hex()[:8]}", bundle.allocation)
    return [f"{who} ({n} x)" if n > 1 else who for who, n in found.items()]


def _held_by(holders: list[str]) -> str:
    if not holders:
        return ""
    more = f" and {len(holders) - HOLDERS_MAX} more" if len(holders) > HOLDERS_MAX else ""
    return f"; held by {', '.join(holders[:HOLDERS_MAX])}{more}"


def _made(ident: str, kind: str, state: str, text: str, reasons: list[Reason]) -> Explanation:
    return {"id": ident, "kind": kind, "state": state, "text": text, "reasons": reasons}
