"""The refs that the cluster knows about, in one process, and its holds.

Theory of operation
-------------------
A ref that leaves its process, or whose value lies in shared memory, is *held*: the cluster counts a
hold of this process until the last Python reference is gone. There is at most one ref object per id
(`RefTable.held`), so that identity can serve as hash. What was read out of another object a moment
ago is *met* (`AnchoredRef`): the other object's hold keeps it, until it is used or grows old.

The rule of counting: a hold for somebody else is announced before the message that carries the id,
a release after everything else. The rest is told in `docs/architecture.md`, "Objects".
"""

from __future__ import annotations

import pickle
import sys
import threading
import time
import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from ract.client.objects import refs
from ract.client.objects.refs import (
    ERROR,
    INLINE,
    PLAIN,
    READY,
    STORED,
    AnchoredRef,
    HeldRef,
    ObjectRef,
)
from ract.core import calls, errors, serialization
from ract.core.messages import Blob, Contained, Hold, HoldsChanged, ObjectPublished
from ract.core.session import setting

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

MET_S = 0.1
"""A ref that was read out of another object gets a hold of its own after this time."""

UNUSED_COUNT = 3
"""References to a ref that nobody uses: the table's, a local variable's, `getrefcount`'s own."""


class RefTable:
    """The table of one process.

    Attributes:
        lock: Guards all of it, and what happens to refs by id elsewhere.
        held: The refs that the cluster knows, by id; those that are gone go in `sort_out`.
        exposed: Local refs whose id was asked for: the program may make a ref of it.
        met, met_since: Refs that were read out of other objects, by id, and in order of time.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.lock = threading.RLock()
        self.held: dict[bytes, weakref.ref[ObjectRef]] = {}
        self.exposed: weakref.WeakValueDictionary[bytes, ObjectRef]
        self.exposed = weakref.WeakValueDictionary()
        self.met: dict[bytes, AnchoredRef] = {}
        self.met_since: deque[tuple[float, list[AnchoredRef]]] = deque()
        self._dropped: deque[bytes] = deque()  # ids of refs that went
        self._pinned: list[Any] = []

    @property
    def is_busy(self) -> bool:
        """Whether `sort_out` has something to do."""
        return bool(self._dropped or self.met_since)

    def adopt(self, id: bytes, count: int) -> Any:
        """A ref or handle whose ``count`` holds somebody announced for this process."""
        if len(id) != refs.ID_BYTES:
            return self._runtime.actor(id).adopt(count)  # it may wait for who waits for our lock
        with self.lock:
            ref = self._find(id)
            if ref is None:
                return self._new_held(id, count)
            if type(ref) is AnchoredRef:
                ref.hold()
                ref._holds = count
            else:
                self.become_held(ref, count)
            return ref

    def drop_result(self, result: tuple[Any, ...]) -> None:
        """A result that nobody will see: what it brought is held no more."""
        if result[0] == calls.STORED:
            self.adopt(result[1], 1)
        elif result[0] != calls.PLAIN:
            for id, count in result[3]:
                self.adopt(id, count)

    def borrow(self, id: bytes) -> ObjectRef:
        """The ref with this id; a new one is held from now on."""
        with self.lock:
            ref = self._find(id)
            if ref is None:
                ref = self._new_held(id, 1)
                self._runtime.link.hold_changes.append((id, self._runtime.process, 1))
                self._runtime.reactor.wake()
            return ref

    def anchored(self, id: bytes, anchor: ObjectRef) -> ObjectRef:
        """The ref with this id, which was met inside ``anchor``."""
        met = self.met.get(id)
        if met is not None:
            return met
        with self.lock:
            ref = self._find(id)
            if ref is None:
                ref = self.met[id] = object.__new__(AnchoredRef)
                ref._id = id
                ref._value = anchor
                ref._runtime = self._runtime
                refs.reading.met.append(ref)
            return ref

    def hold_anchored(self, ref: ObjectRef) -> None:
        """A ref that was met inside another object is used: it gets a hold of its own."""
        with self.lock:
            if isinstance(ref, AnchoredRef):
                anchor = ref._value
                ref.hold()
                self.met.pop(ref._id, None)
                self.held[ref._id] = weakref.ref(ref)
                self._runtime.link.hold_changes.append((ref._id, self._runtime.process, 1))
                del anchor  # only now: its own hold may go
                self._runtime.reactor.wake()

    def find(self, id: bytes) -> ObjectRef | None:
        """The ref of this process with that id, if there is one."""
        with self.lock:
            return self._find(id)

    def _find(self, id: bytes) -> ObjectRef | None:
        known = self.held.get(id)
        ref = known() if known is not None else None
        return self.met.get(id) or self.exposed.get(id) if ref is None else ref

    def sort_out(self) -> None:
        """Forget refs that are gone; hold those that were met a while ago and are in use."""
        old = time.monotonic() - MET_S
        while self.met_since and self.met_since[0][0] < old:
            met = self.met_since.popleft()[1]
            while met:
                ref = met.pop()
                with self.lock:
                    if isinstance(ref, AnchoredRef) and sys.getrefcount(ref) <= UNUSED_COUNT:
                        del self.met[ref._id]
                # It was in use, or another thread has just found it in the table.
                if sys.getrefcount(ref) >= UNUSED_COUNT:
                    self.hold_anchored(ref)
        gone = []
        for _ in range(len(self._dropped)):
            id = self._dropped.popleft()
            with self.lock:
                if (known := self.held.get(id)) is not None and known() is None:
                    del self.held[id]
                    gone.append(id)
        self._runtime.lineage.dropped(gone)

    def _new_held(self, id: bytes, count: int) -> ObjectRef:
        ref: ObjectRef = refs.remote_ref(HeldRef, id)
        ref._runtime = self._runtime
        ref._holds = count
        self.held[id] = weakref.ref(ref)
        return ref

    def become_held(self, ref: ObjectRef, count: int) -> bool:
        """Add holds that were announced; returns whether the ref had escaped before."""
        with self.lock:
            had = ref._holds
            if not had:
                self.held[ref._make_id()] = weakref.ref(ref)
                ref.__class__ = HeldRef
            ref._holds += count
        return had > 0

    def drop_hold(self, id: bytes, count: int) -> None:
        """A finalizer: only appends. The reactor tells the cluster."""
        if not self._runtime.closed:
            self._runtime.link.hold_changes.append((id, self._runtime.process, -count))
            self._dropped.append(id)
            self._runtime.reactor.wake()

    def hand_over(self, handed: list[tuple[bytes, int]], process: int) -> None:
        """Announce holds of another process, before the message that carries the ids."""
        for id, count in handed:
            self._runtime.link.hold_changes.append((id, process, count))
        self._runtime.link.flush_holds()

    def hand_over_result(
        self, handed: list[tuple[bytes, int]], process: int, call: int, index: int
    ) -> None:
        """Announce holds of a caller, for what is in return (or item) ``index`` of its call."""
        holds = [Hold(id, process, count) for id, count in handed]
        self._runtime.tell(HoldsChanged(self._runtime.process, holds, call, index))

    def reduce_ref(self, ref: ObjectRef) -> tuple[Any, ...]:
        """Pickle a ref: it escapes."""
        self.escape(ref)
        collecting = serialization.collecting()
        if collecting is None:
            self.pin_out_of_band(ref)
        else:
            collecting.append(ref)
        return refs.rebuild_ref, (ref.binary(),)

    def pin_out_of_band(self, ref: Any) -> None:
        """A ref or handle was pickled by hand: it is kept for ever.

        Raises:
            OufOfBandObjectRefSerializationException: that is forbidden.
        """
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
        with self.lock:
            if ref._holds:
                return
            if type(ref) is AnchoredRef:
                self.hold_anchored(ref)
                return
            id = ref._make_id()
            self.held[id] = weakref.ref(ref)
            ref.__class__ = HeldRef
            ref._holds = 1
            # From here on `_complete` publishes; whichever of the two comes second has the value.
            self.publish(ref, [Hold(id, self._runtime.process, 1)])

    def publish_value(self, ref: ObjectRef) -> None:
        """The value of an escaped ref arrived."""
        if ref._state != STORED:
            self.publish(ref, [])

    def publish(self, ref: ObjectRef, holds: list[Hold]) -> None:
        """Tell the directory of a ref, with its value or where that is stored, if it is there."""
        state = ref._state
        value: Any = ref._value if state >= READY else None
        blob = None
        contains: list[Contained] = []
        seen_on = b""
        if state == STORED:
            seen_on = value[0]
        elif state == PLAIN:
            blob = Blob(pickle.dumps(value, 5))
        elif state in (INLINE, ERROR):
            head, buffers, contained = value
            blob = Blob(bytes(head), [bytes(b) for b in buffers], state == ERROR)
            contains = contained_of(contained)
        call = ref._call
        name = call.name if call is not None else ""
        site = call.extra.get("site", "") if call is not None and call.extra else ""
        message = ObjectPublished(
            self._runtime.process, ref.binary(), blob, contains, holds, name, site, seen_on
        )
        self._runtime.tell(message)


def id_of(ref: Any) -> bytes:
    """The id of a ref or an actor handle, as the directory knows it."""
    return ref.binary() if isinstance(ref, ObjectRef) else ref._actor_id_bytes


def contained_of(contained: list[Any]) -> list[Contained]:
    """Contained refs and handles as the directory counts them."""
    return [Contained(i, n) for i, n in Counter(map(id_of, contained)).items()]
