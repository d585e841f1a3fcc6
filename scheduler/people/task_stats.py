"""Sums over all calls ever reported: by function, by method of an actor, and failures by error.

Theory of operation
-------------------
The table of tasks forgets; these sums do not, so that pages are right after a million calls. They
are kept as batches come in. A batch of calls that finished costs a few sums over its columns;
latencies are taken of at most `SAMPLES_MAX` of its calls, spread evenly, into logarithmic buckets.
Percentiles are therefore estimates, within half a bucket (9 %); counts and means are exact.

Every table has a limit; what was updated longest ago is forgotten first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ract.core import events
from ract.scheduler.people.task_records import Run, Task

FUNCTIONS_MAX = 5_000
ACTORS_MAX = 25_000
METHODS_MAX = 200  #: of one actor
ERRORS_MAX = 500
EXAMPLES_MAX = 5  #: of one error
PARTS_MAX = 2_000  #: of runs that were forgotten
SAMPLES_MAX = 64  #: latencies taken of one batch
WINDOW_S = 3.0
"""Rates are means over at least so long."""

_BUCKETS_PER_DOUBLING = 4
_SHORTEST_S = 1e-6


@dataclass(slots=True, eq=False)
class Rate:
    """How many per second, lately."""

    _since: float = 0.0
    _count: int = 0
    _last: float = 0.0

    def add(self, count: int, now: float) -> None:
        """So many more have happened."""
        if now - self._since >= WINDOW_S:
            is_fresh = now - self._since < 2 * WINDOW_S
            self._last = self._count / (now - self._since) if is_fresh else 0.0
            self._since, self._count = now, 0
        self._count += count

    def at(self, now: float) -> float:
        """Per second; 0 if nothing has happened for two windows."""
        age = now - self._since
        if age >= 2 * WINDOW_S:
            return 0.0
        if age >= WINDOW_S:
            return self._count / age
        return (self._count + self._last * (WINDOW_S - age)) / WINDOW_S


@dataclass(slots=True, eq=False)
class CallStats:
    """Calls of one function or method that have ended."""

    name: str
    type: str
    finished: int = 0
    failed: int = 0
    total_s: float = 0.0  #: of those that finished
    longest_s: float = 0.0  #: of those that were sampled
    last_at: float = 0.0  #: seconds since the epoch
    buckets: dict[int, int] = field(default_factory=dict)
    rate: Rate = field(default_factory=Rate)

    @property
    def mean_s(self) -> float:
        """Of those that finished; 0 if none has."""
        return self.total_s / self.finished if self.finished else 0.0

    def percentile_s(self, part: float) -> float:
        """The latency that ``part`` of the calls stay below, estimated; 0 if there are none."""
        sampled = sum(self.buckets.values())
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= part * sampled:
                middle = _SHORTEST_S * 2 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING)
                return min(middle, self.longest_s)
        return 0.0

    def add(self, starts: Sequence[float], ends: Sequence[float], now: float) -> None:
        """Calls finished; ``now`` is the machine's time."""
        count = len(ends)
        self.finished += count
        self.total_s += max(0.0, sum(ends) - sum(starts))
        self.last_at = max(self.last_at, ends[-1])
        self.rate.add(count, now)
        for i in range(0, count, -(-count // SAMPLES_MAX)):
            took = ends[i] - starts[i]
            self.longest_s = max(self.longest_s, took)
            bucket = int(math.log2(max(took, _SHORTEST_S) / _SHORTEST_S) * _BUCKETS_PER_DOUBLING)
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def add_failure(self, at: float, now: float) -> None:
        """One call failed."""
        self.failed += 1
        self.last_at = max(self.last_at, at)
        self.rate.add(1, now)


@dataclass(slots=True, eq=False)
class ErrorStats:
    """Failures of one function with one kind of error."""

    function: str
    error_type: str
    kind: str  #: the class of the exception, or what ended the process
    count: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    #: The newest, oldest first.
    examples: list[Task] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """Calls of a run that are forgotten: from when to when they were, and how many."""

    name: str
    actor_id: bytes
    job_id: bytes
    executor: int
    pid: int
    node_id: bytes
    start: float
    end: float
    count: int


def _no_parts() -> deque[Part]:
    return deque(maxlen=PARTS_MAX)


@dataclass(slots=True, eq=False)
class TaskStats:
    """All sums."""

    #: (name, type) -> its calls.
    functions: dict[tuple[str, str], CallStats] = field(default_factory=dict)
    #: Actor -> method -> its calls.
    actors: dict[bytes, dict[str, CallStats]] = field(default_factory=dict)
    #: (function, error type, kind) -> failures.
    errors: dict[tuple[str, str, str], ErrorStats] = field(default_factory=dict)
    #: The newest parts of runs that the table has forgotten, oldest first: for the task stream.
    parts: deque[Part] = field(default_factory=_no_parts)
    finished: int = 0
    failed: int = 0

    def forgot(self, run: Run, count: int) -> None:
        """The first calls of a run are about to be forgotten."""
        self.parts.append(
            Part(
                run.name,
                run.actor_id,
                run.job_id,
                run.executor,
                run.pid,
                run.node_id,
                run.times[0],
                run.times[2 * count - 1],
                count,
            )
        )

    def ran(self, run: Run, now: float) -> None:
        """Calls of one function finished."""
        if not run.times:
            return
        starts, ends = run.times[::2], run.times[1::2]
        self.finished += len(ends)
        for stats in self._concerned(run.name, run.type, run.actor_id):
            stats.add(starts, ends, now)

    def ended(self, task: Task, now: float) -> None:
        """One attempt ended, in whichever way."""
        concerned = self._concerned(task.name, task.type, task.actor_id)
        if task.state == events.FINISHED:
            self.finished += 1
            for stats in concerned:
                stats.add([task.start], [task.end], now)
            return
        self.failed += 1
        for stats in concerned:
            stats.add_failure(task.end, now)
        kind = _kind(task)
        key = (task.name, task.error_type, kind)
        error = self.errors.pop(key, None) or ErrorStats(*key, first_at=task.end)
        self.errors[key] = error
        _limit(self.errors, ERRORS_MAX)
        error.count += 1
        error.last_at = max(error.last_at, task.end)
        error.examples = [*error.examples[1 - EXAMPLES_MAX :], task]

    def of_actor(self, actor_id: bytes) -> dict[str, CallStats]:
        """Its methods that were called."""
        return self.actors.get(actor_id, {})

    def _concerned(self, name: str, type_: str, actor_id: bytes) -> Iterator[CallStats]:
        yield _newest(self.functions, (name, type_), FUNCTIONS_MAX, name, type_)
        if actor_id:
            methods = self.actors.pop(actor_id, None) or {}
            self.actors[actor_id] = methods
            _limit(self.actors, ACTORS_MAX)
            yield _newest(methods, name, METHODS_MAX, name, type_)


def _newest(table: dict[Any, CallStats], key: Any, most: int, name: str, type_: str) -> CallStats:
    """The entry, which is the last to be forgotten now."""
    stats = table.pop(key, None) or CallStats(name, type_)
    table[key] = stats
    _limit(table, most)
    return stats


def _limit(table: dict[Any, Any], most: int) -> None:
    while len(table) > most:
        del table[next(iter(table))]


def _kind(task: Task) -> str:
    """What failures are grouped by: the exception's class, else how it ended."""
    if task.error_type == "TASK_EXECUTION_EXCEPTION":
        head = headline(task.error_message).partition(":")[0]
        return head[:100] or "an exception"
    return _KINDS.get(task.error_type, task.error_type or "unknown")


_KINDS = {
    "TASK_CANCELLED": "cancelled",
    "WORKER_DIED": "its process died",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_DIED": "its node died",
}


def headline(text: str) -> str:
    """The line of an error's text, perhaps with a traceback, that says what it was."""
    lines = text.splitlines()
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith('  File "'):
            after = (line for line in lines[i + 1 :] if line and not line.startswith(" "))
            return next(after, lines[0])
    return lines[0] if lines else ""
