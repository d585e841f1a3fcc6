"""Which lease is asked back when others wait.

Theory of operation
-------------------
A lease that is HELD belongs to its requester, which alone knows when its executor is idle; the
scheduler can only ask (`LeaseRecalled`). It asks for one lease at a time per queue of wants (or
demand of actors) that finds no room, and only if that helps fairness: from wants that have nothing
more to do, from anybody if the waiting one has nothing at all, else from those who have at least
two more, they themselves or their jobs. Of several, from who has most.

A lease just granted is left alone for a quantum, so that the time to hand it over stays small
beside the time it is used; `next_at` says when the first of them will be ripe.
"""

from __future__ import annotations

from ract.core.messages import LeaseRecalled
from ract.scheduler.books.nodes import Node
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn
from ract.scheduler.leases.lease_records import HELD, Lease, Want
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.placement.ask import Ask
from ract.scheduler.placement.placement import Placement

EVERY_S = 0.01
"""At most this often all leases are looked through, however much happens."""


class Recalls:
    """Asks for leases back. Its only state is when it looked last, and when to look next."""

    def __init__(
        self, turn: Turn, processes: Processes, placement: Placement, leases: LeaseTable
    ) -> None:
        self._turn = turn
        self._processes = processes
        self._placement = placement
        self._leases = leases
        self.next_at: float | None = None
        self._looked_at = float("-inf")

    def begin(self) -> None:
        """All who wait are about to be looked at again."""
        self.next_at = None

    def ask_for(self, ask: Ask, want: Want | None = None) -> int:
        """Recall a lease that stands in the way of ``ask``; return its number, 0 if none.

        Args:
            ask: what waits.
            want: whose it is; None for an actor or a group, which has nothing yet.
        """
        return self.ask_for_any([ask], want)

    def ask_for_any(self, asks: list[Ask], want: Want | None = None) -> int:
        """As `ask_for`, for several asks of the same: the first that finds a lease counts."""
        now = self._turn.now
        if self._looked_at < now < self._looked_at + EVERY_S:
            self._look_at(self._looked_at + EVERY_S)
            return 0
        self._looked_at = now
        for ask in asks:
            best = self._best(ask, want)
            if best is not None:
                self.recall(best)
                return best.lease
        return 0

    def _best(self, ask: Ask, want: Want | None) -> Lease | None:
        now = self._turn.now
        best: tuple[int, int] | None = None
        for node in self._placement.candidates(ask):
            for lease in self._leases.on_node.get(node.node_id, {}).values():
                excess = self._excess(lease, ask, want)
                if not excess:
                    continue
                ripe_at = self._ripe_at(lease)
                if ripe_at > now:
                    self._look_at(ripe_at)
                elif best is None or (-excess, lease.lease) < best:
                    best = (-excess, lease.lease)
        return None if best is None else self._leases.table[best[1]]

    def clear(self, node: Node, names: frozenset[str], but: str) -> None:
        """Recall every lease on a node that holds some of these resources, but those of a queue."""
        for lease in self._leases.on_node.get(node.node_id, {}).values():
            is_held = lease.state == HELD and not lease.is_recalled and lease.queue != but
            if is_held and lease.allocation.ledger is node.ledger:
                if any(lease.allocation.in_use(name) for name in names):
                    self.recall(lease)

    def recall_all(self, node: Node) -> None:
        """Recall every lease on a node."""
        for lease in self._leases.on_node.get(node.node_id, {}).values():
            if lease.state == HELD and not lease.is_recalled:
                self.recall(lease)

    def recall(self, lease: Lease) -> None:
        """Ask for one lease back."""
        lease.is_recalled = True
        requester = lease.want_key[0]
        self._processes.tell(requester, LeaseRecalled(requester, lease.lease))

    def _excess(self, lease: Lease, ask: Ask, asker: Want | None) -> int:
        """How much more the lease's requester has; 0 if the lease is not to be recalled."""
        if lease.state != HELD or lease.is_recalled:
            return 0
        if asker is not None and lease.want_key == asker.key:
            return 0
        if not any(lease.allocation.in_use(name) for name in ask.demand):
            return 0
        want = self._leases.wants[lease.want_key]
        if want.ask.group_id != ask.group_id:
            return 0  # it takes from something else
        if asker is None or asker.active == 0 or want.need == 0:
            return want.active
        more = want.active - asker.active
        mine, its = asker.shape.job_id, want.shape.job_id
        if mine != its:
            more = max(more, self._leases.of_job[its] - self._leases.of_job[mine])
        return more if more >= 2 else 0

    def _ripe_at(self, lease: Lease) -> float:
        # Who has nothing more to do gives it back without loss, but not in the moment it came.
        quantum = self._turn.settings.lease_quantum_s
        has_more = self._leases.wants[lease.want_key].need
        return lease.held_since + (quantum if has_more else quantum / 5)

    def _look_at(self, at: float) -> None:
        if self.next_at is None or at < self.next_at:
            self.next_at = at
