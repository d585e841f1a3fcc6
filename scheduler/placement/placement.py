"""Where something runs: the choice of a node, or of a bundle, for a demand.

Theory of operation
-------------------
`Placement.choose` answers an `Ask` with a `Spot` that has the resources free now, or None.
`verdict` tells the reasons for None apart: *wait* (some node is big enough but busy), *infeasible*
(no node is), *refused* (waiting would be for ever: it names a node that cannot take it), *removed*
(so is its placement group).

Strategies, by ``kind``:

* ``DEFAULT``: hybrid. A node used below one half counts as unused, so work is packed, on the
  requester's node first; above one half the least used node wins. Nodes with accelerators are left
  to those who ask for them. (Ray's hybrid policy; one half is `Settings.pack_below`.) Who names a
  node *with its data* gets that one while it has room.
* ``SPREAD``: the node whose turn is longest ago.
* ``NODE_AFFINITY``: ``node_id`` (bytes or hex), ``soft``: another one only if that one is dead or
  too small; with ``spill_on_unavailable`` also if it is busy; ``fail_on_unavailable`` refuses
  instead of waiting.
* ``NODE_LABEL``: selectors ``hard`` (must match) and ``soft`` (preferred).
* ``PLACEMENT_GROUP``: ``group_id``, ``bundle`` (-1 for any): from what the group has reserved.

A label selector is ``{key: "v" | "!v" | "in(a,b)" | "!in(a,b)" | "exists()" | "!exists()"}``;
``fallback`` in the strategy is a list of ``{"label_selector": {...}}`` tried in order when nothing
matches the first. With ``on_infeasible`` "raise" an infeasible ask is refused.

A node may be claimed for a queue that has waited too long (`ract.scheduler.leases.ageing`); others
then get nothing there of what that queue needs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from ract.core.resources import describe
from ract.scheduler.books.ledger import ACCELERATORS, Ledger
from ract.scheduler.books.nodes import Node, Nodes
from ract.scheduler.placement.ask import Ask, could_run, lacks, matches
from ract.scheduler.placement.group_records import REMOVED, Bundle, Group

POOLS_MAX = 1024
"""So many kinds of asks are remembered with the nodes that are best for them."""


class Spot(NamedTuple):
    """Where something can run: a node, and the books (its own, or a bundle's) to take from."""

    node: Node
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why nothing was chosen. ``kind``: "wait", "infeasible", "refused" or "removed"."""

    kind: str
    text: str = ""


class Placement:
    """Chooses nodes. Its only state is whose turn it is, and what it remembers of the nodes."""

    def __init__(self, nodes: Nodes, pack_below: float) -> None:
        self.nodes = nodes
        self._pack_below = pack_below
        self.groups: dict[bytes, Group] = {}  #: the placement groups, kept by `Groups`
        self._turns = 0
        self._pools: dict[str, Pool] = {}
        self._pools_at = -1  #: `Nodes.version` for which they were made

    def choose(self, ask: Ask, near: bytes, *, has_data: bool = False) -> Spot | None:
        """Return where ``ask`` fits now, or None.

        Args:
            ask: what is asked.
            near: the asker's node, or the one with the data that it needs (``has_data``).
        """
        if ask.kind == "PLACEMENT_GROUP":
            return self._in_group(ask)
        if ask.kind == "NODE_AFFINITY":
            target = self._target(ask)
            if target is not None and target.has_room(ask.demand, ask.queue):
                return Spot(target, target.ledger)
            if not ask.is_soft or (target is not None and not ask.may_spill):
                return None
        pool = self.pool(ask)
        close = self.nodes.get(near)
        if has_data and close is not None and ask.kind == "DEFAULT" and pool.has_room(close):
            return Spot(close, close.ledger)
        node = pool.best(close)
        if node is None:
            return None
        if ask.kind == "SPREAD":
            self._turns += 1
            node.spread_turn = self._turns
            self.nodes.note(node, False)  # to all pools: what they hold depends on nodes alone
        return Spot(node, node.ledger)

    def pool(self, ask: Ask) -> Pool:
        """Return the nodes that could run ``ask``, best first."""
        if self._pools_at != self.nodes.version:
            self._pools_at = self.nodes.version
            self._pools = {}
        found = self._pools.get(ask.key)
        if found is None:
            if len(self._pools) >= POOLS_MAX:
                del self._pools[next(iter(self._pools))]
            found = self._pools[ask.key] = Pool(ask, self._match(ask), self.nodes, self._pack_below)
        found.catch_up()
        return found

    def candidates(self, ask: Ask) -> list[Node]:
        """Return the living nodes that could run it if they were idle."""
        if ask.kind == "PLACEMENT_GROUP":
            group = self.groups.get(ask.group_id)
            return [b.node for b in group.bundles if b.node is not None] if group else []
        if ask.kind == "NODE_AFFINITY":
            target = self._target(ask)
            if target is not None:
                is_spilt = ask.may_spill and not target.has_room(ask.demand, ask.queue)
                return list(self.pool(ask).nodes.values()) if is_spilt else [target]
            if not ask.is_soft:
                return []
        return list(self.pool(ask).nodes.values())

    def _target(self, ask: Ask) -> Node | None:
        """The node that an affinity names, if it could run it."""
        node = self.nodes.get(ask.node_id)
        if node is None or not any(could_run(node, ask, each) for each in ask.selectors):
            return None
        return node

    def verdict(self, ask: Ask) -> Verdict:
        """Say why nothing can be chosen now."""
        if ask.kind == "PLACEMENT_GROUP":
            return self._group_verdict(ask)
        if ask.kind == "NODE_AFFINITY" and not ask.is_soft:
            return self._affinity_verdict(ask)
        return Verdict("wait") if self.pool(ask).nodes else _infeasible(ask)

    def _affinity_verdict(self, ask: Ask) -> Verdict:
        node = self.nodes.get(ask.node_id)
        if node is None:
            return Verdict("refused", f"node {ask.node_id.hex()} is dead or unknown")
        if self._target(ask) is None:
            lacking = "; ".join(lacks(node, ask, node.ledger.total))
            return Verdict("refused", f"node {node.short} can never run it: {lacking}")
        if ask.must_fail and not node.has_room(ask.demand, ask.queue):
            return Verdict("refused", f"node {node.short} has no room now")
        return Verdict("wait")

    def _in_group(self, ask: Ask) -> Spot | None:
        group = self.groups.get(ask.group_id)
        if group is None or group.state == REMOVED:
            return None
        for bundle in _bundles(group, ask):
            if bundle.ledger is not None and bundle.ledger.fits(ask.demand):
                assert bundle.node is not None, "it is placed"
                if not bundle.node.is_draining:
                    return Spot(bundle.node, bundle.ledger)
        return None

    def _group_verdict(self, ask: Ask) -> Verdict:
        group = self.groups.get(ask.group_id)
        if group is None or group.state == REMOVED:
            why = f" ({group.detail})" if group is not None and group.detail else ""
            return Verdict("removed", f"placement group {ask.group_id.hex()} was removed{why}")
        if any(_holds(bundle.demand, ask.demand) for bundle in _bundles(group, ask)):
            return Verdict("wait")
        which = "no bundle" if ask.bundle < 0 else f"not bundle {ask.bundle}"
        text = (
            f"{which} of placement group {ask.group_id.hex()} has {describe(ask.demand)}: "
            + ", ".join(describe(bundle.demand) for bundle in group.bundles[:8])
        )
        return Verdict("refused", text)

    def _match(self, ask: Ask) -> list[Node]:
        """Return the nodes that are big enough and have the labels. They do not change in life."""
        for selector in ask.selectors:
            found = [node for node in self.nodes.alive if could_run(node, ask, selector)]
            if found:
                return found
        return []


Score = tuple[bool, bool, float]
"""Lower is better: lacks the soft labels, wastes accelerators, utilisation (or whose turn)."""

_WORST: Score = (True, True, float("inf"))


class Pool:
    """The nodes that match one ask, the best of those with room in front.

    A decision costs the same however many nodes there are: a node is looked at when its books have
    changed, not when somebody asks. Entries of the heap that are not true any more stay until they
    come to its top.
    """

    def __init__(self, ask: Ask, found: list[Node], nodes: Nodes, pack_below: float) -> None:
        self._ask = ask
        self._pack_below = pack_below
        self._changes = nodes.changes
        self.nodes = {node.order: node for node in found}
        self._scores: dict[int, Score] = {}  # by order; of those with room
        self._heap: list[tuple[Score, int]] = []
        self._seen = nodes.changes.end
        for node in found:
            self.update(node)

    def __contains__(self, node: Node) -> bool:
        return node.order in self.nodes

    def has_room(self, node: Node) -> bool:
        """Whether the node is one of them, and the ask fits there now."""
        return node.order in self._scores

    def catch_up(self) -> None:
        """Look at the nodes whose books have changed since the last time."""
        if self._seen != self._changes.end:
            for node in self._changes.since(self._seen, self.nodes.values()):
                self.update(node)
            self._seen = self._changes.end

    def update(self, node: Node) -> None:
        """The books of a node have changed."""
        order = node.order
        if order not in self.nodes:
            return
        if not node.has_room(self._ask.demand, self._ask.queue):
            self._scores.pop(order, None)
            return
        score = _score(node, self._ask, self._pack_below)
        if self._scores.get(order) != score:
            self._scores[order] = score
            heappush(self._heap, (score, order))
            if len(self._heap) > 4 * len(self.nodes) + 64:
                self._heap = [(score, order) for order, score in self._scores.items()]
                heapify(self._heap)

    def best(self, near: Node | None, without: Collection[Node] = ()) -> Node | None:
        """The node with the lowest score; ``near`` if no other is better; else who joined first."""
        heap, scores = self._heap, self._scores
        passed = []
        while heap:
            score, order = heap[0]
            if scores.get(order) != score:
                heappop(heap)
            elif without and self.nodes[order] in without:
                passed.append(heappop(heap))
            else:
                break
        found = heap[0] if heap else None
        for entry in passed:
            heappush(heap, entry)
        if found is None:
            return None
        score, order = found
        if near is not None and near not in without and scores.get(near.order, _WORST) <= score:
            return near
        return self.nodes[order]


def _score(node: Node, ask: Ask, pack_below: float) -> Score:
    total = node.ledger.total
    lacks_soft = bool(ask.soft_selector) and not matches(node, ask.soft_selector)
    if ask.kind == "SPREAD":
        return lacks_soft, False, node.spread_turn
    wastes = any(name in total and name not in ask.demand for name in ACCELERATORS)
    used = node.ledger.utilisation()
    return lacks_soft, wastes, 0.0 if used < pack_below else used


def _infeasible(ask: Ask) -> Verdict:
    if not ask.must_fit:
        return Verdict("infeasible")
    return Verdict("refused", f"no node of the cluster can ever satisfy {describe(ask.demand)}")


def _bundles(group: Group, ask: Ask) -> list[Bundle]:
    if ask.bundle < 0:
        return group.bundles
    return group.bundles[ask.bundle : ask.bundle + 1]


def _holds(bundle: dict[str, int], demand: dict[str, int]) -> bool:
    return all(bundle.get(name, 0) >= n for name, n in demand.items())
