"""One actor: its states, its transitions, its body.

Theory of operation
-------------------
`TRANSITIONS` is the only table by which ``Actor.state`` changes; `ract.scheduler.actors.actors`
applies it. The state is what callers see. The body is what runs: a process for one incarnation, or
the attempt to start one. They are kept apart because they end at different times: a killed actor is
DEAD at once, while its process, and the resources it holds, go a little later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.core.messages import ActorSpec, Blob, ExitCause
from ract.scheduler.books.ledger import Allocation
from ract.scheduler.books.nodes import Node
from ract.scheduler.placement.ask import Ask

PENDING, ALIVE, RESTARTING, DEAD = "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"

TRANSITIONS = {
    (PENDING, "started"): ALIVE,
    (PENDING, "restart"): RESTARTING,
    (PENDING, "end"): DEAD,
    (ALIVE, "restart"): RESTARTING,
    (ALIVE, "end"): DEAD,
    (RESTARTING, "started"): ALIVE,
    (RESTARTING, "restart"): RESTARTING,
    (RESTARTING, "end"): DEAD,
}

FINAL = frozenset(
    {
        "exited",
        "out_of_scope",
        "owner_died",
        "job_finished",
        "init_failed",
        "max_calls",
        "unschedulable",
        "group_removed",
    }
)
"""Kinds of exits after which an actor never restarts."""

RESTARTS_MAX = 2**31
"""What "without limit" (-1) means."""

STORY_MAX = 60
"""Chapters kept of an actor's story: the first few and the newest."""

STORY_FIRST = 10


@dataclass(slots=True, eq=False)
class Body:
    """A process for one incarnation, from the command to start it until it is reported gone."""

    node: Node
    incarnation: int
    allocation: Allocation
    executor: int = 0  #: 0 until the constructor has returned
    address: str = ""
    pid: int = 0
    is_moving: bool = False  #: told to end so that the actor can go on elsewhere
    #: Told to end, and why; what ended it in the actor's story is this, not how the process fell.
    ending: ExitCause | None = None


@dataclass(slots=True, eq=False)
class Actor:
    """One actor, from creation to the end of memory."""

    spec: ActorSpec
    ask: Ask
    state: str = PENDING
    incarnation: int = 1
    body: Body | None = None
    restarts: int = 0
    cause: ExitCause | None = None  #: of death, or of the newest restart
    error: Blob | None = None  #: what the constructor raised
    watchers: dict[int, None] = field(default_factory=dict)
    repr_name: str = ""  #: how its newest body calls itself, if its class has a ``__repr__``
    state_node: bytes = b""  #: where its newest body is, or was
    saved_on: str = ""  #: of a durable actor: where it was ALIVE last, as people read it
    recalled: int = 0  #: a lease asked back for it, 0 if none
    created_at: float = 0.0
    died_at: float = 0.0
    #: What happened to it, for people: (seconds since the epoch, state, what it was).
    story: list[tuple[float, str, str]] = field(default_factory=list)

    def tell(self, at: float, what: str) -> None:
        """Add to the story; of a long one the middle is forgotten."""
        self.story.append((at, self.state, what))
        if len(self.story) > STORY_MAX:
            del self.story[STORY_FIRST]

    @property
    def is_ending(self) -> bool:
        """Whether it will be DEAD as soon as its process has gone."""
        return self.body is not None and self.body.ending is not None

    @property
    def waits(self) -> bool:
        """Whether it needs a node."""
        return self.state in (PENDING, RESTARTING) and self.body is None

    @property
    def restarts_left(self) -> int:
        """How many more restarts it may have."""
        allowed = self.spec.max_restarts
        return (RESTARTS_MAX if allowed < 0 else allowed) - self.restarts

    def check(self) -> None:
        """Assert the invariants."""
        body = self.body
        if body is not None:
            assert body.node.is_alive
            assert body.incarnation <= self.incarnation
        if self.state == ALIVE:
            assert body is not None
            assert body.executor
            assert body.incarnation == self.incarnation
