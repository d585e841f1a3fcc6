"""What runs right now in this thread or coroutine: a task, an actor call, or the driver."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from typing import Any


class Running:
    """One call being executed.

    Attributes:
        number: Task number (64 bits).
        name: The task's name.
        function_name: The function's or method's own name.
        caller: The connection that it came over (`ract.worker.executor.callers.Caller`).
        parent: The number of the task that called it; 0 for a driver.
        extra: What came with it beside its arguments.
        started: When it was begun, in seconds since the epoch.
        task: What cancels it, if it runs on an event loop.
        waits: Threads of it that wait in get or wait: the state that this is, and since when.
        reported: The state in which it was reported; "" if it was not.
        is_over: Whether it has ended.
    """

    # As in `ract.client.calls.channel.Call`: most calls do not differ from these.
    task: Any = None
    is_cancelled = False
    waits: dict[int, tuple[str, float]] | None = None
    reported = ""
    is_over = False

    def __init__(
        self,
        number: int,
        name: str,
        caller: Any = None,
        parent: int = 0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.number = number
        self.name = name
        self.function_name = name
        self.caller = caller
        self.parent = parent
        self.extra = extra
        self.started = time.time()

    def wait_in(self, state: str) -> None:
        """This thread waits from here on, in get or wait (`ract.core.events`)."""
        if self.waits is None:
            self.waits = {}
        self.waits[threading.get_ident()] = (state, time.time())

    def go_on(self) -> None:
        """This thread waits no more."""
        if self.waits is not None:
            self.waits.pop(threading.get_ident(), None)


_running: ContextVar[Running | None] = ContextVar("ract_running", default=None)


class ProcessContext:
    """What an executor is for: set when it gets a lease or becomes an actor."""

    def __init__(self) -> None:
        self.is_executor = False
        self.actor_spec: Any = None
        self.actor_incarnation = 0
        self.actor_instance: Any = None
        self.shape: Any = None
        #: The placement group that it runs in (b"" for none), and whether child tasks go there.
        self.group: tuple[bytes, bool] = (b"", False)
        self.lease = 0
        self.server: Any = None
        self.assigned: dict[str, Any] = {}


process = ProcessContext()


def running() -> Running | None:
    """The call that runs in this thread or coroutine, or None in a driver."""
    return _running.get()


def current_number() -> int:
    """Its task number; 0 in a driver."""
    call = _running.get()
    return 0 if call is None else call.number


def enter(call: Running) -> Any:
    """Make ``call`` the running one; returns a token for `leave`."""
    return _running.set(call)


def leave(token: Any) -> None:
    """Undo `enter`."""
    _running.reset(token)
