"""What a handle knows of its actor's class without having it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from ract.client.calls.call import Call
from ract.core.signatures import Signature

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


class Client(Protocol):
    """This process' end of an actor, as handles use it (`ract.client.actors.client`)."""

    actor_id: bytes

    @property
    def info(self) -> HandleInfo | None: ...
    @property
    def state(self) -> str: ...
    @property
    def unfinished(self) -> int: ...
    def watch(self) -> None: ...
    def submit(self, call: Call) -> None: ...
    def kill(self, no_restart: bool) -> None: ...
    def find_room(self, call: Call, on_full: str) -> bool: ...
    def vacate(self, call: Call) -> None: ...
    def when_dead(self, callback: Callable[[BaseException], None]) -> None: ...
