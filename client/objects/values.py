"""The values of this process: kept, read, brought here, and let go of.

Theory of operation
-------------------
A value is small and in this process, or it lies in the shared memory of a node. One that lies
elsewhere is *localized* before it is read: the node is asked once for all who wait (`localizing`),
and what it answers (`here`) replaces the place that the ref knew. A ref that another process made
is *sought*: its value, or its place, comes in the same way.

Whatever changes a ref happens under the table's lock (`ract.client.objects.refs`); callbacks are
called after it. When the node is gone, or this process leaves the cluster, nobody answers any more:
`end_asking` and `end_waiting` complete what waits, with an error.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ract.client.objects import faults, refs
from ract.client.objects.futures import Futures
from ract.client.objects.held import Held, contained_of
from ract.client.objects.refs import (
    ERROR,
    INLINE,
    PLAIN,
    READY,
    REMOTE,
    SOUGHT,
    STORED,
    FailedRef,
    ObjectRef,
)
from ract.client.objects.store import INLINE_BYTES_MAX, Location, StoreClient
from ract.client.process import finalizers, sites
from ract.client.process.lending import FETCH_GRACE_S, Lending
from ract.client.process.node_link import NodeLink
from ract.client.process.session import Session
from ract.core import errors, messages, serialization
from ract.core.events import IN_GET
from ract.core.messages import Hold, ObjectWanted
from ract.core.serialization import Packed

LOOK_S = 0.05
"""A thread that waits looks around this often, whatever it was told."""

#: An error as refs have it: (head, buffers, refs contained).
PackedError = tuple[bytes, list[bytes], list[Any]]


class Values:
    """The values that this process has refs to; the `Home` of its refs.

    Args:
        session: Which process this is.
        link: The connection to its node.
        held: The refs that the cluster knows.
        store: The node's shared memory.
        lending: Lends the CPUs of a task that waits.
        wake: Makes the IO thread tick. It takes no lock.

    Attributes:
        localizing: Objects that the node was asked for, and what to do when they are here.
        unread: Errors of refs that went before anybody read them.
        error_count: Another number after each value that is an error, see `count_error`.
    """

    def __init__(
        self,
        session: Session,
        link: NodeLink,
        held: Held,
        store: StoreClient,
        lending: Lending,
        wake: Callable[[], None],
    ) -> None:
        self._session = session
        self._link = link
        self._held = held
        self._wake = wake
        self.store = store
        self.lending = lending
        self.lock = held.lock
        self.borrow = held.borrow
        self.anchored = held.anchored
        self.expose = held.expose
        self.reduce_ref = held.reduce_ref
        self.publish_value = held.publish_value
        held.home = self
        self.localizing: dict[bytes, list[Callable[[], None]]] = {}
        self.unread: deque[PackedError] = deque()
        self.error_count = 0
        self._error_numbers = itertools.count(1)
        self._futures = Futures()

    @property
    def closed(self) -> bool:
        """Whether the process has left the cluster."""
        return self._session.closed

    @property
    def job_id(self) -> bytes:
        """The job that the process works for."""
        return self._session.job_id

    def count_error(self) -> None:
        """Whoever waits for many values looks again: one of them, complete by now, is an error."""
        self.error_count = next(self._error_numbers)  # never the same, whatever threads do

    def note_unread(self, value: PackedError) -> None:
        """An error is gone that nobody has read. A finalizer calls this: it only appends."""
        if not self._session.closed:
            self.unread.append(value)
            self._wake()

    # ------------------------------------------------------------------ keeping

    def put(self, value: Any) -> ObjectRef:
        """Keep a value: in this process while it is small and local, else in shared memory."""
        if isinstance(value, ObjectRef):
            raise TypeError(
                f"ract.put() got {value!r}: a ref is already an object in the cluster. "
                "Pass it on as it is, or put it inside a list."
            )
        if serialization.is_plain(value):
            ref = refs.new_ref(self._session.next_number(), None, 1, None)
            ref._value, ref._state = value, PLAIN
            return ref
        return self.put_packed(pack(value, what="the value given to ract.put()"))

    def put_packed(self, packed: Packed) -> ObjectRef:
        """Keep a serialized value."""
        ref = refs.new_ref(self._session.next_number(), None, 1, None)
        if packed.size <= INLINE_BYTES_MAX:
            ref._value = (packed.head, packed.copied_buffers(), packed.refs)
            ref._state = INLINE
            return ref
        site = sites.of_caller() if sites.of_refs else ""
        if finalizers.amid and finalizers.is_amid():  # this thread may be in the middle of writing
            finalizers.later(partial(self._store_late, ref, packed, site))
        else:
            self._store(ref, packed, site)
        return ref

    def _store(self, ref: ObjectRef, packed: Packed, site: str) -> None:
        id = ref._make_id()
        holds = [Hold(id, self._session.process, 1)]
        place = self.store.write(id, packed, contained_of(packed.refs), holds, call_site=site)
        stored = (self._session.node_id, place.path, place.offset, place.size, False)
        self.stored(ref, stored)

    def _store_late(self, ref: ObjectRef, packed: Packed, site: str) -> None:
        """Keep what a finalizer has put; its ref is with the program already."""
        try:
            self._store(ref, packed, site)
        except BaseException as error:
            failed = faults.pack(error)
            ref._fail((failed.head, failed.copied_buffers(), failed.refs))
            self.count_error()

    def stored(self, ref: ObjectRef, place: tuple[Any, ...]) -> None:
        """The value of a ref lies in a node's shared memory, and a hold came with it.

        Args:
            ref: The ref.
            place: (node, path, offset, size, whether it is an error).
        """
        has_escaped = self._held.become_held(ref, 1)
        if ref._complete(STORED, place) and has_escaped:
            # Whoever waits for it counts on us, if that node cannot tell any more.
            with self.lock:
                self._held.publish(ref, [])

    # ------------------------------------------------------------------ reading

    def load(self, ref: ObjectRef) -> Any:
        """The value of a complete ref that is not plain or inline; raises errors."""
        state, value = ref._outcome()
        if state == ERROR:
            with self.lock:  # an escape meanwhile makes the same of it
                if type(ref) is FailedRef:
                    ref.__class__ = ObjectRef  # type: ignore[assignment]
            head, buffers, _ = value
        elif state != STORED:  # it was replaced
            return ref._load()
        else:
            node_id, path, offset, size, is_error = value
            if node_id != self._session.node_id:
                return self._load_here(ref)
            location = Location(path, offset, size, is_error)
            head, buffers = self.read_here(location, ref)
            if not is_error:
                return self._unpack_anchored(ref, head, buffers)
        error = serialization.unpack(head, buffers)
        raise faults.as_raised(error)

    def _unpack_anchored(self, ref: ObjectRef, head: Any, buffers: Any) -> Any:
        reading = refs.reading
        outer = reading.__dict__.copy()  # unpickling may run code that reads other objects
        reading.anchor, reading.met = ref, []
        try:
            return serialization.unpack_users(head, buffers)
        finally:
            if reading.met:
                self._held.have_read(reading.met)
            reading.__dict__.clear()
            reading.__dict__.update(outer)

    def _load_here(self, ref: ObjectRef) -> Any:
        """The value lies on another node: have it copied to this one first."""
        while not self.is_here(ref):  # what has come may be lost before it is read
            self.await_here(ref)
        return ref._load()

    def await_here(
        self, *wanted: ObjectRef, deadline: float | None = None, seen_on: bytes = b""
    ) -> bool:
        """Wait until the values of complete refs are on this node (or known to be lost).

        Args:
            wanted: The refs.
            deadline: On the monotonic clock.
            seen_on: The node that stores the value, if the refs do not say.

        Returns:
            Whether they are; False at the deadline.
        """
        left = threading.Semaphore(0)
        lend_at = time.monotonic() + FETCH_GRACE_S
        for ref in wanted:
            self.localize(ref, left.release, seen_on)
        with self.lending.on_demand(IN_GET) as lend:
            for _ in wanted:
                while not left.acquire(timeout=_wait_s(LOOK_S, deadline)):
                    self._session.check_alive()
                    now = time.monotonic()
                    if deadline is not None and now >= deadline:
                        return False
                    if now >= lend_at:
                        lend()
        return True

    def packed_here(self, ref: ObjectRef) -> tuple[Any, Any]:
        """(head, buffers) of a value that `await_here` has waited for; raises its error."""
        state, value = ref._outcome()
        if state != STORED:
            if state == ERROR:
                ref._load()
            return value[0], value[1]
        _, path, offset, size, is_error = value
        return self.read_here(Location(path, offset, size, is_error), ref)

    def read_here(self, location: Location, ref: ObjectRef) -> tuple[Any, Any]:
        """(head, buffers) of a value in this node's store; it may have to be restored first."""
        while True:
            try:
                return self.store.read(location, ref)
            except FileNotFoundError:
                answered = threading.Event()
                self._want_here(ref, answered.set)
                while not answered.wait(LOOK_S):
                    self._session.check_alive()
                if ref._state == ERROR:
                    ref._load()

    def is_here(self, ref: ObjectRef) -> bool:
        """Whether the value of a ref can be read without waiting."""
        state = ref._state
        if state != STORED:
            return state >= READY
        state, value = ref._outcome()
        return state != STORED or value[0] == self._session.node_id

    def as_future(self, ref: ObjectRef) -> concurrent.futures.Future:
        """A future with the value of a ref."""
        return self._futures.make(ref, self.is_here(ref))

    # ------------------------------------------------------------------ bringing here

    def localize(self, ref: ObjectRef, then: Callable[[], None], seen_on: bytes = b"") -> None:
        """Bring the value of a complete or foreign ref here, then call ``then()``."""
        if self.is_here(ref):
            then()
        else:
            self._want_here(ref, then, seen_on)

    def _want_here(self, ref: ObjectRef, then: Callable[[], None], seen_on: bytes = b"") -> None:
        id = ref.binary()
        with self.lock:
            self._held.hold_anchored(ref)
            if ref._state == STORED:
                seen_on = ref._value[0]
            waiting = self.localizing.setdefault(id, [])
            waiting.append(then)
            if len(waiting) > 1:
                return
            # The waiting list keeps the ref: its hold must outlast the copy.
            waiting.append(partial(_keep, ref))
        self._link.tell(ObjectWanted(self._session.process, id, seen_on))
        if self._session.lost_reason:
            self.end_asking()

    def seek(self, ref: ObjectRef) -> None:
        """Ask the node for the value of a ref that another process made."""
        self.seek_all([ref])

    def seek_all(self, wanted: Iterable[ObjectRef]) -> None:
        """As `seek`, for several."""
        sought = []
        for ref in wanted:
            if ref._state == REMOTE:
                with self.lock:
                    if ref._state == REMOTE:
                        self._held.hold_anchored(ref)
                        ref._state = SOUGHT
                        sought.append(ObjectWanted(self._session.process, ref.binary()))
        if sought:
            self._link.tell(*sought)
            if self._session.lost_reason:
                self.end_asking()

    def expedite(self, ref: ObjectRef) -> None:
        """Somebody waits for the ref without reading its channel."""
        call = ref._call
        if call is not None and call.channel is not None:
            call.channel.expedite()

    def here(self, message: messages.ObjectHere) -> None:
        """The node has an object, or knows what has become of it."""
        with self.lock:
            waiting = self.localizing.pop(message.object_id, [])
            ref = self._held.find(message.object_id)
            if ref is not None:
                self._held.hold_anchored(ref)  # it was asked for by an older ref to the object
                self._bring(ref, message)
        if ref is not None:
            if ref._state == ERROR:
                self.count_error()
            refs.notify(ref)
        for then in waiting:
            then()

    def _bring(self, ref: ObjectRef, message: messages.ObjectHere) -> None:
        """Give a ref the value that the node has of it; the caller holds the lock."""
        value: tuple[Any, ...]
        if message.blob is not None:
            blob = message.blob
            state, value = INLINE, (blob.head, blob.buffers, [])
            if blob.is_error:
                state, value = ERROR, (faults.directory_error(blob.head, ref), blob.buffers, [])
        else:
            place = (self._session.node_id, message.path, message.offset, message.size)
            state, value = STORED, (*place, message.is_error)
        # What came from the directory need not be published.
        if ref._state == STORED:
            ref._replace(state, value)
        elif ref._state < READY:
            ref._value = value
            ref._state = state
            ref._call = None

    def untold(self, id: bytes) -> None:
        """Somebody waits for an object of which the cluster knows nothing."""
        ref = self._held.find(id)
        if ref is None:
            return
        state, value = ref._outcome()
        if state == STORED:
            # Its node may have died before it could tell: say which one it is.
            self._link.tell(ObjectWanted(self._session.process, id, value[0]))
        else:
            self._held.escape(ref)  # nothing happens if it has escaped

    # ------------------------------------------------------------------ changing values

    def forget_value(self, ref: ObjectRef, error: BaseException) -> None:
        """Let go of the value of a complete ref: ``get`` in this process raises ``error`` now."""
        value = packed_error(error)
        with self.lock:
            ref._replace(ERROR, value)

    def renew(self, id: bytes, made: ObjectRef, *, is_wanted: bool) -> None:
        """A call has run again.

        Args:
            id: Of an object that it made.
            made: The new value.
            is_wanted: Whether the object was lost.
        """
        if made._state == STORED:
            ref = self._held.adopt(id, 1)
            with self.lock:
                if ref._state == STORED and is_wanted:
                    ref._value = made._value
            ref._complete(STORED, made._value)
            if is_wanted:
                with self.lock:
                    self._held.publish(made, [])
        elif is_wanted:
            with self.lock:
                known = self._held.find(id)
                if known is not None and known._state == STORED:
                    known._replace(made._state, made._value)
                self._held.publish(made, [])

    # ------------------------------------------------------------------ the end

    def end_asking(self) -> None:
        """The node is gone: what it was asked for does not come."""
        value = packed_error(errors.LocalRayletDiedError(self._session.lost_reason))
        with self.lock:
            localizing, self.localizing = self.localizing, {}
            for id in localizing:
                ref = self._held.find(id)
                if ref is not None and ref._state == STORED and not self.is_here(ref):
                    ref._replace(ERROR, value)
        for ref in self._held.living():
            if ref._state == SOUGHT:
                ref._complete(ERROR, value)
        self.count_error()
        for waiting in localizing.values():
            for then in waiting:
                then()

    def end_waiting(self, pending: Iterable[ObjectRef]) -> None:
        """This process has left the cluster: futures and coroutines hear that there is no value.

        Args:
            pending: Refs of calls that have not ended.
        """
        error = errors.LeftClusterError("ract.shutdown() was called before the value was there")
        value = packed_error(error)
        self._futures.fail_all(error)
        waited = dict.fromkeys([*pending, *self._held.living()])
        with self.lock:
            ended = [ref for ref in waited if ref._state < READY and ref._waiters]
            for ref in ended:
                ref._value, ref._state = value, ERROR  # nobody else is told
            localizing, self.localizing = self.localizing, {}
        for ref in ended:
            refs.notify(ref)
        for waiting in localizing.values():
            for then in waiting:
                then()


def _keep(ref: ObjectRef) -> None:
    """Does nothing, and keeps the ref until it is done."""


def pack(value: Any, what: str) -> Packed:
    """Serialize, or raise TypeError that says which object and which part of it."""
    try:
        return serialization.pack(value)
    except Exception as error:
        from ract.core.diagnose import explain_unpicklable

        raise TypeError(explain_unpicklable(value, what, error)) from error


def packed_error(error: BaseException) -> PackedError:
    """An error of ours as refs have it."""
    return (pickle.dumps(error, 5), [], [])


def _wait_s(longest: float, deadline: float | None) -> float:
    """How long to wait at once."""
    return longest if deadline is None else max(0.0, min(longest, deadline - time.monotonic()))
