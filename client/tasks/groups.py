"""This process' end of placement groups: what state they are in, who waits for them.

Theory of operation
-------------------
The scheduler tells a process about the groups that it made or watches (`GroupChanged`). A
`GroupClient` keeps the newest state; ``ready()`` is a ref that it completes. It lives as long as a
`ract.util.placement_group.PlacementGroup` or such a ref does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.client.calls.call import Call
from ract.client.objects import refs
from ract.client.objects.values import pack
from ract.client.process.locks import make_lock
from ract.core.errors import TaskCancelledError, TaskPlacementGroupRemoved
from ract.core.messages import GroupChanged, GroupWatched

if TYPE_CHECKING:
    from ract.client.objects.refs import ObjectRef
    from ract.client.process.node_link import NodeLink
    from ract.client.process.session import Session

CREATED, REMOVED = "CREATED", "REMOVED"


class GroupClient:
    """One group, as this process knows it.

    Args:
        session: Who this process is.
        link: The connection to the node.
        fail: Completes the refs of a call with an error.
        group_id: 18 bytes.
        is_watched: The scheduler tells of it anyway, since this process makes it.
    """

    def __init__(
        self,
        session: Session,
        link: NodeLink,
        fail: Callable[[Call, BaseException], None],
        group_id: bytes,
        *,
        is_watched: bool = False,
    ) -> None:
        self.session = session
        self._link = link
        self._fail = fail
        self.group_id = group_id
        self.state = "PENDING"
        self.detail = ""
        self._is_known = False  #: the scheduler has answered, so it knows the group
        self._is_watched = is_watched
        self._lock = make_lock("owner")
        self._waiting: list[tuple[Call, Any]] = []

    def changed(self, message: GroupChanged) -> None:
        """The scheduler says what has become of the group."""
        with self._lock:
            self.state, self.detail = message.state, message.detail
            self._is_known = True
            if self.state not in (CREATED, REMOVED):
                return
            waiting, self._waiting = self._waiting, []
        for call, value in waiting:
            self._complete(call, value)

    def make_known(self) -> None:
        """Return when the scheduler knows of the group: another process may ask for it then."""
        if not self._is_known:
            self._link.request("get_group", id=self.group_id)  # it comes after the group
            self._is_known = True

    def ready(self, value: Any) -> ObjectRef[Any]:
        """A ref that becomes ``value`` when the group is there, or raises when it is removed."""
        name = f"PlacementGroup({self.group_id.hex()})"
        call = Call(self.session.next_number(), b"", self, name)
        ref: ObjectRef[Any] = refs.new_ref(call.number, None, 1, call)
        call.refs = [ref]
        with self._lock:
            is_decided = self.state in (CREATED, REMOVED)
            if not is_decided:
                self._waiting.append((call, value))
            watches, self._is_watched = not self._is_watched, True
        if is_decided:
            self._complete(call, value)
        elif watches:
            self._link.tell(GroupWatched(self.session.process, self.group_id))
        return ref

    def _complete(self, call: Call, value: Any) -> None:
        if self.state == REMOVED:
            why = f"placement group {self.group_id.hex()} was removed: {self.detail}"
            self._fail(call, TaskPlacementGroupRemoved(why))
            return
        packed = pack(value, what="a placement group")
        packed_value = (packed.head, packed.copied_buffers(), packed.refs)
        call.refs[0]._complete(refs.INLINE, packed_value)

    @property
    def waiting(self) -> list[Call]:
        """The calls of `ready` that are not decided."""
        with self._lock:
            return [call for call, _ in self._waiting]

    # ------------------------------------------------------------------ as the owner of a call

    def cancel(self, call: Call, force: bool, recursive: bool) -> None:
        """Wait no longer; the group stays."""
        with self._lock:
            self._waiting = [entry for entry in self._waiting if entry[0] is not call]
        self._fail(call, TaskCancelledError(task_id=call.refs_task_id()))

    def what_it_waits_for(self) -> str:
        """For timeouts and ``ract.explain``."""
        return f"resources for all its bundles (it is {self.state})"


class Groups:
    """The groups that this process knows of; each for as long as somebody uses it.

    Args:
        session, link, fail: As for `GroupClient`.
    """

    def __init__(
        self, session: Session, link: NodeLink, fail: Callable[[Call, BaseException], None]
    ) -> None:
        self._session = session
        self._link = link
        self._fail = fail
        self._lock = make_lock("pools")
        self._table: weakref.WeakValueDictionary[bytes, GroupClient]
        self._table = weakref.WeakValueDictionary()

    def of(self, group_id: bytes, *, is_new: bool = False) -> GroupClient:
        """This process' end of a placement group; ``is_new`` if it is made here and now."""
        with self._lock:
            client = self._table.get(group_id)
            if client is None:
                client = GroupClient(
                    self._session, self._link, self._fail, group_id, is_watched=is_new
                )
                self._table[group_id] = client
            return client

    def changed(self, message: GroupChanged) -> None:
        """The scheduler says what has become of a group."""
        group = self._table.get(message.group_id)
        if group is not None:
            group.changed(message)

    @property
    def waiting(self) -> list[Call]:
        """Calls that wait for groups."""
        return [call for group in list(self._table.values()) for call in group.waiting]
