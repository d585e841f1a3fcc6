"""How many nodes the cluster should have, and which of them are not needed.

Theory of operation
-------------------
`Scaling` answers two questions of whoever can add and remove nodes (Dask's adaptive scaling, by
`ract.scheduler.host.adapter`): `wanted`, a number, and `removable`, the nodes that could go. Who
has nodes of several kinds looks at the `view` instead.

What waits (leases, actors, placement groups) and what was asked for in advance
(`request_resources`) is laid into the free room of the nodes there are, the largest first, and then
into new nodes of the size of the newest one. Nodes count as wanted that are in use or that take
something of this. What would not even fit a new node of that size is left out: more of them would
not help.

Only nodes that hold nothing are removable. One that is to go is drained first (`Drains`), which
moves objects that no other node has; it takes nothing new meanwhile, and is taken back if it is
needed after all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ract.scheduler.actors.actors import Actors
from ract.scheduler.books.nodes import Node, Nodes
from ract.scheduler.books.processes import Processes
from ract.scheduler.capacity.drains import Drains
from ract.scheduler.capacity.groups import Groups
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.placement.ask import Ask, has_all

NEW_MAX = 1000
"""So many nodes more than there are is the most that is ever wanted."""

INCIDENTAL = ("memory", "object_store_memory")
"""Resources that a node without any purpose of its own has too."""

Room = dict[str, int]


@dataclass(slots=True, eq=False)
class Scaling:
    """What is asked for in advance, and which nodes are on their way out."""

    nodes: Nodes
    processes: Processes
    leases: LeaseTable
    actors: Actors
    groups: Groups
    drains: Drains
    #: Bundles that the cluster should have room for, whether anything waits or not.
    requested: list[Ask] = field(default_factory=list)

    def wanted(self) -> int:
        """How many nodes the cluster should have, of those that somebody adds and removes."""
        needed, new = self._needed()
        return len(needed) + new

    def removable(self) -> list[Node]:
        """The nodes that could go, the newest first."""
        needed, _ = self._needed()
        return [node for node in reversed(self.managed()) if node not in needed]

    def view(self) -> dict[str, Any]:
        """All of it in plain values, for who has several kinds of nodes and chooses itself.

        An ask is ``[quantities, selectors, how many]``; ``apart``: each needs a node of its own.
        """
        return {
            "nodes": {
                node.node_id.hex(): {
                    "free": node.ledger.free,
                    "total": node.ledger.total,
                    "labels": node.labels,
                }
                for node in self.nodes.alive
                if not node.is_draining
            },
            "waiting": [
                {
                    "apart": apart,
                    "asks": [
                        [ask.demand, list(ask.selectors), count]
                        for ask, count in items
                        if ask.demand
                    ],
                }
                for apart, items in self._waiting()
            ],
            "requested": [[ask.demand, list(ask.selectors), 1] for ask in self.requested],
            "removable": [node.node_id.hex() for node in self.removable()],
        }

    def shrink(self, count: int) -> list[Node]:
        """Have so many nodes go; returns those that hold nothing any more.

        Those chosen before that are needed now are taken back.
        """
        chosen = self.removable()[: max(0, count)]
        for node in self._leaving():
            if node not in chosen:
                self.drains.stop(node.node_id)
        for node in chosen:
            self.drains.begin(node, "the cluster is scaled down", None, ends=False)
        return [node for node in chosen if not self.drains.what_is_left(node)]

    def keep(self, count: int) -> None:
        """Take back those that were to go, if as many nodes are wanted as there are."""
        if count >= len(self.managed()):
            self.shrink(0)

    def shrink_to(self, count: int) -> list[Node]:
        """As `shrink`, by how many nodes are to stay."""
        return self.shrink(len(self.managed()) - count)

    def _leaving(self) -> list[Node]:
        """The nodes that are drained because of `shrink`."""
        return [drain.node for drain in self.drains.table.values() if not drain.ends]

    # ------------------------------------------------------------------ what is needed

    def managed(self) -> list[Node]:
        """The nodes that somebody adds and removes: not the head, not one made for a driver."""
        leaving = self._leaving()
        return [
            node
            for node in self.nodes.alive
            if not node.is_head
            and (not node.is_draining or node in leaving)
            and any(_is_purpose(name) for name, n in node.ledger.total.items() if n)
        ]

    def _needed(self) -> tuple[dict[Node, None], int]:
        """(nodes in use or about to be, how many new ones are needed)."""
        managed = self.managed()
        needed = {node: None for node in managed if self._is_used(node)}
        # The nodes in use first: what they have room for keeps no other node.
        managed.sort(key=lambda node: (node not in needed, node.order))
        newest = self._newest()
        packing = _Packing(managed, {node: dict(node.ledger.free) for node in managed}, newest)
        for apart, items in self._waiting():
            packing.lay(items, apart=apart)
        new = packing.new
        needed.update(packing.used)
        totals = _Packing(managed, {n: dict(n.ledger.total) for n in managed}, newest)
        for ask in sorted(self.requested, key=lambda ask: _weight(ask.demand)):
            totals.lay([(ask, 1)])
        needed.update(totals.used)
        return needed, max(new, totals.new)

    def _is_used(self, node: Node) -> bool:
        if node.node_id in self.leases.on_node or node.ledger.holders:
            return True
        return any(p.kind == "driver" for p in self.processes.on_node(node.node_id))

    def _newest(self) -> Node | None:
        """A node like those that will come: the newest one, if it lives or not."""
        for node in reversed(self.nodes.table.values()):
            if not node.is_head and any(_is_purpose(k) for k, n in node.ledger.total.items() if n):
                return node
        return None

    def _waiting(self) -> Iterable[tuple[bool, list[tuple[Ask, int]]]]:
        """(whether each needs a node of its own, [(ask, how often)]), the largest first."""
        found: list[tuple[bool, list[tuple[Ask, int]]]] = []
        for queue in self.groups.waiting.values():
            for group_id in queue:
                group = self.groups.table[group_id]
                strategy = group.spec.strategy
                if strategy == "STRICT_PACK":
                    found.append((False, [(group.whole, 1)]))
                else:
                    asks = [(bundle.ask, 1) for bundle in group.missing]
                    found.append((strategy == "STRICT_SPREAD", asks))
        for actors in self.actors.waiting.values():
            ask = next(iter(actors.actors.values())).ask
            found.append((False, [(ask, len(actors.actors))]))
        for line in self.leases.queues.values():
            want = next(iter(line.wants.values()))
            found.append((False, [(want.ask, sum(w.need for w in line.wants.values()))]))
        found = [(apart, [a for a in items if _may_move(a[0])]) for apart, items in found]
        found.sort(
            key=lambda each: min((_weight(ask.demand) for ask, _ in each[1]), default=(0, 0))
        )
        return found


class _Packing:
    """Lays demands into nodes, then into new ones."""

    def __init__(self, nodes: list[Node], free: dict[Node, Room], newest: Node | None) -> None:
        self._nodes = nodes
        self._free = free
        self._newest = newest
        self._rooms: list[Room] = []  # of new nodes
        self.used: dict[Node, None] = {}

    @property
    def new(self) -> int:
        """How many new nodes are used."""
        return len(self._rooms)

    def lay(self, items: list[tuple[Ask, int]], *, apart: bool = False) -> None:
        """Find room for demands, each so many times; ``apart``: each on a node of its own."""
        taken: set[int] = set()
        for ask, count in items:
            if not ask.demand:
                continue
            for node in self._nodes:
                if not count or (apart and id(node) in taken):
                    continue
                if any(has_all(node, ask, selector) for selector in ask.selectors):
                    fitting = _take(self._free[node], ask.demand, 1 if apart else count)
                    if fitting:
                        count -= fitting
                        self.used[node] = None
                        taken.add(id(node))
            for room in self._rooms:
                if count and not (apart and id(room) in taken):
                    fitting = _take(room, ask.demand, 1 if apart else count)
                    count -= fitting
                    if fitting:
                        taken.add(id(room))
            while count > 0 and len(self._rooms) < NEW_MAX and self._would_help(ask):
                newest = self._newest
                room = dict(newest.ledger.total) if newest is not None else dict(ask.demand)
                fitting = _take(room, ask.demand, 1 if apart else count)
                count -= fitting
                self._rooms.append(room)
                taken.add(id(room))

    def _would_help(self, ask: Ask) -> bool:
        """Whether a node like the newest could run it."""
        newest = self._newest
        if newest is None:
            return not ask.hard and not any(ask.selectors)
        return any(has_all(newest, ask, selector) for selector in ask.selectors)


def _may_move(ask: Ask) -> bool:
    """Whether it would run on a new node, or waits for what a certain one has."""
    return not ask.group_id and not (ask.kind == "NODE_AFFINITY" and not ask.is_soft)


def _take(room: Room, demand: Mapping[str, int], count: int) -> int:
    """Take a demand out of a room up to ``count`` times; returns how often it fitted."""
    fitting = min(room.get(name, 0) // n for name, n in demand.items())
    fitting = max(0, min(fitting, count))
    for name, n in demand.items():
        if fitting:
            room[name] -= n * fitting
    return fitting


def _is_purpose(name: str) -> bool:
    return name not in INCIDENTAL and not name.startswith("node:")


def _weight(demand: Mapping[str, int]) -> tuple[int, int]:
    """The largest come first."""
    return -len(demand), -sum(demand.values())
