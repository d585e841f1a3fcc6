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
from typing import Any

from ract.client.actors.actors import Actors
from ract.client.calls.call import Call
from ract.client.calls.channels import Channels
from ract.client.calls.ends import Ends, attempt_of, facts_of
from ract.client.process.node_link import NodeLink
from ract.client.process.session import Session
from ract.client.tasks.pools import Pools
from ract.core import events
from ract.core.messages import TaskEvents, TasksWaiting

PERIOD_S = 1.0
MARK_S = 0.25
MARKS_MAX = 10_000
TOLD_MAX = 1000


class Story:
    """What is told of the calls of this process.

    Args:
        session: Who this process is.
        link: The connection to the node.
        ends: Ends that only this process knows.
        pools, actors, channels: Where calls wait or run.
    """

    def __init__(
        self,
        session: Session,
        link: NodeLink,
        ends: Ends,
        pools: Pools,
        actors: Actors,
        channels: Channels,
    ) -> None:
        self._session = session
        self._link = link
        self._ends = ends
        self._pools = pools
        self._actors = actors
        self._channels = channels
        self._marks: deque[tuple[int, float]] = deque(maxlen=MARKS_MAX)  # (number, epoch)
        self._marked_at = 0.0
        self._told: list[Any] = []
        self._left_out = 0
        self._told_at = 0.0

    def tick(self, now: float) -> float | None:
        """Tell what there is to tell (``now``: monotonic); returns when to look again (seconds)."""
        if now - self._marked_at >= MARK_S:
            self._marked_at = now
            self._marks.append((self._session.next_number(), time.time()))
        if ended := self._ends.take():
            self._link.tell(TaskEvents(self._session.process, ended))
        if now - self._told_at >= PERIOD_S:
            self._told_at = now
            self._tell_waiting()
        is_needed = bool(self._told) or self._has_calls()
        return PERIOD_S if is_needed else None

    def _has_calls(self) -> bool:
        """Whether anything waits or runs that may have to be told of."""
        return (
            any(channel.inflight for channel in self._channels.values())
            or self._pools.is_active
            or any(client.line.waiting_count for client in self._actors.all)
        )

    def _tell_waiting(self) -> None:
        queues, left_out = self._queues()
        if (queues, left_out) != (self._told, self._left_out):
            self._told, self._left_out = queues, left_out
            self._link.tell(TasksWaiting(self._session.process, queues, left_out))

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
                    head = [state, call.name, kind, actor_id, self._session.job_id, attempt]
                    entry = found[key] = ([*head, facts_of(call)], array("Q"), array("d"))
                entry[1].append(call.number)
                entry[2].append(self._since(call.number))
        return [
            [*head[:6], numbers.tobytes(), since.tobytes(), head[6]]
            for head, numbers, since in found.values()
        ], left_out

    def _all(self) -> Iterator[tuple[str, Iterable[Call], int]]:
        """(state, some calls in it, how many more there are)."""
        for pool in self._pools.all:
            ready, late, more = pool.some_waiting(TOLD_MAX)
            yield events.ARGS, late, 0
            yield events.PLACE, ready, more
        for client in self._actors.all:
            waiting, more = client.some_waiting(TOLD_MAX)
            yield events.ARGS, [call for call in waiting if call.waiting], 0
            yield events.PLACE, [call for call in waiting if not call.waiting], more
        for channel in self._channels.values():
            inflight = list(itertools.islice(list(channel.inflight.values()), TOLD_MAX))
            yield events.SUBMITTED, inflight, max(0, len(channel.inflight) - TOLD_MAX)

    def _since(self, number: int) -> float:
        """About when the call with this number was made."""
        i = bisect_right(self._marks, (number, 0.0))
        if not self._marks:
            return time.time()
        return self._marks[max(0, i - 1)][1]
