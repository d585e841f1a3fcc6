"""A process' end of one actor: calls in order, whatever happens to the actor.

Theory of operation
-------------------
States are what the scheduler says (`ActorChanged`): PENDING_CREATION, ALIVE, RESTARTING, DEAD.
Calls wait in ``_queue`` until the actor is alive and their arguments are ready, and go to its
executor over one channel, so they run in submission order. For a sync actor a call whose arguments
are late holds back the calls behind it; async and threaded actors promise no order, so it does not.

When the channel ends, calls in flight are parked until the scheduler says what became of the actor:
restarting, then those with retries left go back to the head of the queue and the others fail with
ActorUnavailableError; dead, then all fail with the cause of death.

A strong handle's end is told to the cluster only when the calls made through it are done.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.client.actors.handles import ActorHandle, HandleInfo
from ract.client.calls.call import Call, next_attempt
from ract.client.calls.channel import Channel
from ract.core import calls, errors, serialization
from ract.core.messages import ActorChanged, ActorKillWanted, ActorWatched, ExitCause

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

_LOOK_S = 0.05
"""A thread that waits for the actor looks around this often."""

FAREWELL_TIMEOUT_S = 10.0
"""How long calls of a broken channel wait for the scheduler's word before they fail."""

EXCESS_CALLS = 5000
"""The driver is warned when so many calls of one process wait for one actor."""


class ActorClient:
    """Calls of this process to one actor."""

    def __init__(self, runtime: Runtime, actor_id: bytes) -> None:
        self.runtime = runtime
        self.actor_id = actor_id
        self.info: HandleInfo | None = None
        self.state = "PENDING_CREATION"
        self.incarnation = -1
        self._killed = -1  # the incarnation that this process has killed
        self.node_id = b""
        self.pid = 0
        self.cause: ExitCause | None = None
        self._creation_error: errors.RactError | None = None
        self._lock = threading.RLock()
        self._moved = threading.Condition(self._lock)
        self._queue: deque[Call] = deque()
        self._channel: Channel | None = None
        self._parked: list[Call] = []
        self._parked_since = 0.0
        self._parked_from = 0  # the executor that had them
        #: Calls that an incarnation which moves to another node has not begun, and its channel.
        self._returned: list[Call] = []
        self._leaving: Channel | None = None
        self._watched = False
        self._acknowledges = False  # it is durable and remembers results until it hears of them
        self._unclosed: list[Channel] = []  # whose `closed` has not come
        self._excess = EXCESS_CALLS  # the next number of waiting calls to warn of
        self._handle: weakref.ref[ActorHandle] | None = None
        self._holds = 0
        self._farewell = False
        self._on_death: list[Callable[[BaseException], None]] = []
        self.kept: list[Any] = []  # refs in the constructor's arguments

    # ------------------------------------------------------------------ handles

    def strong_handle(self, info: HandleInfo | None = None) -> ActorHandle:
        """The one strong handle of this process; holds are counted by the caller."""
        with self._lock:
            if info is not None:
                self.info = info
            handle = self._handle() if self._handle is not None else None
            if handle is None:
                handle = ActorHandle(self.runtime, self, strong=True)
                self._handle = weakref.ref(handle)
            self._farewell = False
            return handle

    def adopt(self, count: int) -> ActorHandle:
        """A handle whose holds somebody announced for this process."""
        with self._lock:
            self._holds += count
            return self.strong_handle()

    def borrow(self, info: HandleInfo) -> ActorHandle:
        """Unpickle a handle: it is held from now on."""
        with self._lock:
            if self._holds == 0:
                self.hold()
            return self.strong_handle(info)

    def hold(self) -> None:
        """Announce a hold of this process."""
        self._holds += 1
        self.runtime.link.hold_changes.append((self.actor_id, self.runtime.process, 1))
        self.runtime.reactor.wake()

    def forget_holds(self) -> None:
        """Take back the holds of an actor that was not created."""
        change = (self.actor_id, self.runtime.process, -self._holds)
        self._holds = 0
        self.runtime.link.hold_changes.append(change)
        self.runtime.actors.pop(self.actor_id, None)

    def handle_dropped(self) -> None:
        """The strong handle is gone; tell the cluster when the calls made are done."""
        with self._lock:
            alive = self._handle is not None and self._handle() is not None
            self._farewell = not alive and self._holds > 0
        self._say_farewell()

    def _say_farewell(self) -> None:
        with self._lock:
            if self._farewell and not self.unfinished:
                self._farewell = False
                change = (self.actor_id, self.runtime.process, -self._holds)
                self._holds = 0
                self.runtime.link.hold_changes.append(change)

    @property
    def unfinished(self) -> int:
        """Calls of this process that are not complete."""
        inflight = len(self._channel.inflight) if self._channel is not None else 0
        return len(self._queue) + len(self._parked) + len(self._returned) + inflight

    # ------------------------------------------------------------------ submission

    def watch(self) -> None:
        """Have the scheduler say where the actor is, now and later."""
        if not self._watched:
            self._watched = True
            self.runtime.tell(ActorWatched(self.runtime.process, self.actor_id))

    def when_dead(self, callback: Callable[[BaseException], None]) -> None:
        """Call ``callback(error)`` when the actor is dead for good, or now. It must not wait."""
        with self._lock:
            if self.state != "DEAD":
                self._on_death.append(callback)
                self.watch()
                return
        callback(self.death())

    def _tell_death(self, error: BaseException) -> None:
        callbacks, self._on_death = self._on_death, []
        for callback in callbacks:
            callback(error)

    def submit(self, call: Call) -> None:
        """Send a call, or queue it until it can be sent."""
        with self._lock:
            channel = self._channel  # None unless the actor is alive
            if channel is not None and not self._queue and not call.waiting:
                if call.cancelled:
                    return
                try:
                    channel.send(call)
                    if len(channel.inflight) > self._excess:
                        self._warn_of_excess()
                    return
                except ConnectionError:
                    pass
            if self.state == "DEAD":
                self.runtime.fail_soon(call, self.death())
                return
            self._queue.append(call)
            self.watch()
            self._drain()
            if len(self._queue) > self._excess:
                self._warn_of_excess()

    def _warn_of_excess(self) -> None:
        text = (
            f"More than {self._excess} tasks are pending submission to actor "
            f"{self._named()}. To reduce memory usage, wait for these calls to finish "
            f"before making more"
        )
        self._excess *= 2
        self.runtime.warn("excess_queueing_warning", text)

    def find_room(self, on_full: str) -> bool:
        """Whether the actor's mailbox takes one more call; with "block", when it does.

        An actor that is not there yet is waited for. A dead one takes all: they fail anyway.
        """
        while True:
            with self._moved:
                self.watch()
                while self._channel is None and self.state != "DEAD":
                    self.runtime.check_alive()
                    self._moved.wait(_LOOK_S)
                channel = self._channel
            if channel is None:
                return True
            try:
                return channel.ask_for_room(wait=on_full == "block")
            except ConnectionError:  # its process has ended; the scheduler will say what follows
                with self._moved:
                    if self._channel is channel:
                        self._moved.wait(_LOOK_S)

    @property
    def waiting(self) -> list[Call]:
        """Calls that no executor has, oldest first."""
        with self._lock:
            return [*self._parked, *self._returned, *self._queue]

    @property
    def has_queued(self) -> bool:
        """Whether there are calls that no executor has."""
        return bool(self._queue or self._parked or self._returned)

    @property
    def unanswered(self) -> int:
        """How many calls have no answer yet, those that run included; about right at any time."""
        channel = self._channel
        sent = len(channel.inflight) if channel is not None else 0
        return sent + len(self._queue) + len(self._parked) + len(self._returned)

    def some_waiting(self, most: int) -> tuple[list[Call], int]:
        """The first of `waiting`, and how many more there are."""
        with self._lock:
            queues = (self._parked, self._returned, self._queue)
            found = list(itertools.islice(itertools.chain(*queues), most))
            return found, sum(map(len, queues)) - len(found)

    def ready(self, call: Call) -> None:
        """The arguments of a queued call are ready."""
        with self._lock:
            if self.state == "DEAD":
                return
            self._drain()

    @property
    def _waits_for_answers(self) -> bool:
        """Whether the incarnation that moves has calls that it may have begun.

        Its end is not waited for: nobody reads a channel on which nothing is under way.
        """
        leaving = self._leaving
        return leaving is not None and (bool(leaving.inflight) or leaving.is_closed)

    def _drain(self) -> None:
        channel = self._channel
        if channel is None or self.state != "ALIVE" or self._waits_for_answers:
            return
        self._leaving = None
        if self._returned:
            self._returned.sort(key=lambda call: call.number)
            self._queue.extendleft(reversed(self._returned))
            self._returned.clear()
        queue = self._queue
        if self.info is not None and not self.info.is_ordered:
            late: deque[Call] = deque()
            while queue:
                call = queue.popleft()
                if call.cancelled:
                    continue
                if call.waiting or not self._send(channel, call):
                    late.append(call)
            self._queue = late
            return
        while queue and not queue[0].waiting:
            call = queue[0]
            if not call.cancelled and not self._send(channel, call):
                return
            queue.popleft()

    @staticmethod
    def _send(channel: Channel, call: Call) -> bool:
        try:
            channel.send(call)
        except ConnectionError:
            return False
        return True

    def cancel(self, call: Call, force: bool, recursive: bool) -> None:
        """Cancel a call: drop it from the queue, or ask the actor's node."""
        assert not force, "checked where it was asked for"
        with self._lock:
            call.cancelled = True
            if call.channel is None:
                for waiting in (self._queue, self._returned):
                    if call in waiting:
                        waiting.remove(call)
                error = errors.TaskCancelledError(task_id=call.refs_task_id())
                self.runtime.story.cancelled(call)
                self.runtime.fail_soon(call, error)
                self._drain()
                return
            executor = call.channel.executor
        self.runtime.cancelling.ask_executor(call, executor, False, recursive)

    # ------------------------------------------------------------------ what the scheduler says

    def changed(self, message: ActorChanged) -> None:
        """The actor moved to another state."""
        with self._lock:
            if message.incarnation < self.incarnation or self.state == "DEAD":
                return
            self.state = message.state
            self._moved.notify_all()
            if message.state in ("ALIVE", "DEAD"):
                self.kept = []  # the directory holds them for restarts
            if message.state == "ALIVE":
                is_new = message.incarnation > self.incarnation or self._channel is None
                if is_new and message.incarnation > self._killed:
                    self._alive(message)
            elif message.state == "DEAD":
                self._dead(message)
            elif message.state == "RESTARTING":
                self._restarting(message)

    def _alive(self, message: ActorChanged) -> None:
        self.incarnation = message.incarnation
        self.node_id, self.pid = message.node_id, message.pid
        try:
            channel = self.runtime.connect(message.executor, message.node_id, message.address)
        except OSError:
            return  # it died meanwhile; the next ActorChanged will say so
        channel.owner = self
        self._channel = channel
        self._acknowledges = self.info is not None and self.info.is_durable
        self._unclosed.append(channel)
        self._tell_unfinished()
        self._settle(None)
        self._drain()

    def _tell_unfinished(self) -> None:
        """Tell a durable actor which calls may come (again), once all of them are known."""
        channel = self._channel
        if self._acknowledges and channel is not None and self._unclosed == [channel]:
            sent = [call.number for call in channel.unanswered()]
            channel.say((calls.UNFINISHED, sent + [call.number for call in self.waiting]))

    def _restarting(self, message: ActorChanged) -> None:
        self.cause = message.cause
        channel, self._channel = self._channel, None
        if message.cause is not None and message.cause.kind == "drained":
            # It has answered all that it has begun; there may be answers on their way.
            if channel is not None and not channel.is_closed:
                self._leaving = channel
            self._returned.extend(self._parked)
            self._parked = []
            return
        if channel is not None and not channel.is_closed:
            channel.abort()
        self._settle(self._unavailable())

    def _dead(self, message: ActorChanged) -> None:
        self.incarnation = message.incarnation
        self.cause = message.cause or ExitCause("crashed")
        if message.error is not None:
            blob = message.error
            self._creation_error = serialization.unpack(blob.head, blob.buffers)
        channel, self._channel = self._channel, None
        if channel is not None and not channel.is_closed:
            channel.abort()  # its calls come through `closed`
        self._settle(self.death())
        for call in [*self._returned, *self._queue]:
            if not call.cancelled:
                self.runtime.fail_soon(call, self.death())
        self._returned.clear()
        self._queue.clear()
        self._tell_death(self.death())

    def death(self) -> errors.RactError:
        """The error of every call to a dead actor."""
        class_name = self.info.class_name if self.info is not None else ""
        cause = self.cause or ExitCause("crashed")
        if self._creation_error is not None:
            error = faults_of_creation(self._creation_error, self.actor_id, class_name)
            errors.add_facts(error, cause, max(0, self.incarnation - 1))
            return error
        return errors.error_from_exit(
            cause,
            what="",
            actor_id=self.actor_id,
            class_name=class_name,
            name=self.info.name if self.info is not None else "",
            namespace=self.info.namespace if self.info is not None else "",
            restarts=max(0, self.incarnation - 1),
        )

    def _unavailable(self) -> errors.RactError:
        cause = self.cause or ExitCause("crashed")
        error = errors.ActorUnavailableError(
            f"The actor is restarting: {errors.reason_text(cause)}. "
            "The call may or may not have run.",
            self.actor_id,
        )
        errors.add_facts(error, cause, max(0, self.incarnation))
        return error

    def lost_cluster(self, error: BaseException) -> None:
        """This process has lost its node."""
        with self._lock:
            self.state = "DEAD"
            self._creation_error = None
            self.cause = ExitCause("node_died")
            for call in [*self._parked, *self._returned, *self._queue]:
                self.runtime.fail_soon(call, error)
            self._parked.clear()
            self._returned.clear()
            self._queue.clear()
            self._tell_death(error)

    # ------------------------------------------------------------------ what the channel says

    def replied(self, channel: Channel, last: Call | None, n: int, busy_s: float) -> None:
        """Replies were applied."""
        if self._acknowledges:
            channel.acknowledge()
        if self._farewell:
            self._say_farewell()
        if channel is self._leaving:
            with self._lock:
                self._drain()

    def returned(self, channel: Channel, call: Call) -> None:
        """The actor is moving to another node; calls it has not begun follow it there."""
        with self._lock:
            call.channel = None
            if self.state == "DEAD":
                self.runtime.fail_soon(call, self.death())
                return
            self._returned.append(call)
            if not channel.is_closed:
                self._leaving = channel
            if self._channel is channel:
                self._channel = None

    def blocked(self, channel: Channel, is_blocked: bool) -> None:
        """The actor's own call waits; its queue is its own business."""

    def closed(self, channel: Channel, lost: list[Call]) -> None:
        """The actor's process is gone, or the way to it."""
        with self._lock:
            self._unclosed = [each for each in self._unclosed if each is not channel]
            if self._channel is channel:
                self._channel = None
            if self._leaving is channel:  # it has answered all that it has begun
                self._leaving = None
                if self.state != "DEAD":
                    self._returned.extend(lost)
                    self._drain()
                    self._tell_unfinished()
                    return
            self._parked.extend(lost)
            self._parked_from = channel.executor
            self._parked_since = time.monotonic()
            self._tell_unfinished()
            if self.state == "DEAD":
                self._settle(self.death())
            elif self.state == "RESTARTING":
                self._settle(self._unavailable())

    def _settle(self, error: BaseException | None) -> None:
        """Parked calls: back to the queue while they have retries, else ``error``."""
        parked, self._parked = self._parked, []
        self.runtime.calls_lost(self._parked_from, parked)
        again = []
        for call in parked:
            executor = call.channel.executor if call.channel is not None else 0
            call.channel = None
            if self.cause is not None and not call.cancelled:
                self.runtime.story.lost(call, executor, self.cause)
            if call.cancelled:
                cancelled = errors.TaskCancelledError(task_id=call.refs_task_id())
                self.runtime.fail_soon(call, cancelled)
            elif call.retries != 0 and self.state != "DEAD":
                call.retries -= 1 if call.retries > 0 else 0
                next_attempt(call)
                again.append(call)
            else:
                self.runtime.fail_soon(call, error or self._unavailable())
        self._queue.extendleft(reversed(again))
        self._say_farewell()

    def retry(self, call: Call) -> None:
        """Run the call again after its own error (``retry_exceptions``)."""
        with self._lock:
            call.channel = None
            if self._acknowledges:  # it must not take this for the call that it has answered
                call.more().rerun += 1
            next_attempt(call)
            self._queue.appendleft(call)
            self._drain()

    def kill(self, no_restart: bool) -> None:
        """End the actor's process: running, queued and later calls fail (or meet the next one)."""
        with self._lock:
            self.runtime.tell(ActorKillWanted(self.runtime.process, self.actor_id, no_restart))
            self.watch()
            if self.state == "ALIVE":
                # From here on nothing reaches this incarnation; the scheduler says what follows.
                self._killed = self.incarnation
                channel, self._channel = self._channel, None
                if channel is not None and not channel.is_closed:
                    channel.abort()

    def tick(self) -> bool:
        """Called by the reactor; returns whether more ticks are needed."""
        if self._farewell:
            self._say_farewell()
        if self._parked and time.monotonic() - self._parked_since > FAREWELL_TIMEOUT_S:
            with self._lock:
                self._settle(self._unavailable())
                self._drain()
        return bool(self._parked)

    def what_it_waits_for(self) -> str:
        """Why a queued call is not sent."""
        return f"actor {self._named()}, which is {self.state}"

    def _named(self) -> str:
        name = self.info.class_name if self.info is not None else "actor"
        return f"{name}({self.actor_id.hex()[:8]})"


def faults_of_creation(
    error: BaseException, actor_id: bytes, class_name: str
) -> errors.ActorDiedError:
    """The error of calls to an actor whose constructor raised."""
    if isinstance(error, errors.ActorDiedError):
        return error
    made = errors.ActorDiedError(error if isinstance(error, errors.RactTaskError) else None)
    made.actor_init_failed = True
    return made
