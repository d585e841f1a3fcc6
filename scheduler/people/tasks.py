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
is summed up over all calls, those forgotten included, is in `ract.scheduler.people.task_stats`.

What has waited for long comes from who waits, as a snapshot. A task's *stages* are the states in
which it was seen before it ran; they go into its record when it is made.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ract.core import events
from ract.core.causes import error_type_of, text_of
from ract.core.ids import JobID, task_id_bytes
from ract.scheduler.books.processes import Process
from ract.scheduler.books.turn import Turn
from ract.scheduler.people.task_records import ENDED, WAITING, Queue, Run, Stages, Task
from ract.scheduler.people.task_stats import TaskStats

STAGES_MAX = 20_000
"""So many tasks that have waited are remembered until they are heard of again."""

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
    dict,
)
"""The type of each field of an event, in the order of `ract.core.events.FIELDS`."""

_RUN_KINDS = [str, str, str, bytes, bytes, bytes, bytes, bytes, dict]
_QUEUE_KINDS = [str, str, str, bytes, bytes, int, bytes, bytes, dict]


@dataclass(slots=True, eq=False)
class Tasks:
    """Bounded table of attempts, and exact counts."""

    turn: Turn
    table: dict[tuple[bytes, int], Task] = field(default_factory=dict)
    #: (name, type, state) -> how many attempts are in it; all ever seen.
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    runs: deque[Run] = field(default_factory=deque)
    in_runs: int = 0
    forgotten: int = 0
    stats: TaskStats = field(default_factory=TaskStats)
    #: By who submitted them: what has waited for long, and has not been seen running since.
    queues: dict[int, Queue] = field(default_factory=dict)
    #: Tasks that wait or waited and are not in the table, and the states they were seen in.
    stages: dict[tuple[bytes, int], Stages] = field(default_factory=dict)
    #: Executor -> what of the table runs there.
    _open: dict[int, dict[tuple[bytes, int], None]] = field(default_factory=dict)

    def all(self) -> Iterator[Task]:
        """Every attempt that is not forgotten; first those that have not ended."""
        for block in self.blocks():
            if isinstance(block, Run):
                yield from block.tasks()
            else:
                yield block

    def blocks(self) -> Iterator[Task | Run]:
        """The same, with runs as they are."""
        for queue in self.queues.values():
            yield from queue.tasks.values()
        yield from self.table.values()
        yield from self.runs

    @property
    def size(self) -> int:
        """How many `all` gives."""
        waiting = sum(len(queue.tasks) for queue in self.queues.values())
        return waiting + len(self.table) + self.in_runs

    @property
    def left_out(self) -> int:
        """How many wait that nobody has told of one by one."""
        return sum(queue.left_out for queue in self.queues.values())

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

    def waiting(self, reporter: Process, queues: list[Any], left_out: int) -> None:
        """Take what a process says that it has waiting."""
        found: dict[tuple[bytes, int], Task] = {}
        for plain in queues:
            try:
                for task in _queued(plain):
                    found[task.task_id, task.attempt] = task
            except (TypeError, ValueError):
                self.turn.drop("malformed queue of tasks")
        for key, task in list(found.items()):
            if key in self.table:  # heard of by its executor meanwhile
                del found[key]
                continue
            stages = self.stages.setdefault(key, [])
            if not stages or stages[-1][0] != task.state:
                stages.append((task.state, task.start if not stages else self.turn.epoch_s))
            task.stages, task.start = stages, -1.0
        while len(self.stages) > STAGES_MAX:
            del self.stages[next(iter(self.stages))]
        if found or left_out:
            self.queues[reporter.number] = Queue(found, max(0, left_out))
        else:
            self.queues.pop(reporter.number, None)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return ``{name: {"type", "state_counts": {state: count}}}``."""
        counts = Counter(self.counts)
        for queue in self.queues.values():
            for task in queue.tasks.values():
                counts[task.name, task.type, task.state] += 1
        found: dict[str, dict[str, Any]] = {}
        for (name, type_, state), count in sorted(counts.items()):
            if count:
                entry = found.setdefault(name, {"type": type_, "state_counts": {}})
                states = entry["state_counts"]
                states[state] = states.get(state, 0) + count
        return found

    def process_exited(self, process: Process) -> None:
        """What still ran there has failed, what it had waiting is gone: no report will come."""
        self.queues.pop(process.number, None)
        for key in self._open.pop(process.number, {}):
            task = self.table.get(key)
            if task is None or task.state in ENDED:
                continue
            self.counts[task.name, task.type, task.state] -= 1
            task.state, task.end = events.FAILED, self.turn.epoch_s
            task.error_type = error_type_of(process.cause, task.type)
            task.error_message = text_of(process.cause)
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
        facts = event[12]
        if known is not None and event[6] < 0.0:  # of somebody who does not know when
            event = [*event[:6], known.start, *event[7:]]
        where = (
            facts.get("executor", reporter.number),
            facts.get("pid", reporter.pid),
            facts.get("node_id", reporter.node_id),
            event[0][-JobID.SIZE :],
        )
        task = Task(*(*event, *where))
        task.stages = known.stages if known is not None else self._stages_of(key)
        self.table[key] = task
        self.counts[task.name, task.type, task.state] += 1
        if task.state not in ENDED:
            self._open.setdefault(task.executor, {})[key] = None
        else:
            self.stats.ended(task, self.turn.now)
            if task.executor in self._open:
                self._open[task.executor].pop(key, None)

    def _stages_of(self, key: tuple[bytes, int]) -> Stages:
        """What a task went through before it ran; it waits no more."""
        stages = self.stages.pop(key, None)
        if stages is None:
            return []
        for queue in self.queues.values():
            queue.tasks.pop(key, None)
        return stages

    def _take_run(self, reporter: Process, plain: Any) -> None:
        name, function, kind, actor_id, job_id, numbers, times, parents, facts = plain
        if [type(fact) for fact in plain] != _RUN_KINDS or not _are_facts(facts):
            raise TypeError("not a run")
        run = Run(
            name,
            function,
            kind,
            actor_id,
            job_id,
            array("Q", numbers),
            array("d", times),
            array("Q", parents),
            facts,
            reporter.number,
            reporter.pid,
            reporter.node_id,
        )
        if len(run.times) != 2 * len(run.numbers):
            raise ValueError("not two times per call")
        if run.parents and len(run.parents) != len(run.numbers):
            raise ValueError("not one parent per call")
        self.stats.ran(run, self.turn.now)
        self.counts[run.name, run.type, events.FINISHED] += len(run.numbers)
        if self.stages:
            self._take_out_those_that_waited(run)
        if run.numbers:
            self.runs.append(run)
            self.in_runs += len(run.numbers)
        self._make_room()

    def _take_out_those_that_waited(self, run: Run) -> None:
        """Their records say more than a run does."""
        for i in range(len(run.numbers) - 1, -1, -1):
            key = (task_id_bytes(run.numbers[i], run.job_id, run.actor_id), 0)
            if key in self.stages:
                self._make_room()
                self.table[key] = replace(run.task(i), stages=self._stages_of(key))
                run.drop(i, 1)

    def _make_room(self) -> None:
        most = self.turn.settings.tasks_max
        spare = max(1, most // 10)
        while self.runs and len(self.table) + self.in_runs >= most:
            run = self.runs[0]
            excess = min(len(run.numbers), len(self.table) + self.in_runs - most + spare)
            self.stats.forgot(run, excess)
            run.drop(0, excess)
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


def _queued(plain: Any) -> Iterator[Task]:
    """The records of a queue; ``start`` is since when they wait.

    Raises:
        TypeError, ValueError: it is none.
    """
    state, name, kind, actor_id, job_id, attempt, packed, times, facts = plain
    if [type(fact) for fact in plain] != _QUEUE_KINDS or not _are_facts(facts):
        raise TypeError("not a queue")
    numbers, since = array("Q", packed), array("d", times)
    if state not in WAITING or len(numbers) != len(since):
        raise ValueError("not a queue")
    for number, at in zip(numbers, since, strict=True):
        task_id = task_id_bytes(number, job_id, actor_id)
        yield Task(
            task_id=task_id,
            attempt=attempt,
            name=name,
            function=name,
            type=kind,
            state=state,
            start=at,
            end=0.0,
            parent=0,
            actor_id=actor_id,
            error_type="",
            error_message="",
            facts=facts,
            executor=0,
            pid=0,
            node_id=b"",
            job_id=job_id,
        )


def _is_well_formed(event: Any) -> bool:
    return (
        isinstance(event, list | tuple)
        and len(event) == len(_KINDS)
        and all(isinstance(value, kind) for value, kind in zip(event, _KINDS, strict=True))
        and _are_facts(event[12])
    )


def _are_facts(facts: dict[Any, Any]) -> bool:
    return all(isinstance(value, events.FACTS.get(name, ())) for name, value in facts.items())
