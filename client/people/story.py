"""What a process tells of its calls, for people: those that wait, and ends that only it knows.

Theory of operation
-------------------
Executors report what they run; only who made a call knows that it waits, that the process which
ran it died, or that it was cancelled before any began it. Nothing is done when a call is made:
numbers of calls grow, so that a *mark* (a number, and the time at which it was next) says how old
those before it are. Once a second, while there are calls at all, those that are older than a second
are told of, the oldest first and at most `TOLD_MAX`; the rest is counted. What was told before is
not told again while it stays the same.
"""

from __future__ import annotations

import itertools
import time
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ract.core import events, ids
from ract.core.causes import error_type_of, text_of
from ract.core.messages import ExitCause, TaskEvents, TasksWaiting

if TYPE_CHECKING:
    from ract.client.calls.call import Call
    from ract.client.runtime import Runtime

PERIOD_S = 1.0
MARK_S = 0.25
MARKS_MAX = 10_000
TOLD_MAX = 1000


class Story:
    """What is told of the calls of this process.

    Args:
        runtime: Of this process.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._marks: deque[tuple[int, float]] = deque(maxlen=MARKS_MAX)  # (number, epoch)
        self._marked_at = 0.0
        self._told: list[Any] = []
        self._left_out = 0
        self._told_at = 0.0
        self._ended: deque[events.Event] = deque()

    def tick(self, now: float) -> float | None:
        """Tell what there is to tell (``now``: monotonic); returns when to look again (seconds)."""
        if now - self._marked_at >= MARK_S:
            self._marked_at = now
            self._marks.append((self._runtime.next_number(), time.time()))
        if self._ended:
            ended = [self._ended.popleft() for _ in range(len(self._ended))]
            self._runtime.tell(TaskEvents(self._runtime.process, ended))
        if now - self._told_at >= PERIOD_S:
            self._told_at = now
            self._tell_waiting()
        is_needed = bool(self._told) or self._has_calls()
        return PERIOD_S if is_needed else None

    def _has_calls(self) -> bool:
        """Whether anything waits or runs that may have to be told of."""
        runtime = self._runtime
        return (
            any(channel.inflight for channel in runtime.channels.values())
            or runtime.pools.is_active
            or any(client.line.waiting_count for client in runtime.actors.all)
        )

    def lost(self, call: Call, executor: int, cause: ExitCause) -> None:
        """An attempt at a call ended with its process."""
        facts = {"executor": executor, "pid": cause.pid, "node_id": cause.node_id}
        text = text_of(cause)
        if cause.stderr_tail:
            text += f"\n{cause.stderr_tail}"
        task_type = events.ACTOR_TASK if call.actor_id else events.NORMAL_TASK
        self._failed(call, error_type_of(cause, task_type), text, cause.at or time.time(), facts)

    def cancelled(self, call: Call) -> None:
        """A call was cancelled before anybody had begun it."""
        self._failed(call, "TASK_CANCELLED", "cancelled before it began", time.time(), {})

    def _failed(self, call: Call, kind: str, text: str, at: float, facts: dict[str, Any]) -> None:
        if call.extra is not None and call.extra.events is False:
            return
        actor_id = call.actor_id or b""
        self._ended.append(
            [
                ids.task_id_bytes(call.number, self._runtime.job_id, actor_id),
                attempt_of(call),
                call.name,
                call.name,
                events.ACTOR_TASK if actor_id else events.NORMAL_TASK,
                events.FAILED,
                -1.0,
                at,
                call.parent,
                actor_id,
                kind,
                text,
                {**facts_of(call), **facts},
            ]
        )
        self._runtime.reactor.wake()

    def _tell_waiting(self) -> None:
        queues, left_out = self._queues()
        if (queues, left_out) != (self._told, self._left_out):
            self._told, self._left_out = queues, left_out
            self._runtime.tell(TasksWaiting(self._runtime.process, queues, left_out))

    def _queues(self) -> tuple[list[Any], int]:
        """The queues to tell of (`ract.core.events`), and how many calls are only counted."""
        before = time.time() - PERIOD_S
        while len(self._marks) > 1 and self._marks[1][1] <= before - 3600:
            self._marks.popleft()
        newest = next((mark[0] for mark in reversed(self._marks) if mark[1] <= before), 0)
        found: dict[Any, tuple[list[Any], array[int], array[float]]] = {}
        told = left_out = 0
        for state, calls, more in self._all():
            left_out += more
            for call in calls:
                if call.number > newest or call.cancelled:
                    continue
                if call.extra is not None and call.extra.events is False:
                    continue
                if told == TOLD_MAX:
                    left_out += 1
                    continue
                told += 1
                actor_id, attempt = call.actor_id or b"", attempt_of(call)
                key = (state, call.name, actor_id, attempt, id(call.owner))
                entry = found.get(key)
                if entry is None:
                    kind = events.ACTOR_TASK if actor_id else events.NORMAL_TASK
                    head = [state, call.name, kind, actor_id, self._runtime.job_id, attempt]
                    entry = found[key] = ([*head, facts_of(call)], array("Q"), array("d"))
                entry[1].append(call.number)
                entry[2].append(self._since(call.number))
        return [
            [*head[:6], numbers.tobytes(), since.tobytes(), head[6]]
            for head, numbers, since in found.values()
        ], left_out

    def _all(self) -> Iterator[tuple[str, Iterable[Call], int]]:
        """(state, some calls in it, how many more there are)."""
        runtime = self._runtime
        for pool in runtime.pools.all:
            ready, late, more = pool.some_waiting(TOLD_MAX)
            yield events.ARGS, late, 0
            yield events.PLACE, ready, more
        for client in runtime.actors.all:
            waiting, more = client.some_waiting(TOLD_MAX)
            yield events.ARGS, [call for call in waiting if call.waiting], 0
            yield events.PLACE, [call for call in waiting if not call.waiting], more
        for channel in runtime.channels.values():
            inflight = list(itertools.islice(list(channel.inflight.values()), TOLD_MAX))
            yield events.SUBMITTED, inflight, max(0, len(channel.inflight) - TOLD_MAX)

    def _since(self, number: int) -> float:
        """About when the call with this number was made."""
        i = bisect_right(self._marks, (number, 0.0))
        if not self._marks:
            return time.time()
        return self._marks[max(0, i - 1)][1]


def attempt_of(call: Call) -> int:
    """Which attempt at the call is the newest, from 0."""
    return call.attempt


def facts_of(call: Call) -> dict[str, Any]:
    """What is known of a call, see `ract.core.events.FACTS`."""
    facts: dict[str, Any] = {}
    shape = getattr(call.owner, "shape", None)
    if shape is not None:
        facts = shape_facts(shape)
    site = call.extra.site if call.extra is not None else ""
    if site:
        facts["site"] = site
    return facts


def shape_facts(shape: Any) -> dict[str, Any]:
    """What a lease's shape (or an actor's spec) says of the calls that run there."""
    demand = shape.running_demand if hasattr(shape, "running_demand") else shape.demand
    facts: dict[str, Any] = {"demand": dict(demand)}
    if shape.strategy.get("group_id"):
        facts["group"] = bytes.fromhex(shape.strategy["group_id"])
    if shape.runtime_env:
        facts["runtime_env"] = shape.runtime_env
    if shape.label_selector:
        facts["labels"] = dict(shape.label_selector)
    return facts
