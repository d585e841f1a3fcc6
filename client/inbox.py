"""What the node says to a process, and who is told of it. All of this happens on the IO thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ract.client.actors.actors import Actors
from ract.client.calls.cancelling import Cancelling
from ract.client.calls.lineage import Lineage
from ract.client.objects.held import Held
from ract.client.objects.store import StoreClient
from ract.client.objects.values import Values
from ract.client.process.node_link import NodeLink
from ract.client.tasks.groups import Groups
from ract.client.tasks.pools import Pools
from ract.core import errors
from ract.core import messages as m

PUSHED_MAX = 10_000
"""So many messages for people are kept, for those that ask later."""


class Inbox:
    """Takes messages of the node.

    Args:
        link: The connection to the node.
        pools, actors, groups, values, held, store, lineage, cancelling: Whom messages concern.
        otherwise: Is told of all other messages.

    Attributes:
        pushed: The newest messages for people.
    """

    def __init__(
        self,
        link: NodeLink,
        pools: Pools,
        actors: Actors,
        groups: Groups,
        values: Values,
        held: Held,
        store: StoreClient,
        lineage: Lineage,
        cancelling: Cancelling,
        otherwise: Callable[[Any], None],
    ) -> None:
        self.pushed: list[m.Pushed] = []
        self._link = link
        self._held = held
        self._lineage = lineage
        self._otherwise = otherwise
        self._told: dict[type, Callable[[Any], None]] = {
            m.LeaseGranted: pools.granted,
            m.LeaseLost: pools.lost,
            m.LeaseRecalled: lambda message: pools.recalled(message.lease),
            m.LeaseRefused: pools.refused,
            m.ActorChanged: actors.changed,
            m.GroupChanged: groups.changed,
            m.ObjectHere: values.here,
            m.ObjectLost: self._object_lost,
            m.ObjectUntold: lambda message: values.untold(message.object_id),
            m.LineageOver: lambda message: lineage.over(message.object_ids),
            m.SegmentsMoved: lambda message: store.forget(message.paths),
            m.CancelAsked: cancelling.asked,
            m.SegmentGranted: self._segment_granted,
            m.SegmentRefused: self._segment_refused,
            m.Pushed: self._pushed,
        }

    def receive(self, message: Any) -> None:
        """Tell whom a message concerns."""
        self._told.get(type(message), self._otherwise)(message)

    def _object_lost(self, message: m.ObjectLost) -> None:
        if not message.is_held:
            self._held.lost_hold(message.object_id)
        self._lineage.lost(message.object_id, message.reason)

    def _segment_granted(self, message: m.SegmentGranted) -> None:
        if not self._link.answer(message.request, message):  # nobody will write to it
            self._link.tell(m.SegmentClosed(self._link.process, message.segment))

    def _segment_refused(self, message: m.SegmentRefused) -> None:
        error = errors.error_by_name(message.error, message.detail)
        self._link.answer(message.request, None, error)

    def _pushed(self, message: m.Pushed) -> None:
        self.pushed.append(message)
        del self.pushed[:-PUSHED_MAX]
        self._otherwise(message)
