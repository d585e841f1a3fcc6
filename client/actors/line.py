"""The calls of one process that wait for one actor: a pure machine.

Theory of operation
-------------------
States are what the scheduler says: PENDING_CREATION, ALIVE, RESTARTING, DEAD. An ALIVE actor has a
*place* (its process and address), to which the adapter opens a *way*. Calls wait in ``queue`` until
there is a way and their arguments are ready; then they go over it in submission order. For a sync
actor a call whose arguments are late holds back the calls behind it. Async and threaded actors
promise no order, so it does not.

Calls that were on a way that broke are *parked*: they may have run. What becomes of them is decided
by the first of these that comes: the scheduler says RESTARTING, or names a new place, or the same
place is reached again by a new way: those with retries left go back to the head of the queue, and
the others fail as *unavailable*. The scheduler says DEAD: all fail. Nobody says anything for
`WORD_TIMEOUT_S`: as for RESTARTING.

A way that cannot be opened, or breaks while the actor is ALIVE, is opened again after a while:
later each time, up to `CONNECT_PERIOD_S_MAX`. If the process has died instead, the scheduler says
so meanwhile.

An actor that moves to another node answers the calls that it has begun and gives back the others.
They are sent to the next place in their old order, but not before the old way has answered all.

The *farewell* (the holds of this process are given back) is said when no handle is left and all
calls have ended.

Events are methods; each returns a `Todo`. The machine knows no sockets, threads or clock, and
nothing of errors: a call fails for a *reason*, of which the adapter makes an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

from ract.core.messages import ExitCause

PENDING, ALIVE, RESTARTING, DEAD = "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"

WORD_TIMEOUT_S = 10.0
"""How long calls of a broken way wait for the scheduler's word before they fail."""

CONNECT_PERIOD_S = 0.05
"""A way that could not be opened is opened again after this time, then after twice that, ..."""

CONNECT_PERIOD_S_MAX = 5.0

#: Why a call fails.
DEATH, UNAVAILABLE, CANCELLED = "death", "unavailable", "cancelled"


class Way(Protocol):
    """What the machine looks at of a way: `ract.client.calls.channel.Channel` is one."""

    executor: int
    is_closed: bool  #: it has ended; the event `Line.broken` may still come

    @property
    def inflight(self) -> Sized:
        """Calls without an answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an incarnation of the actor is."""

    incarnation: int
    executor: int
    node_id: bytes
    address: str


@dataclass(slots=True)
class Todo:
    """What the adapter must do now, in this order."""

    abort: list[Way] = field(default_factory=list)  #: end these ways
    connect: Place | None = None  #: open a way; answer by `connected` or `refused`
    #: (executor, calls): it died or forgot us, and owed these answers.
    lost: list[tuple[int, list[Any]]] = field(default_factory=list)
    #: The calls of ``lost``: which attempt has ended, and its executor.
    ended: list[tuple[Any, int, int]] = field(default_factory=list)
    failed: list[tuple[Any, str]] = field(default_factory=list)  #: calls, and why
    dropped: list[Any] = field(default_factory=list)  #: calls that had ended before they were sent
    unfinished: list[int] | None = None  #: tell the actor that only these calls may come (again)
    sends: list[Any] = field(default_factory=list)  #: over `Line.way`, in order
    farewell: int = 0  #: give back so many holds

    def lose(self, parked: list[tuple[int, list[Any]]]) -> list[Any]:
        """These calls went with their executors; returns what is parked then: nothing."""
        self.lost = parked
        self.ended = [(call, call.attempt, executor) for executor, of in parked for call in of]
        return []


class Line:
    """The calls of one process to one actor.

    Attributes:
        state, incarnation, cause: As the scheduler said last.
        place: Of the newest incarnation, while it is ALIVE and this process has not killed it.
        way: The open way to it, None if there is none.
        is_ordered: Calls go in submission order.
        is_open: A call whose arguments are there may be sent over `way` at once.
        holds: Holds that the cluster counts for this process.
        wants_farewell: They are given back as soon as all calls have ended.
    """

    def __init__(self) -> None:
        self.state = PENDING
        self.incarnation = -1
        self.cause: ExitCause | None = None
        self.place: Place | None = None
        self.way: Way | None = None
        self.is_ordered = True
        self.is_open = False
        self.holds = 0
        self.queue: deque[Any] = deque()
        #: Calls of broken ways, by the executor that had them; since when there are any.
        self._parked: list[tuple[int, list[Any]]] = []
        self._parked_since = 0.0
        #: Calls that an incarnation which moves has not begun, and the way to it.
        self.returned: list[Any] = []
        self.leaving: Way | None = None
        self._unclosed: list[Way] = []  #: ways that were open and of which no end is known
        self._killed = -1  #: the incarnation that this process has killed
        #: When to open a way to `place` again, None if there is one or it is being opened.
        self._connect_at: float | None = None
        self._refusals = 0
        self.wants_farewell = False
        #: By number: it is being found out whether they run again, so the actor must not end.
        self.undecided: dict[int, Any] = {}

    # ------------------------------------------------------------------ calls

    def submitted(self, call: Any) -> Todo:
        """A call was made."""
        todo = Todo()
        if self.state == DEAD:
            todo.failed.append((call, DEATH))
        else:
            self.queue.append(call)
            self._drain(todo)
        return todo

    def ready(self) -> Todo:
        """The arguments of a queued call are there."""
        return self._drained()

    def unsent(self, calls: list[Any]) -> Todo:
        """The way ended before these could be sent over it."""
        self.is_open = False
        todo = Todo()
        if self.state == DEAD:
            todo.failed += [(call, DEATH) for call in calls]
        else:
            self.queue.extendleft(reversed(calls))
        return todo

    def retried(self, call: Any) -> Todo:
        """The call is to run again after its own error."""
        todo = Todo()
        if self.state == DEAD:
            todo.failed.append((call, DEATH))
            return todo
        call.more().attempt += 1
        self.queue.appendleft(call)
        self._drain(todo)
        return todo

    def cancelled(self, call: Any) -> Todo:
        """A call that no executor has is cancelled."""
        for waiting in (self.queue, self.returned):
            if call in waiting:
                waiting.remove(call)
        todo = Todo(failed=[(call, CANCELLED)])
        self._drain(todo)
        return todo

    # ------------------------------------------------------------------ what the scheduler says

    def changed(self, state: str, place: Place, cause: ExitCause | None, now: float) -> Todo:
        """The actor is in another state; ``place`` says where only if it is ALIVE."""
        todo = Todo()
        if place.incarnation < self.incarnation or self.state == DEAD:
            return todo
        self.state = state
        if state == ALIVE:
            is_new = place.incarnation > self.incarnation or self.place is None
            if is_new and place.incarnation > self._killed:
                self.incarnation = place.incarnation
                self.place = place
                self._refusals = 0
                self._connect_at = None
                todo.connect = place
        elif state == DEAD:
            self._died(place.incarnation, cause or ExitCause("crashed"), todo)
        elif state == RESTARTING:
            self.cause = cause
            self._restarts(cause, todo)
        return todo

    def _restarts(self, cause: ExitCause | None, todo: Todo) -> None:
        way = self._leave()
        if cause is not None and cause.kind == "drained":
            # It has answered all that it has begun; there may be answers on their way.
            if way is not None and not way.is_closed:
                self.leaving = way
            self.returned.extend(self.parked)
            self._parked = []
            for call in self.returned:
                call.channel = None
            return
        if way is not None and not way.is_closed:
            todo.abort.append(way)  # its calls come through `broken`
        self._settle(todo)

    def _died(self, incarnation: int, cause: ExitCause, todo: Todo) -> None:
        self.incarnation = incarnation
        self.cause = cause
        way = self._leave()
        if way is not None and not way.is_closed:
            todo.abort.append(way)
        self._settle(todo)
        for call in [*self.returned, *self.queue]:
            if call.cancelled:
                todo.dropped.append(call)
            else:
                todo.failed.append((call, DEATH))
        self.returned, self.queue = [], deque()

    def killed(self) -> Todo:
        """This process has the actor killed: nothing reaches this incarnation any more."""
        todo = Todo()
        if self.state == ALIVE:
            self._killed = self.incarnation
            way = self._leave()
            if way is not None and not way.is_closed:
                todo.abort.append(way)
        return todo

    def lost_cluster(self) -> Todo:
        """There is nobody any more who could say what becomes of the actor."""
        self.state = DEAD
        self.cause = ExitCause("node_died")
        self._leave()
        waiting = [*self.parked, *self.returned, *self.queue]
        self._parked, self.returned, self.queue = [], [], deque()
        return Todo(failed=[(call, DEATH) for call in waiting])

    # ------------------------------------------------------------------ what becomes of ways

    def connected(self, way: Way, place: Place) -> Todo:
        """A way to a place is open."""
        todo = Todo()
        if place != self.place:  # the scheduler was quicker
            todo.abort.append(way)
            return todo
        self.way = way
        if way not in self._unclosed:
            self._unclosed.append(way)
        self._settle(todo)
        self._tell_unfinished(todo)
        self._drain(todo)
        return todo

    def refused(self, place: Place, now: float) -> Todo:
        """Nobody listens at a place: its process has died, or it cannot be reached now."""
        if place == self.place:
            self._connect_later(now)
        return Todo()

    def _connect_later(self, now: float) -> None:
        delay_s = min(CONNECT_PERIOD_S * 2.0 ** min(self._refusals, 16), CONNECT_PERIOD_S_MAX)
        self._refusals += 1
        self._connect_at = now + delay_s

    def replied(self, way: Way) -> Todo:
        """Calls were answered."""
        return self._drained() if way is self.leaving else Todo()

    def returned_by(self, way: Way, call: Any) -> Todo:
        """An actor that moves, or ends, has not begun a call."""
        todo = Todo()
        call.channel = None
        if self.state == DEAD:
            todo.failed.append((call, DEATH))
            return todo
        self.returned.append(call)
        if not way.is_closed:
            self.leaving = way
        if self.way is way:
            self.way = None
            self.is_open = False
        return todo

    def broken(self, way: Way, calls: list[Any], now: float) -> Todo:
        """A way has ended for good; ``calls`` were on it and have no answer."""
        todo = Todo()
        self._unclosed = [each for each in self._unclosed if each is not way]
        if self.way is way:
            self.way = None
            self.is_open = False
            if self.place is not None:
                self.cause = None  # nobody has said that its process has ended
                self._connect_later(now)
        if self.leaving is way:  # it has answered all that it has begun
            self.leaving = None
            if self.state != DEAD:
                for call in calls:
                    call.channel = None
                self.returned.extend(calls)
                self._tell_unfinished(todo)
                self._drain(todo)
                return todo
        if calls:
            self._parked.append((way.executor, calls))
            self._parked_since = now
        if self.state in (DEAD, RESTARTING) or self.way is not None:
            self._settle(todo)
        self._tell_unfinished(todo)
        self._drain(todo)
        return todo

    def tick(self, now: float) -> Todo:
        """Time has passed."""
        todo = Todo()
        if self._parked and now - self._parked_since > WORD_TIMEOUT_S:
            self._settle(todo)
            self._drain(todo)
        if self._connect_at is not None and self._connect_at <= now:
            self._connect_at = None
            todo.connect = self.place
        self._say_farewell(todo)
        return todo

    @property
    def needs_ticks(self) -> bool:
        """Whether time decides something."""
        return bool(self._parked) or self._connect_at is not None or self.wants_farewell

    # ------------------------------------------------------------------ handles

    def held(self, count: int) -> None:
        """The cluster counts so many more holds for this process."""
        self.holds += count

    def handle_made(self) -> None:
        """There is a handle (again)."""
        self.wants_farewell = False

    def handle_dropped(self) -> Todo:
        """The last handle is gone."""
        self.wants_farewell = self.holds > 0
        todo = Todo()
        self._say_farewell(todo)
        return todo

    def ended(self) -> Todo:
        """A call may have been the last one."""
        todo = Todo()
        self._say_farewell(todo)
        return todo

    def farewell(self) -> Todo:
        """All calls have their values, though a way may not have noted the last ones."""
        holds, self.holds, self.wants_farewell = self.holds, 0, False
        return Todo(farewell=holds)

    def _say_farewell(self, todo: Todo) -> None:
        if self.wants_farewell and not self.unfinished:
            self.wants_farewell = False
            todo.farewell, self.holds = self.holds, 0

    # ------------------------------------------------------------------ looking

    @property
    def unfinished(self) -> int:
        """Calls that have no answer, those included that were sent."""
        sent = len(self.way.inflight) if self.way is not None else 0
        if self.leaving is not None and self.leaving is not self.way:
            sent += len(self.leaving.inflight)
        return sent + self.waiting_count + len(self.undecided)

    @property
    def parked(self) -> list[Any]:
        """Calls of broken ways: they may have run."""
        return [call for _, calls in self._parked for call in calls]

    @property
    def waiting_count(self) -> int:
        """Calls that no executor has."""
        parked = sum(len(calls) for _, calls in self._parked)
        return len(self.queue) + parked + len(self.returned)

    @property
    def waiting(self) -> list[Any]:
        """Calls that no executor has, oldest first."""
        return [*self.parked, *self.returned, *self.queue]

    def describe(self) -> str:
        """What a queued call waits for."""
        if self.state != ALIVE:
            return f"which is {self.state}"
        if self.place is None:
            return "which was killed"
        if self._connect_at is not None:
            return (
                f"which is ALIVE, but process {self.place.executor} could not be reached "
                f"{self._refusals} times; it is tried again, and the scheduler would say if it died"
            )
        if self._waits_for_answers:
            return "which is moving: the calls that it has begun come first"
        return "which is ALIVE"

    def check(self) -> None:
        """Assert the invariants."""
        assert not self.is_open or (self.way is not None and self.state == ALIVE)
        assert not self.is_open or not self.returned
        assert not self.is_open or not self.queue or not self.is_ordered
        if self.state == DEAD:
            assert self.way is None
            assert self.place is None
            assert not self.queue
            assert not self.returned
        if self.way is not None:
            assert self.place is not None
            assert self._connect_at is None
        assert len(set(map(id, self.waiting))) == self.waiting_count, "a call waits twice"

    # ------------------------------------------------------------------ inside

    def _leave(self) -> Way | None:
        """There is no place any more; returns the way to the last one."""
        way, self.way = self.way, None
        self.place = None
        self.is_open = False
        self._connect_at = None
        return way

    @property
    def _waits_for_answers(self) -> bool:
        # An idle way of an incarnation that has moved ends unseen: it is not waited for.
        leaving = self.leaving
        return leaving is not None and (bool(leaving.inflight) or leaving.is_closed)

    def _drained(self) -> Todo:
        todo = Todo()
        self._drain(todo)
        return todo

    def _drain(self, todo: Todo) -> None:
        """Send what can be sent."""
        self.is_open = False
        if self.way is None or self.state != ALIVE or self._waits_for_answers:
            return
        self.leaving = None
        if self.returned:
            self.returned.sort(key=_number)
            self.queue.extendleft(reversed(self.returned))
            self.returned = []
        queue = self.queue
        if self.is_ordered:
            while queue and (queue[0].cancelled or not queue[0].waiting):
                call = queue.popleft()
                (todo.dropped if call.cancelled else todo.sends).append(call)
        else:
            todo.dropped += [each for each in queue if each.cancelled]
            todo.sends += [each for each in queue if not each.waiting and not each.cancelled]
            self.queue = deque(each for each in queue if each.waiting and not each.cancelled)
        # A late call in front is overtaken if no order is promised.
        self.is_open = not self.queue or not self.is_ordered

    def _settle(self, todo: Todo) -> None:
        """Parked calls go back to the queue while they have retries; else they fail."""
        parked, self._parked = self.parked, todo.lose(self._parked)
        again = []
        for call in parked:
            call.channel = None
            if call.cancelled:
                todo.failed.append((call, CANCELLED))
            elif self.state == DEAD:
                todo.failed.append((call, DEATH))
            elif call.retries != 0:
                call.retries -= 1 if call.retries > 0 else 0
                call.more().attempt += 1
                again.append(call)
            else:
                todo.failed.append((call, UNAVAILABLE))
        self.queue.extendleft(reversed(again))

    def _tell_unfinished(self, todo: Todo) -> None:
        """All calls that may come again are known once no other way is open."""
        if self.way is not None and self._unclosed == [self.way]:
            todo.unfinished = [call.number for call in self.waiting]


def _number(call: Any) -> int:
    return call.number
