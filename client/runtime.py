"""The client runtime: what a process needs to submit calls and to read, hold and wait for values.

There is one per process (driver or executor), installed by `install`; everything else takes it as
an argument. It owns the reactor, the link to the node, the channels to executors, one `TaskPool`
per shape, one `ActorClient` per actor, the table of refs that the cluster knows about
(`ract.client.objects.held`), and how lost objects are made again (`ract.client.calls.lineage`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ract.client.actors.actors import Actors
from ract.client.actors.client import ActorClient
from ract.client.calls import channels
from ract.client.calls.call import Call
from ract.client.calls.cancelling import Cancelling
from ract.client.calls.channel import Channel
from ract.client.calls.lineage import Lineage, RemadeRef
from ract.client.calls.streams import FIRST_INDEX, Stream
from ract.client.calls.waiting import SLEEP_S, Waiter, split
from ract.client.inbox import Inbox
from ract.client.objects import faults, refs
from ract.client.objects.held import Held
from ract.client.objects.refs import (
    ERROR,
    INLINE,
    PLAIN,
    READY,
    STORED,
    ObjectRef,
)
from ract.client.objects.store import StoreClient
from ract.client.objects.values import Values
from ract.client.people.mailbox_reports import MailboxReports
from ract.client.people.story import Story
from ract.client.people.unread import Unread
from ract.client.process import context, current, finalizers, interrupts, metrics, user_code
from ract.client.process.lending import BLOCK_GRACE_S, FETCH_GRACE_S, Lending
from ract.client.process.node_link import NodeLink
from ract.client.process.reactor import Reactor
from ract.client.process.session import Session
from ract.client.tasks.groups import GroupClient
from ract.client.tasks.pools import Pools
from ract.core import calls, errors, messages, naming, serialization
from ract.core.events import IN_GET, IN_WAIT
from ract.core.messages import (
    CallsLost,
)

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Who waits for longer than this makes sure that it may wait at all."""


READ_LOGS_S = 2.0
"""A driver that leaves waits at most so long for what its tasks and actors have printed last."""


class Runtime:
    """The runtime of this process in one cluster.

    Args:
        link: The connection to the node, welcomed.
        is_driver: Whether this is a driver (else an executor).
    """

    is_local = False  #: see `ract.client.local.mode`

    def __init__(self, link: NodeLink, *, is_driver: bool) -> None:
        welcome = link.welcome
        self.link = link
        self.session = Session(welcome, is_driver=is_driver)
        self.is_driver = is_driver
        self.process = self.session.process
        self.node_id = self.session.node_id
        self.next_number = self.session.next_number
        self.store = StoreClient(link)
        self.channels: dict[int, Channel] = {}
        self.actors = Actors(self)
        self._mailboxes = MailboxReports(self)
        self.runtime_env = ""
        self.default_lifetime = "non_detached"  # of actors that do not say
        self.on_infeasible = "wait"  # likewise of all that is placed
        self.on_control: Callable[[Any], None] = lambda message: None
        #: Called at every tick; returns in how many seconds it must be called again, if at all.
        self.on_tick: Callable[[], float | None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None
        self.pushed: list[messages.Pushed] = []
        self.groups: weakref.WeakValueDictionary[bytes, GroupClient]
        self.groups = weakref.WeakValueDictionary()
        self.pools = Pools(self)
        self.tell = link.tell
        self.warn = link.warn
        self.check_open = self.session.check_open
        self.check_alive = self.session.check_alive
        self.reactor = Reactor(self._tick)
        self.lending = Lending(self.reactor.wake)
        self.table = Held(self.session, link, self.reactor.wake, self._adopt_handle)
        self._lock = self.table.lock
        self.values = self.home = Values(
            self.session, link, self.table, self.store, self.lending, self.reactor.wake
        )
        self.put, self.expedite = self.values.put, self.values.expedite
        self.unread = Unread()
        self.lineage = Lineage(self)
        self._dropped_streams: deque[Stream] = deque()
        self.cancelling = Cancelling(self)
        self.story = Story(self)
        link.on_message = Inbox(self).receive
        link.on_lost = self._on_lost

    def start(self) -> None:
        """Begin to read what the node says."""
        self.reactor.post(self.link.begin)  # before what will be readable
        self.reactor.watch(self.link.fileno(), self.link.readable)
        self.reactor.start()
        finalizers.watch()

    @property
    def job_id(self) -> bytes:
        """See `Session`."""
        return self.session.job_id

    @property
    def namespace(self) -> str:
        """See `Session`."""
        return self.session.namespace

    @property
    def closed(self) -> bool:
        """See `Session`."""
        return self.session.closed

    @property
    def lost_reason(self) -> str:
        """See `Session`."""
        return self.session.lost_reason

    # ------------------------------------------------------------------ submission

    def release_idle_leases(self) -> None:
        """Give back executors that are only kept for calls that may come."""
        self.pools.release_idle_leases()

    def give_back_lease(self, lease: int) -> None:
        """Nobody here has use for an executor."""
        self.tell(messages.LeaseReleased(self.process, lease))

    # ------------------------------------------------------------------ replies

    def apply_reply(self, channel: Channel, call: Call, reply: tuple[Any, ...]) -> None:
        """Apply a reply that is more than one plain value."""
        status = reply[1]
        if status == calls.RETURNED:
            channel.inflight.pop(call.seq, None)
            if (owner := channel.owner) is not None:  # else the process leaves the cluster
                owner.returned(channel, call)
            return
        if status == calls.ITEM:
            if call.stream is not None:
                call.stream.item(reply[2], reply[3])
            return
        if status == calls.ERROR and self._may_retry(call):
            channel.inflight.pop(call.seq, None)
            if call.retry_exceptions is True:
                self._retry(call, reply[1:])
            else:  # to see of which class the error is runs code of users
                user_code.run(partial(self._retry_or_fail, call, reply[1:]))
            return
        self._apply_end(call, reply)
        channel.inflight.pop(call.seq, None)

    def _apply_end(self, call: Call, reply: tuple[Any, ...]) -> None:
        """The call has ended."""
        status = reply[1]
        if status == calls.CANCELLED:
            cancelled = errors.TaskCancelledError(task_id=call.refs_task_id())
            self.fail_call(call, pickle.loads(reply[2]) if reply[2] else cancelled)
        elif call.stream is not None:
            if status == calls.END:
                call.stream.end(reply[2])
            else:
                call.stream.fail(reply[1:])
        elif status == calls.END:  # heard before, and interrupted
            pass
        elif status == calls.SEVERAL:
            for ref, result in zip(call.refs, reply[2], strict=True):
                self.apply_result(ref, result)
        elif status == calls.ERROR:
            self._fail_refs(call.refs, reply[1:])
        elif call.refs:
            self.apply_result(call.refs[0], reply[1:])
        if not call.refs:
            call.is_over = True
        call.kept = ()

    def apply_result(self, ref: ObjectRef, result: tuple[Any, ...]) -> None:
        """Complete a ref with what an executor made."""
        status = result[0]
        if status == calls.PLAIN:
            ref._complete(PLAIN, result[1])
        elif status == calls.STORED:
            if type(ref) is RemadeRef:
                ref._complete(STORED, result[2:])
                return
            call = ref._call
            if call is not None and (call.retries or call.attempt):
                self.lineage.add(call, result[1])
            self.values.stored(ref, result[2:])
        elif status == calls.ERROR:
            self._fail_refs([ref], result)
        else:
            contained = [self.table.adopt(i, n) for i, n in result[3]]
            ref._complete(INLINE, (result[1], result[2], contained))

    def _fail_refs(self, failed: Sequence[ObjectRef], result: tuple[Any, ...]) -> None:
        """Complete refs with one error, which brought one hold of each ref that is in it."""
        _, head, buffers, counts = result
        contained = [self.table.adopt(i, n) for i, n in counts]
        for ref in failed:
            ref._fail((head, buffers, contained))
        self.values.count_error()

    @staticmethod
    def _may_retry(call: Call) -> bool:
        return bool(call.retry_exceptions) and call.retries != 0 and not call.cancelled

    def _retry(self, call: Call, result: tuple[Any, ...]) -> None:
        """Make a call again that has raised."""
        self.table.drop_result(result)
        call.retries -= 1 if call.retries > 0 else 0
        call.owner.retry(call)

    def _retry_or_fail(self, call: Call, result: tuple[Any, ...]) -> None:
        """Make a call again if what it has raised is of the right class."""
        try:
            error = serialization.unpack(result[1], result[2])
            is_right = isinstance(getattr(error, "cause", error), tuple(call.retry_exceptions))
        except BaseException:  # it cannot be read here, whoever gets the value is told why
            is_right = False
        if is_right and self._may_retry(call):
            self._retry(call, result)
        else:
            self._apply_end(call, (call.seq, *result))

    def calls_lost(self, executor: int, lost: list[Call]) -> None:
        """An executor died that owed replies: what was in them this process does not hold."""
        if lost:
            first = [
                [call.number, FIRST_INDEX + call.stream.received if call.stream is not None else 0]
                for call in lost
            ]
            self.tell(CallsLost(self.process, executor, first))

    def fail_call(self, call: Call, error: BaseException) -> None:
        """Complete every ref of the call with an error made in this process."""
        packed = faults.pack(error)
        value = (packed.head, packed.copied_buffers(), packed.refs)
        for ref in call.refs:
            ref._complete(ERROR, value)
        self.values.count_error()
        if call.stream is not None:
            call.stream.fail((calls.ERROR, packed.head, packed.copied_buffers(), []))
        if not call.refs:
            call.is_over = True
        call.kept = ()

    def fail_soon(self, call: Call, error: BaseException) -> None:
        """As `fail_call`, on another thread: for who holds a lock, or is the IO thread.

        What waits for the call may be somebody else's, whose lock is taken then; and to pickle the
        error may run code of users.
        """
        user_code.run(partial(self.fail_call, call, error))

    # ------------------------------------------------------------------ get and wait

    def get_one(self, ref: ObjectRef, timeout: float | None) -> Any:
        """Wait for one value."""
        if ref._home is not self.values:
            raise refs.left_cluster(ref)
        if timeout is None:
            if ref._state < READY:
                self.await_one(ref, None)
        else:
            deadline = time.monotonic() + timeout
            if ref._state < READY:
                self.await_one(ref, timeout)
            self._fetch([ref], timeout, deadline)
        return ref._load()

    def await_one(self, ref: ObjectRef, timeout: float | None) -> None:
        """Wait until a ref is complete. Raises GetTimeoutError."""
        if ref._state < READY:
            if finalizers.amid:
                finalizers.check_may_wait("get()")
            call = ref._call
            channel = call.channel if call is not None else None
            # The usual case of `_await`, with nothing else to look after.
            if channel is not None and timeout is None and not self.lending.is_needed:
                if channel.read_lock.acquire(False):
                    try:
                        channel.wait_for(ref, None)
                    finally:
                        channel.end_reading()
            if ref._state < READY:
                self._await([ref], 1, timeout, for_get=True)

    def get_many(self, wanted: list[ObjectRef], timeout: float | None) -> list[Any]:
        """Wait for all values, or until one is an error."""
        for ref in wanted:
            if ref._home is not self.values:
                raise refs.left_cluster(ref)
        deadline = None if timeout is None else time.monotonic() + timeout
        if any(ref._state < READY for ref in wanted):
            self._await(wanted, len(wanted), timeout, for_get=True)
            # One that failed while others are still running is raised at once.
            for ref in wanted:
                if ref._state == ERROR:
                    ref._load()
        self._fetch(wanted, timeout, deadline)
        return [ref._load() for ref in wanted]

    def _fetch(
        self, wanted: list[ObjectRef], timeout: float | None, deadline: float | None
    ) -> None:
        """Have the values of complete refs copied to this node, all at once.

        Raises:
            GetTimeoutError: not by the deadline.
        """
        far = [ref for ref in wanted if not self.values.is_here(ref)]
        if far and not self.values.await_here(*far, deadline=deadline):
            late = [ref for ref in far if not self.values.is_here(ref)]
            places = [
                value[0] for ref in late[:8] for state, value in [ref._outcome()] if state == STORED
            ]
            where = ", ".join(dict.fromkeys(place.hex()[:8] for place in places))
            raise errors.GetTimeoutError(
                f"{len(late)} of {len(wanted)} values were not fetched from other nodes ({where}) "
                f"within {timeout} s, or not made again if they were lost there: {late[0]!r}"
            )

    def wait(
        self,
        wanted: list[ObjectRef],
        num_returns: int,
        timeout: float | None,
        fetch_local: bool = True,
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Split refs into at most ``num_returns`` complete ones and the rest, in order.

        With ``fetch_local`` those that lie on other nodes are complete once they were copied here.

        Raises:
            ValueError: a ref of a cluster that this process has left.
        """
        for ref in wanted:
            if ref._home is not self.values:
                raise refs.left_cluster(ref)
        deadline = None if timeout is None else time.monotonic() + timeout
        found = split(wanted, num_returns)
        if len(found[0]) < num_returns:
            try:
                self._await(wanted, num_returns, timeout, for_get=False)
            except errors.GetTimeoutError:
                pass
            found = split(wanted, num_returns)
        if fetch_local and not all(map(self.values.is_here, found[0])):
            self._bring(wanted, num_returns, deadline)
            here = [ref for ref in wanted if self.values.is_here(ref)][:num_returns]
            chosen = set(here)
            return here, [ref for ref in wanted if ref not in chosen]
        return found

    def _bring(self, wanted: list[ObjectRef], n: int, deadline: float | None) -> None:
        """Have complete refs copied here until ``n`` of all can be read, or the deadline."""
        arrived = threading.Event()
        asked: set[ObjectRef] = set()
        lend_at = time.monotonic() + FETCH_GRACE_S
        with self.lending.on_demand(IN_WAIT) as lend:
            while sum(map(self.values.is_here, wanted)) < n:
                for ref in wanted:
                    if ref._state == STORED and ref not in asked:
                        asked.add(ref)
                        self.values.localize(ref, arrived.set)
                self.check_alive()
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    return
                if now >= lend_at:
                    lend()
                arrived.wait(_wait_s(SLEEP_S, deadline))  # others may be complete meanwhile
                arrived.clear()

    def _await(
        self, wanted: list[ObjectRef], n: int, timeout: float | None, *, for_get: bool
    ) -> None:
        """Return when ``n`` of the refs are complete, or (for get) one of them is an error.

        Raises:
            GetTimeoutError: not in time.
        """
        self.values.seek_all(wanted)
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = Waiter(self, wanted, n, for_get)
        if waiter.is_done():
            return
        if timeout is not None and timeout <= 0:
            waiter.poll_once()
            if waiter.is_done():
                return
            raise self._timeout_error(wanted, timeout)
        what = "get()" if for_get else "wait()"
        finalizers.check_may_wait(what)
        if self.lending.is_needed:
            _warn_in_coroutine(for_get)
        block_at = time.monotonic() + BLOCK_GRACE_S if self.lending.is_needed else None
        blocked = False
        look_at = time.monotonic() + LOOK_S
        try:
            while not waiter.is_done():
                self.check_alive()
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise self._timeout_error(wanted, timeout)
                if block_at is not None and not blocked and now >= block_at:
                    blocked = True
                    self.lending.block(IN_GET if for_get else IN_WAIT)
                if now >= look_at:
                    look_at = now + LOOK_S
                    finalizers.check_may_wait(what, also_locks=True)
                stop = deadline
                if block_at is not None and not blocked:
                    stop = block_at if deadline is None else min(block_at, deadline)
                waiter.wait(stop)
                interrupts.check()  # though all is there now: what waited was to be interrupted
        finally:
            if blocked:
                self.lending.unblock()

    def _timeout_error(self, wanted: list[ObjectRef], timeout: float | None) -> Exception:
        late = [ref for ref in wanted if ref._state < READY]
        what = "; ".join(self.describe_wait(ref) for ref in late[:3])
        more = f" and {len(late) - 3} more" if len(late) > 3 else ""
        return errors.GetTimeoutError(
            f"{len(late)} of {len(wanted)} objects were not ready within {timeout} s: {what}{more}"
        )

    def describe_wait(self, ref: ObjectRef) -> str:
        """What an incomplete ref waits for, in a few words."""
        call = ref._call
        if call is None:
            return f"{ref!r} is made by another process"
        if call.waiting:
            return f"{call.name} waits for {call.waiting} of its arguments"
        if call.channel is None:
            return f"{call.name} waits for {call.owner.what_it_waits_for()}"
        return f"{call.name} {call.channel.describe()}"

    # ------------------------------------------------------------------ calls that have not ended

    def cancel(self, ref: ObjectRef, force: bool, recursive: bool) -> None:
        """Cancel the call that makes ``ref``: see `Cancelling.cancel`."""
        self.cancelling.cancel(ref, force, recursive)

    def unfinished_calls(self) -> list[Call]:
        """Calls of this process that wait or run."""
        found: list[Call] = []
        found += self.pools.waiting
        found += self.actors.waiting
        for channel in list(self.channels.values()):
            found += list(channel.inflight.values())
        for group in list(self.groups.values()):
            found += group.waiting
        return found

    # ------------------------------------------------------------------ connections

    def connect(self, executor: int, node_id: bytes, address: str) -> Channel:
        """The channel to an executor, made if there is none. If it cannot connect now it will.

        Raises:
            ExecutorGone: nobody listens there any more.
        """
        with self._lock:
            channel = self.channels.get(executor)
            if channel is not None and not channel.is_closed:
                return channel
            spec = context.process.actor_spec
            actor_id = spec.actor_id if spec is not None else b""
            hello = (calls.HELLO, self.process, self.job_id, self.node_id, actor_id)
            where = (address, node_id, self.node_id, self.link.welcome.session_dir)
            channel = Channel(self, executor, partial(channels.dial, *where), hello)
            channel.open()
            self.channels[executor] = channel
            return channel

    def channel_closed(self, channel: Channel) -> None:
        """A channel has ended."""
        with self._lock:
            if self.channels.get(channel.executor) is channel:
                del self.channels[channel.executor]

    def _on_lost(self) -> None:
        lost = "The node daemon of this process has died; its cluster state is gone."
        self.session.lost_reason = lost
        self.reactor.forget(self.link.fileno())
        error = errors.LocalRayletDiedError(lost)
        for call in self.pools.waiting:
            self.fail_call(call, error)
        self.actors.lost_cluster(error)
        for group in list(self.groups.values()):
            for call in group.waiting:
                self.fail_call(call, error)
        self.values.end_asking()
        self.on_control(None)

    # ------------------------------------------------------------------ upkeep

    def actor(self, actor_id: bytes) -> ActorClient:
        """This process' end of an actor; made when it is new."""
        return self.actors.of(actor_id)

    def _adopt_handle(self, actor_id: bytes, count: int) -> Any:
        return self.actor(actor_id).adopt(count)

    def group(self, group_id: bytes, *, is_new: bool = False) -> GroupClient:
        """This process' end of a placement group; ``is_new`` if it is made here and now."""
        with self._lock:
            client = self.groups.get(group_id)
            if client is None:
                client = GroupClient(self, group_id, is_watched=is_new)
                self.groups[group_id] = client
            return client

    def drop_stream(self, stream: Stream) -> None:
        """A finalizer of a generator: only appends."""
        if not self.closed:
            self._dropped_streams.append(stream)
            self.reactor.wake()

    def _tick(self) -> bool:
        while self._dropped_streams:
            self._dropped_streams.popleft().let_go()
        while self.values.unread:
            self.unread.tell(self.values.unread.popleft())
        nap_s = self.on_tick()
        busy = self.cancelling.tick()
        if self.table.is_busy:
            self.lineage.dropped(self.table.sort_out())
            busy = True
        busy |= self.actors.tick()
        busy |= self.link.flush_holds()
        for channel in list(self.channels.values()):
            busy |= channel.tick()
        now = time.monotonic()
        busy |= self._mailboxes.tick(now)
        busy |= self.pools.tick(now)
        self.reactor.nap_s = _sooner(nap_s, self.story.tick(now))
        return busy

    def close(self) -> None:
        """Leave the cluster."""
        if self.closed:
            return
        if self.is_driver and not self.lost_reason:
            with contextlib.suppress(OSError, errors.RactError):  # the cluster is away, or busy
                self.link.request("read_logs", READ_LOGS_S)  # what was printed last comes before
        metrics.recorder.flush()
        self.link.flush_holds()
        with self.table.lock:  # whoever begins to wait from now on is refused: none is left out
            self.session.closed = True
        self.values.end_waiting([ref for call in self.unfinished_calls() for ref in call.refs])
        finalizers.unwatch()
        self.reactor.close()
        for channel in list(self.channels.values()):
            channel.discard()
        self.channels.clear()
        self.link.close()
        user_code.flush()
        self.on_close()


def _sooner(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


def _wait_s(longest: float, deadline: float | None) -> float:
    """How long to wait at once."""
    return longest if deadline is None else max(0.0, min(longest, deadline - time.monotonic()))


_warned_in_coroutine = False


def _warn_in_coroutine(for_get: bool) -> None:
    """Say once that get or wait stops an event loop."""
    global _warned_in_coroutine
    if not _warned_in_coroutine and asyncio._get_running_loop() is not None:
        _warned_in_coroutine = True
        name, instead = ("get", "await the ref") if for_get else ("wait", "use asyncio.wait")
        logger.warning(
            "Using blocking %s.%s inside an async actor: nothing else of it runs meanwhile. "
            "Rather %s.",
            naming.program,
            name,
            instead,
        )


def current_runtime() -> Runtime | None:
    """The runtime of this process, or None before init and after shutdown."""
    found: Runtime | None = current.runtime
    return found
