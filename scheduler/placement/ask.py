"""What a lease, an actor or a bundle asks of a node: resources, a strategy, labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ract.core.resources import in_units
from ract.scheduler.books.nodes import Node

KINDS = ("DEFAULT", "SPREAD", "NODE_AFFINITY", "NODE_LABEL", "PLACEMENT_GROUP")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a node. `key` is equal for equal asks."""

    demand: dict[str, int]
    kind: str
    selectors: tuple[dict[str, str], ...]  #: the first that any node matches counts
    hard: dict[str, str]  #: must match beside it
    soft_selector: dict[str, str]
    node_id: bytes
    is_soft: bool
    may_spill: bool
    must_fail: bool  #: rather than wait for a busy node
    must_fit: bool  #: rather than wait for a node that is not there
    group_id: bytes
    bundle: int  #: -1 for any
    key: str
    queue: str  #: who waits in one line with others; for all but bundles the key

    @classmethod
    def of(
        cls,
        demand: Mapping[str, int],
        strategy: Mapping[str, Any],
        selector: Mapping[str, str],
        queue: str = "",
    ) -> Ask:
        """Read a strategy as it stands in messages.

        Raises:
            ValueError: unknown kind, malformed node id or selector.
        """
        kind = str(strategy.get("kind") or "DEFAULT").upper().replace("-", "_")
        if kind not in KINDS:
            raise ValueError(f"unknown scheduling strategy {kind!r}, expected one of {KINDS}")
        fallbacks = strategy.get("fallback") or []
        others = (dict(each.get("label_selector") or {}) for each in fallbacks)
        selectors = (dict(selector), *others)
        is_label = kind == "NODE_LABEL"
        hard = dict(strategy.get("hard") or {}) if is_label else {}
        soft = dict(strategy.get("soft") or {}) if is_label else {}
        for each in (*selectors, hard, soft):
            _check_selector(each)
        positive = {name: n for name, n in demand.items() if n > 0}
        key = repr((_sorted(positive), _sorted(strategy), _sorted(selector), queue))
        return cls(
            demand=positive,
            kind=kind,
            selectors=selectors,
            hard=hard,
            soft_selector=soft,
            node_id=_bytes(strategy.get("node_id", b"")),
            is_soft=kind == "NODE_AFFINITY" and bool(strategy.get("soft")),
            may_spill=bool(strategy.get("spill_on_unavailable")),
            must_fail=bool(strategy.get("fail_on_unavailable")),
            must_fit=strategy.get("on_infeasible") == "raise",
            group_id=_bytes(strategy.get("group_id", b"")),
            bundle=int(strategy.get("bundle", -1)),
            key=key,
            queue=queue or key,
        )


def matches(node: Node, selector: Mapping[str, str]) -> bool:
    """Return whether the node's labels satisfy every condition."""
    return labels_match(node.labels, selector)


def labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether labels satisfy every condition."""
    return all(_matches_one(labels.get(key), wanted) for key, wanted in selector.items())


def could_run(node: Node, ask: Ask, selector: Mapping[str, str]) -> bool:
    """Return whether the node, idle, would take ``ask`` with these labels."""
    return not node.is_draining and has_all(node, ask, selector)


def has_all(node: Node, ask: Ask, selector: Mapping[str, str]) -> bool:
    """Return whether the node is large enough for ``ask`` and has these labels."""
    return (
        node.ledger.is_feasible(ask.demand)
        and matches(node, selector)
        and (not ask.hard or matches(node, ask.hard))
    )


def lacks(node: Node, ask: Ask, have: Mapping[str, int]) -> list[str]:
    """Say in words what ``node`` lacks for ``ask``, given what it has (total or free)."""
    missing = short_of(ask.demand, have)
    if not any(matches(node, selector) for selector in ask.selectors):
        missing.append(f"labels {ask.selectors[0]} do not match")
    if not matches(node, ask.hard):
        missing.append(f"labels {ask.hard} do not match")
    if ask.kind == "NODE_AFFINITY" and not ask.is_soft and node.node_id != ask.node_id:
        missing.append(f"must run on node {ask.node_id.hex()[:8]}")
    if node.is_draining:
        missing.append("it is being drained")
    return missing


def short_of(demand: Mapping[str, int], have: Mapping[str, int]) -> list[str]:
    """Say in words which resources are too few."""
    return [
        f"{name}: {in_units(name, n)} asked, {in_units(name, have.get(name, 0))} there"
        for name, n in sorted(demand.items())
        if have.get(name, 0) < n
    ]


def _matches_one(label: str | None, wanted: str) -> bool:
    if wanted.startswith("!"):
        return not _matches_one(label, wanted[1:])
    if wanted == "exists()":
        return label is not None
    if wanted.startswith("in(") and wanted.endswith(")"):
        return label is not None and label in [v.strip() for v in wanted[3:-1].split(",")]
    return label == wanted


def _check_selector(selector: Mapping[str, Any]) -> None:
    for key, wanted in selector.items():
        if not isinstance(key, str) or not isinstance(wanted, str):
            raise ValueError(f"label selector {key!r}: {wanted!r} is not text")


def _bytes(value: Any) -> bytes:
    return bytes.fromhex(value) if isinstance(value, str) else bytes(value or b"")


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(key, _sorted(value[key])) for key in sorted(value)]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_sorted(each) for each in value]
    return value
