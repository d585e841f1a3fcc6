"""What the metrics of programs have counted, in all processes ever: for people, not for decisions.

Nodes report once a second what was added (`ract.core.metrics`). Counters and histograms are summed
up per job and node, and stay when processes, jobs and nodes end; a gauge goes with its process.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.core.ids import process_of_worker, worker_id_bytes
from ract.core.messages import NodeMetrics
from ract.core.metrics import Table
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn


@dataclass(slots=True, eq=False)
class UserMetrics:
    """The sums."""

    turn: Turn
    cluster_id: bytes
    processes: Processes
    table: Table = field(init=False)
    #: Values that nodes have not taken, by node.
    _refused: dict[bytes, int] = field(default_factory=dict)
    _refused_by_the_lost: int = 0

    def __post_init__(self) -> None:
        self.table = Table(self.turn.settings.metric_series_max)

    @property
    def refused(self) -> int:
        """Values that were not taken: of another form than others of that name, or of too many."""
        lost = self._refused_by_the_lost
        return self.table.refused + sum(self._refused.values()) + lost

    def reported(self, event: NodeMetrics) -> None:
        """A node has more."""
        self._refused[event.node_id] = event.refused
        self.table.merge(event.metrics, lives=self._lives)

    def _lives(self, worker: str) -> bool:
        return process_of_worker(bytes.fromhex(worker)) in self.processes.alive

    def process_exited(self, number: int) -> None:
        """Its gauges mean nothing any more."""
        self.table.forget(worker_id_bytes(number).hex())

    def node_lost(self, node_id: bytes) -> None:
        """Nothing more will come from there."""
        self._refused_by_the_lost += self._refused.pop(node_id, 0)

    def check(self) -> None:
        """Assert the invariants."""
        self.table.check()
