"""Actors in this process: see `ract.client.local.mode`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ract.client.actors.handles import ActorHandle, ActorMethod
from ract.client.actors.info import HandleInfo, Method
from ract.client.local.calls import Call
from ract.client.local.faces import Definition, Values
from ract.client.objects.refs import ERROR
from ract.client.process import context
from ract.core import ids
from ract.core.errors import ActorDiedError


class LocalActor:
    """An actor: an instance that its handles share.

    Attributes:
        death: The error of calls, once it is dead.
        ending: Why it is about to end, as `exit_actor` says.
    """

    is_async = False
    unfinished = 0

    def __init__(self, runtime: Values, cls: Definition, info: HandleInfo) -> None:
        self.runtime = runtime
        self.actor_id = ids.actor_id_bytes(runtime.next_number(), runtime.job_id)
        self.info = info
        self.instance: Any = None
        self.lock = threading.RLock()
        self.death: Exception | None = None
        self.ending: Any = None
        self.spec = SimpleNamespace(
            actor_id=self.actor_id,
            name=info.name,
            namespace=info.namespace,
            class_name=info.class_name,
            running_demand={},
            methods={},
        )
        self._class: Any = cls._class

    def construct(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the instance; an actor whose constructor fails is dead."""
        name = f"{self.info.class_name}.__init__"
        made = Call(self.runtime, self._make, name, name, 1, self).submit(args, kwargs)
        if made._state == ERROR and self.death is None:
            self.death = ActorDiedError(made._value, self.actor_id.hex())

    def _make(self, /, *args: Any, **kwargs: Any) -> None:
        self.instance = self._class.__new__(self._class)
        context.process.actor_instance = self.instance
        self.instance.__init__(*args, **kwargs)

    def call(
        self, method: Method, options: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a method; returns as `ActorMethod.remote`."""
        name = options.get("name") or method.full_name
        wanted = options.get("num_returns", 1)
        function = self._function(method.name)
        call = Call(self.runtime, function, name, method.full_name, wanted, self)
        call.retries = options.get("max_task_retries", method.retries) or 0
        call.retry_exceptions = options.get("retry_exceptions", False)
        return call.submit(args, kwargs)

    def _function(self, name: str) -> Callable[..., Any]:
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_call__":
            return lambda function, /, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return lambda: self.die("__ray_terminate__() was called")
        return lambda *args, **kwargs: getattr(self.instance, name)(*args, **kwargs)

    def end(self, cause: Any) -> None:
        """`exit_actor` was called, which then raises SystemExit."""
        self.ending = cause.detail

    def die(self, why: str) -> None:
        """Drop the instance; calls fail from now on."""
        if self.death is None:
            handle = f"Actor({self.info.class_name}, {self.actor_id.hex()})"
            self.death = ActorDiedError(f"The actor {handle} died: {why}", self.actor_id.hex())
        self.instance = None

    def kill(self, no_restart: bool) -> None:
        """`ract.kill`; nothing is restarted here."""
        self.die("ract.kill() was called")

    def borrow(self, info: HandleInfo) -> LocalHandle:
        """A handle: the actor lives as long as there is one."""
        return LocalHandle(self.runtime, self)  # type: ignore[arg-type]


class LocalHandle(ActorHandle):
    """A handle to a `LocalActor`."""

    __slots__ = ()

    def __getattr__(self, name: str) -> LocalMethod:
        return LocalMethod(self, super().__getattr__(name)._method)


class LocalMethod(ActorMethod):
    """A method of a `LocalActor`."""

    __slots__ = ()

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method. Raises TypeError: the arguments do not fit."""
        actor: Any = self._handle._client
        actor.runtime.check_open()
        self._method.check(args, kwargs)
        return actor.call(self._method, self._given_options(), args, kwargs)
