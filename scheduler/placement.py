"""Where something runs: the choice of a node for a demand.

Theory of operation
-------------------
An `Ask` is what a lease or an actor asks of a node: resources, a strategy, label selectors.
`Placement.choose` answers with a node that has the resources free now, or None. `verdict` tells
the three reasons for None apart: *wait* (some node is big enough but busy), *infeasible* (no node
is), *refused* (it names a node that cannot take it, so that waiting would be for ever).

Strategies, by ``kind``:

* ``DEFAULT``: hybrid. A node used below one half counts as unused, so work is packed, on the
  requester's node first; above one half the least used node wins. Nodes with accelerators are left
  to those who ask for them. (Ray's hybrid policy; threshold 0.5.)
* ``SPREAD``: the next node round robin.
* ``NODE_AFFINITY``: ``node_id`` (bytes or hex), ``soft``: another one only if that one is dead or
  too small; with ``spill_on_unavailable`` also if it is busy; ``fail_on_unavailable`` refuses
  instead of waiting.
* ``NODE_LABEL``: selectors ``hard`` (must match) and ``soft`` (preferred).

A label selector is ``{key: "v" | "!v" | "in(a,b)" | "!in(a,b)"}``; ``fallback`` in the strategy is
a list of ``{"label_selector": {...}}`` tried in order when nothing matches the first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from ract.core.resources import in_units
from ract.scheduler.ledger import ACCELERATORS
from ract.scheduler.nodes import Node, Nodes

POOLS_MAX = 64
"""So many kinds of asks are remembered with the nodes that are best for them."""

PACK_BELOW = 0.5
KINDS = ("DEFAULT", "SPREAD", "NODE_AFFINITY", "NODE_LABEL")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a node. `key` is equal for equal asks."""

    demand: dict[str, int]
    kind: str
    selectors: tuple[dict[str, str], ...]  #: the first that any node matches counts
    soft_selector: dict[str, str]
    node_id: bytes
    is_soft: bool
    may_spill: bool
    must_fail: bool
    key: str

    @classmethod
    def of(
        cls, demand: Mapping[str, int], strategy: Mapping[str, Any], selector: Mapping[str, str]
    ) -> Ask:
        """Read a strategy as it stands in messages.

        Raises:
            ValueError: unknown kind, malformed node id or selector.
        """
        kind = str(strategy.get("kind") or "DEFAULT").upper().replace("-", "_")
        if kind not in KINDS:
            raise ValueError(f"unknown scheduling strategy {kind!r}, expected one of {KINDS}")
        fallbacks = strategy.get("fallback") or []
        first = {**selector, **(strategy.get("hard") or {})}
        selectors = (first, *(dict(f.get("label_selector") or {}) for f in fallbacks))
        soft = dict(strategy.get("soft") or {}) if kind == "NODE_LABEL" else {}
        for each in (*selectors, soft):
            _check_selector(each)
        positive = {name: n for name, n in demand.items() if n > 0}
        return cls(
            demand=positive,
            kind=kind,
            selectors=selectors,
            soft_selector=soft,
            node_id=_node_id(strategy.get("node_id", b"")),
            is_soft=kind == "NODE_AFFINITY" and bool(strategy.get("soft")),
            may_spill=bool(strategy.get("spill_on_unavailable")),
            must_fail=bool(strategy.get("fail_on_unavailable")),
            key=repr((_sorted(positive), _sorted(strategy), _sorted(selector))),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why nothing was chosen. ``kind``: "wait", "infeasible" or "refused"."""

    kind: str
    text: str = ""


class Placement:
    """Chooses nodes. Its only state is how far round robin has come, and what it remembers."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._next_spread = 0
        #: Ask key -> the nodes that match it; for the nodes of `_matched_at` only.
        self._matched: dict[str, list[Node]] = {}
        self._pools: dict[str, _Pool] = {}
        self._matched_at = -1  #: `Nodes.version`

    def choose(self, ask: Ask, near: bytes) -> Node | None:
        """Return a node with everything free for ``ask``, or None. ``near``: the asker's node."""
        candidates = self.candidates(ask)
        if ask.kind == "SPREAD":
            return self._next_of(candidates, ask.demand)
        if candidates is not self._matching(ask):  # it names its node
            return next((n for n in candidates if n.ledger.fits(ask.demand)), None)
        return self._pool(ask).best(self._nodes.get(near))

    def _pool(self, ask: Ask) -> _Pool:
        changed, self._nodes.changed = self._nodes.changed, {}
        for node in changed:
            for pool in self._pools.values():
                pool.update(node)
        found = self._pools.get(ask.key)
        if found is None:
            found = self._pools[ask.key] = _Pool(ask, self._matching(ask))
            if len(self._pools) > POOLS_MAX:
                del self._pools[next(iter(self._pools))]
        return found

    def candidates(self, ask: Ask) -> list[Node]:
        """Return the living nodes that could run it if they were idle."""
        fitting = self._matching(ask)
        if ask.kind != "NODE_AFFINITY":
            return fitting
        target = [n for n in fitting if n.node_id == ask.node_id]
        if not ask.is_soft:
            return target
        if not target or (ask.may_spill and not target[0].ledger.fits(ask.demand)):
            return fitting
        return target

    def verdict(self, ask: Ask) -> Verdict:
        """Say why nothing can be chosen now."""
        candidates = self.candidates(ask)
        if ask.kind == "NODE_AFFINITY" and not ask.is_soft:
            node = self._nodes.get(ask.node_id)
            if node is None:
                return Verdict("refused", f"node {ask.node_id.hex()} is dead or unknown")
            if not candidates:
                lacking = "; ".join(lacks(node, ask, node.ledger.total))
                return Verdict("refused", f"node {node.short} can never run it: {lacking}")
            if ask.must_fail and not node.ledger.fits(ask.demand):
                return Verdict("refused", f"node {node.short} has no room now")
        return Verdict("wait") if candidates else Verdict("infeasible")

    def _matching(self, ask: Ask) -> list[Node]:
        """Return the nodes that are big enough and have the labels. They do not change in life."""
        if self._matched_at != self._nodes.version:
            self._matched_at = self._nodes.version
            self._matched = {}
            self._pools = {}
        found = self._matched.get(ask.key)
        if found is None:
            found = self._matched[ask.key] = self._match(ask)
        return found

    def _match(self, ask: Ask) -> list[Node]:
        for selector in ask.selectors:
            found = [
                node
                for node in self._nodes.alive
                if node.ledger.is_feasible(ask.demand) and matches(node, selector)
            ]
            if found:
                return found
        return []

    def _next_of(self, candidates: list[Node], demand: Mapping[str, int]) -> Node | None:
        """Return the node with room whose turn it is: the next in the order of joining."""
        start = bisect_left(candidates, self._next_spread, key=_order)
        for node in (*candidates[start:], *candidates[:start]):
            if node.ledger.fits(demand):
                self._next_spread = node.order + 1
                return node
        return None


class _Pool:
    """The nodes that match one ask, the best of those with room in front.

    A decision costs the same however many nodes there are: a node is looked at when its books have
    changed, not when somebody asks. Entries of the heap that are not true any more stay until they
    come to its top.
    """

    def __init__(self, ask: Ask, nodes: list[Node]) -> None:
        self._ask = ask
        self._nodes = {node.order: node for node in nodes}
        self._scores: dict[int, Score] = {}  # by order; of those with room
        self._heap: list[tuple[Score, int]] = []
        for node in nodes:
            self.update(node)

    def update(self, node: Node) -> None:
        """The books of a node have changed."""
        order = node.order
        if self._nodes.get(order) is not node:
            return
        if not node.ledger.fits(self._ask.demand):
            self._scores.pop(order, None)
            return
        score = _score(node, self._ask)
        if self._scores.get(order) != score:
            self._scores[order] = score
            heappush(self._heap, (score, order))
            if len(self._heap) > 4 * len(self._nodes) + 64:
                self._heap = [(score, order) for order, score in self._scores.items()]
                heapify(self._heap)

    def best(self, near: Node | None) -> Node | None:
        """The node with the lowest score; ``near`` if no other is better; else who joined first."""
        heap, scores = self._heap, self._scores
        while heap and scores.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        if not heap:
            return None
        score, order = heap[0]
        if near is not None and scores.get(near.order, _WORST) <= score:
            return near
        return self._nodes[order]


def matches(node: Node, selector: Mapping[str, str]) -> bool:
    """Return whether the node's labels satisfy every condition."""
    return all(_matches_one(node.labels.get(key), wanted) for key, wanted in selector.items())


def lacks(node: Node, ask: Ask, have: Mapping[str, int]) -> list[str]:
    """Say in words what ``node`` lacks for ``ask``, given what it has (total or free)."""
    missing = [
        f"{name}: {in_units(name, n)} asked, {in_units(name, have.get(name, 0))} there"
        for name, n in sorted(ask.demand.items())
        if have.get(name, 0) < n
    ]
    if not any(matches(node, selector) for selector in ask.selectors):
        missing.append(f"labels {ask.selectors[0]} do not match")
    if ask.kind == "NODE_AFFINITY" and not ask.is_soft and node.node_id != ask.node_id:
        missing.append(f"must run on node {ask.node_id.hex()[:8]}")
    return missing


Score = tuple[bool, bool, float]
"""Lower is better: lacks the soft labels, wastes accelerators, utilisation."""

_WORST: Score = (True, True, 2.0)


def _score(node: Node, ask: Ask) -> Score:
    total, used = node.ledger.total, node.ledger.utilisation()
    lacks_soft = bool(ask.soft_selector) and not matches(node, ask.soft_selector)
    wastes = any(name in total and name not in ask.demand for name in ACCELERATORS)
    return lacks_soft, wastes, 0.0 if used < PACK_BELOW else used


def _order(node: Node) -> int:
    return node.order


def _matches_one(label: str | None, wanted: str) -> bool:
    if wanted.startswith("!"):
        return not _matches_one(label, wanted[1:])
    if wanted.startswith("in(") and wanted.endswith(")"):
        return label is not None and label in [v.strip() for v in wanted[3:-1].split(",")]
    return label == wanted


def _check_selector(selector: Mapping[str, Any]) -> None:
    for key, wanted in selector.items():
        if not isinstance(key, str) or not isinstance(wanted, str):
            raise ValueError(f"label selector {key!r}: {wanted!r} is not text")


def _node_id(value: Any) -> bytes:
    return bytes.fromhex(value) if isinstance(value, str) else bytes(value or b"")


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(key, _sorted(value[key])) for key in sorted(value)]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_sorted(each) for each in value]
    return value
