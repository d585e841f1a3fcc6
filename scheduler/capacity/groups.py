"""Placement groups: reserved together, used apart, removed with all that runs in them.

Theory of operation
-------------------
A group waits until all its bundles have a place, and then gets them in one turn
(`ract.scheduler.placement.bundles`): the books of the scheduler are the only ones, so nobody has to
be asked, and what is reserved first is given back if something else has no place. Each bundle then
has books of its own; who names the group in its strategy takes from those, and from nothing else.

States change by `TRANSITIONS` only. PENDING and RESCHEDULING wait: those that have lost a bundle
first, the others in the order of their creation per *queue* (equal strategy, bundles and labels).
If the first of a queue has no place, nobody in it is looked at. Nobody is looked at again before
something has become free, and the expensive search is made only now and then.

A group ends with `remove`, with its job, or with the detached actor that made it, unless it is
detached itself. Its users end with it: what waits is refused, what runs is killed. What a bundle
holds goes back to its node when the last of its users is gone, so that nothing is held twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ract.core.messages import ExitCause, GroupChanged, GroupSpec
from ract.scheduler.actors.actors import Actors
from ract.scheduler.books.ledger import Allocation, Ledger
from ract.scheduler.books.nodes import Node, Nodes
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn
from ract.scheduler.leases.ageing import Ageing
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.leases.lessor import Lessor
from ract.scheduler.leases.recalls import Recalls
from ract.scheduler.placement.ask import Ask
from ract.scheduler.placement.bundles import reserve, reserve_found, search, together
from ract.scheduler.placement.group_records import (
    CREATED,
    PENDING,
    REMOVED,
    RESCHEDULING,
    STRATEGIES,
    TRANSITIONS,
    Bundle,
    Group,
)
from ract.scheduler.placement.placement import Placement
from ract.scheduler.placement.reports import Reports

SEARCH_EVERY_S = 0.1
"""How often all nodes are searched for the first of a queue, at most."""


@dataclass(slots=True, eq=False)
class Groups:
    """All placement groups, their names, and those that wait."""

    turn: Turn
    nodes: Nodes
    processes: Processes
    placement: Placement
    leases: LeaseTable
    recalls: Recalls
    lessor: Lessor
    actors: Actors
    reports: Reports
    #: (namespace, name) -> group, for named groups that are not removed.
    names: dict[tuple[str, str], bytes] = field(default_factory=dict)
    #: Queue -> the groups that wait in it, in the order of their turns.
    waiting: dict[str, dict[bytes, None]] = field(default_factory=dict)
    #: Bundles of removed groups that still have users, and what they hold on their nodes.
    emptying: dict[Ledger, Allocation] = field(default_factory=dict)
    #: Detached actor -> the groups that it made.
    kept: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    by_owner: dict[int, dict[bytes, None]] = field(default_factory=dict)  #: not the removed ones
    watched: dict[int, dict[bytes, None]] = field(default_factory=dict)  #: by process
    _tried_at: dict[str, int] = field(default_factory=dict)  # queue -> `Nodes.freed`
    _search_at: dict[str, float] = field(default_factory=dict)  # queue -> when it may be searched
    _next_search: float | None = None
    _removed: deque[bytes] = field(default_factory=deque)

    @property
    def table(self) -> dict[bytes, Group]:
        """All groups by id, the removed ones too (up to a limit)."""
        return self.placement.groups

    # ------------------------------------------------------------------ creation and names

    def create(self, spec: GroupSpec) -> Group | None:
        """Reserve a group as soon as there is room. None if it exists already.

        Raises:
            ValueError: an unknown strategy, no bundles, or labels that are not text.
        """
        if spec.group_id in self.table:
            self.turn.drop("group created again")
            return None
        group = self._made(spec)
        self.table[spec.group_id] = group
        if spec.name:
            self.names[spec.namespace, spec.name] = spec.group_id
        if group.keeper:
            self.kept.setdefault(group.keeper, {})[spec.group_id] = None
        self.by_owner.setdefault(spec.owner, {})[spec.group_id] = None
        self._wait(group)
        if spec.owner not in self.processes.alive and not spec.detached:
            self.remove(spec.group_id, "its creator is dead")
        return group

    def _made(self, spec: GroupSpec) -> Group:
        if spec.strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {spec.strategy!r}, expected one of {STRATEGIES}")
        if not spec.bundles or not all(spec.bundles):
            raise ValueError("a placement group needs bundles, each with resources")
        selectors = spec.selectors or [{} for _ in spec.bundles]
        queue = repr((spec.strategy, spec.bundles, selectors, spec.soft_target))
        asks = [
            Ask.of(demand, {}, selector, queue=queue)
            for demand, selector in zip(spec.bundles, selectors, strict=True)
        ]
        bundles = [Bundle(index, ask) for index, ask in enumerate(asks)]
        group = Group(
            spec=spec,
            bundles=bundles,
            whole=asks[0],
            queue=queue,
            created_at=self.turn.epoch_s,
            waits_since=self.turn.now,
            keeper=self._detached_ancestor(spec.owner),
        )
        group.whole = together(group, bundles)
        return group

    def _detached_ancestor(self, process: int) -> bytes:
        """The detached actor that a process is, or that made the actor that it is, and so on."""
        seen = set()
        while (actor_id := self.actors.by_executor.get(process)) is not None:
            actor = self.actors.table[actor_id]
            if actor.spec.detached:
                return actor_id
            if actor_id in seen:
                break
            seen.add(actor_id)
            process = actor.spec.owner
        return b""

    def named(self, namespace: str, name: str) -> Group | None:
        """Return the group of that name, if it is not removed."""
        group_id = self.names.get((namespace, name))
        return self.table[group_id] if group_id is not None else None

    def watch(self, process: int, group_id: bytes) -> None:
        """Tell a process what state the group is in, now and whenever that changes."""
        group = self.table.get(group_id)
        if group is None:
            gone = GroupChanged(process, group_id, REMOVED, "no such group is known (any more)")
            self.processes.tell(process, gone)
            return
        if group.state != REMOVED:
            group.watchers[process] = None
            self.watched.setdefault(process, {})[group_id] = None
        self._tell(group, process)

    # ------------------------------------------------------------------ ends

    def remove(self, group_id: bytes, why: str) -> None:
        """End a group and its users; nothing happens if it is removed already."""
        group = self.table.get(group_id)
        if group is None or group.state == REMOVED:
            self.turn.drop("removal of an unknown or removed group")
            return
        group.detail = why
        group.removed_at = self.turn.epoch_s
        if self.named(group.spec.namespace, group.spec.name) is group:
            del self.names[group.spec.namespace, group.spec.name]
        self._step(group, "remove")
        cause = ExitCause("group_removed", f"placement group {group_id.hex()} was removed: {why}")
        self.lessor.group_removed(group, cause)
        self.actors.group_removed(group, cause)
        for bundle in group.bundles:
            if bundle.ledger is not None and bundle.allocation is not None:
                self.emptying[bundle.ledger] = bundle.allocation
                bundle.ledger.on_change = partial(self._empty, bundle.ledger)
                self._empty(bundle.ledger)
            bundle.node = bundle.ledger = bundle.allocation = None
        self.turn.retry = True
        for process in group.watchers:
            _forget(self.watched, process, group_id)
        group.watchers = {}
        _forget(self.kept, group.keeper, group_id)
        _forget(self.by_owner, group.spec.owner, group_id)
        self._removed.append(group_id)
        if len(self._removed) > self.turn.settings.dead_max:
            del self.table[self._removed.popleft()]

    def _empty(self, ledger: Ledger, freed: bool = True) -> None:
        """Give back what a bundle of a removed group held, when nobody uses it any more."""
        if not ledger.holders:
            allocation = self.emptying.pop(ledger)
            allocation.ledger.give_back(allocation)
            self.turn.retry = True

    def job_finished(self, job_id: bytes) -> None:
        """Remove what the job leaves behind."""
        for group_id, group in list(self.table.items()):
            is_its = group.spec.job_id == job_id and not group.spec.detached
            if is_its and group.state != REMOVED and not self._keeper_lives(group):
                self.remove(group_id, "its job is over")

    def _keepers_gone(self) -> None:
        """Remove the groups of detached actors that are dead."""
        while self.actors.detached_ended:
            for group_id in self.kept.pop(self.actors.detached_ended.popleft(), {}):
                group = self.table.get(group_id)
                if group is not None and group.state != REMOVED and not group.spec.detached:
                    self.remove(group_id, "the detached actor that made it is dead")

    def _keeper_lives(self, group: Group) -> bool:
        keeper = self.actors.table.get(group.keeper)
        return keeper is not None and keeper.state != "DEAD"

    def process_exited(self, number: int) -> None:
        """It does not watch any more; what it made after its job was over goes with it."""
        for group_id in list(self.by_owner.get(number, {})):
            group = self.table[group_id]
            is_over = self.processes.driver_of(group.spec.job_id) is None
            if is_over and not group.spec.detached and not self._keeper_lives(group):
                self.remove(group_id, "the process that made it is gone, and its job is over")
        for group_id in self.watched.pop(number, {}):
            if group_id in self.table:
                self.table[group_id].watchers.pop(number, None)

    def node_lost(self, node: Node) -> None:
        """The bundles on the node are lost; their users have been told already."""
        for ledger in [each for each, held in self.emptying.items() if held.ledger is node.ledger]:
            del self.emptying[ledger]
        for group in self.table.values():
            lost = [bundle for bundle in group.bundles if bundle.node is node]
            for bundle in lost:
                bundle.node = bundle.ledger = bundle.allocation = None
            if lost:
                self._step(group, "node_lost")

    def on(self, node: Node) -> Iterator[tuple[Group, Bundle]]:
        """The bundles that lie on a node."""
        for group in self.table.values():
            for bundle in group.bundles:
                if bundle.node is node:
                    yield group, bundle

    def vacate(self, node: Node) -> None:
        """Give up the bundles on a node that nobody uses now; they get other places."""
        for group, bundle in list(self.on(node)):
            assert bundle.ledger is not None, "it is placed"
            assert bundle.allocation is not None, "it is placed"
            if not bundle.ledger.holders and not self._holds_together(group, node):
                bundle.allocation.ledger.give_back(bundle.allocation)
                bundle.node = bundle.ledger = bundle.allocation = None
                self._step(group, "node_lost")

    def _holds_together(self, group: Group, node: Node) -> bool:
        """Whether a bundle that is used keeps the others on the node."""
        if group.spec.strategy != "STRICT_PACK":
            return False
        here = [bundle.ledger for bundle in group.bundles if bundle.node is node]
        return any(ledger is not None and ledger.holders for ledger in here)

    # ------------------------------------------------------------------ placing

    def place(self, ageing: Ageing) -> None:
        """Reserve what waits and has a place now; who has lost a bundle comes first."""
        self._keepers_gone()
        self._next_search = None
        queues = list(self.waiting)
        queues.sort(key=lambda queue: self._first(queue).state != RESCHEDULING)
        for queue in queues:
            while queue in self.waiting and self._tried_at.get(queue) != self.nodes.freed:
                if not self._place(self._first(queue)):
                    break
                ageing.placed(queue)
        for queue in self.waiting:
            group = self._first(queue)
            if group.could_fit:
                if group.recalled not in self.leases.table:
                    asks = [group.whole, *(bundle.ask for bundle in group.missing)]
                    group.recalled = self.recalls.ask_for_any(asks)
                self._claim(group, ageing)

    def _claim(self, group: Group, ageing: Ageing) -> None:
        """Have nodes kept for a group that has waited long, if that would help."""
        if not ageing.is_due(group.queue, group.waits_since):
            return
        free = [node for node in self.nodes.alive if node.claim is None]
        found = search(group, free, self._free_without_leases) or []
        names = frozenset(name for bundle in group.missing for name in bundle.demand)
        ageing.claim(group.queue, names, list(dict.fromkeys(node for _, node in found)))

    def _free_without_leases(self, node: Node) -> dict[str, int]:
        lent = self.leases.lent_on(node)
        return {name: n + lent.get(name, 0) for name, n in node.ledger.free.items()}

    def _first(self, queue: str) -> Group:
        return self.table[next(iter(self.waiting[queue]))]

    def _place(self, group: Group) -> bool:
        """Place or refuse the first of a queue; False if it has to wait."""
        freed = self.nodes.freed
        group.attempts += 1
        is_placed = reserve(self.placement, group)
        if not is_placed:
            self.nodes.freed = freed  # what was given back again is nothing new
            at = self._search_at.get(group.queue, self.turn.now)
            if at > self.turn.now:
                self._next_search = min(at, self._next_search or at)
                return False
            self._search_at[group.queue] = self.turn.now + SEARCH_EVERY_S
            is_placed = reserve_found(self.placement, group, self.nodes.alive)
        if not is_placed:
            self.nodes.freed = self._tried_at[group.queue] = freed
            return self._judge(group)
        group.placed_at = self.turn.epoch_s
        self._step(group, "placed")
        self.turn.retry = True  # who waits to use it
        return True

    def next_deadline(self) -> float | None:
        """When to look again at who waits, though nothing has happened."""
        return self._next_search

    def _judge(self, group: Group) -> bool:
        """Remove or report a group that never fits; return whether its queue has a new first."""
        if group.judged_at == self.nodes.version:
            return False
        found = search(group, self.nodes.alive, lambda node: node.ledger.total)
        group.judged_at, group.could_fit = self.nodes.version, found is not None
        if group.could_fit:
            return False
        if group.spec.must_fit:
            self.remove(group.spec.group_id, self.reports.group_text(group))
            return True
        self.reports.infeasible_group(group)
        return False

    # ------------------------------------------------------------------ inside

    def _step(self, group: Group, what: str) -> None:
        group.state = TRANSITIONS[group.state, what]
        if group.state == RESCHEDULING:
            group.waits_since = self.turn.now
        self._wait(group)
        for process in group.watchers:
            self._tell(group, process)

    def _wait(self, group: Group) -> None:
        group_id, queue = group.spec.group_id, self.waiting.get(group.queue, {})
        if group.waits and group.state == RESCHEDULING:
            others = {each: None for each in queue if each != group_id}
            self.waiting[group.queue] = {group_id: None, **others}
        elif group.waits:
            self.waiting.setdefault(group.queue, queue)[group_id] = None
        elif group_id in queue:
            del queue[group_id]
            if not queue:
                del self.waiting[group.queue]
                self._search_at.pop(group.queue, None)
                self.reports.forget(group.queue)
        self._tried_at.pop(group.queue, None)
        self.turn.retry = True

    def _tell(self, group: Group, process: int) -> None:
        changed = GroupChanged(process, group.spec.group_id, group.state, group.detail)
        self.processes.tell(process, changed)

    def check(self) -> None:
        """Assert the invariants."""
        for group in self.table.values():
            placed = [bundle.is_placed for bundle in group.bundles]
            assert group.state != CREATED or all(placed)
            assert group.state not in (PENDING, REMOVED) or not any(placed)
            assert group.waits == (group.spec.group_id in self.waiting.get(group.queue, {}))
            for bundle in group.bundles:
                if bundle.ledger is not None:
                    assert bundle.node is not None
                    assert bundle.node.is_alive
                    assert bundle.allocation is not None
                    assert bundle.allocation.ledger is bundle.node.ledger
                    bundle.ledger.check()
            nodes = {bundle.node for bundle in group.bundles if bundle.node is not None}
            if group.spec.strategy == "STRICT_PACK":
                assert len(nodes) <= 1
            if group.spec.strategy == "STRICT_SPREAD":
                assert len(nodes) == sum(placed)
        assert all(self.waiting.values())
        for ledger in self.emptying:
            assert ledger.holders


def _forget(index: dict[Any, dict[bytes, None]], key: Any, group_id: bytes) -> None:
    same = index.get(key, {})
    same.pop(group_id, None)
    if key in index and not same:
        del index[key]


def with_namespace(spec: GroupSpec, namespace: str) -> GroupSpec:
    """The spec in the creator's namespace, if it names none."""
    return spec if spec.namespace else replace(spec, namespace=namespace)
