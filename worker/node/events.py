"""Local facts that the node machine is told, and the commands that it gives.

Messages (`ract.core.messages`) from the scheduler are events as they are; those of a process come
in a `FromProcess`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ract.core.messages import Hello
from ract.worker.node.memory import Consumer

# --------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Connected:
    """A process said hello; ``process`` is its number (given by the machine to drivers)."""

    process: int
    hello: Hello


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection of a process ended; everything it said has been handled."""

    process: int


@dataclass(frozen=True, slots=True)
class FromProcess:
    """A message of a process."""

    process: int
    message: Any


@dataclass(frozen=True, slots=True)
class ExecutorForked:
    """The zygote forked an executor."""

    process: int
    pid: int


@dataclass(frozen=True, slots=True)
class ExecutorExited:
    """An executor ended with a raw wait status."""

    process: int
    pid: int
    status: int
    stderr_tail: str = ""
    task: int = 0
    at: float = 0.0  #: seconds since the epoch


@dataclass(frozen=True, slots=True)
class SegmentCreated:
    """A segment's file, which was made in the background, is there."""

    segment: int


@dataclass(frozen=True, slots=True)
class SegmentFailed:
    """A segment's file could not be created."""

    segment: int
    process: int
    request: int
    detail: str
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class SpillDone:
    """A segment was copied to disk; its path leads there now."""

    segment: int


@dataclass(frozen=True, slots=True)
class SpillFailed:
    """A segment could not be copied to disk; it stays in memory."""

    segment: int
    detail: str


@dataclass(frozen=True, slots=True)
class RestoreDone:
    """A segment is here again, at its path."""

    segment: int


@dataclass(frozen=True, slots=True)
class RestoreFailed:
    """A segment could not be copied back from behind its URL."""

    segment: int
    detail: str


@dataclass(frozen=True, slots=True)
class PullDone:
    """A copy of an object arrived."""

    object_id: bytes
    edition: int = 0  #: what its source calls this writing of the object


@dataclass(frozen=True, slots=True)
class PullFailed:
    """The object could not be copied from ``source``, or not to the end."""

    object_id: bytes
    source: bytes
    reason: str
    is_gone: bool = True  #: the source does not have it; else nobody knows
    arrived: int = 0  #: so many bytes from the front are in the segment
    edition: int = 0  #: of those bytes


@dataclass(frozen=True, slots=True)
class MemoryHigh:
    """More of the node's memory is in use than may be.

    Attributes:
        at: When that was, on the machine's clock.
        used_bytes, total_bytes: Of the machine or of the control group that is short.
        threshold: The part of it that may be used.
        held_bytes: By the pid of an executor: what it and what it has started hold for themselves.
        peak_bytes: By the pid of an executor: the most that it has held.
        consumers: Who holds most on the machine, the largest first.
    """

    at: float
    used_bytes: int
    total_bytes: int
    threshold: float
    held_bytes: dict[int, int]
    peak_bytes: dict[int, int]
    consumers: tuple[Consumer, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportDue:
    """The scheduler should hear what was measured since the last time."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline has come."""


# --------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class ToScheduler:
    """Send a message to the scheduler."""

    message: Any


@dataclass(frozen=True, slots=True)
class ToProcess:
    """Send a message to a process of this node."""

    process: int
    message: Any


@dataclass(frozen=True, slots=True)
class Fork:
    """Have the zygote fork an executor."""

    process: int
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to an executor's process."""

    process: int
    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class CreateSegment:
    """Create a segment's file, then send ``then`` to ``process`` (0: nobody)."""

    segment: int
    size: int
    process: int
    request: int
    then: Any
    on_disk: bool = False  #: its path is to lead to a file on disk
    in_background: bool = False  #: it takes long; `SegmentCreated` or `SegmentFailed` will follow


@dataclass(frozen=True, slots=True)
class Spill:
    """Copy a segment's file to disk and have its path lead there; or to a URL."""

    segment: int


@dataclass(frozen=True, slots=True)
class DropSegment:
    """Remove a segment's file here; it is behind a URL, and stays there."""

    segment: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Copy a segment back from behind its URL, to its path."""

    segment: int
    size: int
    on_disk: bool = False  #: its path is to lead to a file on disk


@dataclass(frozen=True, slots=True)
class RemoveSegment:
    """Remove a segment's file, its pages at once; also on disk or behind a URL."""

    segment: int


@dataclass(frozen=True, slots=True)
class RemoveState:
    """Remove what was saved of a durable actor."""

    actor_id: bytes
    path: str


@dataclass(frozen=True, slots=True)
class Pull:
    """Copy an object from another node into a segment of this one."""

    object_id: bytes
    source: bytes
    address: str
    segment: int
    size: int
    arrived: int = 0  #: so many bytes from the front are in the segment
    edition: int = 0  #: of those bytes


@dataclass(frozen=True, slots=True)
class Warn:
    """Log a warning."""

    text: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The node is to end."""

    reason: str
