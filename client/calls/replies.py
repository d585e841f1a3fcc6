"""What becomes of a call when there is an answer, or when there will be none.

Theory of operation
-------------------
A reply is applied by whoever reads the channel (`ract.client.calls.channel`). It completes the refs
of the call, after what it brings with it is held: the first value or error of a ref counts, so that
applying a reply twice does no harm. A call that may run again after its own error goes back to its
owner. An error that is made in this process completes the refs in the same way.

Code of users (an error's class, its pickling) runs on threads that may wait, never on the reader's.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ract.client.calls.call import Call
from ract.client.calls.channel import Channel
from ract.client.calls.lineage import RemadeRef
from ract.client.calls.streams import FIRST_INDEX
from ract.client.objects import faults
from ract.client.objects.held import Held
from ract.client.objects.refs import ERROR, INLINE, PLAIN, STORED, ObjectRef
from ract.client.objects.values import Values
from ract.client.process import user_code
from ract.client.process.node_link import NodeLink
from ract.core import calls, errors, serialization
from ract.core.messages import CallsLost


class Replies:
    """Completes the refs of calls.

    Args:
        link: The connection to the node.
        held: The refs that the cluster knows.
        values: The values of this process.
        keep_recipe: Keeps how a result in shared memory was made: called with the call and the
            result's id.
    """

    def __init__(
        self,
        link: NodeLink,
        held: Held,
        values: Values,
        keep_recipe: Callable[[Call, bytes], None],
    ) -> None:
        self._link = link
        self.held = held
        self.values = values
        self._keep_recipe = keep_recipe

    def apply(self, channel: Channel, call: Call, reply: tuple[Any, ...]) -> None:
        """Apply a reply that is more than one plain value."""
        status = reply[1]
        if status == calls.RETURNED:
            channel.inflight.pop(call.seq, None)
            if (owner := channel.owner) is not None:  # else the process leaves the cluster
                owner.returned(channel, call)
            return
        if status == calls.ITEM:
            if call.stream is not None:
                call.stream.item(reply[2], reply[3])
            else:  # the call has failed here, while this was on its way
                self.held.drop_result(reply[3])
            return
        if status == calls.ERROR and self._may_retry(call):
            if call.retry_exceptions is True:
                channel.inflight.pop(call.seq, None)
                self._retry(call, reply[1:])
            else:  # to see of which class the error is runs code of users
                call.owner.undecided(call, True)  # first: it is always known somewhere
                channel.inflight.pop(call.seq, None)
                user_code.run(partial(self._retry_or_fail, call, reply[1:]))
            return
        self._apply_end(call, reply)
        channel.inflight.pop(call.seq, None)

    def _apply_end(self, call: Call, reply: tuple[Any, ...]) -> None:
        """The call has ended."""
        status = reply[1]
        if status == calls.CANCELLED:
            cancelled = errors.TaskCancelledError(task_id=call.refs_task_id())
            self.fail(call, pickle.loads(reply[2]) if reply[2] else cancelled)
        elif call.stream is not None:
            if status == calls.END:
                call.stream.end(reply[2])
            else:
                call.stream.fail(reply[1:])
        elif status == calls.END:  # heard before, and interrupted
            pass
        elif status == calls.SEVERAL:
            for ref, result in zip(call.refs, reply[2], strict=True):
                self.result(ref, result)
        elif status == calls.ERROR:
            self._fail_refs(call.refs, reply[1:])
        elif call.refs:
            self.result(call.refs[0], reply[1:])
        if not call.refs:
            call.is_over = True
        call.kept = ()

    def result(self, ref: ObjectRef, result: tuple[Any, ...]) -> None:
        """Complete a ref with what an executor made."""
        status = result[0]
        if status == calls.PLAIN:
            ref._complete(PLAIN, result[1])
        elif status == calls.STORED:
            if type(ref) is RemadeRef:
                ref._complete(STORED, result[2:])
                return
            call = ref._call
            if call is not None and (call.retries or call.attempt):
                self._keep_recipe(call, result[1])
            self.values.stored(ref, result[2:])
        elif status == calls.ERROR:
            self._fail_refs([ref], result)
        else:
            contained = [self.held.adopt(i, n) for i, n in result[3]]
            ref._complete(INLINE, (result[1], result[2], contained))

    def _fail_refs(self, failed: Sequence[ObjectRef], result: tuple[Any, ...]) -> None:
        """Complete refs with one error, which brought one hold of each ref that is in it."""
        _, head, buffers, counts = result
        contained = [self.held.adopt(i, n) for i, n in counts]
        for ref in failed:
            ref._fail((head, buffers, contained))
        self.values.count_error()

    @staticmethod
    def _may_retry(call: Call) -> bool:
        return bool(call.retry_exceptions) and call.retries != 0 and not call.cancelled

    def _retry(self, call: Call, result: tuple[Any, ...]) -> None:
        """Make a call again that has raised."""
        self.held.drop_result(result)
        call.retries -= 1 if call.retries > 0 else 0
        call.owner.retry(call)

    def _retry_or_fail(self, call: Call, result: tuple[Any, ...]) -> None:
        """Make a call again if what it has raised is of the right class."""
        try:
            error = serialization.unpack(result[1], result[2])
            is_right = isinstance(getattr(error, "cause", error), tuple(call.retry_exceptions))
        except BaseException:  # it cannot be read here, whoever gets the value is told why
            is_right = False
        try:
            if is_right and self._may_retry(call):
                self._retry(call, result)
            else:
                self._apply_end(call, (call.seq, *result))
        finally:
            call.owner.undecided(call, False)

    def lost(self, executor: int, lost: list[Call]) -> None:
        """An executor died that owed replies: what was in them this process does not hold."""
        if lost:
            first = [
                [call.number, FIRST_INDEX + call.stream.received if call.stream is not None else 0]
                for call in lost
            ]
            self._link.tell(CallsLost(self._link.process, executor, first))

    def fail(self, call: Call, error: BaseException) -> None:
        """Complete every ref of the call with an error made in this process."""
        packed = faults.pack(error)
        value = (packed.head, packed.copied_buffers(), packed.refs)
        for ref in call.refs:
            ref._complete(ERROR, value)
        self.values.count_error()
        if call.stream is not None:
            call.stream.fail((calls.ERROR, packed.head, packed.copied_buffers(), []))
        if not call.refs:
            call.is_over = True
        call.kept = ()

    def fail_soon(self, call: Call, error: BaseException) -> None:
        """As `fail`, on another thread: for who holds a lock, or is the IO thread.

        What waits for the call may be somebody else's, whose lock is taken then; and to pickle the
        error may run code of users.
        """
        user_code.run(partial(self.fail, call, error))
