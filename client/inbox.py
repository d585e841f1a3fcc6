"""What the node says to a process, and who is told of it. All of this happens on the IO thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ract.core import errors, messages
from ract.core.messages import CancelAsked

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
            runtime.values.here(message)
        elif isinstance(message, messages.ObjectLost):
            self._object_lost(message)
        elif isinstance(message, messages.ObjectUntold):
            runtime.values.untold(message.object_id)
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
        if not message.is_held:
            self._runtime.table.lost_hold(message.object_id)
        self._runtime.lineage.lost(message.object_id, message.reason)
