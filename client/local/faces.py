"""What the parts of local mode need of each other, and of the classes of users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ract.client.actors.info import HandleInfo
from ract.client.objects.refs import ObjectRef


class Values(Protocol):
    """Numbers, refs and copies of values (`ract.client.local.mode`)."""

    job_id: bytes

    def next_number(self) -> int: ...
    def new_ref(self, number: int, actor_id: bytes | None, index: int) -> ObjectRef: ...
    def complete(self, ref: ObjectRef, value: Any, what: str) -> None: ...
    def put(self, value: Any) -> ObjectRef: ...
    def check_open(self) -> None: ...
    def copied(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]: ...


class Inside(Protocol):
    """The actor that a call runs in (`ract.client.local.actors`)."""

    actor_id: bytes
    lock: Any
    death: Exception | None
    ending: Any
    spec: Any
    instance: Any

    def die(self, why: str) -> None: ...


class Definition(Protocol):
    """An actor class (`ract.client.api.actor_class`)."""

    is_async: bool
    _name: str
    _options: Any
    _class: type

    def _info(self, runtime: Any) -> HandleInfo: ...
