"""The refs that the cluster knows about, in one process, and its holds.

Theory of operation
-------------------
A ref that leaves its process, or whose value lies in shared memory, is *held*: the cluster counts a
hold of this process until the last Python reference is gone. There is at most one ref object per id
(`RefTable.held`), so that identity can serve as hash. What was read out of another object a moment
ago is *met* (`AnchoredRef`): the other object's hold keeps it, until it is used or grows old.

The table's lock is held whenever a ref escapes, is found or changes its state, and while the
message that tells of that is sent. The end of a ref is different: it happens on any thread, at any
place, so it is only noted (`_gone`), and `sort_out` sees to it.

The rule of counting: a hold for somebody else is announced before the message that carries the id,
a release after everything else. The rest is told in `docs/architecture.md`, "Objects".
"""

from __future__ import annotations

import pickle
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ract.client.objects import refs
from ract.client.objects.refs import (
    ERROR,
    INLINE,
    PENDING,
    PLAIN,
    READY,
    STORED,
    AnchoredRef,
    FailedRef,
    ObjectRef,
)
from ract.client.process.locks import make_lock
from ract.core import calls, errors, serialization
from ract.core.messages import Blob, Contained, Hold, HoldsChanged, ObjectPublished
from ract.core.session import setting

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

MET_S = 0.1
"""A ref that was read out of another object gets a hold of its own after this time."""

UNUSED_COUNT = 3
"""References to a ref that nobody uses: the table's, a local variable's, `getrefcount`'s own."""


class _Entry(weakref.ref):
    """The table's reference to a held ref; it outlives the ref and says what is to be given back.

    Attributes:
        id: Of the ref.
        count: Holds that the cluster counts for this process.
    """

    __slots__ = ("count", "id")

    id: bytes
    count: int


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
        self.lock = make_lock("table")
        self.held: dict[bytes, _Entry] = {}
        self.exposed: weakref.WeakValueDictionary[bytes, ObjectRef]
        self.exposed = weakref.WeakValueDictionary()
        self.met: dict[bytes, AnchoredRef] = {}
        self.met_since: deque[tuple[float, list[AnchoredRef]]] = deque()
        self._dropped: deque[_Entry] = deque()  # of refs that went
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
                self._hold_met(ref, count)
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
        with self.lock:  # `sort_out` must not forget the ref between the look and the return
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
            if type(ref) is AnchoredRef:
                self._runtime.link.hold_changes.append((ref._id, self._runtime.process, 1))
                self._hold_met(ref, 1)
                self._runtime.reactor.wake()

    def _hold_met(self, ref: AnchoredRef, count: int) -> None:
        """A ref that was met has holds of its own; the anchor goes, and its hold after ours."""
        ref.hold()
        self.met.pop(ref._id, None)
        self._keep(ref, ref._id, count)

    def find(self, id: bytes) -> ObjectRef | None:
        """The ref of this process with that id, if there is one."""
        with self.lock:
            return self._find(id)

    def _find(self, id: bytes) -> ObjectRef | None:
        known = self.held.get(id)
        ref = known() if known is not None else None
        return self.met.get(id) or self.exposed.get(id) if ref is None else ref

    def promised(self) -> list[ObjectRef]:
        """Refs that others know and whose values calls of this process will bring."""
        with self.lock:
            known = [entry() for entry in self.held.values()]
        return [ref for ref in known if ref is not None and ref._state == PENDING]

    def sort_out(self) -> None:
        """Forget refs that are gone; hold those that were met a while ago and are in use."""
        old = time.monotonic() - MET_S
        while self.met_since and self.met_since[0][0] < old:
            met = self.met_since.popleft()[1]
            while met:
                ref = met.pop()
                with self.lock:  # nobody finds it in the table meanwhile
                    if type(ref) is not AnchoredRef:
                        continue
                    if sys.getrefcount(ref) > UNUSED_COUNT:
                        self.hold_anchored(ref)
                    else:
                        del self.met[ref._id]
        gone = []
        for _ in range(len(self._dropped)):
            entry = self._dropped.popleft()
            with self.lock:
                if self.held.get(entry.id) is entry:  # else there is a new ref with this id
                    del self.held[entry.id]
                    gone.append(entry.id)
        self._runtime.lineage.dropped(gone)

    def _new_held(self, id: bytes, count: int) -> ObjectRef:
        ref: ObjectRef = refs.remote_ref(ObjectRef, id)
        ref._runtime = self._runtime
        ref._holds = 1
        self._keep(ref, id, count)
        return ref

    def _keep(self, ref: ObjectRef, id: bytes, count: int) -> None:
        entry = _Entry(ref, self._gone)
        entry.id, entry.count = id, count
        self.held[id] = entry

    def become_held(self, ref: ObjectRef, count: int) -> bool:
        """Add holds that were announced; returns whether the ref had escaped before."""
        with self.lock:
            if ref._holds:
                self.held[ref._id].count += count
                return True
            self._hold_local(ref, count)
            return False

    def _hold_local(self, ref: ObjectRef, count: int) -> bytes:
        """A local ref is known to the cluster from now on; returns its id."""
        id = ref._make_id()
        if type(ref) is FailedRef:
            ref.__class__ = ObjectRef  # type: ignore[assignment]  # others may read its error
        ref._holds = 1
        self._keep(ref, id, count)
        return id

    def lost_hold(self, id: bytes) -> None:
        """A hold of this process was lost together with the value that it came with."""
        with self.lock:
            entry = self.held.get(id)
            ref = entry() if entry is not None else None  # it stays while the count changes
            if entry is not None and ref is not None:
                entry.count -= 1

    def _gone(self, entry: _Entry) -> None:
        """A ref is gone, on any thread: only note it. The reactor tells the cluster."""
        if not self._runtime.closed:
            self._runtime.link.hold_changes.append((entry.id, self._runtime.process, -entry.count))
            self._dropped.append(entry)
            self._runtime.reactor.wake()

    def hand_over(self, handed: Sequence[tuple[bytes, int]], process: int) -> None:
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
            id = self._hold_local(ref, 1)
            # From here on `_complete` publishes: it takes the same lock.
            self.publish(ref, [Hold(id, self._runtime.process, 1)])

    def publish_value(self, ref: ObjectRef, state: int) -> None:
        """The value of an escaped ref arrived, which becomes complete now; the lock is held."""
        if state != STORED:  # the node that stores it has told of it
            self.publish(ref, [], state)

    def publish(self, ref: ObjectRef, holds: list[Hold], state: int | None = None) -> None:
        """Tell the directory of a ref, with its value or where that is stored, if it is there.

        Args:
            ref: The ref; the caller holds the lock.
            holds: To announce with it.
            state: If the ref is not in this state yet, but has the value.
        """
        state = ref._state if state is None else state
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
        site = call.extra.site if call is not None and call.extra is not None else ""
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
