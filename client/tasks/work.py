"""The calls of one shape, from submission to their last attempt: a pure machine.

Theory of operation
-------------------
`LeaseMachine` decides which leased executor runs which call. Around it stands here what becomes of
a call otherwise. It is *late* while its arguments are not there; *delayed* while it waits for its
next attempt; *parked* when its executor, or the way to it, is gone, until the scheduler says why.

Of parked calls those that the executor cannot have started run again at once. The others have an
attempt less, if they have any left; if not, they fail with the cause. Who died for lack of memory
is tried again later each time, as often as `Patience.oom_retries` says.

A way may break although the executor lives, and an executor may be out of reach at once. Then
nobody says anything: after `CAUSE_TIMEOUT_S` the parked calls are taken for lost, and the lease is
given back.

Events are methods. Those that may lead to something return a `Todo`. The machine knows no sockets,
threads or clock; a call fails for a *reason*, of which the adapter makes an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ract.client.tasks.leases import Lease, LeaseMachine, Todo
from ract.core.messages import ExitCause

CAUSE_TIMEOUT_S = 5.0
"""How long a lost call waits to hear why its executor died."""

OOM_DELAY_S_MAX = 60.0
"""A task whose process died for lack of memory waits at most this long before it runs again."""

NEVER_STARTED = ("max_calls", "idle")
"""The executor ended between two calls; what it had not answered was still on its way."""

UNTOLD = ExitCause("crashed", f"its node did not say why within {CAUSE_TIMEOUT_S:.0f} s")

CANCELLED, DIED = "cancelled", "died"
"""Why a call fails."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When a call runs again, in seconds, and how often after a lack of memory (-1: always)."""

    retry_delay_s: float = 0.0
    oom_delay_s: float = 1.0
    oom_retries: int = -1


class Work:
    """All calls of one shape that this process submits, and the leases that run them.

    Args:
        patience: Says how patient to be, at each use.
        spreads: The scheduler is to choose a node for each call.
    """

    def __init__(self, patience: Callable[[], Patience], *, spreads: bool = False) -> None:
        self._patience = patience
        self.leases = LeaseMachine(spreads=spreads)
        #: The leases of `leases`, by executor.
        self.by_executor: dict[int, Lease] = {}
        self._late: dict[int, Any] = {}  # by number
        self._delayed: list[tuple[float, Any]] = []  # until when
        #: By executor: since when, and the calls that it had.
        self._parked: dict[int, tuple[float, list[Any]]] = {}
        self._causes: dict[int, ExitCause] = {}  # of executors whose way has not ended yet
        #: By executor: what it gave back in the replies that are being applied, in order.
        self._returned: dict[int, list[Any]] = {}

    # ------------------------------------------------------------------ calls

    def submitted(self, call: Any, now: float) -> Todo | None:
        """A call whose arguments are there; None if nothing is to be done now."""
        return self.leases.submit(call, now)

    def came_late(self, call: Any) -> None:
        """A call whose arguments are not there yet; `ready` or `cancelled` follows."""
        self._late[call.number] = call

    def ready(self, call: Any) -> None:
        """The arguments are there: the call is `submitted` next, perhaps for another shape."""
        self._late.pop(call.number, None)

    def cancelled(self, call: Any) -> Todo:
        """A call that no executor has is cancelled."""
        self._late.pop(call.number, None)
        self._delayed = [each for each in self._delayed if each[1] is not call]
        self.leases.cancelled(call)
        return Todo(failed=[(call, CANCELLED, None)])

    def retried(self, call: Any, now: float) -> Todo:
        """The call is to run again after its own error."""
        call.channel = None
        call.more().attempt += 1
        again: list[Any] = []
        self._again_or_later(call, again, now)
        return self.leases.resubmit(again, now)

    # ------------------------------------------------------------------ what the cluster says

    def granted(self, lease: Lease, now: float) -> Todo:
        """There is a way to a granted executor."""
        self.by_executor[lease.executor] = lease
        return self.leases.granted(lease, now)

    def out_of_reach(self, lease: Lease, now: float) -> None:
        """There is no way to a granted executor: it has died, or nobody will say anything."""
        self.by_executor[lease.executor] = lease
        self.leases.out_of_reach(lease)
        self._parked.setdefault(lease.executor, (now, []))

    def recalled(self, lease_id: int, now: float) -> Todo:
        """Others wait for what a lease holds."""
        return self._noted(self.leases.recalled(lease_id, now))

    def executor_of(self, lease_id: int) -> int | None:
        """The executor of a lease; None if it is none of this shape."""
        lease = self.leases.leases.get(lease_id)
        return lease.executor if lease is not None else None

    def lost(self, lease_id: int, cause: ExitCause, *, is_open: bool, now: float) -> Todo:
        """The executor has died.

        Args:
            lease_id: That of the executor.
            cause: Why.
            is_open: The way to it has not ended: what it had is told by `broken`.
            now: The time.
        """
        executor = self.executor_of(lease_id)
        todo = self.leases.lost(lease_id, now)
        if executor is None:
            return self._noted(todo)
        del self.by_executor[executor]
        if is_open:
            self._causes[executor] = cause
            todo.abort.append(executor)
        else:
            self._settle(executor, cause, todo, now)
        return self._noted(todo)

    def refused(self) -> list[Any]:
        """No executor will ever come; returns the calls that waited for one."""
        return self.leases.refused()

    # ------------------------------------------------------------------ what channels say

    def replied(
        self, executor: int, inflight: int, n: int, last: Any, busy_s: float, now: float
    ) -> Todo:
        """``n`` calls were answered or given back, ``last`` being one of those; more may be sent.

        Args:
            executor: Who answered.
            inflight: How many it still has.
            n: How many were answered.
            last: One of them, or None.
            busy_s: Time in user code for all of them.
            now: The time.
        """
        returned = self._returned.pop(executor, [])
        lease = self.by_executor.get(executor)
        todo = Todo()
        if lease is not None:
            finished = n - len(returned)
            if finished and last is not None and last.channel is not None:
                self.leases.finished(last.target)
            todo = self.leases.replied(lease, inflight, finished, busy_s, now)
        if returned:
            todo.add(self.leases.resubmit(returned, now))
        return self._noted(todo)

    def returned(self, executor: int, call: Any) -> None:
        """The executor has not begun the call; `replied` follows when all of them are known."""
        call.channel = None
        self._returned.setdefault(executor, []).append(call)

    def blocked(self, executor: int, is_blocked: bool, inflight: int, now: float) -> Todo:
        """The executor's task waits in get or runs for long; or goes on, or has ended."""
        lease = self.by_executor.get(executor)
        if lease is None:
            return Todo()
        lease.inflight = inflight
        return self._noted(self.leases.blocked(lease, is_blocked, now))

    def unsent(self, executor: int, call: Any, now: float) -> None:
        """The way ended before the call went over it."""
        call.channel = None
        self._park(executor, [call], now)

    def broken(self, executor: int, calls: list[Any], now: float) -> Todo:
        """The way to an executor has ended for good; these calls were on it."""
        todo = Todo()
        lease = self.by_executor.get(executor)
        if lease is not None:
            lease.blocked = True
        cause = self._causes.pop(executor, None)
        if lease is not None or calls or cause is not None:
            self._park(executor, calls, now)
        if cause is not None:
            self._settle(executor, cause, todo, now)
        return self._noted(todo)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> Todo:
        """Time has passed."""
        todo = Todo()
        due = [call for at, call in self._delayed if at <= now]
        if due:
            self._delayed = [(at, call) for at, call in self._delayed if at > now]
            todo.add(self.leases.resubmit(due, now))
        todo.add(self.leases.tick(now))
        for executor, (since, _) in list(self._parked.items()):
            if now - since > CAUSE_TIMEOUT_S:
                lease = self.by_executor.get(executor)
                if lease is not None:
                    self.leases.give_up(lease, todo)
                self._settle(executor, UNTOLD, todo, now)
        return self._noted(todo)

    def release_idle(self, now: float) -> Todo:
        """Give back leases with nothing to do at once."""
        return self._noted(self.leases.release_idle(now))

    @property
    def is_active(self) -> bool:
        """Whether ticks are needed."""
        return self.leases.is_active or bool(self._parked or self._delayed)

    @property
    def is_idle(self) -> bool:
        """Whether nothing at all is left to be done."""
        return not (self.is_active or self._late or self._returned)

    @property
    def waiting(self) -> list[Any]:
        """Calls that no executor has."""
        returned = itertools.chain(*self._returned.values())
        delayed = [call for _, call in self._delayed]
        return [*self.leases.queue, *self._late.values(), *delayed, *returned, *self.parked]

    @property
    def parked(self) -> list[Any]:
        """Calls of executors that are gone, of which nobody has said why."""
        return [call for _, calls in self._parked.values() for call in calls]

    def some_waiting(self, most: int) -> tuple[list[Any], list[Any], int]:
        """Some that are ready, some whose arguments are not, and how many more there are."""
        queue = self.leases.queue
        ready = [call for _, call in self._delayed] + list(itertools.islice(queue, most))
        late = list(itertools.islice(self._late.values(), most))
        return ready, late, max(0, len(queue) - most) + len(self._late) - len(late)

    def check(self) -> None:
        """Assert the invariants."""
        assert sorted(self.by_executor) == sorted(
            lease.executor for lease in self.leases.leases.values()
        )
        waiting = self.waiting
        assert len(set(map(id, waiting))) == len(waiting), "a call waits twice"

    # ------------------------------------------------------------------ inside

    def _noted(self, todo: Todo) -> Todo:
        for lease in todo.release:
            self.by_executor.pop(lease.executor, None)
        return todo

    def _park(self, executor: int, calls: list[Any], now: float) -> None:
        self._parked.setdefault(executor, (now, []))[1].extend(calls)

    def _settle(self, executor: int, cause: ExitCause, todo: Todo, now: float) -> None:
        """It is known why the executor is gone: its calls run again, or fail."""
        _, lost = self._parked.pop(executor, (0.0, []))
        if lost:
            todo.lost.append((executor, lost))
        again: list[Any] = []
        started = _started(lost, cause)
        for i, call in enumerate(lost):
            call.channel = None
            if call.cancelled:
                todo.failed.append((call, CANCELLED, None))
                continue
            if i < started:
                todo.ended.append((call, call.attempt, executor, cause))
            if i >= started:
                again.append(call)
            elif cause.kind == "out_of_memory":
                self._lacked_memory(call, cause, todo, now)
            elif call.retries != 0 and cause.kind != "group_removed":
                call.retries -= 1 if call.retries > 0 else 0
                call.more().attempt += 1
                self._again_or_later(call, again, now)
            else:
                todo.failed.append((call, DIED, cause))
        if again:
            todo.add(self.leases.resubmit(again, now))

    def _again_or_later(self, call: Any, again: list[Any], now: float) -> None:
        delay_s = self._patience().retry_delay_s
        if delay_s > 0:
            self._delayed.append((now + delay_s, call))
        else:
            again.append(call)

    def _lacked_memory(self, call: Any, cause: ExitCause, todo: Todo, now: float) -> None:
        patience = self._patience()
        may_again = patience.oom_retries < 0 or call.oom_deaths < patience.oom_retries
        if call.retries == 0 or cause.is_final or not may_again:
            todo.failed.append((call, DIED, cause))
            return
        call.more().attempt += 1
        call.oom_deaths += 1
        delay_s = min(patience.oom_delay_s * 2.0 ** min(call.oom_deaths - 1, 16), OOM_DELAY_S_MAX)
        self._delayed.append((now + delay_s, call))


def _started(lost: list[Any], cause: ExitCause) -> int:
    """How many of the unanswered calls, which ran in this order, the executor may have started."""
    if cause.kind in NEVER_STARTED:
        return 0
    if not cause.task:
        return len(lost)
    last = next((i for i, call in enumerate(lost) if call.number == cause.task), -1)
    return last + 1
