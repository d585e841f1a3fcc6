"""What is kept of tasks; `ract.scheduler.people.tasks` says how it comes in."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ract.core import events
from ract.core.ids import task_id_bytes

ENDED = frozenset({events.FINISHED, events.FAILED})
WAITING = frozenset({events.ARGS, events.PLACE, events.SUBMITTED})

Stages = list[tuple[str, float]]


@dataclass(slots=True, eq=False)
class Task:
    """One attempt of one task, as it was last reported."""

    task_id: bytes
    attempt: int
    name: str
    function: str
    type: str
    state: str
    start: float  #: -1.0 if that is not known
    end: float
    parent: int
    actor_id: bytes
    error_type: str
    error_message: str
    facts: dict[str, Any]
    executor: int
    pid: int
    node_id: bytes
    job_id: bytes
    stages: Stages = field(default_factory=list)  #: (state, since) before it ran


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
    parents: array[int]  #: empty if all are 0
    facts: dict[str, Any]
    executor: int
    pid: int
    node_id: bytes

    def tasks(self) -> Iterator[Task]:
        """A record of each."""
        return map(self.task, range(len(self.numbers)))

    def task(self, i: int) -> Task:
        """The record of one."""
        return Task(
            task_id=task_id_bytes(self.numbers[i], self.job_id, self.actor_id),
            attempt=0,
            name=self.name,
            function=self.function,
            type=self.type,
            state=events.FINISHED,
            start=self.times[2 * i],
            end=self.times[2 * i + 1],
            parent=self.parents[i] if self.parents else 0,
            actor_id=self.actor_id,
            error_type="",
            error_message="",
            facts=self.facts,
            executor=self.executor,
            pid=self.pid,
            node_id=self.node_id,
            job_id=self.job_id,
        )

    def drop(self, first: int, count: int) -> None:
        """Forget some of the calls."""
        del self.numbers[first : first + count], self.times[2 * first : 2 * (first + count)]
        if self.parents:
            del self.parents[first : first + count]


@dataclass(slots=True, eq=False)
class Queue:
    """What a process has waiting, as it said last."""

    tasks: dict[tuple[bytes, int], Task]
    left_out: int
