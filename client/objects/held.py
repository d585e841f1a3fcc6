"""The refs that the cluster knows about, in one process, and its holds.

Theory of operation
-------------------
A ref that leaves its process, or whose value lies in shared memory, is *held*: the cluster counts a
hold of this process until the last Python reference is gone. There is at most one ref object per id
(`Held.refs`), so that identity can serve as hash. What was read out of another object a moment ago
is *met* (`AnchoredRef`): the other object's hold keeps it, until it is used or grows old.

How holds are counted is the business of `ract.client.objects.holds`. Here are the refs, and the
lock under which a ref escapes, is found, or changes its state, and under which the message goes
that tells of that. The end of a ref happens on any thread, at any place, perhaps under a lock; so
it is only noted (`_gone`), and `sort_out` sees to it.

A ref is found by a weak reference that has a callback. The callback is called after the weak
reference is dead, so whoever finds a ref by it has a living one. A method ``__del__`` would run
before.
"""

from __future__ import annotations

import pickle
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from ract.client.objects import refs
from ract.client.objects.holds import Holds, Record
from ract.client.objects.refs import (
    ERROR,
    INLINE,
    PENDING,
    PLAIN,
    READY,
    STORED,
    AnchoredRef,
    FailedRef,
    Home,
    ObjectRef,
)
from ract.client.process.locks import make_lock
from ract.client.process.node_link import NodeLink
from ract.client.process.session import Session
from ract.core import calls, errors, serialization
from ract.core.messages import Blob, Contained, Hold, HoldsChanged, ObjectPublished
from ract.core.session import setting

UNUSED_COUNT = 3
"""References to a ref that nobody uses: the table's, a local variable's, `getrefcount`'s own."""


class _Entry(weakref.ref):
    """The table's reference to a held ref; it outlives the ref, and says what is given back."""

    __slots__ = ("record",)

    record: Record


class Held:
    """The table of one process.

    Args:
        session: Which process this is.
        link: The connection to its node.
        wake: Makes the IO thread tick, which calls `sort_out`. It takes no lock.
        adopt_handle: Makes a handle of an actor, given its id and the holds announced for it.

    Attributes:
        lock: Guards all of it, and the state of each ref.
        holds: What the cluster counts.
        refs: The refs that the cluster knows, by id; those that are gone go in `sort_out`.
        exposed: Local refs whose id was asked for: the program may make a ref of it.
        met: Refs that were read out of other objects, by id.
        home: Of new refs.
    """

    home: Home

    def __init__(
        self,
        session: Session,
        link: NodeLink,
        wake: Callable[[], None],
        adopt_handle: Callable[[bytes, int], Any],
    ) -> None:
        self._session = session
        self._link = link
        self._wake = wake
        self._adopt_handle = adopt_handle
        self.lock = make_lock("table")
        self.holds = Holds(session.process, link.hold_changes)
        self.refs: dict[bytes, _Entry] = {}
        self.exposed: weakref.WeakValueDictionary[bytes, ObjectRef]
        self.exposed = weakref.WeakValueDictionary()
        self.met: dict[bytes, AnchoredRef] = {}
        self._dropped: deque[_Entry] = deque()  # of refs that went
        self._pinned: list[Any] = []

    # ------------------------------------------------------------------ finding refs

    def find(self, id: bytes) -> ObjectRef | None:
        """The ref of this process with that id, if there is one."""
        with self.lock:
            return self._find(id)

    def _find(self, id: bytes) -> ObjectRef | None:
        known = self.refs.get(id)
        ref = known() if known is not None else None
        return self.met.get(id) or self.exposed.get(id) if ref is None else ref

    def living(self) -> list[ObjectRef]:
        """The refs that the cluster knows."""
        with self.lock:
            return [ref for known in self.refs.values() if (ref := known()) is not None]

    def promised(self) -> list[ObjectRef]:
        """Refs that others know and whose values calls of this process will bring."""
        return [ref for ref in self.living() if ref._state == PENDING]

    def expose(self, ref: ObjectRef) -> bytes:
        """A local ref tells its id, by which it is found from now on."""
        with self.lock:  # whoever sees the id finds the ref
            id = ref._new_id()
            self.exposed[id] = ref
            ref._id = id
        return id

    # ------------------------------------------------------------------ holding

    def adopt(self, id: bytes, count: int) -> Any:
        """A ref or handle whose ``count`` holds somebody announced for this process."""
        if len(id) != refs.ID_BYTES:
            return self._adopt_handle(id, count)  # it takes a lock that comes before ours
        with self.lock:
            ref = self._find(id)
            if ref is None:
                return self._new_ref(id, self.holds.announced(id, count))
            if type(ref) is AnchoredRef:
                self._hold_met(ref, self.holds.announced(id, count))
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
                ref = self._new_ref(id, self.holds.taken(id))
                self._wake()
            return ref

    def anchored(self, id: bytes, anchor: ObjectRef) -> ObjectRef:
        """The ref with this id, which was met inside ``anchor``."""
        with self.lock:  # `sort_out` must not forget the ref between the look and the return
            ref = self._find(id)
            if ref is None:
                ref = self.met[id] = object.__new__(AnchoredRef)
                ref._id = id
                ref._value = anchor
                ref._home = self.home
                refs.reading.met.append(id)
            return ref

    def have_read(self, met: list[bytes]) -> None:
        """These were met while an object was read."""
        with self.lock:
            self.holds.met(met, time.monotonic())
        self._wake()

    def hold_anchored(self, ref: ObjectRef) -> None:
        """A ref that was met inside another object is used: it gets a hold of its own."""
        if type(ref) is not AnchoredRef:  # nothing becomes one
            return
        with self.lock:
            if type(ref) is AnchoredRef:
                self._hold_met(ref, self.holds.taken(ref._id))
                self._wake()

    def _hold_met(self, ref: AnchoredRef, record: Record) -> None:
        """A ref that was met has a hold of its own; the anchor goes, and its hold after ours."""
        ref.hold()
        self.met.pop(ref._id, None)
        self._keep(ref, record)

    def _new_ref(self, id: bytes, record: Record) -> ObjectRef:
        ref: ObjectRef = refs.remote_ref(ObjectRef, id)
        ref._home = self.home
        ref._holds = 1
        self._keep(ref, record)
        return ref

    def _keep(self, ref: ObjectRef, record: Record) -> None:
        entry = self.refs[record.id] = _Entry(ref, self._gone)
        entry.record = record

    def become_held(self, ref: ObjectRef, count: int) -> bool:
        """Add holds that were announced; returns whether the ref had escaped before."""
        with self.lock:
            if ref._holds:
                self.holds.more(ref._id, count)
                return True
            self._hold_local(ref, count)
            return False

    def _hold_local(self, ref: ObjectRef, count: int) -> bytes:
        """A local ref is known to the cluster from now on; returns its id."""
        id = ref._make_id()
        if type(ref) is FailedRef:
            ref.__class__ = ObjectRef  # type: ignore[assignment]  # others may read its error
        ref._holds = 1
        self._keep(ref, self.holds.announced(id, count))
        return id

    def lost_hold(self, id: bytes) -> None:
        """A hold of this process was lost together with the value that it came with."""
        with self.lock:
            known = self.refs.get(id)
            ref = known() if known is not None else None  # it stays while the count changes
            if ref is not None:
                self.holds.lost(id)

    # ------------------------------------------------------------------ letting go

    def _gone(self, entry: _Entry) -> None:
        """A ref is gone, on any thread: only note it."""
        if not self._session.closed:
            self._dropped.append(entry)
            self._wake()

    @property
    def is_busy(self) -> bool:
        """Whether `sort_out` has something to do."""
        return bool(self._dropped or self.holds.is_waiting)

    def sort_out(self) -> list[bytes]:
        """Give back the holds of refs that are gone; hold what was met a while ago and is in use.

        Returns:
            The objects of which this process has no ref any more.
        """
        with self.lock:
            due = self.holds.due(time.monotonic())
        for id in due:
            with self.lock:  # nobody finds it in the table meanwhile
                ref = self.met.get(id)
                if ref is None:
                    continue
                if sys.getrefcount(ref) > UNUSED_COUNT:
                    self.hold_anchored(ref)
                else:
                    del self.met[id]
        gone = []
        for _ in range(len(self._dropped)):
            entry = self._dropped.popleft()
            id = entry.record.id
            with self.lock:
                if self.holds.dropped(entry.record):
                    del self.refs[id]
                    gone.append(id)
        return gone

    # ------------------------------------------------------------------ handing over

    def hand_over(self, handed: Sequence[tuple[bytes, int]], process: int) -> None:
        """Announce holds of another process, before the message that carries the ids."""
        self.holds.handed(handed, process)
        self._link.flush_holds()

    def hand_over_result(
        self, handed: list[tuple[bytes, int]], process: int, call: int, index: int
    ) -> None:
        """Announce holds of a caller, for what is in return (or item) ``index`` of its call."""
        holds = [Hold(id, process, count) for id, count in handed]
        self._link.tell(HoldsChanged(self._session.process, holds, call, index))

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

    # ------------------------------------------------------------------ publishing

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
            self.publish(ref, [Hold(id, self._session.process, 1)])

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
            self._session.process, ref._make_id(), blob, contains, holds, name, site, seen_on
        )
        self._link.tell(message)


def id_of(ref: Any) -> bytes:
    """The id of a ref or an actor handle, as the directory knows it."""
    return ref.binary() if isinstance(ref, ObjectRef) else ref._actor_id_bytes


def contained_of(contained: list[Any]) -> list[Contained]:
    """Contained refs and handles as the directory counts them."""
    return [Contained(i, n) for i, n in Counter(map(id_of, contained)).items()]
