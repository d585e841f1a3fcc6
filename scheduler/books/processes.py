"""Processes and jobs: who is who.

Theory of operation
-------------------
A process number is unique for the cluster's life: each node gets blocks of them and numbers its
drivers and executors from these. A driver brings a job into being; executors learn their job with
their first lease or actor. The dead are remembered, up to a limit, for the state API only: for
everything else a process that is not alive is nobody, and messages for it are not sent.
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ract.core.messages import ExitCause, ProcessJoined
from ract.scheduler.books.turn import Turn

PROCESS_BITS = 28

FAILURES = frozenset({"crashed", "node_died", "node_left"})
"""Kinds of ends of a driver that are failures of its job."""


@dataclass(slots=True, eq=False)
class Process:
    """A driver, an executor or a tool that said hello."""

    number: int
    node_id: bytes
    kind: str
    pid: int
    namespace: str
    entrypoint: str
    runtime_env: str
    metadata: dict[str, str]
    joined_at: float
    job_id: bytes = b""
    exited_at: float = 0.0
    cause: ExitCause | None = None
    leaving: ExitCause | None = None  #: why it serves nobody any more; it stays for what it owes


@dataclass(slots=True, eq=False)
class Job:
    """What one driver started."""

    job_id: bytes
    driver: int
    node_id: bytes
    pid: int
    namespace: str
    entrypoint: str
    runtime_env: str
    metadata: dict[str, str]
    started_at: float
    finished_at: float = 0.0
    cause: ExitCause | None = None

    @property
    def is_running(self) -> bool:
        """Whether its driver lives."""
        return self.cause is None


@dataclass(slots=True, eq=False)
class Processes:
    """The living, the remembered dead, jobs and the numbers still to give."""

    turn: Turn
    rng: random.Random
    alive: dict[int, Process] = field(default_factory=dict)
    dead: deque[Process] = field(default_factory=deque)
    jobs: dict[bytes, Job] = field(default_factory=dict)
    _next_process: int = 1
    _next_job: int = 1

    def next_block(self) -> tuple[int, int]:
        """Return (first, count) of process numbers that nobody had before."""
        first, count = self._next_process, self.turn.settings.process_block
        if first + count > 1 << PROCESS_BITS:
            raise OverflowError("all process numbers of this cluster are used up")
        self._next_process += count
        return first, count

    def join(self, event: ProcessJoined) -> Process:
        """Add a process; a driver starts a job."""
        process = Process(
            number=event.process,
            node_id=event.node_id,
            kind=event.kind,
            pid=event.pid,
            namespace=event.namespace,
            entrypoint=event.entrypoint,
            runtime_env=event.runtime_env,
            metadata=event.metadata,
            joined_at=self.turn.epoch_s,
        )
        self.alive[process.number] = process
        if process.kind == "driver":
            self._start_job(process)
        return process

    def exit(self, number: int, cause: ExitCause) -> Process | None:
        """Bury a process; its job, if it was a driver, is over. None if it is not alive."""
        process = self.alive.pop(number, None)
        if process is None:
            self.turn.drop("unknown process exited")
            return None
        process.exited_at, process.cause = self.turn.epoch_s, cause
        self.dead.append(process)
        if len(self.dead) > self.turn.settings.dead_max:
            self.dead.popleft()
        job = self.jobs.get(process.job_id)
        if job is not None and job.driver == number:
            job.finished_at, job.cause = self.turn.epoch_s, cause
            self._forget_old_jobs()
        return process

    def assign_job(self, number: int, job_id: bytes) -> None:
        """An executor works for this job from now on."""
        process = self.alive.get(number)
        if process is not None and process.kind == "executor":
            process.job_id = job_id

    def tell(self, number: int, message: Any) -> None:
        """Send a message to a process, if it lives."""
        process = self.alive.get(number)
        if process is None:
            self.turn.drop(f"{type(message).__name__} for a dead process")
        else:
            self.turn.send(process.node_id, message)

    def on_node(self, node_id: bytes) -> list[Process]:
        """Return the living processes of a node."""
        return [p for p in self.alive.values() if p.node_id == node_id]

    def namespace_of(self, number: int) -> str:
        """Return the namespace that names without one belong to."""
        process = self.alive.get(number)
        if process is None:
            return ""
        job = self.jobs.get(process.job_id)
        return process.namespace or (job.namespace if job else "")

    def driver_of(self, job_id: bytes) -> int | None:
        """Return the job's driver if it lives."""
        job = self.jobs.get(job_id)
        return job.driver if job is not None and job.is_running else None

    def check(self) -> None:
        """Assert the invariants."""
        for job in self.jobs.values():
            assert job.is_running == (job.driver in self.alive), job.job_id

    def _start_job(self, process: Process) -> None:
        process.job_id = self._next_job.to_bytes(4, "big")
        self._next_job += 1
        if not process.namespace:
            process.namespace = str(uuid.UUID(int=self.rng.getrandbits(128)))
        self.jobs[process.job_id] = Job(
            job_id=process.job_id,
            driver=process.number,
            node_id=process.node_id,
            pid=process.pid,
            namespace=process.namespace,
            entrypoint=process.entrypoint,
            runtime_env=process.runtime_env,
            metadata=process.metadata,
            started_at=process.joined_at,
        )

    def _forget_old_jobs(self) -> None:
        finished = [job.job_id for job in self.jobs.values() if not job.is_running]
        for job_id in finished[: -self.turn.settings.dead_max]:
            del self.jobs[job_id]
