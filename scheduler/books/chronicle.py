"""What has happened to a cluster, for people: nodes that came and went, deaths, alerts.

The newest are kept, and of those that are more than routine, the newest of their own: ten thousand
actors that end as they should do not push out the one that did not. Nothing is decided from them;
who wants to keep more reads them by their numbers (`Chronicle.since`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

INFO, WARNING, ERROR = "INFO", "WARNING", "ERROR"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    number: int
    at: float  #: seconds since the epoch
    severity: str  #: "INFO" | "WARNING" | "ERROR"
    source: str  #: "NODE" | "ACTOR" | "JOB" | "WORKER" | "STORE" | "SCHEDULER"
    kind: str  #: "NODE_JOINED", "ACTOR_DIED", ...
    message: str
    ids: dict[str, Any] = field(default_factory=dict)  #: of what it happened to; hex


class Chronicle:
    """The newest events.

    Args:
        length_max: How many are kept of routine, and how many of the others.
    """

    def __init__(self, length_max: int) -> None:
        self.routine: deque[Event] = deque(maxlen=length_max)
        self.alerts: deque[Event] = deque(maxlen=length_max)
        self.end = 0  #: how many there were, ever: the number of the next one

    def add(
        self, at: float, severity: str, source: str, kind: str, message: str, **ids: Any
    ) -> None:
        """Note an event."""
        events = self.routine if severity == INFO else self.alerts
        events.append(Event(self.end, at, severity, source, kind, message, ids))
        self.end += 1

    def __iter__(self) -> Iterator[Event]:
        return heapq.merge(self.routine, self.alerts, key=_number)

    def __len__(self) -> int:
        return len(self.routine) + len(self.alerts)

    def since(self, number: int) -> Iterator[Event]:
        """The events from a number on, as far as they are kept."""
        newest: list[list[Event]] = []
        for events in (self.routine, self.alerts):
            newest.append([])
            for event in reversed(events):
                if event.number < number:
                    break
                newest[-1].append(event)
        return heapq.merge(*map(reversed, newest), key=_number)


def _number(event: Event) -> int:
    return event.number
