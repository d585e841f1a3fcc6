"""All wants and leases, found in several ways. Nothing is decided here.

`ract.scheduler.leases.lessor` is the only one who changes the tables. Others look: who recalls
leases, who claims nodes, who drains and scales them, and who answers questions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ract.scheduler.books.nodes import Node
from ract.scheduler.leases.lease_records import ENDING, HELD, STARTING, Lease, Want, WantKey
from ract.scheduler.leases.lines import Line


@dataclass(slots=True, eq=False)
class LeaseTable:
    """Wants, queues and leases."""

    table: dict[int, Lease] = field(default_factory=dict)
    wants: dict[WantKey, Want] = field(default_factory=dict)
    #: Ask key -> the wants with a need > 0.
    queues: dict[str, Line] = field(default_factory=dict)
    #: Leases of each job in STARTING or HELD.
    of_job: Counter[bytes] = field(default_factory=Counter)
    on_node: dict[bytes, dict[int, Lease]] = field(default_factory=dict)
    #: Placement group -> the wants that name it.
    of_group: dict[bytes, dict[WantKey, None]] = field(default_factory=dict)
    #: Executor -> its lease in HELD or ENDING.
    by_executor: dict[int, Lease] = field(default_factory=dict)
    by_process: dict[int, dict[WantKey, None]] = field(default_factory=dict)  #: of `wants`

    def lent_on(self, node: Node, but: str = "") -> dict[str, int]:
        """Return what would become free on a node if its leases ended, but those of a queue."""
        lent: dict[str, int] = {}
        for lease in self.on_node.get(node.node_id, {}).values():
            if lease.queue != but and lease.allocation.ledger is node.ledger:
                for name in lease.allocation.demand:
                    lent[name] = lent.get(name, 0) + lease.allocation.in_use(name)
        return lent

    def check(self) -> None:
        """Assert the invariants."""
        for want in self.wants.values():
            mine = [
                lease
                for lease in self.table.values()
                if lease.want_key == want.key and lease.state != ENDING
            ]
            assert want.starting == sum(lease.state == STARTING for lease in mine)
            assert want.held == sum(lease.state == HELD for lease in mine)
            line = self.queues.get(want.ask.key)
            queued = line is not None and want.key in line.wants
            assert queued == (want.need > 0), (want, queued)
            assert want.key in self.by_process[want.key[0]]
            assert want.leases == {lease.lease: lease for lease in mine}
        for line in self.queues.values():
            assert line.wants
            assert all(self.wants[key] is want for key, want in line.wants.items())
            assert line.first(self.of_job) in line.wants.values()
        counts = Counter(e.shape.job_id for e in self.table.values() if e.state != ENDING)
        assert counts == self.of_job, (counts, self.of_job)
        for lease in self.table.values():
            assert lease.node.is_alive
            assert (lease.state == STARTING) == (not lease.executor), lease
            assert lease.state == ENDING or lease.want_key in self.wants or lease.state == STARTING
        held = {lease.executor: lease for lease in self.table.values() if lease.executor}
        assert held == self.by_executor
