"""Ends of calls that only who made them can tell of.

An executor reports what it has begun. That its process died, or that a call was cancelled before
anybody began it, is known to the caller only. This is for people: nothing is decided from it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ract.client.calls.call import Call
from ract.client.process.session import Session
from ract.core import events, ids
from ract.core.causes import error_type_of, text_of
from ract.core.messages import ExitCause


class Ends:
    """What there is to tell; any thread may add to it.

    Args:
        session: Who this process is.
        wake: Makes the IO thread tick, which tells (`ract.client.people.story`).
    """

    def __init__(self, session: Session, wake: Callable[[], None]) -> None:
        self._session = session
        self._wake = wake
        self._ended: deque[events.Event] = deque()

    def take(self) -> list[events.Event]:
        """What was added since the last time."""
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def lost(self, call: Call, attempt: int, executor: int, cause: ExitCause) -> None:
        """An attempt at a call ended with its process. The call may be on its next one already."""
        facts = {"executor": executor, "pid": cause.pid, "node_id": cause.node_id}
        text = text_of(cause)
        if cause.stderr_tail:
            text += f"\n{cause.stderr_tail}"
        task_type = events.ACTOR_TASK if call.actor_id else events.NORMAL_TASK
        kind, at = error_type_of(cause, task_type), cause.at or time.time()
        self._failed(call, attempt, kind, text, at, facts)

    def cancelled(self, call: Call) -> None:
        """A call was cancelled before anybody had begun it."""
        why = "cancelled before it began"
        self._failed(call, attempt_of(call), "TASK_CANCELLED", why, time.time(), {})

    def _failed(
        self, call: Call, attempt: int, kind: str, text: str, at: float, facts: dict[str, Any]
    ) -> None:
        if call.extra is not None and call.extra.events is False:
            return
        actor_id = call.actor_id or b""
        self._ended.append(
            [
                ids.task_id_bytes(call.number, self._session.job_id, actor_id),
                attempt,
                call.name,
                call.name,
                events.ACTOR_TASK if actor_id else events.NORMAL_TASK,
                events.FAILED,
                -1.0,
                at,
                call.parent,
                actor_id,
                kind,
                text,
                {**facts_of(call), **facts},
            ]
        )
        self._wake()


def attempt_of(call: Call) -> int:
    """Which attempt at the call is the newest, from 0."""
    return call.attempt


def facts_of(call: Call) -> dict[str, Any]:
    """What is known of a call, see `ract.core.events.FACTS`."""
    facts: dict[str, Any] = {}
    shape = getattr(call.owner, "shape", None)
    if shape is not None:
        facts = shape_facts(shape)
    site = call.extra.site if call.extra is not None else ""
    if site:
        facts["site"] = site
    return facts


def shape_facts(shape: Any) -> dict[str, Any]:
    """What a lease's shape (or an actor's spec) says of the calls that run there."""
    demand = shape.running_demand if hasattr(shape, "running_demand") else shape.demand
    facts: dict[str, Any] = {"demand": dict(demand)}
    if shape.strategy.get("group_id"):
        facts["group"] = bytes.fromhex(shape.strategy["group_id"])
    if shape.runtime_env:
        facts["runtime_env"] = shape.runtime_env
    if shape.label_selector:
        facts["labels"] = dict(shape.label_selector)
    return facts
