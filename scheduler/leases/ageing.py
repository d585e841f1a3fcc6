"""Nobody waits for ever because others are smaller: claims on nodes.

Theory of operation
-------------------
Small demands fill every gap, so that a large one may never find enough at once. A queue that has
got nothing for `Settings.starve_s` claims what it needs: nodes on which there would be room if the
leases of other queues ended. A claimed node (`Node.claim`) gives other queues nothing more of the
claimed resources, and their leases there that hold some are recalled, so that it runs empty.

A claim ends when the first of its queue is placed, when nobody waits in the queue any more, or
after `Settings.claim_s`; then it pauses for as long, in case that what it waits for needs a place
itself, and each time twice as long, since a claim in vain costs others their room. What actors and
groups hold is theirs: where it leaves too little, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ract.scheduler.books.nodes import Claim, Node, Nodes
from ract.scheduler.books.turn import Turn
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.leases.recalls import Recalls
from ract.scheduler.placement.ask import Ask
from ract.scheduler.placement.placement import Placement

PAUSE_DOUBLED_MAX = 6
"""So often a pause is doubled."""


@dataclass(slots=True)
class Claimed:
    """What one queue claims."""

    nodes: list[Node]
    names: frozenset[str]
    until: float


@dataclass(slots=True, eq=False)
class Ageing:
    """Claims of queues that have waited too long."""

    turn: Turn
    nodes: Nodes
    placement: Placement
    leases: LeaseTable
    recalls: Recalls
    claims: dict[str, Claimed] = field(default_factory=dict)
    #: Queue -> when it may claim again.
    _pauses: dict[str, float] = field(default_factory=dict)
    _vain: dict[str, int] = field(default_factory=dict)  # claims that brought nothing
    _waiting: dict[str, None] = field(default_factory=dict)  #: seen in this round
    _next_at: float | None = None

    def begin(self) -> None:
        """All who wait are about to be looked at."""
        self._waiting = {}
        self._next_at = None

    def is_due(self, queue: str, since: float) -> bool:
        """Whether a queue that waits since then, and found no room, may claim nodes now."""
        self._waiting[queue] = None
        now = self.turn.now
        claimed = self.claims.get(queue)
        if claimed is not None:
            if claimed.until > now:
                self._look_at(claimed.until)
                self._recall(queue, claimed)
                return False
            self._drop(queue)
            self._vain[queue] = self._vain.get(queue, 0) + 1
            pause = self.turn.settings.claim_s * 2 ** min(self._vain[queue] - 1, PAUSE_DOUBLED_MAX)
            self._pauses[queue] = now + pause
        at = max(since + self.turn.settings.starve_s, self._pauses.get(queue, 0.0))
        if at > now:
            self._look_at(at)
            return False
        return True

    def claim(self, queue: str, names: frozenset[str], nodes: Sequence[Node]) -> None:
        """Keep nodes for a queue."""
        claimed = Claimed(list(nodes), names, self.turn.now + self.turn.settings.claim_s)
        self.claims[queue] = claimed
        for node in nodes:
            node.claim = Claim(queue, names)
            self.nodes.note(node, False)
        self._look_at(claimed.until)
        self._recall(queue, claimed)

    def claim_for(self, ask: Ask, since: float) -> None:
        """Claim the node that will have room for ``ask`` soonest, if it is time."""
        if ask.group_id or not self.is_due(ask.queue, since):
            return
        best: tuple[float, int, Node] | None = None
        for node in self.placement.candidates(ask):
            if node.claim is not None:
                continue
            free, lent = node.ledger.free, self.leases.lent_on(node, but=ask.queue)
            short = {k: n - free[k] for k, n in ask.demand.items() if n > free[k]}
            if not short or any(lent.get(name, 0) < n for name, n in short.items()):
                continue
            missing = sum(n / node.ledger.total[name] for name, n in short.items())
            if best is None or (missing, node.order) < best[:2]:
                best = (missing, node.order, node)
        if best is None:
            self._pauses[ask.queue] = self.turn.now + self.turn.settings.starve_s
            self._look_at(self._pauses[ask.queue])
        else:
            self.claim(ask.queue, frozenset(ask.demand), [best[2]])

    def end(self) -> None:
        """All who wait have been looked at: claims of the others are over."""
        for queue in [queue for queue in self.claims if queue not in self._waiting]:
            self._drop(queue)
        for queue in [queue for queue in self._pauses if queue not in self._waiting]:
            del self._pauses[queue]
            self._vain.pop(queue, None)

    def placed(self, queue: str) -> None:
        """The first of a queue got what it waited for."""
        self._vain.pop(queue, None)
        if queue in self.claims:
            self._drop(queue)

    def next_deadline(self) -> float | None:
        """When to look again though nothing has happened."""
        return self._next_at

    def check(self) -> None:
        """Assert the invariants."""
        claimed = {node.node_id: q for q, c in self.claims.items() for node in c.nodes}
        for node in self.nodes.alive:
            assert (node.claim.queue if node.claim else None) == claimed.get(node.node_id)

    def _drop(self, queue: str) -> None:
        for node in self.claims.pop(queue).nodes:
            node.claim = None
            self.nodes.note(node, True)
        self.turn.retry = True

    def _recall(self, queue: str, claimed: Claimed) -> None:
        for node in claimed.nodes:
            self.recalls.clear(node, claimed.names, but=queue)

    def _look_at(self, at: float) -> None:
        if self._next_at is None or at < self._next_at:
            self._next_at = at
