"""Who is told where actors are, now and whenever that changes.

Callers watch the actors that they call. A process may ask for an actor before the scheduler knows
of it, because the message of its creator takes another way; so it waits for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.core.messages import ActorChanged, ExitCause
from ract.scheduler.actors.actor_states import ALIVE, DEAD, Actor
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Turn


@dataclass(slots=True, eq=False)
class Watching:
    """Which process watches which actor; an actor itself has its watchers (`Actor.watchers`)."""

    turn: Turn
    processes: Processes
    #: Process -> the actors that it watches.
    watched: dict[int, dict[bytes, None]] = field(default_factory=dict)
    #: (actor, process) watched before the actor was known -> until when we wait for it.
    unknown: dict[tuple[bytes, int], float] = field(default_factory=dict)

    def watch(self, process: int, actor_id: bytes, actor: Actor | None) -> None:
        """A process wants to be told; ``actor`` is None if nobody has created it (yet)."""
        if process not in self.processes.alive:
            self.turn.drop("ActorWatched of a dead process")
        elif actor is None:
            at = self.turn.now + self.turn.settings.unknown_timeout_s
            self.unknown[actor_id, process] = at
        else:
            self._add(actor, process)
            self._tell(actor, process)

    def created(self, actor: Actor) -> None:
        """An actor is known now: it is watched by those who asked before."""
        for key in [key for key in self.unknown if key[0] == actor.spec.actor_id]:
            del self.unknown[key]
            self._add(actor, key[1])

    def process_exited(self, number: int, table: dict[bytes, Actor]) -> None:
        """A process watches nothing any more."""
        for key in [key for key in self.unknown if key[1] == number]:
            del self.unknown[key]
        for actor_id in self.watched.pop(number, {}):
            if actor_id in table:
                table[actor_id].watchers.pop(number, None)

    def tell(self, actor: Actor) -> None:
        """Tell all who watch an actor where it is now."""
        for process in actor.watchers:
            self._tell(actor, process)

    def tick(self) -> None:
        """Tell watchers of actors that nobody created in time."""
        for key in [key for key, at in self.unknown.items() if at <= self.turn.now]:
            del self.unknown[key]
            actor_id, process = key
            cause = ExitCause("owner_died", "no such actor is known: it ended long ago")
            self.processes.tell(process, ActorChanged(process, actor_id, DEAD, 0, cause=cause))

    def postpone(self) -> None:
        """Messages were much later than usual: wait anew for whoever creates what is watched."""
        at = self.turn.now + self.turn.settings.unknown_timeout_s
        self.unknown = dict.fromkeys(self.unknown, at)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return min(self.unknown.values(), default=None)

    def _add(self, actor: Actor, process: int) -> None:
        actor.watchers[process] = None
        self.watched.setdefault(process, {})[actor.spec.actor_id] = None

    def _tell(self, actor: Actor, process: int) -> None:
        alive = actor.body if actor.state == ALIVE else None
        message = ActorChanged(
            process=process,
            actor_id=actor.spec.actor_id,
            state=actor.state,
            incarnation=actor.incarnation,
            executor=alive.executor if alive else 0,
            node_id=alive.node.node_id if alive else b"",
            address=alive.address if alive else "",
            pid=alive.pid if alive else 0,
            cause=None if alive else actor.cause,
            error=actor.error,
            class_name=actor.spec.class_name,
            max_task_retries=actor.spec.max_task_retries,
        )
        self.processes.tell(process, message)
