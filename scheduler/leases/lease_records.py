"""What is kept of wants and leases; `ract.scheduler.leases.lessor` says how they change."""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.core.messages import Shape
from ract.scheduler.books.ledger import Allocation
from ract.scheduler.books.nodes import Node
from ract.scheduler.placement.ask import Ask

WantKey = tuple[int, int]
"""(process, shape key)"""

STARTING, HELD, ENDING = "STARTING", "HELD", "ENDING"


@dataclass(slots=True, eq=False)
class Want:
    """What one process wants of one shape."""

    key: WantKey
    shape: Shape
    ask: Ask
    names: list[str]
    backlog: int = 0
    granted: int = 0  #: that `backlog` does not know of
    starting: int = 0  #: its leases in STARTING
    held: int = 0  #: its leases in HELD
    recalled: int = 0  #: a lease asked back for it, 0 if none
    failed_starts: int = 0  #: executors in a row that died while they started
    priority: int = 0  #: the highest of its tasks
    near: bytes = b""  #: the node with the data that they need, if they need much
    leases: dict[int, Lease] = field(default_factory=dict)  #: in STARTING or HELD

    @property
    def need(self) -> int:
        """Leases to grant beyond those on their way."""
        return max(0, self.backlog - self.granted - self.starting)

    @property
    def active(self) -> int:
        """Leases it has or is about to get."""
        return self.starting + self.held


@dataclass(slots=True, eq=False)
class Lease:
    """An executor lent, or about to be."""

    lease: int
    want_key: WantKey
    shape: Shape
    node: Node
    allocation: Allocation
    queue: str  #: of the want that it was started for
    state: str = STARTING
    executor: int = 0
    held_since: float = 0.0
    is_recalled: bool = False
