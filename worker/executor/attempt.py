"""One run of an actor's call: arguments in, user code, and a reply whatever becomes of it.

On a loop and in a thread the same things surround the code of the user; they differ in how that is
called. The main thread of a serial server writes the same out by itself
(`ract.worker.executor.serial`): there a signal may interrupt it, and each microsecond counts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.process import context, tracing
from ract.core.errors import AsyncioActorExit
from ract.core.messages import ExitCause

if TYPE_CHECKING:
    from types import TracebackType

    from ract.worker.executor.execution import Execution


class Server(Protocol):
    """What an attempt asks of the server that it runs in."""

    def end(self, cause: ExitCause) -> None:
        """The program wants the actor to end."""

    def die(self, error: BaseException) -> None:
        """Something was raised that ends the process."""

    def answer_exit(self, caller: Any, item: tuple[Any, ...]) -> None:
        """Answer a call that has no result because the actor ends."""


class Attempt:
    """Surrounds user code; what that raises becomes the reply.

    Args:
        execution: Makes replies.
        running: The call, for all who ask what runs.
        taker: Takes its replies.
        item: The call as it came.
        server: What it runs in.
    """

    def __init__(
        self,
        execution: Execution,
        running: context.Running,
        taker: Any,
        item: tuple[Any, ...],
        server: Server,
    ) -> None:
        self._execution = execution
        self._running = running
        self._taker = taker
        self._item = item
        self._server = server
        self._kept: Any = None  # pins what the arguments view while the call runs

    def __enter__(self) -> Attempt:
        self._token = context.enter(self._running)
        return self

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        """(args, kwargs) for the function of the user."""
        args, extra = self._item[4], self._item[5]
        kwargs: dict[str, Any] = {}
        if extra is not None and (args is None or "refs" in extra):
            given = args
            args, kwargs, self._kept = self._execution.arguments(extra)
            args = args if given is None else given
        return args, kwargs

    def traced(self, function: Any) -> Any:
        """The function, in a span if its caller traces."""
        extra = self._item[5]
        if extra is not None and "trace" in extra:
            return tracing.traced(function, self._running.name, extra["trace"])
        return function

    def reply(self, value: Any) -> None:
        """The function has returned."""
        _, seq, number, _, _, extra, _ = self._item
        self._execution.reply(self._taker, seq, number, extra, value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        try:
            if error is None:
                self._execution.note(self._running)
            else:
                self._failed(error)
        finally:
            context.leave(self._token)
            self._kept = None
            self._taker.streams.pop(self._item[1], None)
        return True

    def _failed(self, error: BaseException) -> None:
        execution, running, taker = self._execution, self._running, self._taker
        _, seq, number, _, _, _, _ = self._item
        if isinstance(error, asyncio.CancelledError):
            execution.reply_cancelled(taker, seq, running, error)
            execution.note(running, is_cancelled=True)
        elif isinstance(error, AsyncioActorExit):
            self._server.end(ExitCause("exited", "exit_actor() was called"))
            self._server.answer_exit(taker, self._item)
        elif isinstance(error, Exception):
            execution.reply_error(taker, seq, number, running.name, error)
            execution.note(running, error)
            error.__traceback__ = None
        else:
            self._server.die(error)
            self._server.answer_exit(taker, self._item)
