"""``ract.init(local_mode=True)``: everything in this process and thread, for debugging.

Theory of operation
-------------------
`LocalRuntime` stands in for the `Runtime` of a cluster. ``.remote()`` calls the function itself, so
that breakpoints, ``print`` and profilers see it; when it returns, its refs are complete. Arguments
and results are copied as on a cluster, by pickling them: what cannot travel fails here too, and
changes of a copy are not seen. An exception is kept in the refs and raised by ``get``, with the
frames of the function for a debugger to look at.

Resources, retries of dead processes, timeouts and priorities mean nothing here. A generator runs as
its items are read. Async actors need an event loop beside the program, and are refused.
"""

from __future__ import annotations

import itertools
import os
import threading
import uuid
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from ract.client.calls.waiting import split
from ract.client.local.actors import LocalActor, LocalHandle
from ract.client.local.calls import Call
from ract.client.local.faces import Definition
from ract.client.objects import faults, refs
from ract.client.objects.futures import Futures
from ract.client.objects.refs import ERROR, INLINE, PLAIN, READY, ObjectRef
from ract.client.objects.values import pack
from ract.client.people.unread import Unread
from ract.core import calls, ids, serialization
from ract.core.errors import ObjectLostError, RactTaskError

if TYPE_CHECKING:
    from ract.core.options import TaskOptions

PROCESS = 1
JOB_ID = b"\0\0\0\1"


class LocalRuntime:
    """A cluster of this process alone.

    Args:
        namespace: Of named actors; None for one of its own.
        resources: What the only node says it has.
    """

    is_local = True
    is_driver = True
    job_id = JOB_ID
    process = PROCESS
    runtime_env = ""
    default_lifetime = "non_detached"
    lost_reason = ""
    pack = staticmethod(pack)

    def __init__(self, namespace: str | None, resources: dict[str, float]) -> None:
        self.namespace = namespace or str(uuid.uuid4())
        self.node_id = os.urandom(28)
        self.link = _Link(self.node_id, resources)
        self.closed = False
        self.pushed: list[Any] = []
        self.unread = Unread()
        #: Refs by id, of those whose id was asked for, as pickling does.
        self.exposed: weakref.WeakValueDictionary[bytes, ObjectRef]
        self.exposed = weakref.WeakValueDictionary()
        self._actors: weakref.WeakValueDictionary[bytes, LocalActor]
        self._actors = weakref.WeakValueDictionary()
        self._detached: list[LocalActor] = []
        self._pinned: list[Any] = []
        self._counter = itertools.count(1)
        self.home = self  #: of its refs (`ract.client.objects.refs.Home`)
        self.table = self  #: as `Runtime.table`: what refs need of it is here
        self._futures = Futures()
        self.lock = threading.RLock()  #: as `Held.lock`: refs change under it

    def next_number(self) -> int:
        """A task number."""
        return PROCESS << ids.COUNTER_BITS | next(self._counter)

    # ------------------------------------------------------------------ calls

    def run(
        self,
        function: Callable[..., Any],
        name: str,
        options: TaskOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a task; returns as `RemoteFunction.remote`."""
        function_name = getattr(function, "__qualname__", name)
        call = Call(self, function, name, function_name, options.num_returns)
        call.retries, call.retry_exceptions = options.max_retries, options.retry_exceptions
        return call.submit(args, kwargs)

    def make_actor(
        self, cls: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> LocalHandle:
        """Create an actor.

        Raises:
            NotImplementedError: an async actor.
            ValueError: its name is taken.
        """
        if cls.is_async:
            raise NotImplementedError(
                f"local_mode=True runs everything in one thread, one call at a time: the async "
                f"actor {cls._name} needs a cluster"
            )
        options = cls._options
        info = cls._info(self)
        if options.name:
            found = self._find_named(info.name, info.namespace)
            if found is not None and options.get_if_exists:
                return found.borrow(info)
            if found is not None:
                raise ValueError(
                    f"The name {info.name!r} (namespace={info.namespace!r}) is already taken."
                )
        actor = LocalActor(self, cls, info)
        self._actors[actor.actor_id] = actor
        if (options.lifetime or self.default_lifetime) == "detached":
            self._detached.append(actor)
        actor.construct(args, kwargs)
        return actor.borrow(info)

    def named_actor(self, name: str, namespace: str) -> LocalHandle:
        """A handle to a named actor. Raises ValueError."""
        found = self._find_named(name, namespace)
        if found is None:
            raise ValueError(
                f"Failed to look up actor with name {name!r} in namespace {namespace!r}."
            )
        return found.borrow(found.info)

    def _find_named(self, name: str, namespace: str) -> LocalActor | None:
        for actor in list(self._actors.values()):
            known = (actor.info.name, actor.info.namespace)
            if known == (name, namespace) and actor.death is None:
                return actor
        return None

    def actor(self, actor_id: bytes) -> LocalActor:
        """The actor with this id."""
        return self._actors[actor_id]

    # ------------------------------------------------------------------ values

    def new_ref(self, number: int, actor_id: bytes | None, index: int) -> ObjectRef:
        """A ref that is about to be completed."""
        return refs.new_ref(number, actor_id, index, None)

    def complete(self, ref: ObjectRef, value: Any, what: str) -> None:
        """Give a ref a copy of a value. Raises TypeError if it cannot be pickled."""
        if serialization.is_plain(value):
            ref._complete(PLAIN, value)
            return
        packed = self.pack(value, what=what)
        ref._complete(INLINE, (packed.head, packed.copied_buffers(), packed.refs))

    def put(self, value: Any) -> ObjectRef:
        """Keep a copy of a value. Raises TypeError."""
        if isinstance(value, ObjectRef):
            raise TypeError(f"ract.put() got {value!r}: a ref is already an object")
        ref = self.new_ref(self.next_number(), None, 1)
        self.complete(ref, value, "the value given to ract.put()")
        return ref

    def get_one(self, ref: ObjectRef, timeout: float | None) -> Any:
        """The value of a ref."""
        if ref._home is not self:
            raise refs.left_cluster(ref)
        if ref._state < READY:  # made of an id
            _lose(ref)
        return ref._load()

    def get_many(self, wanted: list[ObjectRef], timeout: float | None) -> list[Any]:
        """The values of refs."""
        return [self.get_one(ref, timeout) for ref in wanted]

    def wait(
        self,
        wanted: list[ObjectRef],
        num_returns: int,
        timeout: float | None,
        fetch_local: bool = True,
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Split refs, which are all complete."""
        return split(wanted, num_returns)

    def load(self, ref: ObjectRef) -> NoReturn:
        """Raise the error of a ref, with the frames of what raised it."""
        error = ref._value
        cause = error.cause if isinstance(error, RactTaskError) else None
        raise faults.as_raised(error).with_traceback(None) from cause

    def cancel(self, ref: ObjectRef, force: bool, recursive: bool) -> None:
        """Whatever makes a ref has finished."""

    def copied(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]:
        """Copy arguments; returns what gives them, with values for refs.

        Raises:
            TypeError: an argument cannot be pickled.
        """
        slots: list[ObjectRef] = []

        def slot(value: Any) -> Any:
            if not isinstance(value, ObjectRef):
                return value
            if value._home is not self:
                raise refs.left_cluster(value)
            slots.append(value)
            return calls.Slot(len(slots) - 1)

        given = (tuple(map(slot, args)), {key: slot(value) for key, value in kwargs.items()})
        packed = self.pack(given, what=f"arguments of {name}")
        buffers = packed.copied_buffers()

        def filled() -> tuple[tuple[Any, ...], dict[str, Any]]:
            values = [ref._load() for ref in slots]

            def fill(value: Any) -> Any:
                return values[value.index] if type(value) is calls.Slot else value

            args, kwargs = serialization.unpack(packed.head, buffers)
            return tuple(map(fill, args)), {key: fill(value) for key, value in kwargs.items()}

        return filled

    # ------------------------------------------------------------------ refs

    def borrow(self, id: bytes) -> ObjectRef:
        """The ref with this id; one that is lost if there is none."""
        ref = self.exposed.get(id)
        if ref is None:
            ref = refs.remote_ref(ObjectRef, id)
            _lose(ref)
        return ref

    def expose(self, ref: ObjectRef) -> bytes:
        """Make the id of a ref, by which it is found from now on."""
        ref._id = id = ref._new_id()
        self.exposed[id] = ref
        return id

    def reduce_ref(self, ref: ObjectRef) -> tuple[Any, ...]:
        """Pickle a ref: it is kept as long as what contains it."""
        self._keep(ref)
        return refs.rebuild_ref, (ref.binary(),)

    def _keep(self, what: Any) -> None:
        collecting = serialization.collecting()
        (self._pinned if collecting is None else collecting).append(what)

    pin_out_of_band = _keep

    def is_here(self, ref: ObjectRef) -> bool:
        """Whether the value is in this process."""
        return True

    def localize(self, ref: ObjectRef, then: Callable[[], None]) -> None:
        """Bring the value to this process."""
        then()

    def as_future(self, ref: ObjectRef) -> Future:
        """A future with the value of a ref, which is complete."""
        return self._futures.make(ref, is_here=True)

    def note_unread(self, value: Any) -> None:
        """Errors are raised where they are made."""

    def expedite(self, ref: ObjectRef) -> None:
        """Nothing is on its way."""

    def release_idle_leases(self) -> None:
        """There are none."""

    # ------------------------------------------------------------------ the end

    def check_open(self) -> None:
        """Raise RuntimeError after `ract.shutdown`."""
        if self.closed:
            raise RuntimeError("ract.shutdown() was called: this actor is gone")

    def start(self) -> None:
        """As `Runtime.start`: there is nothing to start."""

    def close(self) -> None:
        """Forget everything."""
        self.closed = True
        self._detached.clear()
        self._pinned.clear()


def _lose(ref: ObjectRef) -> None:
    """Complete a ref that no call of this process makes."""
    ref._complete(ERROR, ObjectLostError(ref.hex(), "", "nothing in this process makes it"))


class _Link:
    """Answers what a cluster would be asked."""

    def __init__(self, node_id: bytes, resources: dict[str, float]) -> None:
        self.welcome = SimpleNamespace(
            session_dir="", scheduler_address="local", node_id=node_id, cluster_id=b"", config={}
        )
        self._node: dict[str, Any] = {
            "NodeID": node_id.hex(),
            "Alive": True,
            "NodeManagerAddress": "127.0.0.1",
            "Resources": resources,
            "Labels": {},
        }

    def request(self, what: str, **arguments: Any) -> Any:
        """The only node, and its resources. Raises RuntimeError for everything else."""
        if what == "nodes":
            return [dict(self._node)]
        if what in ("cluster_resources", "available_resources"):
            return dict(self._node["Resources"])
        raise RuntimeError(f"{what}: there is no cluster to ask, because of local_mode=True")
