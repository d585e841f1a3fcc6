"""Replies of durable actors: they go out when the state is saved that they are the outcome of.

Theory of operation
-------------------
With ``durable="call"`` calls run one at a time. After each the state is taken, together with the
answer, and the answer is held back until that state is saved. Quick calls that wait behind each
other share one save: what is saved is the newest state taken, hence the outcome of a whole call,
even if it must be saved in the middle of the next one (which waits for somebody, or ends the
process).
A call whose state cannot be taken or saved is answered by a DurableStateError. The actor goes on:
its memory has the effect of that call, and so has the next state that is saved.

A call that was answered before, by this process or an earlier one, is not run but answered again
(`ract.worker.executor.call_log`). Generators are: their items went out as they were made.

With ``durable="interval"`` answers go out at once. The state is saved between calls, when the
interval is over since it was saved last. If that fails, calls are answered by the error and do not
run, until it has been possible: so no more is lost than what ran in an interval.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.core import calls
from ract.core.errors import DurableStateError
from ract.core.messages import ExitCause
from ract.worker.executor.execution import is_streaming
from ract.worker.executor.replies import OneReply
from ract.worker.files.state_files import SupersededError

if TYPE_CHECKING:
    from ract.worker.executor.callers import Caller
    from ract.worker.executor.execution import Execution
    from ract.worker.executor.keeper import Keeper

logger = logging.getLogger(__name__)

HOLD_S = 5e-3
"""Answers wait so long for others to share a save with."""

QUICK_S, SHORT_HOLD_S = 100e-6, 300e-6
"""As those of replies that need not wait for a save (`ract.worker.executor.serial`)."""


class _Interval:
    """When the state of an actor is due to be saved.

    Args:
        keeper: Saves it.
        wake: Has `save` called at a moment when no call changes the state, ``after_s`` from now.
    """

    def __init__(self, keeper: Keeper, wake: Callable[[float], None]) -> None:
        self._keeper = keeper
        self._wake = wake
        self._saved_at = time.monotonic()
        self._is_dirty = False
        self._is_armed = False
        self.error: DurableStateError | None = None

    def ran(self) -> None:
        """A call has run."""
        self._is_dirty = True
        if not self._is_armed:
            self._is_armed = True
            due_s = self._saved_at + self._keeper.interval_s - time.monotonic()
            self._wake(max(0.0, due_s))

    def save(self) -> None:
        """Save, if there is anything new."""
        self._is_armed = False
        if not self._is_dirty:
            return
        try:
            self._keeper.take()
            self._keeper.save()
        except DurableStateError as error:
            logger.error("%s", error)
            self.error = error
        except SupersededError as error:
            _end_superseded(error)
        else:
            self.error = None
            self._is_dirty = False
        self._saved_at = time.monotonic()

    def is_well(self) -> bool:
        """Whether calls may run: the last save worked, or can be made up for."""
        if self.error is not None:
            self.save()
        return self.error is None


def _end_superseded(error: SupersededError) -> None:
    """A later incarnation lives: whatever this one would answer is not the actor's word."""
    logger.error("this process of the actor ends: %s", error)
    os._exit(1)


def _key(item: tuple[Any, ...]) -> tuple[int, int]:
    extra = item[5]
    return item[2], 0 if extra is None else extra.get("rerun", 0)


class _Durable:
    """What both kinds of durable actors do.

    Args:
        keeper: Keeps the state and the answers.
        execution: Makes replies of errors.
        class_name: The actor's.
    """

    def __init__(self, keeper: Keeper, execution: Execution, class_name: str) -> None:
        self._keeper = keeper
        self._execution = execution
        self._class_name = class_name

    def acknowledged(self, caller: Caller, item: tuple[Any, ...]) -> None:
        """See `Replies`."""
        if item[0] == calls.DONE:
            self._keeper.log.done(caller, item[1])
        elif item[0] == calls.UNFINISHED:
            self._keeper.log.unfinished(caller.process, item[1])

    def left(self, caller: Caller) -> None:
        """See `Replies`."""
        self._keeper.log.left(caller, caller.process)

    def _fail(self, caller: Caller, item: tuple[Any, ...], error: BaseException) -> None:
        self._keeper.log.remove(*_key(item))
        name = f"{self._class_name}.{item[3]}"
        self._execution.reply_error(caller, item[1], item[2], name, error)

    def _take_refs(self, item: tuple[Any, ...]) -> None:
        """Holds were announced for us with a call that does not run: take them, let them go."""
        for id, count in (item[5] or {}).get("refs", ()):
            self._execution.runtime.table.adopt(id, count)


class HeldReplies(_Durable):
    """Replies with ``durable="call"``: each is held back until its state is saved.

    Args:
        keeper, execution, class_name: See `_Durable`.
        push: Writes the replies of a caller that were held back; None: the server does it soon, and
            nothing is held for others to share its save.
    """

    quick_s = hold_s = HOLD_S

    def __init__(
        self,
        keeper: Keeper,
        execution: Execution,
        class_name: str,
        push: Callable[[Caller], None] | None,
    ) -> None:
        super().__init__(keeper, execution, class_name)
        self._push = push
        #: Whose state is not saved: the caller, the call and the reply; no reply if that is out.
        self._held: list[tuple[Caller, tuple[Any, ...], tuple[Any, ...] | None]] = []
        # Code of the user that ends its process commits too, from whatever thread it is.
        self._lock = threading.RLock()

    def taker(self, caller: Caller, item: tuple[Any, ...]) -> Caller | OneReply | None:
        """See `Replies`."""
        answer = self._keeper.log.find(*_key(item))
        if answer is None:
            return caller if is_streaming(item[5]) else OneReply(caller)
        self._keeper.log.sent(caller, item[1], *_key(item))
        self._take_refs(item)
        self._hold(caller, item, (item[1], *answer))
        return None

    def ran(self, caller: Caller, taker: Caller | OneReply, item: tuple[Any, ...]) -> None:
        """See `Replies`."""
        if isinstance(taker, OneReply):
            if not taker.out:
                return
            reply = taker.out.pop()
            self._keeper.log.add(*_key(item), reply[1:])
        else:  # of a generator: its items are out, and its end waits here if nobody sends it
            reply = caller.out.pop() if self._push is not None and caller.out else None
        try:
            self._keeper.take()
        except DurableStateError as error:
            self._fail(caller, item, error)
            return
        if isinstance(taker, OneReply):
            self._keeper.log.sent(caller, item[1], *_key(item))
        self._hold(caller, item, reply)

    def _hold(self, caller: Caller, item: tuple[Any, ...], reply: tuple[Any, ...] | None) -> None:
        with self._lock:
            self._held.append((caller, item, reply))
        if self._push is None:
            self.commit()

    def commit(self) -> None:
        """Save the newest state that was taken, and send the answers that waited for it."""
        with self._lock:
            held, self._held = self._held, []
            if not held:
                return
            failure: DurableStateError | None = None
            try:
                self._keeper.save()
            except DurableStateError as error:
                failure = error
            except SupersededError as error:
                _end_superseded(error)
            for caller, item, reply in held:
                if failure is not None:
                    self._fail(caller, item, failure)
                elif reply is not None:
                    caller.out.append(reply)
        if self._push is not None:
            for caller in dict.fromkeys(caller for caller, _, _ in held):
                if not caller.is_closed:
                    self._push(caller)

    def ends(self, ending: ExitCause) -> None:
        """See `Replies`."""
        self.commit()


class IntervalReplies(_Durable):
    """Replies with ``durable="interval"``: at once, unless the state could not be saved.

    Args:
        keeper, execution, class_name: See `_Durable`.
        later: Calls a function between two calls, so many seconds from now.
        soon: The same, at once; from any thread.
    """

    quick_s, hold_s = QUICK_S, SHORT_HOLD_S

    def __init__(
        self,
        keeper: Keeper,
        execution: Execution,
        class_name: str,
        later: Callable[[float, Callable[[], None]], None],
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(keeper, execution, class_name)
        self._interval = _Interval(keeper, lambda after_s: later(after_s, self._interval.save))
        self._soon = soon

    def taker(self, caller: Caller, item: tuple[Any, ...]) -> Caller | None:
        """See `Replies`."""
        if self._interval.is_well():
            return caller
        assert self._interval.error is not None
        self._take_refs(item)
        self._fail(caller, item, self._interval.error)
        return None

    def ran(self, caller: Caller, taker: Caller | OneReply, item: tuple[Any, ...]) -> None:
        """See `Replies`."""
        self._soon(self._interval.ran)

    def commit(self) -> None:
        """See `Replies`: nothing is held back."""

    def ends(self, ending: ExitCause) -> None:
        """See `Replies`."""
        if ending.kind == "drained":
            self._interval.save()
