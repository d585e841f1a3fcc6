"""Telling the cluster how many calls of this process its actors have not answered: for people.

The callers know it, and the actors do not: see `ract.scheduler.people.mailboxes`. Counting is done
once a second at most, on the IO thread, and nothing of it is on the path of a call.
"""

from __future__ import annotations

from ract.client.actors.actors import Actors
from ract.client.process.node_link import NodeLink
from ract.core.messages import CallsWaiting

PERIOD_S = 1.0


class MailboxReports:
    """What was told last, and when."""

    def __init__(self, link: NodeLink, actors: Actors) -> None:
        self._link = link
        self._actors = actors
        self._told: dict[bytes, int] = {}
        self._next_at = 0.0

    def tick(self, now: float) -> bool:
        """Report what has changed; returns whether there may be more to report soon."""
        if now < self._next_at:
            return bool(self._told)
        self._next_at = now + PERIOD_S
        counts = {
            client.actor_id: count for client in self._actors.all if (count := client.unfinished)
        }
        changed = {key: n for key, n in counts.items() if self._told.get(key) != n}
        changed.update({key: 0 for key in self._told if key not in counts})
        self._told = counts
        if changed and not self._link.is_closed:
            self._link.tell(CallsWaiting(self._link.process, changed))
        return bool(counts)
