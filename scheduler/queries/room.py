"""Why there is no room for what waits: which places were looked at, who holds what is lacking.

See `ract.scheduler.queries.explain` for the form of explanations and reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ract.core.resources import describe
from ract.scheduler.books.ledger import Allocation, Ledger
from ract.scheduler.cluster import Cluster
from ract.scheduler.placement.ask import Ask, lacks, short_of
from ract.scheduler.placement.bundles import search
from ract.scheduler.placement.group_records import Group

Explanation = dict[str, Any]
Reason = dict[str, Any]

HOLDERS_MAX = 5
"""So many holders of what is lacking are told of in the text."""

BUNDLES_MAX = 8
"""So many bundles of a group are told of."""


def pending(
    cluster: Cluster,
    ident: str,
    kind: str,
    ask: Ask,
    lead: str,
    reasons: list[Reason],
) -> Explanation:
    """Explain what waits for room: whether there can be any, and what each place said."""
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
    return made(ident, kind, state, text, reasons)


def lookup(cluster: Cluster, ask: Ask) -> list[Reason]:
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
        told = explain_group(cluster, group)["text"]
        text = f"{who[0].upper()}{who[1:]} is {group.state}: {told}"
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


def explain_group(cluster: Cluster, group: Group) -> Explanation:
    """Explain a placement group."""
    ident = group.spec.group_id.hex()
    who = f"placement group {group.spec.name or ident[:8]} ({group.spec.strategy})"
    if not group.waits:
        nodes = ", ".join(bundle.node.short for bundle in group.bundles if bundle.node is not None)
        where = f"is reserved on {nodes}" if nodes else f"was removed: {group.detail}"
        return made(ident, "placement_group", group.state, f"{who} {where}.", [])
    nodes_alive = cluster.nodes.alive
    could = search(group, nodes_alive, lambda node: node.ledger.total) is not None
    reasons = []
    for bundle in group.missing[:BUNDLES_MAX]:
        for reason in lookup(cluster, bundle.ask):
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
    return made(ident, "placement_group", state, text, reasons)


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


def made(ident: str, kind: str, state: str, text: str, reasons: list[Reason]) -> Explanation:
    """Put an explanation together."""
    return {"id": ident, "kind": kind, "state": state, "text": text, "reasons": reasons}
