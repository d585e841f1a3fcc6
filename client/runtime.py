"""The client runtime: what a process needs to submit calls and to read, hold and wait for values.

There is one per process (driver or executor), installed by `install`; everything else takes it as
an argument. It owns the reactor, the link to the node, the channels to executors, one `TaskPool`
per shape, one `ActorClient` per actor, and the table of refs that the cluster knows about.

How references are counted is told in `docs/architecture.md`, "Objects"; the rule here: a hold for
somebody else is announced before the message that carries the id, a release after everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import pickle
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ract.client import connections, context, faults, metrics, refs, sites
from ract.client.actor_client import ActorClient
from ract.client.channel import Call, Channel
from ract.client.groups import GroupClient
from ract.client.handles import ACTOR_ID_BYTES
from ract.client.mailbox_reports import MailboxReports
from ract.client.node_link import NodeLink
from ract.client.reactor import Reactor
from ract.client.refs import (
    ERROR,
    INLINE,
    PLAIN,
    READY,
    REMOTE,
    SOUGHT,
    STORED,
    AnchoredRef,
    FailedRef,
    HeldRef,
    ObjectRef,
)
from ract.client.store import Location, StoreClient
from ract.client.story import Story
from ract.client.streams import Stream
from ract.client.tasks import TaskPool
from ract.client.waiting import Waiter, split
from ract.core import calls, errors, ids, messages, naming, serialization
from ract.core.messages import (
    Blob,
    CancelAsked,
    CancelWanted,
    Contained,
    Hold,
    LeaseReleased,
    ObjectPublished,
    ObjectWanted,
)
from ract.core.serialization import Packed
from ract.core.session import setting

logger = logging.getLogger(__name__)

INLINE_BYTES_MAX = 100 * 1024
"""Larger values go through shared memory."""

POOLS_MAX = 256
"""With so many shapes, those of which nothing waits or runs are forgotten."""

BLOCK_GRACE_S = 0.001
"""A task that waits longer than this in get or wait lends its CPUs."""


MET_S = 0.1
"""A ref that was read out of another object gets a hold of its own after this time."""

UNUSED_COUNT = 3
"""References to a ref that nobody uses: the table's, a local variable's, `getrefcount`'s own."""


class Runtime:
    """The runtime of this process in one cluster.

    Args:
        link: The connection to the node, welcomed.
        is_driver: Whether this is a driver (else an executor).
    """

    is_local = False  #: see `ract.client.local_mode`

    def __init__(self, link: NodeLink, *, is_driver: bool) -> None:
        welcome = link.welcome
        self.link = link
        self.is_driver = is_driver
        self.process: int = welcome.process
        self.node_id: bytes = welcome.node_id
        self.job_id: bytes = welcome.job_id or b"\0\0\0\0"
        self.namespace: str = welcome.namespace
        self.closed = False
        self.lost_reason = ""
        self.store = StoreClient(link)
        self.channels: dict[int, Channel] = {}
        self.actors: dict[bytes, ActorClient] = {}
        self._mailboxes = MailboxReports(self)
        self.runtime_env = ""
        self.default_lifetime = "non_detached"  # of actors that do not say
        self.on_infeasible = "wait"  # likewise of all that is placed
        self.on_block: Callable[[], None] | None = None
        self.on_unblock: Callable[[], None] | None = None
        self.on_control: Callable[[Any], None] = lambda message: None
        self.on_tick: Callable[[], bool] = lambda: False
        self.on_close: Callable[[], None] = lambda: None
        self.pushed: list[messages.Pushed] = []
        self._first_number = self.process << ids.COUNTER_BITS
        self._counter = itertools.count(1)
        self._lock = threading.RLock()
        self._groups: weakref.WeakValueDictionary[bytes, GroupClient]
        self._groups = weakref.WeakValueDictionary()
        self._pools: dict[Any, TaskPool] = {}
        self._pools_by_key: dict[int, TaskPool] = {}
        self._pool_numbers = itertools.count(1)
        # The refs that the cluster knows, by id. Entries of refs that are gone go in `_tick`.
        self._held: dict[bytes, weakref.ref[ObjectRef]] = {}
        self._dropped: deque[bytes] = deque()  # ids of refs that went
        #: Local refs whose id was asked for: the program may make a ref of it.
        self.exposed: weakref.WeakValueDictionary[bytes, ObjectRef]
        self.exposed = weakref.WeakValueDictionary()
        # Refs that were read out of other objects a moment ago, by id, and in order of time.
        self._met: dict[bytes, AnchoredRef] = {}
        self._met_since: deque[tuple[float, list[AnchoredRef]]] = deque()
        self._pinned: list[Any] = []
        self._localizing: dict[bytes, list[Callable[[], None]]] = {}
        #: Values of refs of failed tasks that nobody has read.
        self.unhandled: deque[tuple[bytes, list[bytes], list[Any]]] = deque()
        self.unhandled_errors: deque[BaseException] = deque(maxlen=1000)
        self._dropped_handles: deque[bytes] = deque()
        self._dropped_streams: deque[Stream] = deque()
        self._failures: deque[tuple[Call, BaseException]] = deque()
        self._errors = 0
        self._timeouts: list[tuple[float, int, float, weakref.ref[Call]]] = []  # a heap
        self.story = Story(self)
        self.reactor = Reactor(self._tick)
        link.on_message = self._on_message
        link.on_lost = self._on_lost

    def start(self) -> None:
        """Begin to read what the node says."""
        self.reactor.post(self.link.begin)  # before what will be readable
        self.reactor.watch(self.link.fileno(), self.link.readable)
        self.reactor.start()

    # ------------------------------------------------------------------ ids

    def next_number(self) -> int:
        """A task number, unique in the cluster."""
        return self._first_number | next(self._counter)

    # ------------------------------------------------------------------ submission

    def pool(self, key: Any, make_shape: Callable[[], messages.Shape]) -> TaskPool:
        """The pool for a shape; ``key`` is hashable and equal for equal shapes."""
        pool = self._pools.get(key)
        if pool is None:
            shape = make_shape()
            self.release_idle_leases()  # other shapes' may be in the way of this one
            with self._lock:
                pool = self._pools.get(key)
                if pool is None:
                    pool = self._add_pool(key, shape, b"")
        return pool

    def _add_pool(self, key: Any, shape: messages.Shape, near: bytes) -> TaskPool:
        if len(self._pools) >= POOLS_MAX:
            self._drop_idle_pools()
        pool = TaskPool(self, next(self._pool_numbers), shape, near)
        self.keep_pool(pool)
        self._pools[key] = pool
        return pool

    @property
    def pools(self) -> list[TaskPool]:
        """Those of all shapes."""
        return list(self._pools.values())

    def keep_pool(self, pool: TaskPool) -> None:
        """What the cluster says of the pool's shape is for it."""
        self._pools_by_key[pool.key] = pool

    def _drop_idle_pools(self) -> None:
        """Forget pools without work: programs may make ever new shapes, one per placement group."""
        for key, pool in list(self._pools.items()):
            if not pool.is_active and not pool.waiting:
                del self._pools[key]
                self._pools_by_key.pop(pool.key, None)
        refs._scope = object()  # remote functions find theirs anew

    def pool_near(self, pool: TaskPool, node_id: bytes) -> TaskPool:
        """The pool for tasks of the same shape whose arguments lie on another node."""
        if node_id in (self.node_id, b"") or (pool.is_near_elsewhere and node_id == pool.near):
            return pool
        key = (pool.key, node_id)
        near = self._pools.get(key)
        if near is None:
            with self._lock:
                near = self._pools.get(key)
                if near is None:
                    near = self._add_pool(key, pool.shape, node_id)
        return near

    def release_idle_leases(self) -> None:
        """Give back executors that are only kept for calls that may come."""
        for pool in list(self._pools.values()):
            pool.release_idle()

    def dispatch(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Bind arguments to a call and hand it to its owner.

        The owner gets every call at once by ``submit``, so that it can keep the order; one whose
        arguments are late (``call.waiting``) comes a second time by ``ready``.
        """
        pending = self._bind(call, args, kwargs)
        if not pending:
            call.owner.submit(call)
            return
        # One more than the refs: callbacks that run at once do not finish before all are there.
        call.waiting = len(pending) + 1
        call.owner.submit(call)

        def ready(_: ObjectRef | None) -> None:
            with self._lock:
                call.waiting -= 1
                if call.waiting:
                    return
            if not call.cancelled:
                self._resolve(call)
                call.owner.ready(call)

        for ref in pending:
            ref._when_done(ready)
        ready(None)

    def _bind(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[ObjectRef]:
        """Put the arguments into the call; returns the refs among them that are not ready."""
        if not kwargs and all(map(serialization.is_plain, args)):
            call.args = args
            return []
        slots: list[ObjectRef] = []

        def slot(value: Any) -> Any:
            if not isinstance(value, ObjectRef):
                return value
            if value._runtime is not self:
                raise refs.left_cluster(value)
            if value._state == PLAIN:
                return value._value
            slots.append(value)
            return calls.Slot(len(slots) - 1)

        args = tuple(map(slot, args))
        kwargs = {key: slot(value) for key, value in kwargs.items()}
        if not slots and not kwargs and all(map(serialization.is_plain, args)):
            call.args = args
            return []
        extra = call.extra = call.extra or {}
        call.args = None
        packed = self.pack(((args, kwargs)), what=f"arguments of {call.name}")
        self._attach(call, extra, packed)
        if not slots:
            return []
        call.kept = [*call.kept, *slots]
        extra["deps"] = slots  # replaced by values in `_resolve`
        pending = [ref for ref in slots if ref._state < READY]
        if not pending:
            self._resolve(call)
        return pending

    def _attach(self, call: Call, extra: dict[str, Any], packed: Packed) -> None:
        if packed.size > INLINE_BYTES_MAX:
            ref = self.put_packed(packed)
            location = ref._value
            call.kept = [*call.kept, ref]
            extra["stored"] = (ref.binary(), *location)
            extra["refs"] = [(ref.binary(), 1)]
        else:
            extra["packed"] = (packed.head, packed.copied_buffers())
        if packed.refs:
            call.kept = [*call.kept, *packed.refs]
            counts = Counter(id_of(r) for r in packed.refs)
            extra["refs"] = extra.get("refs", []) + [(i, 1) for i in counts]

    def _resolve(self, call: Call) -> None:
        """Replace the slots by values; a failed argument fails the call without running it."""
        extra = call.extra
        assert extra is not None
        deps: list[tuple[Any, ...]] = []
        handed = []
        for ref in extra["deps"]:
            state, value = ref._state, ref._value
            if state == PLAIN:
                deps.append((calls.PLAIN, value))
            elif state == INLINE:
                head, buffers, contained = value
                if ref._holds:  # what it contains is kept alive by the directory's entry
                    handed.append((ref.binary(), 1))
                inner = [(id_of(r), 1) for r in contained]
                handed += inner
                deps.append((calls.INLINE, head, buffers, inner))
            elif state == STORED:
                deps.append((calls.STORED, ref.binary(), *value))
                handed.append((ref.binary(), 1))
            if state == ERROR or (state == STORED and value[4]):
                call.cancelled = True
                extra["deps"] = []
                self._fail_with(call, ref)
                return
        extra["deps"] = deps
        if handed:
            extra["refs"] = extra.get("refs", []) + handed

    def _fail_with(self, call: Call, ref: ObjectRef) -> None:
        try:
            ref._load()
        except BaseException as error:
            self.fail_call(call, faults.of_argument(call.name, error))

    # ------------------------------------------------------------------ replies

    def apply_reply(self, channel: Channel, call: Call, reply: tuple[Any, ...]) -> None:
        """Apply a reply that is more than one plain value."""
        status = reply[1]
        if status == calls.RETURNED:
            channel.inflight.pop(call.seq, None)
            assert channel.owner is not None
            channel.owner.returned(channel, call)
            return
        if status == calls.ITEM:
            if call.stream is not None:
                call.stream.item(reply[2], reply[3])
            return
        if status == calls.ERROR and self._retries(call, reply[2:]):
            channel.inflight.pop(call.seq, None)
            call.owner.retry(call)
            return
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
        else:
            if call.refs:
                self.apply_result(call.refs[0], reply[1:])
            for ref in call.refs[1:]:  # an error of a task with several returns
                self.apply_result(ref, reply[1:])
        if not call.refs:
            call.is_over = True
        call.kept = ()
        channel.inflight.pop(call.seq, None)

    def apply_result(self, ref: ObjectRef, result: tuple[Any, ...]) -> None:
        """Complete a ref with what an executor made."""
        status = result[0]
        if status == calls.PLAIN:
            ref._complete(PLAIN, result[1])
        elif status == calls.STORED:
            self._become_held(ref, 1)
            ref._complete(STORED, result[2:])
        else:
            contained = [self.adopt(i, n) for i, n in result[3]]
            if status == calls.ERROR:
                self._errors += 1
                if type(ref) is ObjectRef and ref._state < READY:
                    ref.__class__ = FailedRef  # before whoever waits for it reads it
                ref._complete(ERROR, (result[1], result[2], contained))
            else:
                ref._complete(INLINE, (result[1], result[2], contained))

    def _retries(self, call: Call, result: Sequence[Any]) -> bool:
        retried = call.retry_exceptions
        if not retried or call.retries == 0 or call.cancelled:
            return False
        if retried is not True:
            error = serialization.unpack(result[0], result[1])
            cause = getattr(error, "cause", error)
            if not isinstance(cause, tuple(retried)):
                return False
        call.retries -= 1 if call.retries > 0 else 0
        return True

    def fail_call(self, call: Call, error: BaseException) -> None:
        """Complete every ref of the call with an error made in this process."""
        packed = faults.pack(error)
        value = (packed.head, packed.copied_buffers(), packed.refs)
        self._errors += 1
        for ref in call.refs:
            ref._complete(ERROR, value)
        if call.stream is not None:
            call.stream.fail((calls.ERROR, packed.head, packed.copied_buffers(), []))
        if not call.refs:
            call.is_over = True
        call.kept = ()

    def fail_soon(self, call: Call, error: BaseException) -> None:
        """As `fail_call`, by the reactor: for who holds a lock.

        What waits for the call may be somebody else's, whose lock is taken then.
        """
        self._failures.append((call, error))
        self.reactor.wake()

    def _fail_all(self) -> None:
        while self._failures:
            self.fail_call(*self._failures.popleft())

    # ------------------------------------------------------------------ refs and holds

    def adopt(self, id: bytes, count: int) -> Any:
        """A ref or handle whose ``count`` holds somebody announced for this process."""
        if len(id) == ACTOR_ID_BYTES:
            return self.actor(id).adopt(count)  # it may wait for who waits for our lock
        with self._lock:
            ref = self._find(id)
            if ref is None:
                return self._new_held(id, count)
            if type(ref) is AnchoredRef:
                ref.hold()
                ref._holds = count
            else:
                self._become_held(ref, count)
            return ref

    def borrow(self, id: bytes) -> ObjectRef:
        """The ref with this id; a new one is held from now on."""
        with self._lock:
            ref = self._find(id)
            if ref is None:
                ref = self._new_held(id, 1)
                self.link.hold_changes.append((id, self.process, 1))
                self.reactor.wake()
            return ref

    def anchored(self, id: bytes, anchor: ObjectRef) -> ObjectRef:
        """The ref with this id, which was met inside ``anchor``."""
        met = self._met.get(id)
        if met is not None:
            return met
        with self._lock:
            ref = self._find(id)
            if ref is None:
                ref = self._met[id] = object.__new__(AnchoredRef)
                ref._id = id
                ref._value = anchor
                ref._runtime = self
                refs.reading.met.append(ref)
            return ref

    def _hold_anchored(self, ref: ObjectRef) -> None:
        with self._lock:
            if isinstance(ref, AnchoredRef):
                anchor = ref._value
                ref.hold()
                self._met.pop(ref._id, None)
                self._held[ref._id] = weakref.ref(ref)
                self.link.hold_changes.append((ref._id, self.process, 1))
                del anchor  # only now: its own hold may go
                self.reactor.wake()

    def _find(self, id: bytes) -> ObjectRef | None:
        known = self._held.get(id)
        ref = known() if known is not None else None
        return self._met.get(id) or self.exposed.get(id) if ref is None else ref

    def _sort_out_refs(self) -> None:
        """Forget refs that are gone; hold those that were met a while ago and are in use."""
        old = time.monotonic() - MET_S
        while self._met_since and self._met_since[0][0] < old:
            met = self._met_since.popleft()[1]
            while met:
                ref = met.pop()
                with self._lock:
                    if isinstance(ref, AnchoredRef) and sys.getrefcount(ref) <= UNUSED_COUNT:
                        del self._met[ref._id]
                # It was in use, or another thread has just found it in the table.
                if sys.getrefcount(ref) >= UNUSED_COUNT:
                    self._hold_anchored(ref)
        for _ in range(len(self._dropped)):
            id = self._dropped.popleft()
            with self._lock:
                if (known := self._held.get(id)) is not None and known() is None:
                    del self._held[id]

    def _new_held(self, id: bytes, count: int) -> ObjectRef:
        ref: ObjectRef = refs.remote_ref(HeldRef, id)
        ref._runtime = self
        ref._holds = count
        self._held[id] = weakref.ref(ref)
        return ref

    def _become_held(self, ref: ObjectRef, count: int) -> None:
        with self._lock:
            if not ref._holds:
                self._held[ref._make_id()] = weakref.ref(ref)
                ref.__class__ = HeldRef
            ref._holds += count

    def drop_hold(self, id: bytes, count: int) -> None:
        """A finalizer: only appends. The reactor tells the cluster."""
        if not self.closed:
            self.link.hold_changes.append((id, self.process, -count))
            self._dropped.append(id)
            self.reactor.wake()

    def hand_over(self, handed: list[tuple[bytes, int]], process: int) -> None:
        """Announce holds of another process, before the message that carries the ids."""
        for id, count in handed:
            self.link.hold_changes.append((id, process, count))
        self.link.flush_holds()

    def reduce_ref(self, ref: ObjectRef) -> tuple[Any, ...]:
        """Pickle a ref: it escapes."""
        self.escape(ref)
        collecting = serialization.collecting()
        if collecting is None:
            self._pin_out_of_band(ref)
        else:
            collecting.append(ref)
        return refs.rebuild_ref, (ref.binary(),)

    def _pin_out_of_band(self, ref: Any) -> None:
        name = "allow_out_of_band_object_ref_serialization"
        allowed = setting(name, "1")
        if allowed == "0":
            raise errors.OufOfBandObjectRefSerializationException(
                f"{ref!r} was pickled outside a task argument, result or put, which "
                f"RACT_{name}=0 forbids: its value could be lost while the pickle is alive."
            )
        self._pinned.append(ref)

    def escape(self, ref: ObjectRef) -> None:
        """Make the cluster know a ref, with its value if it is there."""
        with self._lock:
            if ref._holds:
                return
            if type(ref) is AnchoredRef:
                self._hold_anchored(ref)
                return
            id = ref._make_id()
            self._held[id] = weakref.ref(ref)
            ref.__class__ = HeldRef
            ref._holds = 1
            # From here on `_complete` publishes; whichever of the two comes second has the value.
            self._publish(ref, [Hold(id, self.process, 1)])

    def publish_value(self, ref: ObjectRef) -> None:
        """The value of an escaped ref arrived."""
        if ref._state != STORED:
            self._publish(ref, [])

    def _publish(self, ref: ObjectRef, holds: list[Hold]) -> None:
        state = ref._state
        value: Any = ref._value if state >= READY else None
        blob = None
        contains: list[Contained] = []
        if state == PLAIN:
            blob = Blob(pickle.dumps(value, 5))
        elif state in (INLINE, ERROR):
            head, buffers, contained = value
            blob = Blob(bytes(head), [bytes(b) for b in buffers], state == ERROR)
            contains = contained_of(contained)
        call = ref._call
        name = call.name if call is not None else ""
        site = call.extra.get("site", "") if call is not None and call.extra else ""
        message = ObjectPublished(self.process, ref.binary(), blob, contains, holds, name, site)
        self.tell(message)

    # ------------------------------------------------------------------ values

    @staticmethod
    def pack(value: Any, what: str) -> Packed:
        """Serialize, or raise TypeError that says which object and which part of it."""
        try:
            return serialization.pack(value)
        except Exception as error:
            from ract.core.diagnose import explain_unpicklable

            raise TypeError(explain_unpicklable(value, what, error)) from error

    def put(self, value: Any) -> ObjectRef:
        """Keep a value: in this process while it is small and local, else in shared memory."""
        if isinstance(value, ObjectRef):
            raise TypeError(
                f"ract.put() got {value!r}: a ref is already an object in the cluster. "
                "Pass it on as it is, or put it inside a list."
            )
        if serialization.is_plain(value):
            ref = refs.new_ref(self.next_number(), None, 1, None)
            ref._value, ref._state = value, PLAIN
            return ref
        return self.put_packed(self.pack(value, what="the value given to ract.put()"))

    def put_packed(self, packed: Packed) -> ObjectRef:
        """Keep a serialized value."""
        ref = refs.new_ref(self.next_number(), None, 1, None)
        if packed.size <= INLINE_BYTES_MAX:
            ref._value = (packed.head, packed.copied_buffers(), packed.refs)
            ref._state = INLINE
            return ref
        holds = [Hold(ref._make_id(), self.process, 1)]
        site = sites.of_caller() if sites.of_refs else ""
        location = self.store.write(
            ref._make_id(), packed, contained_of(packed.refs), holds, call_site=site
        )
        self._become_held(ref, 1)
        ref._value = (self.node_id, location.path, location.offset, location.size, False)
        ref._state = STORED
        return ref

    def load(self, ref: ObjectRef) -> Any:
        """The value of a complete ref that is not plain or inline; raises errors."""
        value = ref._value
        if ref._state == ERROR:
            if type(ref) is FailedRef:
                ref.__class__ = ObjectRef  # type: ignore[assignment]
            head, buffers, _ = value
        else:
            node_id, path, offset, size, is_error = value
            if node_id != self.node_id:
                return self._load_here(ref)
            location = Location(path, offset, size, is_error)
            head, buffers = self.store.read(location, ref)
            if not is_error:
                return self._unpack_anchored(ref, head, buffers)
        error = serialization.unpack(head, buffers)
        raise faults.as_raised(error)

    def _unpack_anchored(self, ref: ObjectRef, head: Any, buffers: Any) -> Any:
        reading = refs.reading
        outer = reading.__dict__.copy()  # unpickling may run code that reads other objects
        reading.anchor, reading.met = ref, []
        try:
            return serialization.unpack(head, buffers)
        finally:
            if reading.met:
                self._met_since.append((time.monotonic(), reading.met))
                self.reactor.wake()
            reading.__dict__.clear()
            reading.__dict__.update(outer)

    def _load_here(self, ref: ObjectRef) -> Any:
        """The value lies on another node: have it copied to this one first."""
        self.await_here(ref)
        return ref._load()

    def await_here(self, ref: ObjectRef) -> None:
        """Wait until the value of ``ref`` is on this node (or known to be lost)."""
        arrived = threading.Event()
        self.localize(ref, arrived.set)
        while not arrived.wait(1.0):
            self.check_alive()

    def packed_here(self, ref: ObjectRef) -> tuple[Any, Any]:
        """(head, buffers) of a value that `await_here` has waited for; raises its error."""
        if ref._state != STORED:
            if ref._state == ERROR:
                ref._load()
            return ref._value[0], ref._value[1]
        _, path, offset, size, is_error = ref._value
        return self.store.read(Location(path, offset, size, is_error), ref)

    def is_here(self, ref: ObjectRef) -> bool:
        """Whether the value of a ref can be read without waiting."""
        state = ref._state
        return state >= READY and (state != STORED or ref._value[0] == self.node_id)

    def localize(self, ref: ObjectRef, then: Callable[[], None]) -> None:
        """Bring the value of a complete or foreign ref here, then call ``then()``."""
        if self.is_here(ref):
            then()
            return
        id = ref.binary()
        with self._lock:
            waiting = self._localizing.setdefault(id, [])
            waiting.append(then)
            if len(waiting) > 1:
                return
            self._pinned_while_localizing(id, ref)
        self.tell(ObjectWanted(self.process, id))

    def _pinned_while_localizing(self, id: bytes, ref: ObjectRef) -> None:
        # The waiting list keeps the ref: its hold must outlast the copy.
        def keep(_ref: ObjectRef = ref) -> None: ...

        self._localizing[id].append(keep)

    def seek(self, ref: ObjectRef) -> None:
        """Ask the node for the value of a ref that another process made."""
        self._seek_all([ref])

    def _seek_all(self, wanted: list[ObjectRef]) -> None:
        sought = []
        for ref in wanted:
            if ref._state == REMOTE:
                with self._lock:
                    if ref._state == REMOTE:
                        self._hold_anchored(ref)
                        ref._state = SOUGHT
                        sought.append(ObjectWanted(self.process, ref.binary()))
        if sought:
            self.tell(*sought)

    def forget_value(self, ref: ObjectRef, error: BaseException) -> None:
        """Let go of the value of a complete ref: ``get`` in this process raises ``error`` now."""
        ref._value, ref._state = (pickle.dumps(error, 5), [], []), ERROR

    # ------------------------------------------------------------------ get and wait

    def get_one(self, ref: ObjectRef, timeout: float | None) -> Any:
        """Wait for one value."""
        if ref._runtime is not self:
            raise refs.left_cluster(ref)
        if ref._state < READY:
            self.await_one(ref, timeout)
        return ref._load()

    def await_one(self, ref: ObjectRef, timeout: float | None) -> None:
        """Wait until a ref is complete. Raises GetTimeoutError."""
        if ref._state < READY:
            call = ref._call
            channel = call.channel if call is not None else None
            # The usual case of `_await`, with nothing else to look after.
            if channel is not None and timeout is None and self.on_block is None:
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
            if ref._runtime is not self:
                raise refs.left_cluster(ref)
        if any(ref._state < READY for ref in wanted):
            self._await(wanted, len(wanted), timeout, for_get=True)
            # One that failed while others are still running is raised at once.
            for ref in wanted:
                if ref._state == ERROR:
                    ref._load()
        return [ref._load() for ref in wanted]

    def wait(
        self, wanted: list[ObjectRef], num_returns: int, timeout: float | None
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Split refs into at most ``num_returns`` complete ones and the rest, in order.

        Raises:
            ValueError: a ref of a cluster that this process has left.
        """
        for ref in wanted:
            if ref._runtime is not self:
                raise refs.left_cluster(ref)
        found = split(wanted, num_returns)
        if len(found[0]) < num_returns:
            try:
                self._await(wanted, num_returns, timeout, for_get=False)
            except errors.GetTimeoutError:
                pass
            found = split(wanted, num_returns)
        return found

    def _await(
        self, wanted: list[ObjectRef], n: int, timeout: float | None, *, for_get: bool
    ) -> None:
        """Return when ``n`` of the refs are complete, or (for get) one of them is an error.

        Raises:
            GetTimeoutError: not in time.
        """
        self._seek_all(wanted)
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = Waiter(self, wanted, n, for_get)
        if waiter.is_done():
            return
        if timeout is not None and timeout <= 0:
            waiter.poll_once()
            if waiter.is_done():
                return
            raise self._timeout_error(wanted, timeout)
        if self.on_block is not None:
            _warn_in_coroutine(for_get)
        block_at = time.monotonic() + BLOCK_GRACE_S if self.on_block is not None else None
        blocked = False
        try:
            while not waiter.is_done():
                self.check_alive()
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise self._timeout_error(wanted, timeout)
                if block_at is not None and not blocked and now >= block_at:
                    blocked = True
                    self.on_block()  # type: ignore[misc]
                stop = deadline
                if block_at is not None and not blocked:
                    stop = block_at if deadline is None else min(block_at, deadline)
                waiter.wait(stop)
        finally:
            if blocked:
                self.on_unblock()  # type: ignore[misc]

    @contextlib.contextmanager
    def lending_cpus(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """While a coroutine of a task or actor waits in here, its CPUs are free after a moment."""
        if self.on_block is None or self.on_unblock is None:
            yield
            return
        is_blocked = False

        def block() -> None:
            nonlocal is_blocked
            is_blocked = True
            self.on_block()  # type: ignore[misc]

        timer = loop.call_later(BLOCK_GRACE_S, block)
        try:
            yield
        finally:
            timer.cancel()
            if is_blocked:
                self.on_unblock()

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
        return f"{call.name} was sent to process {call.channel.executor}"

    def expedite(self, ref: ObjectRef) -> None:
        """Somebody waits for the ref without reading its channel."""
        call = ref._call
        if call is not None and call.channel is not None:
            call.channel.expedite()

    # ------------------------------------------------------------------ cancel

    def set_timeout(self, call: Call, seconds: float) -> None:
        """Fail and cancel the call if it is not complete by then."""
        at = time.monotonic() + seconds
        with self._lock:
            heapq.heappush(self._timeouts, (at, call.number, seconds, weakref.ref(call)))
        self.reactor.wake()

    def _expire(self) -> None:
        now = time.monotonic()
        while self._timeouts:
            with self._lock:  # for both: another thread may add one that comes earlier
                at, _, seconds, known = self._timeouts[0]
                call = known()
                is_over = call is None or _is_over(call)
                if at > now and not is_over:
                    return
                heapq.heappop(self._timeouts)
            if call is None or is_over:
                continue
            waited = self.describe_wait(call.refs[0]) if call.refs else call.name
            error = errors.TaskTimeoutError(f"not finished within {seconds} s: {waited}")
            self.fail_call(call, error)
            call.owner.cancel(call, False, True)

    def cancel(self, ref: ObjectRef, force: bool, recursive: bool) -> None:
        """Cancel the call that makes ``ref``; nothing happens if it has finished.

        Raises:
            ValueError: ``force`` for an actor call.
        """
        if force and ids.is_actor_call(ref.binary()):
            raise ValueError(
                "force=True would kill the actor's process and with it its state: it is not "
                "allowed for actor calls. Use ract.kill(actor) for that."
            )
        call = ref._call
        if call is not None:
            call.owner.cancel(call, force, recursive)
        elif ref._state < READY:  # another process made the call
            self.tell(CancelAsked(self.process, ref.binary(), force, recursive))

    def _cancel_asked(self, message: CancelAsked) -> None:
        with self._lock:
            ref = self._find(message.object_id)
        call = ref._call if ref is not None else None
        if call is not None:
            # Who asked does not know what kind of call it is; actor calls cannot be forced.
            force = message.force and call.actor_id is None
            call.owner.cancel(call, force, message.recursive)

    def ask_to_cancel(self, call: Call, executor: int, force: bool, recursive: bool) -> None:
        """Cancel a call that an executor has."""
        if call.channel is not None:
            call.channel.flush()
        self.tell(CancelWanted(self.process, executor, call.number, force, recursive))

    def _release_waiting(self) -> None:
        """Futures and coroutines that wait for refs hear that there will be no value."""
        error = RuntimeError("ract.shutdown() was called before the value was there")
        value: tuple[bytes, list[bytes], list[Any]] = (pickle.dumps(error, 5), [], [])
        waited = {ref for call in self.unfinished_calls() for ref in call.refs if ref._waiters}
        waited |= {ref for known in list(self._held.values()) if (ref := known()) is not None}
        for ref in waited:
            if ref._state < READY and ref._waiters:
                ref._value, ref._state = value, ERROR  # nobody else is told
                refs.notify(ref)

    def cancel_children(self, parent: int) -> None:
        """Cancel unfinished calls that task ``parent`` (running here) submitted."""
        for call in self.unfinished_calls():
            if call.parent == parent and not call.cancelled:
                call.owner.cancel(call, False, True)

    def unfinished_calls(self) -> list[Call]:
        """Calls of this process that wait or run."""
        found: list[Call] = []
        for pool in list(self._pools.values()):
            found += pool.waiting
        for client in list(self.actors.values()):
            found += client.waiting
        for channel in list(self.channels.values()):
            found += list(channel.inflight.values())
        for group in list(self._groups.values()):
            found += group.waiting
        return found

    # ------------------------------------------------------------------ connections

    def connect(self, executor: int, node_id: bytes, address: str) -> Channel:
        """The channel to an executor, made if there is none. Raises OSError."""
        with self._lock:
            channel = self.channels.get(executor)
            if channel is not None and not channel.is_closed:
                return channel
            sock = connections.connect(
                address, node_id, self.node_id, self.link.welcome.session_dir
            )
            channel = Channel(self, sock, executor)
            self.channels[executor] = channel
        spec = context.process.actor_spec
        actor_id = spec.actor_id if spec is not None else b""
        channel.say((calls.HELLO, self.process, self.job_id, self.node_id, actor_id))
        return channel

    def channel_closed(self, channel: Channel) -> None:
        """A channel has ended."""
        with self._lock:
            if self.channels.get(channel.executor) is channel:
                del self.channels[channel.executor]

    def tell(self, *told: Any) -> None:
        """Send messages to the node; without a node there is nobody to tell."""
        try:
            self.link.send(*told)
        except OSError as error:
            if not self.closed:
                logger.debug("ract: could not send %s: %s", type(told[0]).__name__, error)

    def check_open(self) -> None:
        """Raise if this process has left the cluster.

        Raises:
            RuntimeError: `ract.shutdown` was called.
        """
        if self.closed:
            raise RuntimeError(
                "this handle belongs to a cluster that this process has left (ract.shutdown)"
            )

    def check_alive(self) -> None:
        """Raise if this process has lost its node, or left the cluster.

        Raises:
            LocalRayletDiedError: the node daemon is gone.
            RuntimeError: `ract.shutdown` was called.
        """
        if self.closed:
            raise RuntimeError("ract.shutdown() was called while this thread waited")
        if self.lost_reason:
            raise errors.LocalRayletDiedError(self.lost_reason)

    def _on_lost(self) -> None:
        self.lost_reason = "The node daemon of this process has died; its cluster state is gone."
        self.reactor.forget(self.link.fileno())
        error = errors.LocalRayletDiedError(self.lost_reason)
        for pool in list(self._pools.values()):
            for call in pool.waiting:
                self.fail_call(call, error)
        for client in list(self.actors.values()):
            client.lost_cluster(error)
        for group in list(self._groups.values()):
            for call in group.waiting:
                self.fail_call(call, error)
        for known in list(self._held.values()):
            ref = known()
            if ref is not None and ref._state == SOUGHT:
                ref._complete(ERROR, (pickle.dumps(error, 5), [], []))
        self.on_control(None)

    # ------------------------------------------------------------------ what the node says

    def _on_message(self, message: Any) -> None:
        if isinstance(message, messages.LeaseGranted):
            pool = self._pools_by_key.get(message.shape_key)
            if pool is not None:
                pool.granted(message)
            else:  # it was dropped; nothing of it waits
                self.tell(LeaseReleased(self.process, message.lease))
        elif isinstance(message, messages.LeaseLost):
            for pool in list(self._pools.values()):
                pool.lease_lost(message)
        elif isinstance(message, messages.LeaseRecalled):
            for pool in list(self._pools.values()):
                pool.recalled(message.lease)
        elif isinstance(message, messages.LeaseRefused):
            pool = self._pools_by_key.get(message.shape_key)
            if pool is not None:
                pool.lease_refused(message.error, message.detail)
        elif isinstance(message, messages.ActorChanged):
            client = self.actors.get(message.actor_id)
            if client is not None:
                client.changed(message)
        elif isinstance(message, messages.GroupChanged):
            group = self._groups.get(message.group_id)
            if group is not None:
                group.changed(message)
        elif isinstance(message, messages.ObjectHere):
            self._object_here(message)
        elif isinstance(message, messages.SegmentsMoved):
            self.store.forget(message.paths)
        elif isinstance(message, CancelAsked):
            self._cancel_asked(message)
        elif isinstance(message, (messages.SegmentGranted, messages.SegmentRefused)):
            if isinstance(message, messages.SegmentGranted):
                self.link.answer(message.request, message)
            else:
                error = errors.error_by_name(message.error, message.detail)
                self.link.answer(message.request, None, error)
        elif isinstance(message, messages.Pushed):
            self.pushed.append(message)
            del self.pushed[:-10_000]
            self.on_control(message)
        else:
            self.on_control(message)

    def _object_here(self, message: messages.ObjectHere) -> None:
        with self._lock:
            waiting = self._localizing.pop(message.object_id, [])
            ref = self._find(message.object_id)
        if ref is not None:
            value: tuple[Any, ...]
            if message.blob is not None:
                blob = message.blob
                if blob.is_error:
                    value, state = (faults.directory_error(blob.head, ref), blob.buffers, []), ERROR
                    self._errors += 1
                else:
                    value, state = (blob.head, blob.buffers, []), INLINE
            else:
                place = (self.node_id, message.path, message.offset, message.size)
                value, state = (*place, message.is_error), STORED
            if ref._state == STORED:
                ref._value = value
                ref._state = state
            else:
                # Already in the directory: no need to publish what came from there.
                ref._value = value
                ref._state = state
                ref._call = None
                if ref._waiters is not None:
                    refs.notify(ref)
        for then in waiting:
            then()

    # ------------------------------------------------------------------ upkeep

    def actor(self, actor_id: bytes) -> ActorClient:
        """This process' end of an actor; made, and watched, when it is new."""
        with self._lock:
            client = self.actors.get(actor_id)
            if client is None:
                client = self.actors[actor_id] = ActorClient(self, actor_id)
            return client

    def group(self, group_id: bytes, *, is_new: bool = False) -> GroupClient:
        """This process' end of a placement group; ``is_new`` if it is made here and now."""
        with self._lock:
            client = self._groups.get(group_id)
            if client is None:
                client = GroupClient(self, group_id, is_watched=is_new)
                self._groups[group_id] = client
            return client

    def drop_handle(self, actor_id: bytes) -> None:
        """A finalizer of a strong handle: only appends."""
        if not self.closed:
            self._dropped_handles.append(actor_id)
            self.reactor.wake()

    def drop_stream(self, stream: Stream) -> None:
        """A finalizer of a generator: only appends."""
        if not self.closed:
            self._dropped_streams.append(stream)
            self.reactor.wake()

    def _tick(self) -> bool:
        self._fail_all()
        while self._dropped_streams:
            self._dropped_streams.popleft().let_go()
        while self._dropped_handles:
            self.actors[self._dropped_handles.popleft()].handle_dropped()
        while self.unhandled:
            self._report_unhandled(self.unhandled.popleft())
        busy = self.on_tick()
        if self._timeouts:
            self._expire()
            busy = True
        if self._dropped or self._met_since:
            self._sort_out_refs()
            busy = True
        for client in list(self.actors.values()):
            busy |= client.tick()
        busy |= self.link.flush_holds() if not self.link.is_closed else False
        for channel in list(self.channels.values()):
            busy |= channel.tick()
        now = time.monotonic()
        if self.actors:
            busy |= self._mailboxes.tick(now)
        for pool in list(self._pools.values()):
            if pool.is_active:
                pool.tick(now)
                busy = True
        return self.story.tick(now) or busy

    def _report_unhandled(self, value: tuple[bytes, list[bytes], list[Any]]) -> None:
        error = serialization.unpack(value[0], value[1])
        self.unhandled_errors.append(error)
        if setting("IGNORE_UNHANDLED_ERRORS", "0") != "1":
            variable = f"{naming.program.upper()}_IGNORE_UNHANDLED_ERRORS=1"
            logger.error("Unhandled error (suppress with '%s'): %s", variable, error)

    def close(self) -> None:
        """Leave the cluster."""
        if self.closed:
            return
        metrics.recorder.flush()
        try:
            self.link.flush_holds()
        except OSError:  # the node went first
            pass
        self._fail_all()
        self._release_waiting()
        self.closed = True
        self.reactor.close()
        for channel in list(self.channels.values()):
            channel.owner = None
            channel.abort()
            channel.discard()
        self.channels.clear()
        self.link.close()
        self.on_close()


def _is_over(call: Call) -> bool:
    """Whether the call has ended, or its caller has been told so."""
    return all(ref._state >= READY for ref in call.refs) if call.refs else call.is_over


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


def id_of(ref: Any) -> bytes:
    """The id of a ref or an actor handle, as the directory knows it."""
    return ref.binary() if isinstance(ref, ObjectRef) else ref._actor_id_bytes


def contained_of(contained: list[Any]) -> list[Contained]:
    """Contained refs and handles as the directory counts them."""
    return [Contained(i, n) for i, n in Counter(map(id_of, contained)).items()]


def install(runtime: Runtime | None) -> None:
    """Make ``runtime`` the one of this process."""
    refs._runtime = runtime
    refs._scope = object()


def enter_group(group: tuple[bytes, bool]) -> None:
    """This process runs in a placement group from now on (`ProcessContext.group`)."""
    if context.process.group != group:
        context.process.group = group
        refs._scope = object()  # calls may go elsewhere now


def current() -> Runtime | None:
    """The runtime of this process, or None before init and after shutdown."""
    return refs._runtime
