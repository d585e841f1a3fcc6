"""Object refs: a ref is its own future.

Theory of operation
-------------------
A ref starts PENDING and becomes, once, one of the other states. Whoever completes it stores the
value, then the state, then looks for waiters; whoever waits adds itself to the waiters, then looks
at the state again. With the GIL that order loses no wake-up and needs no lock.

A ref that never leaves its process has no id on the wire and no finalizer, so creating one costs
about a hundred nanoseconds. When it *escapes* (it is pickled, or its value lies in shared memory)
its class becomes `HeldRef`, which tells the cluster when the last Python reference is gone, and the
runtime interns it by id, so that there is at most one ref object per id in a process and identity
can serve as hash. A ref that is read out of another object starts as an `AnchoredRef`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ract.client.process import current
from ract.core import ids, serialization

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

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


class ObjectRef(Generic[T]):
    """A reference to a value that a task, an actor call or ``ract.put`` makes.

    Refs can be passed to tasks, kept in containers, awaited, and used as dictionary keys.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_holds",
        "_id",
        "_runtime",
        "_state",
        "_value",
        "_waiters",
    )

    _state: int
    _value: Any
    _id: Any  #: bytes once made; before, (task number, actor id or None, index)
    _call: Any  #: the call that will complete it, while PENDING
    _waiters: list[Callable[[ObjectRef], None]] | None
    _holds: int  #: holds that the cluster counts for this process; 0 while local
    _runtime: Runtime | None

    def __new__(cls, id: bytes) -> ObjectRef:
        """The ref of this process with that id (28 bytes). Raises TypeError, ValueError."""
        if not isinstance(id, (bytes, bytearray)):
            raise TypeError(f"an ObjectRef is made from {ID_BYTES} bytes, not {type(id).__name__}")
        if len(id) != ID_BYTES:
            raise ValueError(f"an ObjectRef has {ID_BYTES} bytes, not {len(id)}")
        return (
            current.runtime.table.borrow(bytes(id))
            if current.runtime is not None
            else remote_ref(cls, bytes(id))
        )

    # ------------------------------------------------------------------ identity

    def binary(self) -> bytes:
        """The 28 bytes of the id."""
        made = self._id
        if type(made) is not bytes:
            made = self._make_id()
            if self._runtime is not None:
                self._runtime.table.exposed[made] = self  # ``ObjectRef(id)`` is this ref
        return made

    def _make_id(self) -> bytes:
        made = self._id
        if type(made) is not bytes:
            number, actor_id, index = made
            job = self._runtime.job_id if self._runtime is not None else b"\0\0\0\0"
            task = ids.task_id_bytes(number, job, actor_id or b"")
            self._id = made = ids.object_id_bytes(task, index)
        return made

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
        """A ``concurrent.futures.Future`` with the value; cancelling it leaves the task alone."""
        made: concurrent.futures.Future = concurrent.futures.Future()

        def complete(ref: ObjectRef) -> None:
            if made.set_running_or_notify_cancel():  # from here on it cannot be cancelled
                try:
                    value = ref._load()
                except BaseException as error:
                    made.set_exception(error)
                else:
                    made.set_result(value)

        self._when_here(complete)
        return made

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

    def _when_done(self, callback: Callable[[ObjectRef], None]) -> None:
        """Call ``callback(ref)`` once, from any thread, when the ref is complete."""
        if self._state == REMOTE:
            _owner(self).seek(self)
        if self._waiters is None:
            self._waiters = []
        waiters = self._waiters
        waiters.append(callback)
        if self._state >= READY:
            notify(self)
        elif self._call is not None:
            _owner(self).expedite(self)

    def _when_here(self, callback: Callable[[ObjectRef], None]) -> None:
        """Call ``callback(ref)`` once, from any thread, when `_load` needs not wait."""
        self._when_done(lambda ref: _owner(ref).localize(ref, lambda: callback(ref)))

    def _complete(self, state: int, value: Any) -> None:
        """Give the ref its value; the first one counts."""
        if self._state >= READY:
            return
        self._value = value
        self._state = state
        self._call = None
        if self._holds:
            _owner(self).table.publish_value(self)
        if self._waiters is not None:
            notify(self)

    def _load(self) -> Any:
        """The value, as ``get`` gives it: a fresh copy, or a read-only view; or raise its error."""
        state = self._state
        if state == PLAIN:
            return self._value
        if state == INLINE:
            head, buffers, _ = self._value
            return serialization.unpack_users(head, buffers)
        return _owner(self).load(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _owner(self).table.reduce_ref(self)


class HeldRef(ObjectRef):
    """A ref that the cluster knows about: its end is reported."""

    __slots__ = ()

    def __del__(self) -> None:
        runtime = self._runtime
        if runtime is not None:
            runtime.table.drop_hold(self._id, self._holds)


class FailedRef(ObjectRef):
    """A local ref of a task that raised, until somebody reads it: if nobody does, that is said."""

    __slots__ = ()

    def __del__(self) -> None:
        runtime = self._runtime
        if runtime is not None and not runtime.closed:
            runtime.unhandled.append(self._value)
            runtime.reactor.wake()


class AnchoredRef(ObjectRef):
    """A ref just read out of another object, ``_value``, whose own hold keeps it alive meanwhile.

    Most of what is read out of a list of many refs is dropped or passed over at once. So the hold
    of this one is announced (`hold`) at its first use, or after a while. Until then it has its id,
    the runtime and the anchor, and no finalizer; its class, not its slots, says the rest.
    """

    __slots__ = ()

    _state = REMOTE
    _call = _waiters = None
    _holds = 0

    def hold(self) -> None:
        """Become a `HeldRef`; the caller announces it."""
        # The slots first: other threads may be looking.
        for name, value in (("_state", REMOTE), ("_call", None), ("_waiters", None), ("_holds", 1)):
            _SLOTS[name].__set__(self, value)
        self.__class__ = HeldRef  # type: ignore[assignment]
        self._value = None


_SLOTS = {name: ObjectRef.__dict__[name] for name in ("_state", "_call", "_waiters", "_holds")}

for _kind in (HeldRef, FailedRef, AnchoredRef):
    _kind.__name__ = _kind.__qualname__ = "ObjectRef"


class _Reading(threading.local):
    """The object that this thread is unpickling, and the new refs met in it."""

    anchor: ObjectRef | None = None
    met: list[AnchoredRef]


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
    ref._runtime = current.runtime
    return ref


def new_ref(number: int, actor_id: bytes | None, index: int, call: Any) -> ObjectRef:
    """A local, pending ref for return ``index`` of task ``number``."""
    ref = _new(ObjectRef)
    ref._state = PENDING
    ref._id = (number, actor_id, index)
    ref._call = call
    ref._waiters = None
    ref._holds = 0
    ref._runtime = current.runtime
    return ref


def notify(ref: ObjectRef) -> None:
    """Call back those who wait for a ref that is complete."""
    waiters = ref._waiters
    while waiters:
        try:
            callback = waiters.pop()
        except IndexError:  # another thread took the last one
            return
        callback(ref)


def _owner(ref: ObjectRef) -> Runtime:
    runtime = ref._runtime
    if runtime is None or runtime.closed:
        raise left_cluster(ref)
    return runtime


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
    runtime = current.runtime
    if runtime is None:
        return ObjectRef(id)
    anchor = reading.anchor
    table = runtime.table
    return table.borrow(id) if anchor is None else table.anchored(id, anchor)
