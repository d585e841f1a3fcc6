"""What goes in and out of the scheduler machine, and what one turn of it shares.

Theory of operation
-------------------
The machine handles one event at a time: a *turn*. All its parts (nodes, leases, actors, objects…)
write into the same `Turn`: commands to send, messages dropped. The clock is ``turn.now``, set from
outside at the start of the turn; nobody in this package reads another one.

Events are the messages of `ract.core.messages` that nodes send or relay, and the local facts
`NodeLost`, `NodesWanted`, `NodesLeft`, `Restarted`, `AllBack`, `DashboardServed` and `Tick`. The
only command is `Send`: a message for a node, which passes it on to the process that the message
names, if any.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

from ract.core.messages import ExitCause
from ract.scheduler.books.chronicle import Chronicle


@dataclass(frozen=True, slots=True)
class Send:
    """Command: put ``message`` on the stream of node ``node_id``."""

    node_id: bytes
    message: Any


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Local event: the stream of a node broke, or it missed its heartbeats."""

    node_id: bytes
    cause: ExitCause


@dataclass(frozen=True, slots=True)
class Tick:
    """Local event: time has passed (`SchedulerMachine.next_deadline` asked for it)."""


@dataclass(frozen=True, slots=True)
class NodesWanted:
    """Local event: whoever scales the cluster means to have so many nodes."""

    count: int


@dataclass(frozen=True, slots=True)
class NodesLeft:
    """Local event: whoever scales the cluster wants nodes to go until so many are left."""

    count: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """Local event: the scheduler was away, with time standing still; nodes have yet to come."""

    epoch_offset_s: float


@dataclass(frozen=True, slots=True)
class AllBack:
    """Local event: every node has come back since the restart, or was lost."""


@dataclass(frozen=True, slots=True)
class DashboardServed:
    """Local event: people can look at the cluster at ``address`` (host:port)."""

    address: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers that tests and operators may change. Every queue and table has its limit here."""

    process_block: int = 4096  #: process numbers given to a node at a time
    unknown_timeout_s: float = 2.0  #: how long a publish may be overtaken by who asks for it
    untold_timeout_s: float = 60.0  #: the same where a living node is to tell of it
    lost_hold_s: float = 15.0  #: what a living node has said of holds arrives in less
    pack_below: float = 0.5  #: a node that is used less than this takes work as if it were idle
    lease_quantum_s: float = 0.1  #: a lease is not recalled before it was of some use
    starve_s: float = 2.0  #: who waits longer while others are served claims a node
    claim_s: float = 30.0  #: so long at most, and then not for as long
    tasks_max: int = 100_000  #: task records kept (the oldest finished go first)
    dead_max: int = 10_000  #: dead actors, processes, nodes and jobs remembered, of each
    events_max: int = 10_000  #: cluster events remembered, of routine and of others each
    metric_series_max: int = 100_000  #: of the metrics of all programs; further ones are refused
    kv_value_bytes_max: int = 64 * 2**20
    epoch_offset_s: float = 0.0  #: seconds to add to ``now`` for the time since the epoch
    reconnect_s: float = 0.0  #: nodes wait so long for a scheduler that comes back; 0: it does not

    @classmethod
    def of(cls, config: dict[str, Any]) -> Settings:
        """Take what is known from ``config``; ignore the rest."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in config.items() if key in known})


class Turn:
    """The time, and what the parts of the machine have to say in this turn."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 0.0
        self.commands: list[Send] = []
        #: Messages that came too late or from nobody we know, by reason. They are normal.
        self.dropped: Counter[str] = Counter()
        #: Resources, nodes or demands changed: who waits should be looked at again.
        self.retry = False
        #: Nodes have yet to come back after a restart: what they say may be much later than usual.
        self.is_patient = False
        #: Seconds to add to ``now`` for the time since the epoch.
        self.epoch_offset_s = settings.epoch_offset_s
        self.chronicle = Chronicle(settings.events_max)

    def send(self, node_id: bytes, message: Any) -> None:
        """Command ``message`` to a node."""
        self.commands.append(Send(node_id, message))

    def drop(self, reason: str) -> None:
        """Count a message that is not acted on."""
        self.dropped[reason] += 1

    def note(self, severity: str, source: str, kind: str, message: str, **ids: Any) -> None:
        """Note, for people, that something has happened."""
        self.chronicle.add(self.epoch_s, severity, source, kind, message, **ids)

    @property
    def epoch_s(self) -> float:
        """Seconds since the epoch, for what people read."""
        return self.now + self.epoch_offset_s
