"""Cancelling calls of this process, on demand or because their time is over."""

from __future__ import annotations

import heapq
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ract.client.calls.call import is_over as call_has_ended
from ract.client.calls.waiting import describe_wait
from ract.client.objects.refs import READY
from ract.core import errors, ids
from ract.core.messages import CancelAsked, CancelWanted

if TYPE_CHECKING:
    from ract.client.calls.call import Call
    from ract.client.calls.replies import Replies
    from ract.client.objects.held import Held
    from ract.client.objects.refs import ObjectRef
    from ract.client.process.node_link import NodeLink


SWEEP_MIN = 1000
"""With fewer timeouts, those of calls that have ended are not looked for."""


class Cancelling:
    """Timeouts of calls, and what cancels them.

    Args:
        link: The connection to the node.
        held: The refs that the cluster knows.
        wake: Makes the IO thread tick.
        replies: Fails calls.
        unfinished: Returns the calls of this process that wait or run.
    """

    def __init__(
        self,
        link: NodeLink,
        held: Held,
        wake: Callable[[], None],
        replies: Replies,
        unfinished: Callable[[], list[Call]],
    ) -> None:
        self._link = link
        self._held = held
        self._wake = wake
        self._replies = replies
        self._unfinished = unfinished
        self._lock = held.lock
        self.timeouts: list[tuple[float, int, float, weakref.ref[Call]]] = []  #: a heap
        self._sweep_at = SWEEP_MIN

    def set_timeout(self, call: Call, seconds: float) -> None:
        """Fail and cancel the call if it is not complete by then."""
        at = time.monotonic() + seconds
        with self._lock:
            heapq.heappush(self.timeouts, (at, call.number, seconds, weakref.ref(call)))
            if len(self.timeouts) >= self._sweep_at:
                self._sweep()
        self._wake()

    def _sweep(self) -> None:
        """Forget calls that have ended long before their time."""
        self.timeouts = [entry for entry in self.timeouts if not _is_over(entry[3]())]
        heapq.heapify(self.timeouts)
        self._sweep_at = max(SWEEP_MIN, 2 * len(self.timeouts))  # so that each costs little

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
            self._link.tell(CancelAsked(self._link.process, ref.binary(), force, recursive))

    def asked(self, message: CancelAsked) -> None:
        """Another process wants a call of this one cancelled."""
        ref = self._held.find(message.object_id)
        call = ref._call if ref is not None else None
        if call is not None:
            # Who asked does not know what kind of call it is; actor calls cannot be forced.
            force = message.force and call.actor_id is None
            call.owner.cancel(call, force, message.recursive)

    def ask_executor(self, call: Call, executor: int, force: bool, recursive: bool) -> None:
        """Cancel a call that an executor has."""
        if call.channel is not None:
            call.channel.flush()
        me = self._link.process
        self._link.tell(CancelWanted(me, executor, call.number, force, recursive))

    def cancel_children(self, parent: int) -> None:
        """Cancel unfinished calls that task ``parent`` (running here) submitted."""
        for call in self._unfinished():
            if call.parent == parent and not call.cancelled:
                call.owner.cancel(call, False, True)

    def _expire(self) -> None:
        now = time.monotonic()
        while self.timeouts:
            with self._lock:  # for both: another thread may add one that comes earlier
                at, _, seconds, known = self.timeouts[0]
                call = known()
                is_over = _is_over(call)
                if at > now and not is_over:
                    return
                heapq.heappop(self.timeouts)
            if call is None or is_over:
                continue
            waited = describe_wait(call.refs[0]) if call.refs else call.name
            error = errors.TaskTimeoutError(f"not finished within {seconds} s: {waited}")
            self._replies.fail(call, error)
            call.owner.cancel(call, False, True)


def _is_over(call: Call | None) -> bool:
    """Whether nobody will ever want the call cancelled."""
    return call is None or call_has_ended(call)
