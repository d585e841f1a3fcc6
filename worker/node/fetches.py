"""Copies that are on their way to a node: how far they have come, and how long nothing has come.

Theory of operation
-------------------
A *fetch* begins when the node first hears where an object is, and ends when the copy is complete or
given up. In between it makes attempts, one after the other, each from one source. What an attempt
brought stays in the segment, and the next one goes on behind it, if its source has the same
*edition*: each time that a process writes an object, that is another edition, whose bytes may
differ from those before. A copy has the edition of what it was copied from.

A fetch for which nothing came for a long time, from whatever source, is given up.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Fetch:
    """One object on its way here."""

    segment: int
    size: int
    is_error: bool
    source: bytes  #: of the newest attempt
    progress_at: float  #: when something came last, or the fetch began
    arrived: int = 0  #: so many bytes from the front are in the segment
    edition: int = 0  #: of those bytes; 0 while there are none
    is_running: bool = True  #: an attempt goes on; otherwise another source is asked for
    reason: str = ""  #: why the newest attempt failed


@dataclass(slots=True)
class Fetches:
    """All fetches of a node.

    Args:
        timeout_s: One for which nothing came for so long is given up.
    """

    timeout_s: float
    table: dict[bytes, Fetch] = field(default_factory=dict)

    def is_running(self, object_id: bytes) -> bool:
        """Whether bytes of the object may be coming at this moment."""
        fetch = self.table.get(object_id)
        return fetch is not None and fetch.is_running

    def interrupted(self, object_id: bytes) -> Fetch | None:
        """The fetch, if it has no source at present."""
        fetch = self.table.get(object_id)
        return None if fetch is None or fetch.is_running else fetch

    def failed(
        self, object_id: bytes, arrived: int, edition: int, reason: str, now: float
    ) -> Fetch:
        """An attempt is over, after ``arrived`` bytes from the front."""
        fetch = self.table[object_id]
        fetch.is_running = False
        fetch.reason = reason
        if arrived > fetch.arrived:
            fetch.progress_at = now
        fetch.arrived, fetch.edition = arrived, edition
        return fetch

    def overdue(self, now: float) -> list[bytes]:
        """The objects that are to be given up."""
        return [
            object_id
            for object_id, fetch in self.table.items()
            if not fetch.is_running and now >= fetch.progress_at + self.timeout_s
        ]

    def next_deadline(self) -> float | None:
        """When one will be overdue."""
        times = [f.progress_at + self.timeout_s for f in self.table.values() if not f.is_running]
        return min(times, default=None)
