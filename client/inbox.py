"""What the node says to a process, and who is told of it. All of this happens on the IO thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ract.client.objects import faults, refs
from ract.client.objects.refs import ERROR, INLINE, READY, STORED, ObjectRef
from ract.core import errors, messages
from ract.core.messages import CancelAsked, ObjectWanted

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

PUSHED_MAX = 10_000
"""So many messages for people are kept, for those that ask later."""


class Inbox:
    """Takes messages of the node."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def receive(self, message: Any) -> None:
        """Tell those whom a message concerns."""
        runtime = self._runtime
        if isinstance(message, messages.LeaseGranted):
            runtime.pools.granted(message)
        elif isinstance(message, messages.LeaseLost):
            runtime.pools.lost(message)
        elif isinstance(message, messages.LeaseRecalled):
            runtime.pools.recalled(message.lease)
        elif isinstance(message, messages.LeaseRefused):
            runtime.pools.refused(message)
        elif isinstance(message, messages.ActorChanged):
            runtime.actors.changed(message)
        elif isinstance(message, messages.GroupChanged):
            group = runtime.groups.get(message.group_id)
            if group is not None:
                group.changed(message)
        elif isinstance(message, messages.ObjectHere):
            self._object_here(message)
        elif isinstance(message, messages.ObjectLost):
            self._object_lost(message)
        elif isinstance(message, messages.ObjectUntold):
            self._object_untold(message.object_id)
        elif isinstance(message, messages.LineageOver):
            runtime.lineage.over(message.object_ids)
        elif isinstance(message, messages.SegmentsMoved):
            runtime.store.forget(message.paths)
        elif isinstance(message, CancelAsked):
            runtime.cancelling.asked(message)
        elif isinstance(message, (messages.SegmentGranted, messages.SegmentRefused)):
            if isinstance(message, messages.SegmentGranted):
                if not runtime.link.answer(message.request, message):  # nobody will write to it
                    runtime.tell(messages.SegmentClosed(runtime.process, message.segment))
            else:
                error = errors.error_by_name(message.error, message.detail)
                runtime.link.answer(message.request, None, error)
        elif isinstance(message, messages.Pushed):
            runtime.pushed.append(message)
            del runtime.pushed[:-PUSHED_MAX]
            runtime.on_control(message)
        else:
            runtime.on_control(message)

    def _object_lost(self, message: messages.ObjectLost) -> None:
        runtime = self._runtime
        if not message.is_held:
            runtime.table.lost_hold(message.object_id)
        runtime.lineage.lost(message.object_id, message.reason)

    def _object_untold(self, id: bytes) -> None:
        """Somebody waits for an object of which the cluster knows nothing."""
        runtime = self._runtime
        ref = runtime.table.find(id)
        if ref is None:
            return
        state, value = ref._outcome()
        if state == STORED:
            # Its node may have died before it could tell: say which one it is.
            runtime.tell(ObjectWanted(runtime.process, id, value[0]))
        else:
            runtime.table.escape(ref)  # nothing happens if it has escaped

    def _object_here(self, message: messages.ObjectHere) -> None:
        runtime = self._runtime
        with runtime.table.lock:
            waiting = runtime.localizing.pop(message.object_id, [])
            ref = runtime.table.find(message.object_id)
            if ref is not None:
                self._bring(ref, message)
        if ref is not None:
            if ref._state == ERROR:
                runtime.count_error()
            refs.notify(ref)
        for then in waiting:
            then()

    def _bring(self, ref: ObjectRef, message: messages.ObjectHere) -> None:
        """Give a ref the value that the node has of it; the caller holds the table's lock."""
        value: tuple[Any, ...]
        if message.blob is not None:
            blob = message.blob
            state, value = INLINE, (blob.head, blob.buffers, [])
            if blob.is_error:
                state, value = ERROR, (faults.directory_error(blob.head, ref), blob.buffers, [])
        else:
            place = (self._runtime.node_id, message.path, message.offset, message.size)
            state, value = STORED, (*place, message.is_error)
        # What came from the directory need not be published.
        if ref._state == STORED:
            ref._replace(state, value)
        elif ref._state < READY:
            ref._value = value
            ref._state = state
            ref._call = None
