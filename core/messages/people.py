"""What only people look at. Nothing is decided from it."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ract.core.wire import message

# --------------------------------------------------------------------------- process <-> scheduler


@message
class Warned:
    """process -> scheduler: something that the driver of its job should read."""

    process: int
    type: str  #: as in `Pushed.data`
    text: str


@message
class TaskEvents:
    """process -> scheduler, at most 1 s old; the forms are described in `ract.core.events`."""

    process: int
    events: list[Any]
    runs: list[Any] = field(default_factory=list)


@message
class CallsWaiting:
    """process -> scheduler, at most once a second: its unanswered calls of actors that changed."""

    process: int
    counts: dict[bytes, int]  #: by actor; 0 for those that have answered all


@message
class MetricsReported:
    """process -> its node: what its metrics have counted since the last time.

    ``metrics`` is a batch as `ract.core.metrics` describes it; ``refused`` values are not in it.
    """

    process: int
    job_id: bytes
    metrics: list[Any]
    refused: int = 0


@message
class TasksWaiting:
    """process -> scheduler: its calls that have waited for long; replaces what it said before.

    The form of ``queues`` is described in `ract.core.events`.
    """

    process: int
    queues: list[Any]
    left_out: int = 0  #: so many more wait, which are not told of one by one


@message
class Pushed:
    """scheduler -> driver: an error, warning or log lines. ``kind``: "error" | "log"."""

    process: int
    kind: str
    data: dict[str, Any]


# --------------------------------------------------------------------------- node -> scheduler


@message
class NodeStats:
    """Sent every second or so: store bytes, memory, processes (plain values for the dashboard)."""

    node_id: bytes
    stats: dict[str, Any]


@message
class NodeMetrics:
    """What the metrics of its processes have counted: about once a second, if anything.

    ``refused`` values were not taken, ever (see `ract.core.metrics`).
    """

    node_id: bytes
    metrics: list[Any]
    refused: int = 0


@message
class LogLines:
    """What processes of a job wrote since the last time."""

    node_id: bytes
    process: int
    job_id: bytes
    pid: int
    name: str
    is_err: bool
    lines: list[str]


# --------------------------------------------------------------------------- scheduler -> node


@message
class UserSpans:
    """Spans that a program has marked (`ract.util.profiling`).

    Each is ``[kind, start, end, task_id, extra]``, in seconds since the epoch.
    """

    process: int
    spans: list[Any]


PASSING = (NodeStats, NodeMetrics, LogLines, TaskEvents, TasksWaiting, CallsWaiting, UserSpans)
"""What only people look at. It may be lost when the scheduler restarts."""
