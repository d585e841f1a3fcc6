"""Actor handles: what user code holds to call an actor."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ract.client import submit
from ract.core import ids, serialization
from ract.core.errors import PendingCallsLimitExceeded
from ract.core.options import MethodOptions, method_options
from ract.core.seams import seam
from ract.core.signatures import Signature

if TYPE_CHECKING:
    from ract.client.actors.client import ActorClient
    from ract.client.runtime import Runtime


HIDDEN_METHODS = ("__ray_ready__", "__ray_call__", "__ray_terminate__")


class Method:
    """What calling one method of an actor needs, worked out once.

    Attributes:
        least, most: Numbers of positional arguments that fit without a closer look.
        options: Default options of its calls, or None.
    """

    __slots__ = (
        "_signature",
        "full_name",
        "least",
        "limit",
        "may_yield",
        "most",
        "name",
        "on_full",
        "options",
        "retries",
    )

    def __init__(self, info: HandleInfo, name: str, meta: dict[str, Any]) -> None:
        self.name = name
        self.full_name = f"{info.class_name}.{name}"
        self.options: dict[str, Any] | None = meta.get("options")
        self.retries = info.max_task_retries
        self.may_yield = meta.get("generator", False) or name in HIDDEN_METHODS
        self.limit = info.max_pending_calls
        self.on_full = "" if name in HIDDEN_METHODS else info.on_full
        self._signature = Signature.from_plain(meta.get("signature"))
        self.least, self.most = 0, sys.maxsize
        if self._signature is not None:
            self.least, self.most = self._signature.plain_range()

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError if the arguments do not fit the method."""
        if self._signature is not None:
            self._signature.check(self.name, args, kwargs)


class HandleInfo:
    """What a handle knows of its class without having it: travels as plain values.

    Attributes:
        methods: ``{name: {"signature": list | None, "options": {...}, "generator": bool}}``.
        is_ordered: Calls of one submitter run in order (sync actors with one thread).
        is_async: Its methods run on an event loop.
        on_full: What a call does that finds no room in the actor's mailbox: "block", "raise" or
            "shed"; "" for an actor whose mailbox has no limit.
        is_durable: It remembers the results of calls until they have arrived.
    """

    _FIELDS = (
        "class_name",
        "methods",
        "max_task_retries",
        "max_pending_calls",
        "is_ordered",
        "name",
        "namespace",
        "is_async",
        "on_full",
        "is_durable",
    )
    __slots__ = (*_FIELDS, "_bound")

    def __init__(
        self,
        class_name: str,
        methods: dict[str, Any],
        max_task_retries: int = 0,
        max_pending_calls: int = -1,
        is_ordered: bool = True,
        name: str = "",
        namespace: str = "",
        is_async: bool = False,
        on_full: str = "",
        is_durable: bool = False,
    ) -> None:
        self.class_name = class_name
        self.methods = methods
        self.max_task_retries = max_task_retries
        self.max_pending_calls = max_pending_calls
        self.is_ordered = is_ordered
        self.name = name
        self.namespace = namespace
        self.is_async = is_async
        self.on_full = on_full
        self.is_durable = is_durable
        self._bound: dict[str, Method] = {}

    def method(self, name: str) -> Method | None:
        """What calling a method needs; None if there is no such method."""
        found = self._bound.get(name)
        if found is None:
            meta = self.methods.get(name)
            if meta is None and name in HIDDEN_METHODS:
                meta = {}
            if meta is not None:
                found = self._bound[name] = Method(self, name, meta)
        return found

    def to_plain(self) -> dict[str, Any]:
        """As a dict of plain values."""
        return {name: getattr(self, name) for name in self._FIELDS}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> HandleInfo:
        """The inverse of `to_plain`."""
        return cls(**plain)


class ActorHandle:
    """A handle to an actor: ``handle.method.remote(...)`` calls it.

    Handles can be passed to tasks and other actors, kept in containers, and compared: they are
    equal when they name the same actor. The actor ends when the last strong handle is gone;
    handles from `ract.get_actor` are weak.
    """

    __slots__ = ("__weakref__", "_client", "_runtime", "_strong")
    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)

    def __init__(self, runtime: Runtime, client: ActorClient, *, strong: bool) -> None:
        self._runtime = runtime
        self._client = client
        self._strong = strong

    @property
    def _actor_id_bytes(self) -> bytes:
        return self._client.actor_id

    @property
    def _actor_id(self) -> ids.ActorID:
        return ids.ActorID(self._client.actor_id)

    _ray_actor_id = _actor_id
    _ract_actor_id = _actor_id

    @property
    def _info(self) -> HandleInfo:
        info = self._client.info
        assert info is not None
        return info

    def __getattr__(self, name: str) -> ActorMethod:
        method = self._info.method(name)
        if method is None:
            class_name = self._info.class_name
            raise AttributeError(
                f"actor class {class_name!r} has no method {name!r}. Only methods can be reached "
                "through a handle; give the class a method that returns the attribute."
            )
        return ActorMethod(self, method)

    def __dir__(self) -> list[str]:
        return sorted([*self._info.methods, *HIDDEN_METHODS])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._client.actor_id == self._client.actor_id

    def __hash__(self) -> int:
        return hash(self._client.actor_id)

    def __repr__(self) -> str:
        return f"Actor({self._info.class_name}, {self._client.actor_id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        runtime = self._runtime
        collecting = serialization.collecting()
        if collecting is None:
            runtime.table.pin_out_of_band(self)
        else:
            collecting.append(self)
        return rebuild_handle, (self._client.actor_id, self._info.to_plain())

    def __del__(self) -> None:
        if self._strong:
            self._runtime.drop_handle(self._client.actor_id)


class ActorMethod:
    """A method of an actor, bound to a handle."""

    __slots__ = ("_handle", "_method", "_options")

    def __init__(
        self, handle: ActorHandle, method: Method, options: MethodOptions | None = None
    ) -> None:
        self._handle = handle
        self._method = method
        self._options = options

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"Actor methods cannot be called directly. Instead of running "
            f"'object.{self._method.name}()', try 'object.{self._method.name}.remote()'."
        )

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method on the actor; returns a ref (or a list, or None, per num_returns).

        Raises:
            TypeError: the arguments do not fit the method.
            PendingCallsLimitExceeded: the handle has `max_pending_calls` unfinished calls.
        """
        method = self._method
        if kwargs or not method.least <= len(args) <= method.most:
            method.check(args, kwargs)
        handle = self._handle
        if method.limit > 0 and (unfinished := handle._client.unfinished) >= method.limit:
            raise PendingCallsLimitExceeded(
                f"{handle!r} has {unfinished} unfinished calls; max_pending_calls={method.limit}"
            )
        return submit.submit_actor_call(handle, method, self._options, args, kwargs)

    def _remote(self, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        return self.options(**options).remote(*args, **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """A node of a lazy graph that will call the method: see `ract.dag`.

        Returns:
            The node; a tuple of nodes if the method has several returns.
        """
        return seam("dag.bind_method")(self, args, kwargs)

    def _given_options(self) -> dict[str, Any]:
        if self._options is not None:
            return self._options.given_values()
        return self._method.options or {}

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options for its calls.

        Raises:
            ValueError: an unknown option or a bad value. TypeError: a value of a wrong type.
        """
        merged = (
            self._options.merged(**options)
            if self._options is not None
            else method_options(**{**(self._method.options or {}), **options})
        )
        wanted = merged.given_values().get("num_returns")
        if wanted in ("streaming", "dynamic") and not self._method.may_yield:
            raise ValueError(
                f"num_returns={wanted!r} is for generators; {self._method.full_name} is none"
            )
        return type(self)(self._handle, self._method, merged)

    def __repr__(self) -> str:
        return f"ActorMethod({self._handle!r}.{self._method.name})"


def when_dead(handle: ActorHandle, callback: Callable[[BaseException], None]) -> None:
    """Call ``callback(error)``, from any thread, when the actor is dead for good, or now.

    Args:
        handle: The actor's.
        callback: It must not wait for anything.
    """
    handle._client.when_dead(callback)


def is_dead(handle: ActorHandle) -> bool:
    """Whether this process knows that the actor is dead for good; from now on it hears of it."""
    handle._client.watch()
    return handle._client.state == "DEAD"


def rebuild_handle(actor_id: bytes, info: dict[str, Any]) -> ActorHandle:
    """Unpickle a handle."""
    from ract.client.runtime import current_runtime

    runtime = current_runtime()
    if runtime is None:
        raise RuntimeError("an actor handle can be unpickled only while ract is initialized")
    return runtime.actor(actor_id).borrow(HandleInfo.from_plain(info))
