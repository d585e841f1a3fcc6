"""The nodes of the cluster.

Theory of operation
-------------------
A node joins once and dies once; its id never comes back. A node that was declared dead and speaks
again is told to end (`Nodes.join` returns None), since its work was given to others. The order of
joining is the order of everything that goes over nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ract.core.messages import EndNode, ExitCause, NodeJoined, NodesChanged
from ract.scheduler.books.ledger import Ledger
from ract.scheduler.books.turn import Turn

NODE_ID_LABEL = "ray.io/node-id"
"""The label every node has without being told, under Ray's name for it."""


@dataclass(slots=True, eq=False)
class Node:
    """A node daemon and the machine it stands for."""

    node_id: bytes
    address: str
    host: str
    hostname: str
    name: str
    pid: int
    labels: dict[str, str]
    session_dir: str
    is_head: bool
    ledger: Ledger
    joined_at: float
    order: int  #: nodes that joined before it
    is_alive: bool = True
    died_at: float = 0.0
    cause: ExitCause | None = None
    farewell: ExitCause | None = None  #: why it ends, in its own words
    starting: int = 0  #: leases here whose executor is not up yet
    spread_turn: float = 0.0  #: when SPREAD last chose it, of all its choices
    is_draining: bool = False  #: nothing new may start here
    claim: Claim | None = None  #: who has waited so long that others must stand back
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """How people see it in messages."""
        return f"{self.name or self.hostname or self.host}({self.node_id.hex()[:8]})"

    def has_room(self, demand: Mapping[str, int], queue: str) -> bool:
        """Return whether a demand of this queue can be taken now."""
        claim = self.claim
        if claim is not None and claim.queue != queue and any(n in claim.names for n in demand):
            return False
        return self.ledger.fits(demand)


@dataclass(frozen=True, slots=True)
class Claim:
    """A node is kept for a queue: others get nothing of these resources there."""

    queue: str
    names: frozenset[str]


class Changes:
    """Which nodes have changed: a log of bounded length that each reader follows at its pace."""

    LENGTH_MAX = 4096

    def __init__(self) -> None:
        self.end = 0  #: how many changes there were, ever
        self._log: deque[Node] = deque(maxlen=self.LENGTH_MAX)

    def add(self, node: Node) -> None:
        """The books of a node have changed."""
        self.end += 1
        self._log.append(node)

    def since(self, seen: int, everybody: Iterable[Node]) -> Iterable[Node]:
        """Return who has changed after ``seen`` changes; everybody if that is forgotten."""
        behind = self.end - seen
        if behind > len(self._log):
            return everybody
        return dict.fromkeys(self._log[i] for i in range(-behind, 0))


ORDERLY = frozenset({"shutdown", "drained", "node_left"})
"""Kinds of ends of a node that somebody asked for."""


class Nodes:
    """All nodes, in the order of joining."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.table: dict[bytes, Node] = {}
        self._dead: deque[bytes] = deque()
        #: The living ones of `table`, in its order.
        self.alive: list[Node] = []
        self.version = 0  #: changes with `alive`
        self.changes = Changes()
        self.freed = 0  #: how often something became free, or a node joined
        self._joined = 0

    def get(self, node_id: bytes) -> Node | None:
        """Return the node if it lives."""
        node = self.table.get(node_id)
        return node if node is not None and node.is_alive else None

    def join(self, event: NodeJoined) -> Node | None:
        """Add a node; None if it is no news, or was declared dead (then it is told to end)."""
        known = self.table.get(event.node_id)
        if known is not None:
            self._turn.drop("node joined again")
            if not known.is_alive:
                cause = ExitCause("node_died", "was declared dead; its work went to others")
                self._turn.send(event.node_id, EndNode(cause))
            return None
        node = Node(
            node_id=event.node_id,
            address=event.address,
            host=event.host,
            hostname=event.hostname,
            name=event.name,
            pid=event.pid,
            labels={NODE_ID_LABEL: event.node_id.hex(), **event.labels},
            session_dir=event.session_dir,
            is_head=event.is_head,
            ledger=Ledger(event.resources),
            joined_at=self._turn.epoch_s,
            order=self._joined,
        )
        node.spread_turn = -1 / (1 + node.order)  # nobody's turn is longer ago than of the first
        node.ledger.on_change = partial(self.note, node)
        self._joined += 1
        self.version += 1
        self.freed += 1
        self.table[node.node_id] = node
        self.alive.append(node)
        self._turn.retry = True
        return node

    def lose(self, node_id: bytes, cause: ExitCause) -> Node | None:
        """Mark a node dead; None if it is not alive."""
        node = self.get(node_id)
        if node is None:
            self._turn.drop("unknown node lost")
            return None
        if node.farewell is not None and cause.kind not in ORDERLY:
            cause = node.farewell
        node.is_alive = False
        node.died_at = self._turn.epoch_s
        node.cause = cause
        self.alive.remove(node)
        self.version += 1
        self._dead.append(node_id)
        if len(self._dead) > self._turn.settings.dead_max:
            del self.table[self._dead.popleft()]
        self._turn.retry = True
        return node

    def note(self, node: Node, freed: bool) -> None:
        """The books of a node have changed, or whom they are for."""
        self.changes.add(node)
        self.freed += freed

    def drain(self, node: Node, is_draining: bool) -> None:
        """Start nothing new on a node, or be content with it again."""
        if node.is_draining != is_draining:
            node.is_draining = is_draining
            self.version += 1
            self.freed += 1
            self._turn.retry = True

    def announce(self) -> None:
        """Tell every node where all nodes are."""
        addresses = {node.node_id.hex(): node.address for node in self.alive}
        for node in self.alive:
            self._turn.send(node.node_id, NodesChanged(addresses))

    def check(self) -> None:
        """Assert the invariants."""
        assert self.alive == [node for node in self.table.values() if node.is_alive]
        for node in self.alive:
            node.ledger.check()
            assert node.starting >= 0
