"""How the bundles of a placement group are laid onto nodes, all or none.

Theory of operation
-------------------
`reserve` is the way of every day: it takes bundle after bundle in the books themselves, the largest
first, each on the node that its strategy prefers, and gives all back if one finds no place (that is
the first phase of the two; the second, in `ract.scheduler.capacity.groups`, only writes down the
outcome). It costs the same with ten nodes as with a thousand, and may miss a solution that exists.

`search` looks for one in a table of free quantities, by backtracking with a limit to its steps. So
it answers as well whether a group could ever fit (given what the nodes have in total), and which
nodes it would need if what is lent were given back.

Strategies: PACK takes as few nodes as it can, SPREAD as many; both settle for less. STRICT_PACK is
one node for all, STRICT_SPREAD a node of its own for each. (Ray's strategies.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ract.scheduler.books.ledger import Allocation, Ledger
from ract.scheduler.books.nodes import Node
from ract.scheduler.placement.ask import Ask, could_run
from ract.scheduler.placement.group_records import Bundle, Group
from ract.scheduler.placement.placement import Placement

STEPS_MAX = 2_000
"""So many placements are tried before a search is given up."""

Demand = Mapping[str, int]
Taken = list[tuple[Bundle, Node, Allocation]]


def reserve(placement: Placement, group: Group) -> bool:
    """Place all missing bundles of a group; False, and nothing is taken, if one has no place."""
    missing = sorted(group.missing, key=_size)
    here = {b.node: None for b in group.bundles if b.node is not None}
    is_packed = group.spec.strategy in ("PACK", "STRICT_PACK")
    taken: Taken = []
    if is_packed and _all_on_one(placement, group, missing, here, taken):
        return _commit(taken)
    if group.spec.strategy == "STRICT_PACK":
        return False
    for bundle in missing:
        node = _preferred(placement, group, bundle, here)
        if node is None or not node.ledger.fits(bundle.demand):
            _give_back(taken)
            return False
        taken.append((bundle, node, node.ledger.take(bundle.demand)))
        here[node] = None
    return _commit(taken)


def reserve_found(placement: Placement, group: Group, nodes: Sequence[Node]) -> bool:
    """Place all missing bundles of a group where `search` has found places for them."""
    found = search(group, nodes, lambda node: _free_for(node, group))
    if found is None:
        return False
    taken: Taken = []
    for bundle, node in found:
        if not node.has_room(bundle.demand, group.queue):  # devices are in pieces
            _give_back(taken)
            return False
        taken.append((bundle, node, node.ledger.take(bundle.demand)))
    return _commit(taken)


def search(
    group: Group, nodes: Sequence[Node], free_of: Callable[[Node], Demand]
) -> list[tuple[Bundle, Node]] | None:
    """Find a node for each missing bundle, if there were ``free_of(node)`` on each node."""
    free = {node: dict(free_of(node)) for node in nodes}
    missing = group.missing
    strategy = group.spec.strategy
    used = {b.node: 1 for b in group.bundles if b.node is not None and b.node in free}
    if strategy == "STRICT_PACK":
        ask = together(group, missing)
        if not _agree(ask, missing):
            return None
        for node in [*used] or nodes:
            if _fits(free[node], ask.demand) and could_run(node, ask, ask.selectors[0]):
                return [(bundle, node) for bundle in missing]
        return None
    able = {}
    for bundle in missing:
        able[bundle] = [n for n in nodes if could_run(n, bundle.ask, bundle.ask.selectors[0])]
        if not any(_fits(free[node], bundle.demand) for node in able[bundle]):
            return None
    order = sorted(missing, key=lambda bundle: (len(able[bundle]), _size(bundle)))
    if strategy == "STRICT_SPREAD":
        apart = {node for nodes_ in able.values() for node in nodes_ if node not in used}
        if len(apart) < len(missing):
            return None
    return _Search(strategy, order, able, free, used).run()


class _Search:
    """Depth first, most constrained bundle first."""

    def __init__(
        self,
        strategy: str,
        order: list[Bundle],
        able: dict[Bundle, list[Node]],
        free: dict[Node, dict[str, int]],
        used: dict[Node, int],
    ) -> None:
        self._strategy = strategy
        self._order = order
        self._able = able
        self._free = free
        self._used = used
        self._steps = 0
        self._found: list[tuple[Bundle, Node]] = []

    def run(self) -> list[tuple[Bundle, Node]] | None:
        # Not recursive: a group may have more bundles than Python has frames.
        trails = [iter(self._nodes_for(self._order[0]))]
        while trails:
            node = next(trails[-1], None)
            if node is None or self._steps > STEPS_MAX:
                trails.pop()
                if self._found and trails:
                    self._undo()
                continue
            self._do(self._order[len(trails) - 1], node)
            if len(trails) == len(self._order):
                return self._found
            trails.append(iter(self._nodes_for(self._order[len(trails)])))
        return None

    def _nodes_for(self, bundle: Bundle) -> list[Node]:
        nodes = [n for n in self._able[bundle] if _fits(self._free[n], bundle.demand)]
        if self._strategy == "STRICT_SPREAD":
            return [node for node in nodes if not self._used.get(node)]
        is_pack = self._strategy == "PACK"
        return sorted(nodes, key=lambda node: bool(self._used.get(node)) != is_pack)

    def _do(self, bundle: Bundle, node: Node) -> None:
        self._steps += 1
        self._found.append((bundle, node))
        self._used[node] = self._used.get(node, 0) + 1
        for name, n in bundle.demand.items():
            self._free[node][name] -= n

    def _undo(self) -> None:
        bundle, node = self._found.pop()
        self._used[node] -= 1
        for name, n in bundle.demand.items():
            self._free[node][name] += n


def together(group: Group, bundles: Sequence[Bundle]) -> Ask:
    """What bundles ask of a node that is to hold them all."""
    total: dict[str, int] = {}
    labels: dict[str, str] = {}
    for bundle in bundles:
        labels.update(bundle.ask.selectors[0])
        for name, n in bundle.demand.items():
            total[name] = total.get(name, 0) + n
    return Ask.of(total, {}, labels, queue=group.queue)


def _agree(ask: Ask, bundles: Sequence[Bundle]) -> bool:
    """Whether the labels of bundles, put together, do not contradict each other."""
    wanted = ask.selectors[0].items()
    return all(bundle.ask.selectors[0].items() <= wanted for bundle in bundles)


def _all_on_one(
    placement: Placement,
    group: Group,
    missing: list[Bundle],
    here: Mapping[Node, None],
    taken: Taken,
) -> bool:
    """Take everything on one node: one that the group is on already, the soft target, the best."""
    ask = group.whole if len(missing) == len(group.bundles) else together(group, missing)
    if not _agree(ask, missing):
        return False
    pool = placement.pool(ask)
    candidates = [node for node in here if pool.has_room(node)]
    if not candidates and (not here or group.spec.strategy == "PACK"):
        spot = placement.choose(ask, group.spec.soft_target, has_data=True)
        candidates = [spot.node] if spot is not None else []
    for node in candidates[:1]:
        for bundle in missing:
            if not node.ledger.fits(bundle.demand):  # devices are in pieces
                _give_back(taken)
                return False
            taken.append((bundle, node, node.ledger.take(bundle.demand)))
    return bool(taken)


def _preferred(
    placement: Placement, group: Group, bundle: Bundle, here: Mapping[Node, None]
) -> Node | None:
    pool = placement.pool(bundle.ask)
    if group.spec.strategy == "PACK":
        for node in here:
            if pool.has_room(node):
                return node
        return pool.best(None)
    apart = pool.best(None, here)
    return pool.best(None) if apart is None and group.spec.strategy == "SPREAD" else apart


def _commit(taken: Taken) -> bool:
    for bundle, node, allocation in taken:
        bundle.node, bundle.allocation = node, allocation
        bundle.ledger = Ledger.within(allocation)
    return True


def _give_back(taken: Taken) -> None:
    for _, node, allocation in taken:
        node.ledger.give_back(allocation)
    taken.clear()


def _free_for(node: Node, group: Group) -> Demand:
    claim = node.claim
    if claim is None or claim.queue == group.queue:
        return node.ledger.free
    return {name: n for name, n in node.ledger.free.items() if name not in claim.names}


def _fits(free: Demand, demand: Demand) -> bool:
    return all(free.get(name, 0) >= n for name, n in demand.items())


def _size(bundle: Bundle) -> tuple[int, list[int], int]:
    """Large ones first, and who asks for more kinds of things before who asks for fewer."""
    return -len(bundle.demand), [-n for n in sorted(bundle.demand.values())], bundle.index
