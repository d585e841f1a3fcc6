"""Submitting tasks: the adapter around `ract.client.tasks.work`.

A `TaskPool` has the machine of one shape, its lock, and the channels to the leased executors. It
performs what the machine says, and makes errors of the reasons for which calls fail.

A task whose process was ended for lack of memory is tried again after a while, longer each time,
and as often as ``RACT_task_oom_retries`` says (-1: always), if it has retries at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.calls.call import Call
from ract.client.calls.channel import Channel
from ract.client.calls.connection import ExecutorGone
from ract.client.process.locks import make_lock
from ract.client.tasks.leases import Lease, Todo
from ract.client.tasks.work import DIED, Patience, Work
from ract.core import calls
from ract.core.errors import TaskCancelledError, error_by_name, error_from_exit
from ract.core.messages import (
    LeaseGranted,
    LeaseLost,
    LeaseReleased,
    LeasesWanted,
    Shape,
)
from ract.core.session import setting

if TYPE_CHECKING:
    from ract.client.calls.surroundings import Surroundings

NAMES_MAX = 32
"""So many names of waiting functions are told to the scheduler, for people."""


class PoolTable(Protocol):
    """The table of pools (`ract.client.tasks.pools`)."""

    def near(self, pool: TaskPool, node_id: bytes) -> TaskPool: ...
    def take_back(self, pool: TaskPool) -> None: ...


class TaskPool:
    """All tasks of one shape that this process submits.

    Args:
        runtime: The parts of this process.
        table: Of the pools of this process.
        key: Of the pool, in messages.
        shape: What executors must offer.
        near: Another node, which stores most of their arguments; b"" if they are here, or small.
    """

    def __init__(
        self, runtime: Surroundings, table: PoolTable, key: int, shape: Shape, near: bytes = b""
    ) -> None:
        self.runtime = runtime
        self._table = table
        self.key = key
        self.shape = shape
        self.near = near
        self.is_near_elsewhere = bool(near)
        self._follows_data = shape.strategy.get("kind", "DEFAULT") == "DEFAULT"
        self._work = Work(_patience, spreads=shape.strategy.get("kind") == "SPREAD")
        #: Not in the table of pools any more. It changes under the lock, together with the look
        #: whether there is work: so no work is left in a pool that nobody ticks.
        self.is_dropped = False
        self._lock = make_lock("owner")
        self._names: dict[str, None] = {}

    # ------------------------------------------------------------------ submission

    def submit(self, call: Call) -> None:
        """Run a call as soon as an executor is free; one whose arguments are late comes again."""
        if call.waiting:
            with self._in_table():
                self._work.came_late(call)
        elif not call.cancelled:
            self._add(call)

    def ready(self, call: Call) -> None:
        """All arguments of the call are there."""
        with self._lock:
            self._work.ready(call)
        if not call.cancelled:
            self._add(call)  # perhaps in another pool, whose lock is taken then

    def _add(self, call: Call) -> None:
        if call.extra is not None and self._follows_data and call.extra.deps:
            node_id = _node_with_most(call.extra.deps)
            pool = self._table.near(self, node_id)
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
                todo = self._work.submitted(call, time.monotonic())
                if todo is not None:
                    self._perform(todo)
        if is_dropped:
            self._table.take_back(self)
            self._enqueue(call)
        elif self.runtime.reactor.is_asleep:
            self.runtime.reactor.wake()

    def cancel(self, call: Call, force: bool, recursive: bool) -> None:
        """Cancel a call: drop it from the queue, or ask the executor's node."""
        with self._lock:
            call.cancelled = True
            channel = call.channel
            if channel is None:
                self.runtime.ends.cancelled(call)
                self._perform(self._work.cancelled(call))
                return
        self.runtime.cancelling.ask_executor(call, channel.executor, force, recursive)

    @property
    def waiting(self) -> list[Call]:
        """Calls that no executor has: not yet pushed, or lost with one whose end is not settled."""
        with self._lock:
            return self._work.waiting

    def some_waiting(self, most: int) -> tuple[list[Call], list[Call], int]:
        """Some that are ready, some whose arguments are not, and how many more there are."""
        with self._lock:
            return self._work.some_waiting(most)

    def _perform(self, todo: Todo) -> None:
        # Under the lock: pushes to one lease must keep their order.
        runtime = self.runtime
        for executor in todo.abort:
            channel = runtime.channels.get(executor)
            if channel is not None:  # else it has ended by itself at this moment
                channel.abort()
        for executor, lost in todo.lost:
            runtime.calls_lost(executor, lost)
        for call, attempt, executor, cause in todo.ended:
            runtime.ends.lost(call, attempt, executor, cause)
        for call, reason, why in todo.failed:
            error: Exception = TaskCancelledError(task_id=call.refs_task_id())
            if reason == DIED and why is not None:
                error = error_from_exit(why, what=f"task {call.name}")
            runtime.fail_soon(call, error)
        for lease, call in todo.pushes:
            channel = runtime.channels.get(lease.executor)
            try:
                if channel is None:
                    raise ConnectionError(f"no channel to executor {lease.executor}")
                channel.send(call)
            except ConnectionError:  # `closed` comes, or has come
                self._work.unsent(lease.executor, call, time.monotonic())
        if todo.backlog is not None:  # first: who wants leases would get back what it releases
            self._tell_backlog(todo.backlog, len(todo.release))
        for lease in todo.release:
            channel = runtime.channels.get(lease.executor)
            if channel is not None and channel.owner is self:
                channel.owner = None  # if the executor ends now, the channel ends with it
            runtime.tell(LeaseReleased(runtime.process, lease.id))

    def _tell_backlog(self, backlog: int, releasing: int = 0) -> None:
        """State the backlog, while the scheduler has not heard of ``releasing`` releases."""
        process, names, leases = self.runtime.process, list(self._names), self._work.leases
        how = backlog, names, leases.priority, self.near, len(leases.leases) + releasing
        self.runtime.tell(LeasesWanted(process, self.key, self.shape, *how))

    def tick(self, now: float) -> None:
        """Called by the reactor now and then."""
        with self._lock:
            self._perform(self._work.tick(now))

    def release_idle(self) -> None:
        """Give back leases with nothing to do, however short a time they have been so."""
        with self._lock:
            self._perform(self._work.release_idle(time.monotonic()))

    def drop_if_idle(self) -> bool:
        """The table has no room for pools without work; returns whether this is one."""
        with self._lock:
            self.is_dropped = self._work.is_idle
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
            self._table.take_back(self)  # without the lock: the table's comes first

    @property
    def is_active(self) -> bool:
        """Whether ticks are needed."""
        return self._work.is_active

    # ------------------------------------------------------------------ what the cluster says

    def granted(self, message: LeaseGranted) -> bool:
        """Connect to the executor and use it; False if the pool was dropped, so that it cannot."""
        with self._lock:
            if self.is_dropped:
                return False
            lease, now = Lease(message.lease, message.executor), time.monotonic()
            try:
                channel = self.runtime.connect(message.executor, message.node_id, message.address)
            except ExecutorGone:  # LeaseLost is on its way; if it is not, the lease goes back
                self._work.out_of_reach(lease, now)
                return True
            channel.owner = self
            channel.say((calls.USE_LEASE, message.lease))
            self._perform(self._work.granted(lease, now))
            return True

    def recalled(self, lease_id: int) -> None:
        """Others wait."""
        with self._lock:
            self._perform(self._work.recalled(lease_id, time.monotonic()))

    def lease_lost(self, message: LeaseLost) -> None:
        """The executor died; its calls are retried or fail with the cause."""
        with self._lock:
            executor = self._work.executor_of(message.lease)
            channel = self.runtime.channels.get(executor) if executor is not None else None
            is_open = channel is not None and not channel.is_closed
            now = time.monotonic()
            self._perform(self._work.lost(message.lease, message.cause, is_open=is_open, now=now))

    def lease_refused(self, error: str, detail: str) -> None:
        """No executor will ever come: all waiting tasks fail."""
        with self._lock:
            refused = self._work.refused()
        for call in refused:
            self.runtime.fail_soon(call, error_by_name(error, detail))

    # ------------------------------------------------------------------ what the channel says

    def replied(self, channel: Channel, last: Call | None, n: int, busy_s: float) -> None:
        """Replies were applied, ``last`` being one of those calls: push more."""
        with self._lock:
            executor, inflight = channel.executor, len(channel.inflight)
            now = time.monotonic()
            self._perform(self._work.replied(executor, inflight, n, last, busy_s, now))

    def returned(self, channel: Channel, call: Call) -> None:
        """The executor did not start the call; `replied` follows when all of them are known."""
        with self._lock:
            self._work.returned(channel.executor, call)

    def blocked(self, channel: Channel, is_blocked: bool) -> None:
        """The executor's task waits in get, or goes on."""
        with self._lock:
            executor, inflight = channel.executor, len(channel.inflight)
            self._perform(self._work.blocked(executor, is_blocked, inflight, time.monotonic()))

    def closed(self, channel: Channel, lost: list[Call]) -> None:
        """The executor is gone, or has forgotten this process."""
        with self._lock:
            self._perform(self._work.broken(channel.executor, lost, time.monotonic()))
        self.runtime.reactor.wake()

    def retry(self, call: Call) -> None:
        """Run the call again after its own error (``retry_exceptions``)."""
        with self._in_table():
            self._perform(self._work.retried(call, time.monotonic()))
        self.runtime.reactor.wake()

    def undecided(self, call: Call, is_undecided: bool) -> None:
        """As for actors; a pool need not know, since `retry` takes it back if it was dropped."""

    def what_it_waits_for(self) -> str:
        """Why a queued call is not sent."""
        leases = len(self._work.leases.leases)
        busy = f" ({leases} are busy with earlier ones)" if leases else ""
        return f"a free executor{busy}"

    def explain(self) -> dict[str, Any]:
        """What this pool knows, for ``ract.explain``."""
        with self._lock:
            leases = self._work.leases
            return {
                "waiting": len(leases.queue),
                "leases": len(leases.leases),
                "names": list(self._names),
            }


def _patience() -> Patience:
    return Patience(
        float(setting("task_retry_delay_ms") or 0) / 1000,
        float(setting("task_oom_retry_delay_base_ms") or 1000) / 1000,
        int(setting("task_oom_retries") or -1),
    )


def _node_with_most(deps: Sequence[tuple[Any, ...]]) -> bytes:
    """The node that stores most bytes of the arguments; b"" if none are stored."""
    stored: dict[bytes, int] = {}
    for kind, *rest in deps:
        if kind == calls.STORED:
            _, node_id, _, _, size, _ = rest
            stored[node_id] = stored.get(node_id, 0) + size
    return max(stored, key=lambda node_id: stored[node_id], default=b"")
