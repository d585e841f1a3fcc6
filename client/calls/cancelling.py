"""Cancelling calls of this process, on demand or because their time is over."""

from __future__ import annotations

import heapq
import time
import weakref
from typing import TYPE_CHECKING

from ract.client.calls.call import is_over as call_has_ended
from ract.client.objects.refs import READY
from ract.core import errors, ids
from ract.core.messages import CancelAsked, CancelWanted

if TYPE_CHECKING:
    from ract.client.calls.call import Call
    from ract.client.objects.refs import ObjectRef
    from ract.client.runtime import Runtime


class Cancelling:
    """Timeouts of calls, and what cancels them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = runtime.table.lock
        self.timeouts: list[tuple[float, int, float, weakref.ref[Call]]] = []  #: a heap

    def set_timeout(self, call: Call, seconds: float) -> None:
        """Fail and cancel the call if it is not complete by then."""
        at = time.monotonic() + seconds
        with self._lock:
            heapq.heappush(self.timeouts, (at, call.number, seconds, weakref.ref(call)))
        self._runtime.reactor.wake()

    def tick(self) -> bool:
        """Called by the reactor: fail what is too late; returns whether anything may become so."""
        if not self.timeouts:
            return False
        self._expire()
        return True

    def cancel(self, ref: ObjectRef, force: bool, recursive: bool) -> None:
        """Cancel the call that makes ``ref``; nothing happens if it has finished.

        Raises:
            ValueError: ``force`` for an actor call.
        """
        if force and ids.is_actor_call(ref.binary()):
            raise ValueError(
                "force=True would kill the actor's process and with it its state: it is not "
                "allowed for actor calls. Use ract.kill(actor) for that."
            )
        call = ref._call
        if call is not None:
            call.owner.cancel(call, force, recursive)
        elif ref._state < READY:  # another process made the call
            self._runtime.tell(CancelAsked(self._runtime.process, ref.binary(), force, recursive))

    def asked(self, message: CancelAsked) -> None:
        """Another process wants a call of this one cancelled."""
        ref = self._runtime.table.find(message.object_id)
        call = ref._call if ref is not None else None
        if call is not None:
            # Who asked does not know what kind of call it is; actor calls cannot be forced.
            force = message.force and call.actor_id is None
            call.owner.cancel(call, force, message.recursive)

    def ask_executor(self, call: Call, executor: int, force: bool, recursive: bool) -> None:
        """Cancel a call that an executor has."""
        if call.channel is not None:
            call.channel.flush()
        me = self._runtime.process
        self._runtime.tell(CancelWanted(me, executor, call.number, force, recursive))

    def cancel_children(self, parent: int) -> None:
        """Cancel unfinished calls that task ``parent`` (running here) submitted."""
        for call in self._runtime.unfinished_calls():
            if call.parent == parent and not call.cancelled:
                call.owner.cancel(call, False, True)

    def _expire(self) -> None:
        now = time.monotonic()
        while self.timeouts:
            with self._lock:  # for both: another thread may add one that comes earlier
                at, _, seconds, known = self.timeouts[0]
                call = known()
                is_over = call is None or call_has_ended(call)
                if at > now and not is_over:
                    return
                heapq.heappop(self.timeouts)
            if call is None or is_over:
                continue
            waited = self._runtime.describe_wait(call.refs[0]) if call.refs else call.name
            error = errors.TaskTimeoutError(f"not finished within {seconds} s: {waited}")
            self._runtime.fail_call(call, error)
            call.owner.cancel(call, False, True)
