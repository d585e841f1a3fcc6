"""Servers of durable actors: what they serve by, and when the state is saved.

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
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.client.process import context
from ract.core import calls
from ract.core.errors import DurableStateError
from ract.core.messages import ExitCause
from ract.worker.executor.concurrent import ConcurrentServer, _Group
from ract.worker.executor.execution import is_streaming
from ract.worker.executor.serial import SerialServer
from ract.worker.files.state_files import SupersededError

if TYPE_CHECKING:
    from ract.worker.executor.callers import Caller
    from ract.worker.executor.keeper import Keeper

logger = logging.getLogger(__name__)

HOLD_S = 5e-3
"""Answers wait so long for others to share a save with."""

_SAVE_DUE = object()


class _StandIn:
    """Takes the replies of a call in its caller's place."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.out: deque[Any] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._caller, name)


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


class DurableServer(SerialServer):
    """A durable actor's calls, one at a time."""

    def __init__(self, keeper: Keeper, *how: Any) -> None:
        self._keeper = keeper
        self._interval = _Interval(keeper, self._wake_in)
        #: Answers whose state is not saved: the caller, the call, its name and the reply.
        self._held: list[tuple[Caller, tuple[Any, ...], str, tuple[Any, ...]]] = []
        self._commit_lock = threading.RLock()
        super().__init__(*how)

    def serve(self, on_posted: Callable[[Any], None]) -> ExitCause:
        """As `SerialServer.serve`."""

        def posted(message: Any) -> None:
            if message is _SAVE_DUE:
                self._interval.save()
            else:
                on_posted(message)

        return super().serve(posted)

    def _wake_in(self, seconds: float) -> None:
        def due() -> None:
            self.posted.append(_SAVE_DUE)
            self.wake()

        timer = threading.Timer(seconds, due)
        timer.daemon = True
        timer.start()

    # ------------------------------------------------------------------ calls

    def _run(
        self, caller: Caller, seq: int, number: int, target: Any, args: Any, extra: Any, parent: int
    ) -> None:
        item = (calls.CALL, seq, number, target, args, extra, parent)
        if not self._keeper.every_call:
            if self._interval.is_well():
                super()._run(caller, *item[1:])
                self._interval.ran()
            else:
                self._refuse(caller, item, self._interval.error)
            return
        answer = self._keeper.log.find(*_key(item))
        if answer is not None:
            self._keeper.log.sent(caller, seq, *_key(item))
            self._take_refs(extra)
            self._hold(caller, item, (seq, *answer))
            return
        if is_streaming(extra):
            super()._run(caller, *item[1:])
            reply = caller.out.pop() if caller.out else None
        else:
            stand_in = _StandIn(caller)
            super()._run(stand_in, *item[1:])  # type: ignore[arg-type]
            reply = stand_in.out.pop() if stand_in.out else None
        if reply is None:  # it has ended the process
            return
        log = self._keeper.log
        if not is_streaming(extra):
            log.add(*_key(item), reply[1:])
        try:
            self._keeper.take()
        except DurableStateError as error:
            self._fail(caller, item, error)
            return
        log.sent(caller, seq, *_key(item))
        self._hold(caller, item, reply)

    def _hold(self, caller: Caller, item: tuple[Any, ...], reply: tuple[Any, ...]) -> None:
        with self._commit_lock:
            self._held.append((caller, item, str(item[3]), reply))

    def _fail(self, caller: Caller, item: tuple[Any, ...], error: BaseException) -> None:
        self._keeper.log.remove(*_key(item))
        name = self._names.get(item[3], str(item[3]))
        self.execution.reply_error(caller, item[1], item[2], name, error)

    def _refuse(self, caller: Caller, item: tuple[Any, ...], error: Any) -> None:
        self._take_refs(item[5])
        self._fail(caller, item, error)

    def _take_refs(self, extra: dict[str, Any] | None) -> None:
        """Holds were announced for us with a call that does not run: take them, let them go."""
        for id, count in (extra or {}).get("refs", ()):
            self.runtime.table.adopt(id, count)

    # ------------------------------------------------------------------ answers

    def _must_flush(self, target: Any) -> bool:
        if not self._keeper.every_call:
            return super()._must_flush(target)
        following = self._inbox[0][1] if self._inbox else None
        is_last = following is None or following[0] != calls.CALL
        if not self._held_since:
            self._held_since = self._now
        if is_last or self._now - self._held_since > HOLD_S or not self._is_quick(following):
            self._commit()
            return True
        return False

    def _is_quick(self, item: Any) -> bool:
        return self._averages.get(item[3], 1.0) < HOLD_S

    def _commit(self) -> None:
        """Save the newest state that was taken, and send the answers that waited for it."""
        with self._commit_lock:
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
            for caller, item, _, reply in held:
                if failure is None:
                    caller.out.append(reply)
                else:
                    self._fail(caller, item, failure)
        for caller in dict.fromkeys(caller for caller, _, _, _ in held):
            if not caller.is_closed:
                self._push(caller)

    def flush_all(self) -> None:
        self._commit()
        super().flush_all()

    def _drain(self) -> ExitCause:
        assert self.ending is not None
        if self.ending.kind == "drained" and not self._keeper.every_call:
            self._interval.save()
        self._commit()
        return super()._drain()

    def control(self, caller: Caller, item: tuple[Any, ...]) -> None:
        _acknowledge(self._keeper, caller, item)
        super().control(caller, item)

    def drop(self, caller: Caller) -> None:
        super().drop(caller)
        self._keeper.log.left(caller, caller.process)


class DurableConcurrentServer(ConcurrentServer):
    """A durable actor's calls, on a loop or in threads."""

    def __init__(self, keeper: Keeper, *how: Any) -> None:
        self._keeper = keeper
        self._interval = _Interval(keeper, self._wake_in)
        self._unsaved: set[int] = set()  # calls that have run, or do: they are not over yet
        super().__init__(*how)

    def _wake_in(self, seconds: float) -> None:
        self.loop.call_later(seconds, self._interval.save)

    async def _run_async(
        self, group: _Group, running: context.Running, caller: Caller, item: tuple[Any, ...]
    ) -> None:
        taker = self._begin(caller, item)
        if taker is not None:
            await super()._run_async(group, running, taker, item)
        self._end_call(group, caller, taker, item)

    def _run_in_thread(
        self, group: _Group, running: context.Running, caller: Caller, item: tuple[Any, ...]
    ) -> None:
        taker = self._begin(caller, item)
        if taker is not None:
            super()._run_in_thread(group, running, taker, item)
        self._end_call(group, caller, taker, item)

    def _begin(self, caller: Caller, item: tuple[Any, ...]) -> Any:
        """Who takes the replies of a call; None if it is answered without running."""
        self._unsaved.add(item[2])
        if not self._keeper.every_call:
            if self._interval.is_well():
                return caller
            assert self._interval.error is not None
            self._fail(caller, item, self._interval.error)
            return None
        answer = self._keeper.log.find(*_key(item))
        if answer is None:
            return caller if is_streaming(item[5]) else _StandIn(caller)
        self._keeper.log.sent(caller, item[1], *_key(item))
        caller.out.append((item[1], *answer))
        return None

    def _end_call(self, group: _Group, caller: Caller, taker: Any, item: tuple[Any, ...]) -> None:
        if taker is None:  # it has not run: the holds that came with it are for nobody
            for id, count in (item[5] or {}).get("refs", ()):
                self.runtime.table.adopt(id, count)
        elif not self._keeper.every_call:
            self._on_loop(self._interval.ran)
        elif taker is caller:
            self._save(caller, item)
        elif taker.out:
            self._answer(caller, item, taker.out.pop())
        self._unsaved.discard(item[2])
        self._on_loop(super()._finished, group, item[2])

    def _answer(self, caller: Caller, item: tuple[Any, ...], reply: tuple[Any, ...]) -> None:
        key = _key(item)
        self._keeper.log.add(*key, reply[1:])
        if self._save(caller, item):
            self._keeper.log.sent(caller, item[1], *key)
            caller.out.append(reply)

    def _save(self, caller: Caller, item: tuple[Any, ...]) -> bool:
        try:
            self._keeper.take()
            self._keeper.save()
        except DurableStateError as error:
            self._fail(caller, item, error)
            return False
        except SupersededError as error:
            _end_superseded(error)
        return True

    def _fail(self, caller: Caller, item: tuple[Any, ...], error: BaseException) -> None:
        self._keeper.log.remove(*_key(item))
        name = f"{type(self.instance).__name__}.{item[3]}"
        self.execution.reply_error(caller, item[1], item[2], name, error)

    def _finished(self, group: _Group, number: int) -> None:
        if number not in self._unsaved:  # else `_end_call` sees to it
            super()._finished(group, number)

    def _maybe_end(self) -> None:
        super()._maybe_end()
        is_over = self._done.done() and self.ending is not None
        if is_over and self.ending is not None and self.ending.kind == "drained":
            if not self._keeper.every_call:
                self._interval.save()

    def _acknowledged(self, caller: Caller, item: tuple[Any, ...]) -> None:
        _acknowledge(self._keeper, caller, item)

    def _left(self, caller: Caller) -> None:
        super()._left(caller)
        self._keeper.log.left(caller, caller.process)


def _acknowledge(keeper: Keeper, caller: Caller, item: tuple[Any, ...]) -> None:
    if item[0] == calls.DONE:
        keeper.log.done(caller, item[1])
    elif item[0] == calls.UNFINISHED:
        keeper.log.unfinished(caller.process, item[1])
