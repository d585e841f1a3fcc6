"""Calls of tasks and actors in this thread: see `ract.client.local.mode`."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ract.client.calls.streams import FIRST_INDEX, DynamicObjectRefGenerator, ObjectRefGenerator
from ract.client.local.faces import Inside, Values
from ract.client.objects import faults
from ract.client.objects.refs import ERROR, PLAIN, ObjectRef
from ract.client.process import context
from ract.core import returns
from ract.core.errors import RactTaskError

_OWN_FILES = os.path.dirname(__file__) + os.sep
"""What tracebacks do not begin with."""


class Call:
    """One call, from its arguments to its refs."""

    def __init__(
        self,
        runtime: Values,
        function: Callable[..., Any],
        name: str,
        function_name: str,
        wanted: Any,
        actor: Inside | None = None,
    ) -> None:
        self.runtime = runtime
        self.name = name
        self.retries = 0
        self.retry_exceptions: Any = False
        self._function = function
        self._function_name = function_name
        self._wanted = 1 if wanted is None else wanted
        self._actor = actor
        self._actor_id = actor.actor_id if actor is not None else None
        self._number = runtime.next_number()

    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it; returns a ref, a list of refs, a generator or None."""
        arguments = self.runtime.copied(self.name, args, kwargs)
        wanted = self._wanted
        if wanted == "streaming":
            return ObjectRefGenerator(LocalStream(self, arguments))  # type: ignore[arg-type]
        n = 1 if wanted == "dynamic" else wanted
        made = [self.ref(i + 1) for i in range(n)]
        waiting = deque(made)
        self._attempt(arguments, waiting)
        if wanted == "dynamic" or n == 1:
            return made[0]
        return made if n else None

    def ref(self, index: int) -> ObjectRef:
        """The ref of a return."""
        return self.runtime.new_ref(self._number, self._actor_id, index)

    def _attempt(self, arguments: Callable[[], Any], waiting: deque[ObjectRef]) -> None:
        """Run until it succeeds or may not be tried again; completes the refs that wait."""
        try:
            while True:
                try:
                    self._run(arguments, waiting)
                    return
                except Failed as failed:
                    if not self._is_retried(failed.error):
                        raise
        except Failed as failed:
            for ref in waiting:
                ref._complete(ERROR, failed.error)

    def _is_retried(self, error: Exception) -> bool:
        wanted = self.retry_exceptions
        cause = getattr(error, "cause", error)
        if not wanted or not self.retries or not (wanted is True or isinstance(cause, wanted)):
            return False
        self.retries -= 1
        return True

    def _run(self, arguments: Callable[[], Any], waiting: deque[ObjectRef]) -> None:
        with self.running(arguments) as value:
            for each in self._values(value):
                self.runtime.complete(waiting[0], each, "the result")
                waiting.popleft()

    def _values(self, value: Any) -> Any:
        """The values of the returns."""
        if self._wanted == "dynamic":
            items = [self.runtime.put(x) for x in returns.generator_of(value, "dynamic")]
            return [DynamicObjectRefGenerator(items)]
        if self._wanted == 1:
            return [value]
        return returns.exactly(value, self._wanted) if self._wanted else []

    @contextlib.contextmanager
    def running(self, arguments: Callable[[], Any]) -> Iterator[Any]:
        """Run the function and what is done with its value. Raises `Failed`."""
        try:
            args, kwargs = arguments()
        except Exception as error:
            raise Failed(faults.of_argument(self.name, error)) from error
        with self.inside():
            yield self._function(*args, **kwargs)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """As what runs now; turns exceptions of user code into `Failed`."""
        actor, process = self._actor, context.process
        before = (process.actor_spec, process.actor_instance, process.server)
        running = context.Running(self._number, self.name)
        running.function_name = self._function_name
        token = context.enter(running)
        try:
            with actor.lock if actor is not None else contextlib.nullcontext():
                if actor is not None:
                    if actor.death is not None:
                        raise Failed(actor.death)
                    process.actor_spec, process.server = actor.spec, actor
                    process.actor_instance = actor.instance
                yield
        except Exception as error:
            raise error if isinstance(error, Failed) else Failed(self._error(error)) from error
        except SystemExit as error:
            if actor is None:
                raise
            actor.die(str(actor.ending or f"sys.exit({error.code}) was called"))
            raise Failed(actor.death) from error
        finally:
            process.actor_spec, process.actor_instance, process.server = before
            context.leave(token)

    def _error(self, error: Exception) -> RactTaskError:
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
            frame = frame.tb_next
        text = "".join(traceback.format_exception(type(error), error, frame))
        actor_id = self._actor_id.hex() if self._actor_id is not None else None
        return RactTaskError(
            self.name, text, error, pid=os.getpid(), ip="127.0.0.1", actor_id=actor_id
        )


class Failed(Exception):
    """A call has failed: ``error`` is what ``get`` raises."""

    def __init__(self, error: Any) -> None:
        self.error = error


class LocalStream:
    """A generator that runs as its items are read: what `ObjectRefGenerator` reads from."""

    def __init__(self, call: Call, arguments: Callable[[], Any]) -> None:
        self._runtime = call.runtime
        self._call = call
        self._arguments = arguments
        self._items: Any = None
        self._unread: deque[ObjectRef] = deque()
        self._count = 0
        self._is_over = False
        self._done = call.ref(1)

    def _advance(self) -> None:
        """Run until the next item, the error, or the end."""
        call = self._call
        ref = call.ref(FIRST_INDEX + self._count)
        try:
            if self._items is None:
                with call.running(self._arguments) as value:
                    self._items = returns.generator_of(value, "streaming")
            with call.inside():
                try:
                    item = next(self._items)
                except StopIteration:
                    self._end(PLAIN, None)
                    return
                self._runtime.complete(ref, item, "the item")
        except Failed as failed:
            ref._complete(ERROR, failed.error)
            self._end(ERROR, failed.error)
        self._count += 1
        self._unread.append(ref)

    def _end(self, state: int, value: Any) -> None:
        self._is_over = True
        self._done._complete(state, value)

    def _wait(self) -> None:
        """Make the next item, unless it is there."""
        if not self._unread and not self._is_over:
            self._advance()

    def next(self) -> ObjectRef | None:
        """The next item; None at the end."""
        self._wait()
        return self._unread.popleft() if self._unread else None

    async def next_async(self) -> ObjectRef | None:
        """As `next`: nothing else runs meanwhile."""
        return self.next()

    def is_over(self) -> bool:
        """Whether all items have been taken."""
        self._wait()
        return not self._unread

    def peek(self) -> ObjectRef:
        """The next item; what `completed` gives if there is none."""
        self._wait()
        return self._unread[0] if self._unread else self._done

    def completed(self) -> ObjectRef:
        """Run the generator to its end; a ref that raises its error."""
        while not self._is_over:
            self._advance()
        return self._done

    def drop(self) -> None:
        """Nobody reads any more."""
