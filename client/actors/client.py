"""A process' end of one actor: the adapter around `ract.client.actors.line`.

It owns the lock of the line, opens its ways (channels), and performs what the line says: under the
lock, so that calls go out in the order in which the line decided. What runs code of users (errors
that are pickled, callbacks) is left to `fail_soon` and to threads for that.

A strong handle's end is told to the cluster only when the calls made through it are done.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.actors import ends
from ract.client.actors.handles import ActorHandle
from ract.client.actors.info import HandleInfo
from ract.client.actors.line import CANCELLED, DEAD, DEATH, Line, Place, Todo
from ract.client.calls.call import Call, is_over
from ract.client.calls.channel import Channel
from ract.client.calls.connection import ExecutorGone
from ract.client.process import user_code
from ract.client.process.locks import make_lock
from ract.core import calls, errors
from ract.core.messages import ActorChanged, ActorKillWanted, ActorWatched, Blob

if TYPE_CHECKING:
    from ract.client.calls.surroundings import Surroundings

_LOOK_S = 0.05
"""A thread that waits for the actor looks around this often."""

EXCESS_CALLS = 5000
"""The driver is warned when so many calls of one process wait for one actor."""


class ClientTable(Protocol):
    """The actors that this process knows (`ract.client.actors.actors`)."""

    def keep(self, client: ActorClient) -> None: ...
    def forget(self, client: ActorClient) -> None: ...
    def attend(self, client: ActorClient) -> None: ...
    def drop_handle(self, client: ActorClient, gone: weakref.ref[ActorHandle]) -> None: ...


class ActorClient:
    """Calls of this process to one actor."""

    def __init__(self, runtime: Surroundings, table: ClientTable, actor_id: bytes) -> None:
        self.runtime = runtime
        self._table = table
        self.actor_id = actor_id
        self.line = Line()
        self._info: HandleInfo | None = None
        # An event, what the line makes of it, and what is sent because of that are one step: calls
        # of one thread keep their order, and a state is not older than what was told of it.
        self._lock = make_lock("owner")
        # Only wakes `find_room`; nothing is done under its lock, so it has no rank. It is reentrant
        # for finalizers, which the garbage collector may call meanwhile.
        self._moved = threading.Condition(threading.RLock())
        self._creation_error: Blob | None = None
        self._watched = False
        self._acknowledges = False  # it is durable and remembers results until it hears of them
        self._excess = EXCESS_CALLS  # the next number of waiting calls to warn of
        self._handle: weakref.ref[ActorHandle] | None = None
        self._on_death: list[Callable[[BaseException], None]] = []
        self.kept: list[Any] = []  # refs in the constructor's arguments

    @property
    def info(self) -> HandleInfo | None:
        """What is known of its class."""
        return self._info

    @info.setter
    def info(self, info: HandleInfo) -> None:
        self._info = info
        self.line.is_ordered = info.is_ordered
        self._acknowledges = info.is_durable

    @property
    def state(self) -> str:
        """As the scheduler said last."""
        return self.line.state

    # ------------------------------------------------------------------ handles

    def strong_handle(self, info: HandleInfo | None = None) -> ActorHandle:
        """The one strong handle of this process; holds are counted by the caller."""
        with self._lock:
            if info is not None:
                self.info = info
            handle = self._handle() if self._handle is not None else None
            if handle is None:
                handle = ActorHandle(self.runtime, self)
                # Not a method __del__: while it ran, another thread could find the handle here.
                self._handle = weakref.ref(handle, self._handle_gone)
            self.line.handle_made()
            return handle

    def adopt(self, count: int, info: HandleInfo | None = None) -> ActorHandle:
        """A handle whose holds somebody announced for this process."""
        with self._lock:
            self.line.held(count)
            self._table.keep(self)
            return self.strong_handle(info)

    def borrow(self, info: HandleInfo) -> ActorHandle:
        """Unpickle a handle: it is held from now on."""
        with self._lock:
            if self.line.holds == 0:
                self.hold()
            return self.strong_handle(info)

    def hold(self) -> None:
        """Announce a hold of this process."""
        with self._lock:
            self.line.held(1)
            self._tell_holds(1)
            self._table.keep(self)
        self.runtime.reactor.wake()

    def _tell_holds(self, change: int) -> None:
        self.runtime.link.hold_changes.append((self.actor_id, self.runtime.process, change))

    def forget_holds(self) -> None:
        """Take back the holds of an actor that was not created."""
        with self._lock:
            self._tell_holds(-self.line.holds)
            self.line.holds = 0
        self._table.forget(self)

    def _handle_gone(self, gone: weakref.ref[ActorHandle]) -> None:
        """The weak reference to a handle is dead; this runs anywhere, so it only appends."""
        self._table.drop_handle(self, gone)

    def handle_dropped(self, gone: weakref.ref[ActorHandle]) -> None:
        """A strong handle is gone; tell the cluster when the calls made are done."""
        with self._lock:
            if self._handle is gone:  # there is no newer one
                self._perform(self.line.handle_dropped())

    # ------------------------------------------------------------------ submission

    def watch(self) -> None:
        """Have the scheduler say where the actor is, now and later."""
        if not self._watched:
            self._watched = True
            self._table.keep(self)
            self.runtime.tell(ActorWatched(self.runtime.process, self.actor_id))

    def submit(self, call: Call) -> None:
        """Send a call, or queue it until it can be sent."""
        with self._lock:
            line = self.line
            if line.is_open and not call.waiting:  # what `Line.submitted` would say, at less cost
                way: Any = line.way
                if call.room is not None or call.cancelled:
                    self._perform(line.submitted(call))
                    return
                try:
                    way.send(call)
                except ConnectionError:  # `closed` comes, or has come
                    self._perform(line.unsent([call]))
                    return
                if len(way.inflight) > self._excess:
                    self._warn_of_excess()
                return
            self.watch()
            self._perform(line.submitted(call))
            if len(line.queue) > self._excess:
                self._warn_of_excess()

    def ready(self, call: Call) -> None:
        """The arguments of a queued call are ready."""
        with self._lock:
            self._perform(self.line.ready())

    def retry(self, call: Call) -> None:
        """Run the call again after its own error (``retry_exceptions``)."""
        with self._lock:
            call.channel = None
            if self._acknowledges:  # it must not take this for the call that it has answered
                call.more().rerun += 1
            self._perform(self.line.retried(call))

    def undecided(self, call: Call, is_undecided: bool) -> None:
        """It is being found out whether the error of the call lets it run again, or that is known.

        Until then the call is unfinished, though it is neither in flight nor in the queue.
        """
        with self._lock:
            if is_undecided:
                self.line.undecided[call.number] = call
            else:
                self.line.undecided.pop(call.number, None)
                self._perform(self.line.ended())

    def cancel(self, call: Call, force: bool, recursive: bool) -> None:
        """Cancel a call: drop it from the queue, or ask the actor's node."""
        assert not force, "checked where it was asked for"
        with self._lock:
            call.cancelled = True
            channel = call.channel
            if channel is None:
                self.runtime.ends.cancelled(call)
                self._perform(self.line.cancelled(call))
                return
        self.runtime.cancelling.ask_executor(call, channel.executor, False, recursive)

    def kill(self, no_restart: bool) -> None:
        """End the actor's process: running, queued and later calls fail (or meet the next one)."""
        with self._lock:
            self.runtime.tell(ActorKillWanted(self.runtime.process, self.actor_id, no_restart))
            self.watch()
            self._perform(self.line.killed())

    def _warn_of_excess(self) -> None:
        text = (
            f"More than {self._excess} tasks are pending submission to actor "
            f"{self._named()}. To reduce memory usage, wait for these calls to finish "
            f"before making more"
        )
        self._excess *= 2
        self.runtime.warn("excess_queueing_warning", text)

    # ------------------------------------------------------------------ room in the mailbox

    def find_room(self, call: Call, on_full: str) -> bool:
        """Whether the actor's mailbox takes the call; with "block", when it does.

        The room is kept for the call until it is sent, or has ended without that. An actor that is
        not there yet is waited for. A dead one takes all: they fail anyway.
        """
        with self._lock:
            self.watch()
        while True:
            way: Any = self.line.way
            if way is None and self.line.state == DEAD:
                return True
            if way is not None:
                try:
                    has_room = way.rooms.ask(wait=on_full == "block")
                except ConnectionError:  # its process has ended; the scheduler says what follows
                    pass
                else:
                    call.room = way if has_room else None
                    return bool(has_room)
            self.runtime.check_alive()
            with self._moved:
                self._moved.wait(_LOOK_S)

    def vacate(self, call: Call) -> None:
        """The room that was kept for a call is not needed: it was not sent, or elsewhere."""
        way, call.room = call.room, None
        if way is not None:
            way.say((calls.VACATE,))
            self.runtime.reactor.wake()

    # ------------------------------------------------------------------ looking

    @property
    def unfinished(self) -> int:
        """Calls of this process that have no answer; about right at any time."""
        return self.line.unfinished

    @property
    def waiting(self) -> list[Call]:
        """Calls that no executor has, oldest first."""
        with self._lock:
            return self.line.waiting

    def some_waiting(self, most: int) -> tuple[list[Call], int]:
        """The first of `waiting`, and how many more there are."""
        with self._lock:
            line = self.line
            every = itertools.chain(line.parked, line.returned, line.queue)
            found = list(itertools.islice(every, most))
            return found, line.waiting_count - len(found)

    def what_it_waits_for(self) -> str:
        """Why a queued call is not sent."""
        return f"actor {self._named()}, {self.line.describe()}"

    def _named(self) -> str:
        name = self._info.class_name if self._info is not None else "actor"
        return f"{name}({self.actor_id.hex()[:8]})"

    # ------------------------------------------------------------------ what the scheduler says

    def changed(self, message: ActorChanged) -> None:
        """The actor moved to another state."""
        with self._lock:
            if message.state == DEAD and message.error is not None:
                self._creation_error = message.error
            kept = self.kept if message.state in ("ALIVE", DEAD) else []
            if kept:
                self.kept = []  # the directory holds them for restarts
            place = Place(message.incarnation, message.executor, message.node_id, message.address)
            now = time.monotonic()
            self._perform(self.line.changed(message.state, place, message.cause, now))
            is_dead = self.line.state == DEAD
        if is_dead:
            self._tell_death(self.death)
            self._table.forget(self)

    def lost_cluster(self, error: BaseException) -> None:
        """This process has lost its node."""
        with self._lock:
            self._creation_error = None
            failed = self.line.lost_cluster().failed
        for call, _ in failed:
            self.runtime.fail_soon(call, error)
        self._tell_death(lambda: error)

    def when_dead(self, callback: Callable[[BaseException], None]) -> None:
        """Call ``callback(error)``, on another thread, when the actor is dead for good, or now."""
        with self._lock:
            if self.line.state != DEAD:
                self._on_death.append(callback)
                self.watch()
                return
        user_code.run(lambda: callback(self.death()))

    def _tell_death(self, error: Callable[[], BaseException]) -> None:
        with self._lock:
            callbacks, self._on_death = self._on_death, []
        for callback in callbacks:
            user_code.run(partial(_call_with, callback, error))

    def death(self) -> errors.RactError:
        """The error of every call to a dead actor. Reading it may run code of users."""
        return ends.death(self.line, self.actor_id, self._info, self._creation_error)

    # ------------------------------------------------------------------ what the channel says

    def replied(self, channel: Channel, last: Call | None, n: int, busy_s: float) -> None:
        """Replies were applied."""
        if self._acknowledges:
            channel.acknowledge()
        line = self.line
        if line.wants_farewell or channel is line.leaving:
            with self._lock:
                self._perform(line.replied(channel))
                self._perform(line.ended())

    def returned(self, channel: Channel, call: Call) -> None:
        """The actor is moving to another node; calls it has not begun follow it there."""
        with self._lock:
            self._perform(self.line.returned_by(channel, call))

    def blocked(self, channel: Channel, is_blocked: bool) -> None:
        """The actor's own call waits; its queue is its own business."""

    def closed(self, channel: Channel, lost: list[Call]) -> None:
        """The channel has ended: the actor's process is gone, or has forgotten this one."""
        with self._lock:
            self._perform(self.line.broken(channel, lost, time.monotonic()))

    # ------------------------------------------------------------------ performing

    def tick(self) -> bool:
        """Called by the reactor; returns whether more ticks are needed."""
        with self._lock:
            self._perform(self.line.tick(time.monotonic()), attends=False)
            return self.line.needs_ticks

    def settle(self) -> None:
        """Give back the holds if all calls have their values, though a thread still notes that."""
        with self._lock:
            line = self.line
            if line.wants_farewell and not (line.waiting_count or line.undecided):
                ways: list[Any] = [way for way in (line.way, line.leaving) if way is not None]
                if all(is_over(call) for way in ways for call in way.unanswered()):
                    self._perform(line.farewell())

    def _perform(self, todo: Todo, *, attends: bool = True) -> None:
        # Under the lock.
        way: Any
        for way in todo.abort:
            way.abort()
        if todo.connect is not None:
            self._connect(todo.connect)
        for executor, lost in todo.lost:
            self.runtime.calls_lost(executor, lost)
        for call, attempt, executor in todo.ended:
            if self.line.cause is not None and not call.cancelled:
                self.runtime.ends.lost(call, attempt, executor, self.line.cause)
        if todo.failed:
            self._fail(todo.failed)
        for call in todo.dropped:
            self.vacate(call)
        way = self.line.way
        if todo.unfinished is not None and self._acknowledges and way is not None:
            sent = [call.number for call in way.unanswered()]
            way.say((calls.UNFINISHED, sent + todo.unfinished))
        if todo.sends:
            self._send(todo.sends)
        if todo.farewell:
            self._tell_holds(-todo.farewell)
            if not self._watched and not self.line.unfinished:
                self._table.forget(self)
            self.runtime.reactor.wake()
        if attends and self.line.needs_ticks:
            self._table.attend(self)

    def _connect(self, place: Place) -> None:
        try:
            channel = self.runtime.connect(place.executor, place.node_id, place.address)
        except ExecutorGone:
            # It has died, and the next ActorChanged will say so; if none comes, it is tried again.
            self._perform(self.line.refused(place, time.monotonic()))
        else:
            channel.owner = self
            self._perform(self.line.connected(channel, place))
        with self._moved:
            self._moved.notify_all()

    def _send(self, sends: list[Call]) -> None:
        channel: Any = self.line.way
        for i, call in enumerate(sends):
            try:
                channel.send(call)
            except ConnectionError:  # `closed` comes, or has come
                self._perform(self.line.unsent(sends[i:]))
                return
            if call.room is not None:
                if call.room is channel:
                    call.room = None  # the executor counts the call now
                else:
                    self.vacate(call)

    def _fail(self, failed: list[tuple[Call, str]]) -> None:
        dead = []
        for call, reason in failed:
            self.vacate(call)
            if reason == DEATH:
                dead.append(call)
            elif reason == CANCELLED:
                cancelled = errors.TaskCancelledError(task_id=call.refs_task_id())
                self.runtime.fail_soon(call, cancelled)
            else:
                self.runtime.fail_soon(call, ends.unavailable(self.line, self.actor_id))
        if dead:
            user_code.run(partial(_fail_all, dead, self.runtime.fail_call, self.death))


def _call_with(callback: Callable[[BaseException], None], error: Callable[[], Any]) -> None:
    callback(error())


def _fail_all(
    dead: list[Call],
    fail: Callable[[Call, BaseException], None],
    death: Callable[[], BaseException],
) -> None:
    for call in dead:
        fail(call, death())
