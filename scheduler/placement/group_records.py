"""What is kept of placement groups; `ract.scheduler.capacity.groups` says how they change."""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.core.messages import GroupSpec
from ract.scheduler.books.ledger import Allocation, Ledger
from ract.scheduler.books.nodes import Node
from ract.scheduler.placement.ask import Ask

PENDING, CREATED, RESCHEDULING, REMOVED = "PENDING", "CREATED", "RESCHEDULING", "REMOVED"

TRANSITIONS = {
    (PENDING, "placed"): CREATED,
    (PENDING, "remove"): REMOVED,
    (CREATED, "node_lost"): RESCHEDULING,
    (CREATED, "remove"): REMOVED,
    (RESCHEDULING, "node_lost"): RESCHEDULING,
    (RESCHEDULING, "placed"): CREATED,
    (RESCHEDULING, "remove"): REMOVED,
}

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(slots=True, eq=False)
class Bundle:
    """A part of a group, which lies on one node. Placed all or nothing: see `is_placed`."""

    index: int
    ask: Ask  #: of a node
    node: Node | None = None
    allocation: Allocation | None = None  #: what it holds in the books of its node
    ledger: Ledger | None = None  #: its own books, from which its users take

    @property
    def demand(self) -> dict[str, int]:
        """What it reserves."""
        return self.ask.demand

    @property
    def is_placed(self) -> bool:
        """Whether it has a node, and resources there."""
        return self.ledger is not None


@dataclass(slots=True, eq=False)
class Group:
    """A placement group, from creation to the end of memory."""

    spec: GroupSpec
    bundles: list[Bundle]
    whole: Ask  #: of a node that is to hold all bundles
    queue: str  #: equal for groups that ask for the same
    created_at: float
    waits_since: float
    state: str = PENDING
    keeper: bytes = b""  #: the detached actor that made it, and with which it ends
    could_fit: bool = True  #: on these nodes if they were idle
    judged_at: int = -1  #: `Nodes.version` for which that was found out
    attempts: int = 0  #: how often it was tried to place it
    placed_at: float = 0.0
    removed_at: float = 0.0
    detail: str = ""  #: why it was removed
    watchers: dict[int, None] = field(default_factory=dict)
    recalled: int = 0  #: a lease asked back for it, 0 if none

    @property
    def waits(self) -> bool:
        """Whether bundles of it have no node."""
        return self.state in (PENDING, RESCHEDULING)

    @property
    def missing(self) -> list[Bundle]:
        """The bundles that have no node."""
        return [bundle for bundle in self.bundles if not bundle.is_placed]
