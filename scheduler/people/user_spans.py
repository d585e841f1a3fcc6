"""Spans that programs have marked for the timeline."""

from __future__ import annotations

from collections import deque
from typing import Any

from ract.core.messages import UserSpans
from ract.scheduler.books.processes import Process

SPANS_MAX = 20_000
"""The newest are remembered."""


class MarkedSpans:
    """Remembers spans.

    Attributes:
        newest: ``[node_id, pid, process, kind, start, end, task_id, extra]`` each.
        forgotten: How many there were before these.
    """

    def __init__(self) -> None:
        self.newest: deque[list[Any]] = deque(maxlen=SPANS_MAX)
        self.forgotten = 0

    def report(self, process: Process, message: UserSpans) -> None:
        """A process has marked some."""
        for row in rows_of(process, message):
            self.forgotten += len(self.newest) == SPANS_MAX
            self.newest.append(row)


def rows_of(process: Process, message: UserSpans) -> list[list[Any]]:
    """The spans of a message, as they are remembered; what is malformed is left out."""
    where = [process.node_id, process.pid, process.number]
    found = []
    for span in message.spans:
        match span:
            case [str(), float(), float(), bytes(), dict()]:
                found.append([*where, *span])
    return found
