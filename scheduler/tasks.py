"""The table of tasks, made of batched events: what the state API and the dashboard show.

Theory of operation
-------------------
Executors report what happened to tasks at most a second late, in the lists that
`ract.core.events` describes. One record per attempt; an event replaces what is known unless the
record has ended (batches of different processes may overtake each other). The table is bounded:
the oldest ended tasks go first, then the oldest. Counts by name and state are kept for all tasks
ever seen, those forgotten included. Nothing is decided from this table.

Calls that just finished come in *runs*, in columns. They are counted and kept as they came, which
costs the same for one call as for thousands; `all` makes records of them when somebody asks. What
is summed up over all calls, those forgotten included, is in `ract.scheduler.task_stats`.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ract.core import events
from ract.core.ids import task_id_bytes
from ract.scheduler.processes import Process
from ract.scheduler.task_stats import TaskStats
from ract.scheduler.turn import Turn

ENDED = frozenset({events.FINISHED, events.FAILED})

_KINDS: tuple[type | tuple[type, ...], ...] = (
    bytes,
    int,
    str,
    str,
    str,
    str,
    (int, float),
    (int, float),
    int,
    bytes,
    str,
    str,
)
"""The type of each field of an event, in the order of `ract.core.events.FIELDS`."""

_RUN_KINDS = [str, str, str, bytes, bytes, bytes, bytes]


@dataclass(slots=True, eq=False)
class Task:
    """One attempt of one task, as it was last reported."""

    task_id: bytes
    attempt: int
    name: str
    function: str
    type: str
    state: str
    start: float
    end: float
    parent: int
    actor_id: bytes
    error_type: str
    error_message: str
    executor: int
    pid: int
    node_id: bytes
    job_id: bytes


@dataclass(slots=True, eq=False)
class Run:
    """Calls of one function that finished, as an executor reported them together."""

    name: str
    function: str
    type: str
    actor_id: bytes
    job_id: bytes
    numbers: array[int]
    times: array[float]
    executor: int
    pid: int
    node_id: bytes

    def tasks(self) -> Iterator[Task]:
        """A record of each."""
        for i, number in enumerate(self.numbers):
            yield Task(
                task_id=task_id_bytes(number, self.job_id, self.actor_id),
                attempt=0,
                name=self.name,
                function=self.function,
                type=self.type,
                state=events.FINISHED,
                start=self.times[2 * i],
                end=self.times[2 * i + 1],
                parent=0,
                actor_id=self.actor_id,
                error_type="",
                error_message="",
                executor=self.executor,
                pid=self.pid,
                node_id=self.node_id,
                job_id=self.job_id,
            )


@dataclass(slots=True, eq=False)
class Tasks:
    """Bounded table of attempts, and exact counts."""

    turn: Turn
    table: dict[tuple[bytes, int], Task] = field(default_factory=dict)
    #: (name, type, state) -> how many attempts are in it; all ever seen.
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    runs: deque[Run] = field(default_factory=deque)
    runs_taken: int = 0  #: how many runs there were, ever
    in_runs: int = 0
    forgotten: int = 0
    stats: TaskStats = field(default_factory=TaskStats)

    def all(self) -> Iterator[Task]:
        """Every attempt that is not forgotten."""
        yield from self.table.values()
        for run in self.runs:
            yield from run.tasks()

    def report(self, reporter: Process, batch: list[Any], runs: list[Any]) -> None:
        """Take a batch of events, and of runs, from the executor that ran the tasks."""
        for plain in runs:
            try:
                self._take_run(reporter, plain)
            except (TypeError, ValueError):
                self.turn.drop("malformed run of tasks")
        for event in batch:
            if _is_well_formed(event):
                self._take(reporter, event)
            else:
                self.turn.drop("malformed task event")

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return ``{name: {"type", "state_counts": {state: count}}}``."""
        found: dict[str, dict[str, Any]] = {}
        for (name, type_, state), count in sorted(self.counts.items()):
            if count:
                entry = found.setdefault(name, {"type": type_, "state_counts": {}})
                counts = entry["state_counts"]
                counts[state] = counts.get(state, 0) + count
        return found

    def process_exited(self, process: Process) -> None:
        """What still ran there has failed; its own report will not come."""
        for task in self.table.values():
            if task.executor == process.number and task.state not in ENDED:
                self.counts[task.name, task.type, task.state] -= 1
                task.state, task.end = events.FAILED, self.turn.epoch_s
                task.error_type = "WORKER_DIED"
                cause = process.cause
                task.error_message = (cause.detail or cause.kind) if cause else ""
                self.counts[task.name, task.type, task.state] += 1
                self.stats.ended(task, self.turn.now)

    def _take(self, reporter: Process, event: events.Event) -> None:
        key = (event[0], event[1])
        known = self.table.get(key)
        if known is not None:
            if known.state in ENDED:
                self.turn.drop("event of an ended task")
                return
            self.counts[known.name, known.type, known.state] -= 1
        else:
            self._make_room()
        where = (reporter.number, reporter.pid, reporter.node_id, reporter.job_id)
        task = Task(*(*event, *where))
        self.table[key] = task
        self.counts[task.name, task.type, task.state] += 1
        if task.state in ENDED:
            self.stats.ended(task, self.turn.now)

    def _take_run(self, reporter: Process, plain: Any) -> None:
        name, function, kind, actor_id, job_id, numbers, times = plain
        if [type(fact) for fact in plain] != _RUN_KINDS:
            raise TypeError("not a run")
        run = Run(
            name,
            function,
            kind,
            actor_id,
            job_id,
            array("Q", numbers),
            array("d", times),
            reporter.number,
            reporter.pid,
            reporter.node_id,
        )
        if len(run.times) != 2 * len(run.numbers):
            raise ValueError("not two times per call")
        self.runs.append(run)
        self.runs_taken += 1
        self.in_runs += len(run.numbers)
        self.stats.ran(run, self.turn.now)
        self.counts[run.name, run.type, events.FINISHED] += len(run.numbers)
        self._make_room()

    def _make_room(self) -> None:
        most = self.turn.settings.tasks_max
        spare = max(1, most // 10)
        while self.runs and len(self.table) + self.in_runs >= most:
            run = self.runs[0]
            excess = min(len(run.numbers), len(self.table) + self.in_runs - most + spare)
            self.stats.forgot(run, excess)
            del run.numbers[:excess], run.times[: 2 * excess]
            self.in_runs -= excess
            self.forgotten += excess
            if not run.numbers:
                self.runs.popleft()
        if len(self.table) < most:
            return
        # A tenth at a time, so that the search costs little per task.
        ended = [key for key, task in self.table.items() if task.state in ENDED][:spare]
        for key in ended or list(self.table)[:spare]:
            del self.table[key]
            self.forgotten += 1


def _is_well_formed(event: Any) -> bool:
    return (
        isinstance(event, list | tuple)
        and len(event) == len(_KINDS)
        and all(isinstance(value, kind) for value, kind in zip(event, _KINDS, strict=True))
    )
