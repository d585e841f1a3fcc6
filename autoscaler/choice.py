"""Which nodes to add: what waits is laid into rooms, those of nodes and then of new ones.

Pure. Quantities are in units (`ract.core.resources`). What waits first takes the free room that
there is; what was asked for in advance (`request_resources`) must fit into all that the nodes have,
whether it is in use or not. For what is left, a node of the first type that it fits is added, as
long as there may be more of that type. What fits no type waits on: no node would help.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ract.core.resources import fits, to_units
from ract.scheduler.placement.ask import labels_match

Ask = tuple[Mapping[str, int], list[dict[str, str]], int]
"""(quantities, label selectors of which one must match, how many)."""


@dataclass(frozen=True)
class NodeType:
    """A kind of node that can be added.

    Attributes:
        name: Of the type.
        resources: Quantities by resource.
        labels: Of its nodes.
        least: So many there are always.
        most: So many there are at most.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    least: int
    most: int

    def room(self) -> Room:
        """What a new node of it has."""
        return Room({k: to_units(k, n) for k, n in self.resources.items()}, self.labels)


class Room:
    """What is left of a node while demands are laid into it."""

    def __init__(self, left: Mapping[str, int], labels: Mapping[str, str]) -> None:
        self.left = dict(left)
        self.labels = labels

    def take(self, ask: Ask) -> bool:
        """Take the quantities once, if they fit and the labels match."""
        demand, selectors, _ = ask
        if not fits(demand, self.left):
            return False
        if not any(labels_match(self.labels, selector) for selector in selectors):
            return False
        for name, n in demand.items():
            self.left[name] -= n
        return True


class _Plan:
    """Nodes that are to be added."""

    def __init__(self, types: Iterable[NodeType], counts: Mapping[str, int], most: int) -> None:
        self.types = list(types)
        self.counts = {kind.name: counts.get(kind.name, 0) for kind in self.types}
        self.most = most
        self.added: list[NodeType] = []

    def add(self, kind: NodeType) -> bool:
        """Add a node, unless there are enough."""
        if self.counts[kind.name] >= kind.most or sum(self.counts.values()) >= self.most:
            return False
        self.counts[kind.name] += 1
        self.added.append(kind)
        return True

    def lay(self, asks: Iterable[Ask], rooms: list[Room], *, apart: bool = False) -> None:
        """Find room for demands, in new nodes if need be; ``apart``: each on a node of its own."""
        used: set[Room] = set()
        for ask in asks:
            for _ in range(ask[2]):
                free = (room for room in rooms if not (apart and room in used))
                found = next((room for room in free if room.take(ask)), None)
                found = found or self._new(ask, rooms)
                if found is None:
                    break
                used.add(found)

    def _new(self, ask: Ask, rooms: list[Room]) -> Room | None:
        for kind in self.types:
            room = kind.room()
            if room.take(ask) and self.add(kind):
                rooms.append(room)
                return room
        return None


def to_add(
    view: Mapping[str, Any], types: Iterable[NodeType], counts: Mapping[str, int], most: int
) -> list[NodeType]:
    """The nodes to add.

    Args:
        view: As `ract.scheduler.capacity.scaling.Scaling.view` gives it.
        types: In the order in which they are tried.
        counts: How many nodes of each type there are.
        most: So many there may be of all types.
    """
    plan = _Plan(types, counts, most)
    for kind in plan.types:
        while plan.counts[kind.name] < kind.least and plan.add(kind):
            pass
    at_least = list(plan.added)
    nodes = view["nodes"].values()
    rooms = [Room(node["free"], node["labels"]) for node in nodes]
    rooms += [kind.room() for kind in at_least]
    for each in view["waiting"]:
        plan.lay(each["asks"], rooms, apart=each["apart"])
    rooms = [Room(node["total"], node["labels"]) for node in nodes]
    rooms += [kind.room() for kind in plan.added]
    plan.lay(view["requested"], rooms)
    return plan.added
