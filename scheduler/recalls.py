"""Which lease is asked back when others wait.

Theory of operation
-------------------
A lease that is HELD belongs to its requester, which alone knows when its executor is idle; the
scheduler can only ask (`LeaseRecalled`). It asks for one lease at a time per queue of wants (or
demand of actors) that finds no room, and only if that helps fairness: from wants that have nothing
more to do, from anybody if the waiting one has nothing at all, else from those who have at least
two more. Of several, from who has most.

A lease just granted is left alone for a quantum, so that the time to hand it over stays small
beside the time it is used; `next_at` says when the first of them will be ripe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ract.core.messages import LeaseRecalled
from ract.scheduler.lease_records import HELD, Lease, WantKey
from ract.scheduler.placement import Ask

if TYPE_CHECKING:
    from ract.scheduler.leases import Leases

EVERY_S = 0.01
"""At most this often all leases are looked through, however much happens."""


class Recalls:
    """Asks for leases back. Its only state is when to look next."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.next_at: float | None = None
        self._looked_at = float("-inf")

    def begin(self) -> None:
        """All who wait are about to be looked at again."""
        self.next_at = None

    def ask_for(self, ask: Ask, has: int, key: WantKey | None) -> int:
        """Recall a lease that stands in the way of ``ask``; return its number, 0 if none.

        Args:
            ask: what waits.
            has: how many leases the waiting one has already.
            key: its want, None for an actor.
        """
        now = self._leases.turn.now
        if self._looked_at < now < self._looked_at + EVERY_S:
            self._look_at(self._looked_at + EVERY_S)
            return 0
        self._looked_at = now
        nodes = {node.node_id for node in self._leases.placement.candidates(ask)}
        best: tuple[int, int] | None = None
        for lease in self._leases.table.values():
            excess = self._excess(lease, ask, has, key)
            if not excess or lease.node.node_id not in nodes:
                continue
            ripe_at = self._ripe_at(lease)
            if ripe_at > now:
                self._look_at(ripe_at)
            elif best is None or (-excess, lease.lease) < best:
                best = (-excess, lease.lease)
        if best is None:
            return 0
        self.recall(self._leases.table[best[1]])
        return best[1]

    def recall(self, lease: Lease) -> None:
        """Ask for one lease back."""
        lease.is_recalled = True
        requester = lease.want_key[0]
        self._leases.processes.tell(requester, LeaseRecalled(requester, lease.lease))

    def _excess(self, lease: Lease, ask: Ask, has: int, key: WantKey | None) -> int:
        """How much more the lease's requester has; 0 if the lease is not to be recalled."""
        if lease.state != HELD or lease.is_recalled or lease.want_key == key:
            return 0
        if not any(lease.allocation.in_use(name) for name in ask.demand):
            return 0
        want = self._leases.wants[lease.want_key]
        if has == 0 or want.need == 0:
            return want.active
        return want.active - has if want.active - has >= 2 else 0

    def _ripe_at(self, lease: Lease) -> float:
        # Who has nothing more to do gives it back without loss, but not in the moment it came.
        quantum = self._leases.turn.settings.lease_quantum_s
        has_more = self._leases.wants[lease.want_key].need
        return lease.held_since + (quantum if has_more else quantum / 5)

    def _look_at(self, at: float) -> None:
        if self.next_at is None or at < self.next_at:
            self.next_at = at
