"""Object refs: a ref is its own future.

Theory of operation
-------------------
A ref starts PENDING and becomes, once, one of the other states. Its state, its value, its waiters
and whether it has escaped change under one lock, `Held.lock`, and the message that tells the
cluster of the change is sent under the same lock. So the cluster hears of a hold before it hears of
the value, hears of the value once, and no callback is lost. The lock costs about 50 ns a reply.

Whoever reads a ref takes no lock at first: a value is stored before the state that says what it is.
A value that replaces another one (it was freed, or lies elsewhere now) is stored after its state;
`ObjectRef._outcome` reads both under the lock, for whoever may meet such a change. Callbacks are
called without any lock, each once, by the thread that completes the ref.

A ref that never leaves its process has no id on the wire and no finalizer, so creating one costs
about a hundred nanoseconds. When it *escapes* (it is pickled, or its value lies in shared memory)
the table keeps it by id, so that there is at most one ref object per id in a process and identity
can serve as hash. The table's weak reference tells when the ref is gone. A method ``__del__`` would
run while other threads can still find the ref, and take it up again after its hold was given back.
A ref that is read out of another object starts as an `AnchoredRef`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

from ract.client.process import current
from ract.core import ids, serialization

T = TypeVar("T")

# The order matters: everything from READY on is complete.
PENDING = 0  #: a call of this process will complete it
REMOTE = 1  #: only the id is known; ask the node
SOUGHT = 2  #: the node was asked
READY = 3
PLAIN = 3  #: ``_value`` is an immutable builtin
INLINE = 4  #: ``_value`` is (head, buffers, refs contained)
STORED = 5  #: ``_value`` is a `ract.client.objects.store.Location` on this node
ERROR = 6  #: ``_value`` is (head, buffers, refs) of an exception

#: Another object whenever what is known of a remote function's pool is out of date.
_scope: object = object()


class Home(Protocol):
    """What a ref needs of the process that it belongs to (`ract.client.objects.values`).

    Attributes:
        lock: Under which refs change (`ract.client.objects.held`).
        lending: Lends CPUs while a coroutine waits (`ract.client.process.lending`).
    """

    lock: Any
    lending: Any

    @property
    def closed(self) -> bool:
        """Whether the process has left the cluster."""

    @property
    def job_id(self) -> bytes:
        """The job that the process works for."""

    def borrow(self, id: bytes) -> ObjectRef:
        """The ref with this id; a new one is held from now on."""

    def anchored(self, id: bytes, anchor: ObjectRef) -> ObjectRef:
        """The ref with this id, which was read out of ``anchor``."""

    def expose(self, ref: ObjectRef) -> bytes:
        """Make the ref's id, by which it is found from now on."""

    def reduce_ref(self, ref: ObjectRef) -> tuple[Any, ...]:
        """How the ref is pickled: it escapes."""

    def publish_value(self, ref: ObjectRef, state: int) -> None:
        """A ref that has escaped becomes complete now; the caller holds the lock."""

    def seek(self, ref: ObjectRef) -> None:
        """Ask for the value of a ref that another process made."""

    def expedite(self, ref: ObjectRef) -> None:
        """Somebody waits for the ref, and reads nothing."""

    def is_here(self, ref: ObjectRef) -> bool:
        """Whether the value can be read without waiting."""

    def localize(self, ref: ObjectRef, then: Callable[[], None]) -> None:
        """Bring the value here, then call ``then()``."""

    def load(self, ref: ObjectRef) -> Any:
        """Read a value that is neither plain nor inline; raise an error."""

    def as_future(self, ref: ObjectRef) -> concurrent.futures.Future:
        """A future with the value."""

    def note_unread(self, value: tuple[bytes, list[bytes], list[Any]]) -> None:
        """An error is gone that nobody has read. A finalizer calls this: it only appends."""


class ObjectRef(Generic[T]):
    """A reference to a value that a task, an actor call or ``ract.put`` makes.

    Refs can be passed to tasks, kept in containers, awaited, and used as dictionary keys.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_holds",
        "_home",
        "_id",
        "_state",
        "_value",
        "_waiters",
    )

    _state: int
    _value: Any
    _id: Any  #: bytes once made; before, (task number, actor id or None, index)
    _call: Any  #: the call that will complete it, while PENDING
    _waiters: list[Callable[[ObjectRef], None]] | None
    _holds: int  #: 0 while the ref is local; 1 since it has escaped: the cluster knows it
    _home: Home | None

    def __new__(cls, id: bytes) -> ObjectRef:
        """The ref of this process with that id (28 bytes). Raises TypeError, ValueError."""
        if not isinstance(id, (bytes, bytearray)):
            raise TypeError(f"an ObjectRef is made from {ID_BYTES} bytes, not {type(id).__name__}")
        if len(id) != ID_BYTES:
            raise ValueError(f"an ObjectRef has {ID_BYTES} bytes, not {len(id)}")
        return (
            current.home.borrow(bytes(id))
            if current.home is not None
            else remote_ref(cls, bytes(id))
        )

    # ------------------------------------------------------------------ identity

    def binary(self) -> bytes:
        """The 28 bytes of the id."""
        made = self._id
        if type(made) is not bytes:
            made = self._make_id() if self._home is None else self._home.expose(self)
        return made

    def _make_id(self) -> bytes:
        """The id, for the table: nobody finds the ref by it yet."""
        made = self._id
        if type(made) is not bytes:
            self._id = made = self._new_id()
        return made

    def _new_id(self) -> bytes:
        made = self._id
        if type(made) is bytes:
            return made
        number, actor_id, index = made
        job = self._home.job_id if self._home is not None else b"\0\0\0\0"
        task = ids.task_id_bytes(number, job, actor_id or b"")
        return ids.object_id_bytes(task, index)

    def hex(self) -> str:
        """The id as 56 hex digits."""
        return self.binary().hex()

    def is_nil(self) -> bool:
        """Whether this is the nil id."""
        return self.binary() == b"\xff" * ID_BYTES

    def task_id(self) -> ids.TaskID:
        """The id of the task that makes the value."""
        return ids.TaskID(self.binary()[:24])

    def job_id(self) -> ids.JobID:
        """The id of the job that made the ref."""
        return ids.JobID(self.binary()[20:24])

    @classmethod
    def from_binary(cls, id: bytes) -> ObjectRef:
        """A ref from the 28 bytes of an id."""
        return cls(id)

    @classmethod
    def from_hex(cls, hex_id: str) -> ObjectRef:
        """A ref from 56 hex digits."""
        return cls.from_binary(bytes.fromhex(hex_id))

    @classmethod
    def nil(cls) -> ObjectRef:
        """The nil ref, which no task makes."""
        return remote_ref(cls, b"\xff" * ID_BYTES)

    @classmethod
    def from_random(cls) -> ObjectRef:
        """A ref with a random id, which no task makes."""
        import os

        return remote_ref(cls, os.urandom(ID_BYTES))

    @classmethod
    def size(cls) -> int:
        """Bytes of an id."""
        return ID_BYTES

    def owner_address(self) -> str:
        """Where the ref was made: objects here belong to the cluster, not to a process."""
        return ""

    def call_site(self) -> str:
        """Where in the program the ref was made, if that is recorded."""
        return ""

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    # ------------------------------------------------------------------ as a future

    def future(self) -> concurrent.futures.Future:
        """A ``concurrent.futures.Future`` with the value; cancelling it leaves the task alone.

        Its callbacks may wait, for other refs too. They run on a thread that is there for them.
        """
        return _owner(self).as_future(self)

    def as_future(self) -> asyncio.Future:
        """An ``asyncio`` future on the running loop (older name for ``asyncio.wrap_future``)."""
        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T]:
        if self._state < READY or not _owner(self).is_here(self):
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            self._when_here(lambda ref: wake(loop, done))
            with _owner(self).lending.around(loop):
                yield from done
        return self._load()

    # ------------------------------------------------------------------ completion

    def _when_done(self, callback: Callable[[ObjectRef], None]) -> None:
        """Call ``callback(ref)`` once, from any thread, when the ref is complete.

        The callback is called without locks, and must neither wait nor run code of users.
        """
        owner = _owner(self)
        if self._state == REMOTE:
            owner.seek(self)
        with owner.lock:  # else a reply could come between the look and the append
            if owner.closed:
                raise left_cluster(self)
            is_late = self._state < READY
            if is_late:
                if self._waiters is None:
                    self._waiters = []
                self._waiters.append(callback)
        if not is_late:
            callback(self)
        elif self._call is not None:
            owner.expedite(self)

    def _when_here(self, callback: Callable[[ObjectRef], None]) -> None:
        """Call ``callback(ref)`` once, from any thread, when `_load` needs not wait."""
        owner = _owner(self)
        self._when_done(lambda ref: owner.localize(ref, lambda: callback(ref)))

    def _complete(self, state: int, value: Any) -> bool:
        """Give the ref its value; the first one counts.

        Returns:
            Whether this was the first.
        """
        home: Any = self._home
        with home.lock:  # see the theory of operation
            is_first = self._state < READY
            if is_first:
                self._settle(state, value)
        if self._waiters:
            notify(self)
        return is_first

    def _settle(self, state: int, value: Any) -> None:
        """Give the ref its value, and tell it if it has escaped; the caller holds the lock."""
        self._value = value
        if self._holds:
            self._home.publish_value(self, state)  # type: ignore[union-attr]
        self._state = state  # after the value: who reads it takes no lock
        self._call = None

    def _fail(self, value: tuple[bytes, list[bytes], list[Any]]) -> None:
        """As `_complete`, with an error of a task; if nobody reads it, that is said."""
        home: Any = self._home
        with home.lock:  # an escape meanwhile would make another class of it
            if self._state < READY:
                if type(self) is ObjectRef and not self._holds:
                    self.__class__ = FailedRef  # before whoever waits for it reads it
                self._settle(ERROR, value)
        if self._waiters:
            notify(self)

    def _replace(self, state: int, value: Any) -> None:
        """Give a complete ref another value, of which nobody is told; the caller holds the lock."""
        # In this order: who finds the old state again after it has read the value has the old one.
        self._state = state
        self._value = value

    def _outcome(self) -> tuple[int, Any]:
        """(state, value), which belong together."""
        home: Any = self._home
        if home is None:
            return self._state, self._value
        with home.lock:
            return self._state, self._value

    def _load(self) -> Any:
        """The value, as ``get`` gives it: a fresh copy, or a read-only view; or raise its error."""
        state, value = self._state, self._value
        if state != self._state:  # it is replaced at this moment
            state, value = self._outcome()
        if state == PLAIN:
            return value
        if state == INLINE:
            head, buffers, _ = value
            return serialization.unpack_users(head, buffers)
        return _owner(self).load(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _owner(self).reduce_ref(self)


class FailedRef(ObjectRef):
    """A local ref of a task that raised, until somebody reads it: if nobody does, that is said."""

    __slots__ = ()

    def __del__(self) -> None:
        home = self._home
        if home is not None:
            home.note_unread(self._value)


class AnchoredRef(ObjectRef):
    """A ref just read out of another object, ``_value``, whose own hold keeps it alive meanwhile.

    Most of what is read out of a list of many refs is dropped or passed over at once. So the hold
    of this one is announced (`hold`) at its first use, or after a while. Until then it has its id,
    its home and the anchor, and no finalizer; its class, not its slots, says the rest.
    """

    __slots__ = ()

    _state = REMOTE
    _call = _waiters = None
    _holds = 0

    def hold(self) -> None:
        """Become a ref like others; the caller holds the table's lock, and announces it."""
        # The slots first: other threads may be looking.
        for name, value in (("_state", REMOTE), ("_call", None), ("_waiters", None), ("_holds", 1)):
            _SLOTS[name].__set__(self, value)
        self.__class__ = ObjectRef  # type: ignore[assignment]
        self._value = None


_SLOTS = {name: ObjectRef.__dict__[name] for name in ("_state", "_call", "_waiters", "_holds")}

for _kind in (FailedRef, AnchoredRef):
    _kind.__name__ = _kind.__qualname__ = "ObjectRef"


class _Reading(threading.local):
    """The object that this thread is unpickling, and the new refs met in it."""

    anchor: ObjectRef | None = None
    met: list[bytes]  #: their ids


reading = _Reading()

ID_BYTES = 28


_new: Callable[[type[ObjectRef]], Any] = object.__new__


def remote_ref(cls: type[ObjectRef], id: bytes) -> Any:
    """A ref of which only the id is known."""
    ref = _new(cls)
    ref._id = id
    ref._state = REMOTE
    ref._value = ref._call = ref._waiters = None
    ref._holds = 0
    ref._home = current.home
    return ref


def new_ref(number: int, actor_id: bytes | None, index: int, call: Any) -> ObjectRef:
    """A local, pending ref for return ``index`` of task ``number``."""
    ref = _new(ObjectRef)
    ref._state = PENDING
    ref._id = (number, actor_id, index)
    ref._call = call
    ref._waiters = None
    ref._holds = 0
    ref._home = current.home
    return ref


def notify(ref: ObjectRef) -> None:
    """Call back those who wait for a ref that is complete, in the order in which they came.

    Several threads may do so at once: whoever takes a callback out of the list calls it. Nothing is
    added to the list of a complete ref.
    """
    waiters = ref._waiters
    while waiters:
        try:
            callback = waiters.pop(0)
        except IndexError:  # another thread took the last one
            return
        callback(ref)


def _owner(ref: ObjectRef) -> Home:
    home = ref._home
    if home is None or home.closed:
        raise left_cluster(ref)
    return home


def left_cluster(ref: ObjectRef) -> ValueError:
    """The error of using a ref after its cluster."""
    return ValueError(
        f"{ref!r} belongs to a cluster that this process has left: its owner is unknown. "
        "Values can be read only between init() and shutdown()."
    )


def wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future) -> None:
    """Wake whoever awaits a future of the loop, from any thread."""

    def set_if_waiting() -> None:
        if not future.done():
            future.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
        loop.call_soon_threadsafe(set_if_waiting)


def rebuild_ref(id: bytes) -> ObjectRef:
    """Unpickle a ref: the one of this process with that id, or a new one."""
    home = current.home
    if home is None:
        return ObjectRef(id)
    anchor = reading.anchor
    found: ObjectRef = home.borrow(id) if anchor is None else home.anchored(id, anchor)
    return found
