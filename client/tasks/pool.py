"""Submitting tasks: the adapter around `ract.client.tasks.leases`.

A `TaskPool` owns the lease machine of one shape, its lock, and the channels to the leased
executors. It performs what the machine says and turns ends of executors into retries or errors.

A task whose process was ended for lack of memory is tried again after a while, longer each time,
and as often as ``RACT_task_oom_retries`` says (-1: always), if it has retries at all.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ract.client.calls.call import Call, next_attempt
from ract.client.calls.channel import Channel
from ract.client.process.locks import make_lock
from ract.client.tasks.leases import Lease, LeaseMachine, Todo
from ract.core import calls
from ract.core.errors import TaskCancelledError, error_by_name, error_from_exit
from ract.core.messages import (
    ExitCause,
    LeaseGranted,
    LeaseLost,
    LeaseReleased,
    LeasesWanted,
    Shape,
)
from ract.core.session import setting

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

CAUSE_TIMEOUT_S = 5.0
"""How long a lost call waits to hear why its executor died."""

NAMES_MAX = 32
"""So many names of waiting functions are told to the scheduler, for people."""

OOM_DELAY_S_MAX = 60.0
"""A task whose process died for lack of memory waits at most this long before it runs again."""

NEVER_STARTED = ("max_calls", "idle")
"""The executor ended between two calls; what it had not answered was still on its way."""


class TaskPool:
    """All tasks of one shape that this process submits.

    Args:
        runtime: Of this process.
        key: Of the pool, in messages.
        shape: What executors must offer.
        near: Another node, which stores most of their arguments; b"" if they are here, or small.
    """

    def __init__(self, runtime: Runtime, key: int, shape: Shape, near: bytes = b"") -> None:
        self.runtime = runtime
        self.key = key
        self.shape = shape
        self.near = near
        self.is_near_elsewhere = bool(near)
        self._follows_data = shape.strategy.get("kind", "DEFAULT") == "DEFAULT"
        self._machine = LeaseMachine(spreads=shape.strategy.get("kind") == "SPREAD")
        #: Not in the table of pools any more. It changes under the lock, together with the look
        #: whether there is work: so no work is left in a pool that nobody ticks.
        self.is_dropped = False
        self._lock = make_lock("owner")
        self._leases: dict[int, Lease] = {}  # executor -> lease, as the machine's
        self._causes: dict[int, ExitCause] = {}  # executor -> why it died
        self._lost: dict[int, tuple[float, list[Call]]] = {}  # executor -> since when, calls
        #: By executor: what it gave back in the replies that are being applied, in order.
        self._returned: dict[int, list[Call]] = {}
        self._late: dict[int, Call] = {}  # by number: arguments are not ready
        #: Calls that may run again only from a certain time on.
        self._delayed: list[tuple[float, Call]] = []
        self._names: dict[str, None] = {}

    # ------------------------------------------------------------------ submission

    def submit(self, call: Call) -> None:
        """Run a call as soon as an executor is free; one whose arguments are late comes again."""
        if call.waiting:
            with self._in_table():
                self._late[call.number] = call
        elif not call.cancelled:
            self._add(call)

    def ready(self, call: Call) -> None:
        """All arguments of the call are there."""
        with self._lock:
            self._late.pop(call.number, None)
        if not call.cancelled:
            self._add(call)  # perhaps in another pool, whose lock is taken then

    def _add(self, call: Call) -> None:
        if call.extra is not None and self._follows_data and call.extra.deps:
            node_id = _node_with_most(call.extra.deps)
            pool = self.runtime.pools.near(self, node_id)
            if pool is self and not self.is_near_elsewhere:
                self.near = node_id  # as the newest of its tasks has it
            if pool is not self:
                call.owner = pool
                pool._enqueue(call)
                return
        self._enqueue(call)

    def _enqueue(self, call: Call) -> None:
        with self._lock:  # not `_in_table`, which costs a microsecond
            is_dropped = self.is_dropped
            if not is_dropped:
                if call.name not in self._names and len(self._names) < NAMES_MAX:
                    self._names[call.name] = None
                todo = self._machine.submit(call, time.monotonic())
                if todo is not None:
                    self._perform(todo)
        if is_dropped:
            self.runtime.pools.take_back(self)
            self._enqueue(call)
        elif self.runtime.reactor.is_asleep:
            self.runtime.reactor.wake()

    def cancel(self, call: Call, force: bool, recursive: bool) -> None:
        """Cancel a call: drop it from the queue, or ask the executor's node."""
        with self._lock:
            call.cancelled = True
            channel = call.channel
            if channel is None:
                self._late.pop(call.number, None)
                self._delayed = [each for each in self._delayed if each[1] is not call]
                if call in self._machine.queue:
                    self._machine.queue.remove(call)
                self.runtime.story.cancelled(call)
                self.runtime.fail_soon(call, TaskCancelledError(task_id=call.refs_task_id()))
                return
        self.runtime.cancelling.ask_executor(call, channel.executor, force, recursive)

    @property
    def waiting(self) -> list[Call]:
        """Calls that no executor has: not yet pushed, or lost with one whose end is not settled."""
        with self._lock:
            delayed = [call for _, call in self._delayed]
            lost = [call for _, parked in self._lost.values() for call in parked]
            return [*self._machine.queue, *self._late.values(), *delayed, *lost]

    def some_waiting(self, most: int) -> tuple[list[Call], list[Call], int]:
        """Some that are ready, some whose arguments are not, and how many more there are."""
        with self._lock:
            queue = self._machine.queue
            ready = [call for _, call in self._delayed] + list(itertools.islice(queue, most))
            late = list(itertools.islice(self._late.values(), most))
            return ready, late, max(0, len(queue) - most) + len(self._late) - len(late)

    def _perform(self, todo: Todo) -> None:
        # Under the lock: pushes to one lease must keep their order.
        for lease, call in todo.pushes:
            channel = self.runtime.channels.get(lease.executor)
            try:
                if channel is None:
                    raise ConnectionError(f"no channel to executor {lease.executor}")
                channel.send(call)
            except ConnectionError:
                call.channel = None
                self._park(lease.executor, [call])
        if todo.backlog is not None:  # first: who wants leases would get back what it releases
            names = list(self._names)
            message = LeasesWanted(
                self.runtime.process,
                self.key,
                self.shape,
                todo.backlog,
                names,
                self._machine.priority,
                self.near,
                len(self._leases),
            )
            self.runtime.tell(message)
        for lease in todo.release:
            self._leases.pop(lease.executor, None)
            channel = self.runtime.channels.get(lease.executor)
            if channel is not None and channel.owner is self:
                channel.owner = None  # if the executor ends now, the channel ends with it
            self.runtime.tell(LeaseReleased(self.runtime.process, lease.id))

    def tick(self, now: float) -> None:
        """Called by the reactor now and then."""
        with self._lock:
            if self._delayed:
                self._resume_delayed(now)
            self._perform(self._machine.tick(now))
            for executor, (since, _) in list(self._lost.items()):
                if now - since > CAUSE_TIMEOUT_S:
                    cause = ExitCause("crashed", "its node did not say why within 5 s")
                    self._settle(executor, cause)

    def release_idle(self) -> None:
        """Give back leases with nothing to do, however short a time they have been so."""
        with self._lock:
            self._perform(self._machine.release_idle(time.monotonic()))

    def drop_if_idle(self) -> bool:
        """The table has no room for pools without work; returns whether this is one."""
        with self._lock:
            returned = any(self._returned.values())
            self.is_dropped = not (self.is_active or self._late or returned)
            return self.is_dropped

    def undo_drop(self) -> None:
        """The pool is in the table again."""
        with self._lock:
            self.is_dropped = False

    @contextlib.contextmanager
    def _in_table(self) -> Iterator[None]:
        """Holds the lock of a pool that is in the table, and stays there if it gets work."""
        while True:
            with self._lock:
                if not self.is_dropped:
                    yield
                    return
            self.runtime.pools.take_back(self)  # without the lock: the table's comes first

    @property
    def is_active(self) -> bool:
        """Whether ticks are needed."""
        return self._machine.is_active or bool(self._lost or self._delayed)

    # ------------------------------------------------------------------ what the cluster says

    def granted(self, message: LeaseGranted) -> bool:
        """Connect to the executor and use it; False if the pool was dropped, so that it cannot."""
        with self._lock:
            if self.is_dropped:
                return False
            lease = Lease(message.lease, message.executor)
            try:
                channel = self.runtime.connect(message.executor, message.node_id, message.address)
            except OSError:
                # It died between grant and connection; LeaseLost is on its way.
                self._machine.announced = max(0, self._machine.announced - 1)
                self._leases[message.executor] = lease
                self._machine.leases[lease.id] = lease
                lease.blocked = True
                return True
            channel.owner = self
            channel.say((calls.USE_LEASE, message.lease))
            self._leases[message.executor] = lease
            self._perform(self._machine.granted(lease, time.monotonic()))
            return True

    def recalled(self, lease_id: int) -> None:
        """Others wait."""
        with self._lock:
            self._perform(self._machine.recalled(lease_id, time.monotonic()))

    def lease_lost(self, message: LeaseLost) -> None:
        """The executor died; its calls are retried or fail with the cause."""
        with self._lock:
            executor = next(
                (e for e, lease in self._leases.items() if lease.id == message.lease), None
            )
            todo = self._machine.lost(message.lease, time.monotonic())
            if executor is not None:
                del self._leases[executor]
                channel = self.runtime.channels.get(executor)
                if channel is not None and not channel.is_closed:
                    self._causes[executor] = message.cause
                    channel.abort()
                else:
                    self._settle(executor, message.cause)
            self._perform(todo)

    def lease_refused(self, error: str, detail: str) -> None:
        """No executor will ever come: all waiting tasks fail."""
        with self._lock:
            failed = list(self._machine.queue)
            self._machine.queue.clear()
            self._machine.announced = 0
        for call in failed:
            self.runtime.fail_call(call, error_by_name(error, detail))

    # ------------------------------------------------------------------ what the channel says

    def replied(self, channel: Channel, last: Call | None, n: int, busy_s: float) -> None:
        """Replies were applied, ``last`` being one of those calls: push more."""
        with self._lock:
            returned = self._returned.pop(channel.executor, [])
            now = time.monotonic()
            lease = self._leases.get(channel.executor)
            if lease is not None:
                finished = n - len(returned)
                if finished and last is not None and last.channel is not None:
                    self._machine.finished(last.target)
                inflight = len(channel.inflight)
                self._perform(self._machine.replied(lease, inflight, finished, busy_s, now))
            if returned:
                self._perform(self._machine.resubmit(returned, now))

    def returned(self, channel: Channel, call: Call) -> None:
        """The executor did not start the call; `replied` follows when all of them are known."""
        with self._lock:
            call.channel = None
            self._returned.setdefault(channel.executor, []).append(call)

    def blocked(self, channel: Channel, is_blocked: bool) -> None:
        """The executor's task waits in get, or goes on."""
        with self._lock:
            lease = self._leases.get(channel.executor)
            if lease is not None:
                lease.inflight = len(channel.inflight)
                self._perform(self._machine.blocked(lease, is_blocked, time.monotonic()))

    def closed(self, channel: Channel, lost: list[Call]) -> None:
        """The executor is gone."""
        with self._lock:
            lease = self._leases.get(channel.executor)
            if lease is not None:
                lease.blocked = True
            self._park(channel.executor, lost)
            cause = self._causes.pop(channel.executor, None)
            if cause is not None:
                self._settle(channel.executor, cause)

    # ------------------------------------------------------------------ lost calls

    def _park(self, executor: int, lost: list[Call]) -> None:
        if lost:
            _, parked = self._lost.setdefault(executor, (time.monotonic(), []))
            parked.extend(lost)

    def _settle(self, executor: int, cause: ExitCause) -> None:
        _, lost = self._lost.pop(executor, (0.0, []))
        self.runtime.calls_lost(executor, lost)
        again = []
        started = _started(lost, cause)
        for i, call in enumerate(lost):
            call.channel = None
            if i < started and not call.cancelled:
                self.runtime.story.lost(call, executor, cause)
            if call.cancelled:
                self.runtime.fail_soon(call, TaskCancelledError(task_id=call.refs_task_id()))
            elif i >= started:
                again.append(call)
            elif cause.kind == "out_of_memory" and _has_oom_retries(call, cause):
                next_attempt(call)
                self._retry_later(call)
            elif call.retries != 0 and cause.kind not in ("group_removed", "out_of_memory"):
                call.retries -= 1 if call.retries > 0 else 0
                next_attempt(call)
                self._retry_after_delay(call, again)
            else:
                self.runtime.fail_soon(call, error_from_exit(cause, what=f"task {call.name}"))
        if again:
            self._perform(self._machine.resubmit(again, time.monotonic()))

    def _retry_after_delay(self, call: Call, at_once: list[Call]) -> None:
        delay_s = float(setting("task_retry_delay_ms") or 0) / 1000
        if delay_s > 0:
            self._delayed.append((time.monotonic() + delay_s, call))
            self.runtime.reactor.wake()
        else:
            at_once.append(call)

    def _retry_later(self, call: Call) -> None:
        call.oom_deaths += 1
        base_s = float(setting("task_oom_retry_delay_base_ms") or 1000) / 1000
        delay_s = min(base_s * 2.0 ** min(call.oom_deaths - 1, 16), OOM_DELAY_S_MAX)
        self._delayed.append((time.monotonic() + delay_s, call))

    def _resume_delayed(self, now: float) -> None:
        due = [call for at, call in self._delayed if at <= now]
        if due:
            self._delayed = [(at, call) for at, call in self._delayed if at > now]
            self._perform(self._machine.resubmit(due, now))

    def retry(self, call: Call) -> None:
        """Run the call again after its own error (``retry_exceptions``)."""
        with self._in_table():
            call.channel = None
            next_attempt(call)
            again: list[Call] = []
            self._retry_after_delay(call, again)
            self._perform(self._machine.resubmit(again, time.monotonic()))

    def what_it_waits_for(self) -> str:
        """Why a queued call is not sent."""
        leases = len(self._machine.leases)
        busy = f" ({leases} are busy with earlier ones)" if leases else ""
        return f"a free executor{busy}"

    def explain(self) -> dict[str, Any]:
        """What this pool knows, for ``ract.explain``."""
        with self._lock:
            return {
                "waiting": len(self._machine.queue),
                "leases": len(self._machine.leases),
                "names": list(self._names),
            }


def _node_with_most(deps: Sequence[tuple[Any, ...]]) -> bytes:
    """The node that stores most bytes of the arguments; b"" if none are stored."""
    stored: dict[bytes, int] = {}
    for kind, *rest in deps:
        if kind == calls.STORED:
            _, node_id, _, _, size, _ = rest
            stored[node_id] = stored.get(node_id, 0) + size
    return max(stored, key=lambda node_id: stored[node_id], default=b"")


def _has_oom_retries(call: Call, cause: ExitCause) -> bool:
    if call.retries == 0 or cause.is_final:
        return False
    limit = int(setting("task_oom_retries") or -1)
    return limit < 0 or call.oom_deaths < limit


def _started(lost: list[Call], cause: ExitCause) -> int:
    """How many of the unanswered calls, which ran in this order, the executor may have started."""
    if cause.kind in NEVER_STARTED:
        return 0
    if not cause.task:
        return len(lost)
    last = next((i for i, call in enumerate(lost) if call.number == cause.task), -1)
    return last + 1
