"""Actor handles: what user code holds to call an actor."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ract.client.actors import submit
from ract.client.actors.info import HIDDEN_METHODS, Client, HandleInfo, Method
from ract.client.process import current
from ract.core import ids, serialization
from ract.core.errors import PendingCallsLimitExceeded
from ract.core.options import MethodOptions, method_options
from ract.core.seams import seam

if TYPE_CHECKING:
    from ract.client.calls.surroundings import Surroundings


class ActorHandle:
    """A handle to an actor: ``handle.method.remote(...)`` calls it.

    Handles can be passed to tasks and other actors, kept in containers, and compared: they are
    equal when they name the same actor. The actor ends when the last strong handle is gone;
    handles from `ract.get_actor` are weak.
    """

    __slots__ = ("__weakref__", "_client", "_runtime")
    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)

    def __init__(self, runtime: Surroundings, client: Client) -> None:
        self._runtime = runtime
        self._client = client

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
    """Call ``callback(error)``, on a thread for it, when the actor is dead for good, or now."""
    handle._client.when_dead(callback)


def is_dead(handle: ActorHandle) -> bool:
    """Whether this process knows that the actor is dead for good; from now on it hears of it."""
    handle._client.watch()
    return handle._client.state == "DEAD"


def rebuild_handle(actor_id: bytes, info: dict[str, Any]) -> ActorHandle:
    """Unpickle a handle."""
    runtime = current.runtime
    if runtime is None:
        raise RuntimeError("an actor handle can be unpickled only while ract is initialized")
    handle: ActorHandle = runtime.actor(actor_id).borrow(HandleInfo.from_plain(info))
    return handle
