"""The actors that this process knows.

Theory of operation
-------------------
A client (`ActorClient`) is kept here while its actor lives. When the actor is dead, or this process
has given back its holds and hears nothing of the actor, only handles keep the client: so it is
found as long as somebody has one. A handle that comes later makes a new client, which the scheduler
tells the same.

Only clients with something to do are ticked (`attend`). A finalizer of a handle only appends to a
queue; the reactor sees to it, or whoever asks the scheduler for an actor by name
(`say_farewells`), so that the scheduler hears of the drop first.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

from ract.client.actors.client import ActorClient
from ract.client.calls.surroundings import Surroundings
from ract.client.process.locks import make_lock

if TYPE_CHECKING:
    from ract.client.actors.handles import ActorHandle
    from ract.client.calls.call import Call
    from ract.core.messages import ActorChanged


class Actors:
    """The clients of one process, by actor.

    Args:
        runtime: The parts of this process.
    """

    def __init__(self, runtime: Surroundings) -> None:
        self._runtime = runtime
        self._lock = make_lock("actors")
        self._kept: dict[bytes, ActorClient] = {}
        self._known: weakref.WeakValueDictionary[bytes, ActorClient]
        self._known = weakref.WeakValueDictionary()  # those included that are kept
        self._busy: dict[bytes, ActorClient] = {}  # that want to be ticked
        #: Clients, and their weak references to strong handles that are gone.
        self._dropped: deque[tuple[ActorClient, weakref.ref[ActorHandle]]] = deque()

    def of(self, actor_id: bytes) -> ActorClient:
        """This process' end of an actor; made when it is new."""
        with self._lock:  # two threads that meet an actor get one client
            client = self._known.get(actor_id)
            if client is None:
                client = ActorClient(self._runtime, self, actor_id)
                self._known[actor_id] = self._kept[actor_id] = client
            return client

    def keep(self, client: ActorClient) -> None:
        """The cluster will say what becomes of the actor."""
        self._kept[client.actor_id] = client

    def forget(self, client: ActorClient) -> None:
        """Nothing will change for the client any more: it is kept by its handles alone."""
        self._kept.pop(client.actor_id, None)

    @property
    def all(self) -> list[ActorClient]:
        """Those that are kept."""
        return list(self._kept.values())

    @property
    def waiting(self) -> list[Call]:
        """Calls that no executor has."""
        return [call for client in self.all for call in client.waiting]

    def changed(self, message: ActorChanged) -> None:
        """The scheduler says what has become of an actor."""
        client = self._known.get(message.actor_id)
        if client is not None:
            client.changed(message)

    def lost_cluster(self, error: BaseException) -> None:
        """This process has lost its node."""
        for client in list(self._known.values()):
            client.lost_cluster(error)

    # ------------------------------------------------------------------ upkeep

    def attend(self, client: ActorClient) -> None:
        """Have a client ticked, until it has nothing to do."""
        self._busy[client.actor_id] = client
        self._runtime.reactor.wake()

    def drop_handle(self, client: ActorClient, gone: weakref.ref[ActorHandle]) -> None:
        """A strong handle is gone. This is called by what frees it: it only appends."""
        if not self._runtime.closed:
            self._dropped.append((client, gone))
            self._runtime.reactor.wake()

    def settle(self) -> None:
        """See to the handles that are gone."""
        while True:
            try:
                client, gone = self._dropped.popleft()  # more than one thread may be at it
            except IndexError:
                return
            client.handle_dropped(gone)

    def say_farewells(self) -> None:
        """Have the scheduler know of all handles that are gone, before it is asked for a name."""
        self.settle()
        for client in list(self._busy.values()):
            client.settle()

    def tick(self) -> bool:
        """Called by the reactor; returns whether more ticks are needed."""
        self.settle()
        for actor_id, client in list(self._busy.items()):
            del self._busy[actor_id]  # first: it may be attended to again at this moment
            if client.tick():
                self._busy[actor_id] = client
        return bool(self._busy)
