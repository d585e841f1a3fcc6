"""Which leased executor runs which task: the pure machine behind task submission.

Theory of operation
-------------------
One `LeaseMachine` per shape (resources, environment, strategy). Tasks wait in a queue, by priority
and then by arrival; leases take from it. A lease is pushed no more tasks than keep it busy: its
depth is ``2 ms / measured task time + 1`` within 1..256, no more than an even share of the queue,
and 1 while nothing of that function has finished, so that a straggler pins no work behind it. What
waits behind a call that runs long all the same comes back from the executor after a moment, which
says first that it is blocked.

Who wants its tasks spread over nodes gets that: a lease takes no task for which another lease is on
its way, and goes back when it has done its own, so that the scheduler chooses a node for each task.
Only many quick tasks are shared out as usual.

A lease is OPEN, BLOCKED (its task waits in get, or runs long: nothing is pushed) or RECALLED
(others wait for it: nothing is pushed, and it is released when it is empty). Idle leases are kept
for a while, because the next call usually comes soon.

The machine refuses to know about sockets and the clock: it returns what to do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ract.core.messages import ExitCause
from ract.core.priorities import insert

DEPTH_MAX = 256
DEPTH_TIME_S = 0.002
IDLE_S = 0.5
"""A lease with nothing to do is given back after this time."""

FILL_EVERY = 16
"""While tasks wait, so many submissions pass between two looks at the leases."""

QUICK_S = 0.001
ANNOUNCE_PERIOD_S = 0.01
"""How often the scheduler hears how many quick tasks wait."""

SPREAD_BULK = 64
"""More quick tasks than this are not worth a lease each."""

_AVERAGE_WEIGHT = 0.2


@dataclass(slots=True)
class Lease:
    """A granted executor. ``inflight`` counts calls pushed and not answered."""

    id: int
    executor: int
    inflight: int = 0
    blocked: bool = False
    recalled: bool = False
    idle_since: float = 0.0


@dataclass(slots=True)
class Todo:
    """What the adapter must do now."""

    abort: list[int] = field(default_factory=list)  #: end the ways to these executors
    lost: list[tuple[int, list[Any]]] = field(default_factory=list)  #: executor, its calls
    #: Attempts that ended with their process: call, which attempt, executor, cause.
    ended: list[tuple[Any, int, int, ExitCause]] = field(default_factory=list)
    failed: list[tuple[Any, str, ExitCause | None]] = field(default_factory=list)  #: call, reason
    pushes: list[tuple[Lease, Any]] = field(default_factory=list)
    release: list[Lease] = field(default_factory=list)
    backlog: int | None = None  #: announce this many waiting tasks

    def add(self, other: Todo) -> None:
        """Do another thing after this."""
        self.abort += other.abort
        self.lost += other.lost
        self.ended += other.ended
        self.failed += other.failed
        self.pushes += other.pushes
        self.release += other.release
        if other.backlog is not None:
            self.backlog = other.backlog


class LeaseMachine:
    """Tasks of one shape and the leases that run them.

    Args:
        spreads: The scheduler is to choose a node for each task.
    """

    def __init__(self, *, spreads: bool = False) -> None:
        self._spreads = spreads
        self.queue: deque[Any] = deque()
        #: All leases granted and neither released nor lost, by id.
        self.leases: dict[int, Lease] = {}
        #: The backlog that the scheduler was last told.
        self.announced = 0
        self._announced_at = 0.0
        self._priority_told = 0
        self._average_s = 0.0
        #: A submission looks for leases when so many tasks wait; between, replies do.
        self._fill_at = 1
        #: Whether calls of other priorities than 0 may be in the queue.
        self._is_mixed = False
        #: Functions of which a call has finished.
        self._known: set[Any] = set()

    def submit(self, call: Any, now: float) -> Todo | None:
        """A call is ready to run; None if nothing is to be done now."""
        queue = self.queue
        if call.priority or self._is_mixed:
            self._is_mixed = bool(queue) or bool(call.priority)
            insert(queue, call, _priority)
        else:
            queue.append(call)
        # The first always looks: cancelling may have emptied the queue.
        return self._fill(now) if len(queue) >= self._fill_at or len(queue) == 1 else None

    def resubmit(self, calls: list[Any], now: float) -> Todo:
        """Calls come back (returned, or to be retried); they go first, in order."""
        for call in reversed(calls):
            if call.priority or self._is_mixed:
                self._is_mixed = True
                insert(self.queue, call, _priority, first=True)
            else:
                self.queue.appendleft(call)
        return self._fill(now)

    def granted(self, lease: Lease, now: float) -> Todo:
        """The scheduler granted a lease."""
        lease.idle_since = now
        self.leases[lease.id] = lease
        self.announced = max(0, self.announced - 1)
        return self._fill(now)

    def replied(self, lease: Lease, inflight: int, n: int, busy_s: float, now: float) -> Todo:
        """``n`` calls of the lease finished after ``busy_s`` in user code."""
        lease.inflight = inflight
        if n:
            each = busy_s / n
            if self._average_s:
                self._average_s += (each - self._average_s) * _AVERAGE_WEIGHT
            else:
                self._average_s = each
        if not inflight:
            lease.idle_since = now
        return self._fill(now)

    def finished(self, target: Any) -> None:
        """A call of function ``target`` finished: its time is in the average."""
        self._known.add(target)

    def blocked(self, lease: Lease, is_blocked: bool, now: float) -> Todo:
        """The lease's task waits in get, or runs for long; or goes on, or has ended."""
        lease.blocked = is_blocked
        return self._fill(now)

    def out_of_reach(self, lease: Lease) -> None:
        """The scheduler granted a lease of an executor that cannot be reached."""
        lease.blocked = True
        self.leases[lease.id] = lease
        self.announced = max(0, self.announced - 1)

    def give_up(self, lease: Lease, todo: Todo) -> None:
        """Nobody says what became of an executor: its lease goes back."""
        if lease.id in self.leases:
            self._release(lease, todo)

    def refused(self) -> list[Any]:
        """No executor will ever come; returns the calls that waited for one."""
        refused = list(self.queue)
        self.queue.clear()
        self.announced = 0
        return refused

    def cancelled(self, call: Any) -> None:
        """A call is not to be run, if it is here."""
        if call in self.queue:
            self.queue.remove(call)

    def recalled(self, lease_id: int, now: float) -> Todo:
        """Others wait for what this lease holds."""
        lease = self.leases.get(lease_id)
        if lease is not None:
            lease.recalled = True
        return self._fill(now)

    def lost(self, lease_id: int, now: float) -> Todo:
        """The executor of the lease is gone."""
        self.leases.pop(lease_id, None)
        return self._fill(now)

    def tick(self, now: float) -> Todo:
        """Give back idle leases and announce the exact backlog."""
        todo = self._fill(now)
        if not self.queue:
            for lease in list(self.leases.values()):
                if not lease.inflight and now - lease.idle_since >= IDLE_S:
                    self._release(lease, todo)
        if todo.backlog is None and self.announced != len(self.queue):
            if now - self._announced_at >= ANNOUNCE_PERIOD_S:
                self._announce(todo, now)
        return todo

    def release_idle(self, now: float) -> Todo:
        """Give back leases with nothing to do at once."""
        todo = Todo()
        if not self.queue:
            if self.announced:
                self._announce(todo, now)
            for lease in list(self.leases.values()):
                if not lease.inflight:
                    self._release(lease, todo)
        return todo

    @property
    def is_active(self) -> bool:
        """Whether ticks are needed: the scheduler must also hear that nothing waits any more."""
        return bool(self.queue or self.leases or self.announced)

    @property
    def priority(self) -> int:
        """The highest of the waiting calls; 0 if there are none."""
        return self.queue[0].priority if self.queue else 0

    # ------------------------------------------------------------------ rules

    def _fill(self, now: float) -> Todo:
        todo = Todo()
        queue = self.queue
        usable = [each for each in self.leases.values() if not (each.blocked or each.recalled)]
        is_quick = usable and 0 < self._average_s < QUICK_S
        kept = self.announced if self._spreads else 0  # for leases that are on their way
        if is_quick and len(queue) > SPREAD_BULK:
            kept = 0
        if queue:
            depth = self._depth(len(usable))
            # Breadth first: every lease gets one call before any gets a second.
            for lease in sorted(usable, key=_by_inflight):
                while len(queue) > kept and lease.inflight < depth:
                    call = queue.popleft()
                    if call.cancelled:
                        continue
                    lease.inflight += 1
                    todo.pushes.append((lease, call))
                    if call.target not in self._known:
                        depth = 1
        for lease in list(self.leases.values()):
            if (lease.recalled or self._spreads) and not lease.inflight:
                self._release(lease, todo)
        waiting = len(queue)
        self._fill_at = waiting + FILL_EVERY if waiting else 1
        # Quick tasks are soon done by the leases there are; otherwise more are wanted at once.
        is_urgent = self._is_mixed and waiting and self.priority > self._priority_told
        if (waiting > 2 * self.announced and not is_quick) or is_urgent:
            self._announce(todo, now)
        return todo

    def _depth(self, usable: int) -> int:
        call = self.queue[0]
        if call.target not in self._known:
            return 1
        depth = int(DEPTH_TIME_S / self._average_s) + 1 if self._average_s else DEPTH_MAX
        share = len(self.queue) // (2 * max(1, usable)) + 1
        return max(1, min(depth, DEPTH_MAX, share))

    def _release(self, lease: Lease, todo: Todo) -> None:
        del self.leases[lease.id]
        todo.release.append(lease)

    def _announce(self, todo: Todo, now: float) -> None:
        self._announced_at = now
        self._priority_told = self.priority
        self.announced = len(self.queue)
        todo.backlog = self.announced


def _by_inflight(lease: Lease) -> int:
    return lease.inflight


def _priority(call: Any) -> int:
    return call.priority
