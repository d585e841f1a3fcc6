"""`ActorGroup`: several actors of a class that are called together. Deprecated, as in Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ract
from ract.util.annotations import Deprecated


@dataclass
class ActorWrapper:
    """A member of a group.

    Attributes:
        actor: Its handle.
        metadata: Kept for compatibility, None.
    """

    actor: Any
    metadata: Any = None


class ActorGroupMethod:
    """A method of all members of a group."""

    def __init__(self, group: Any, name: str) -> None:
        self._group = group
        self._name = name

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"Methods of an ActorGroup cannot be called directly. Instead of running "
            f"'group.{self._name}()', try 'group.{self._name}.remote()'."
        )

    def remote(self, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the method on every member; returns one ref for each, in their order."""
        return [getattr(actor, self._name).remote(*args, **kwargs) for actor in self._group.actors]


@Deprecated(message="Keep a list of actor handles, or use ract.util.ActorPool.", warning=True)
class ActorGroup:
    """Several actors of one class: ``group.method.remote()`` calls all of them.

    ``group[i]`` and iteration give `ActorWrapper`; ``len(group)`` is the number of members.

    Args:
        actor_cls: An ordinary class.
        num_actors: How many, at least 1.
        num_cpus_per_actor, num_gpus_per_actor: What each holds.
        resources_per_actor: Amounts of other resources.
        init_args, init_kwargs: For the constructor.

    Raises:
        ValueError: no actors, or a negative amount.
        TypeError: not a class, or arguments that are no sequence.
    """

    def __init__(
        self,
        actor_cls: type,
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: dict[str, float] | None = None,
        init_args: Sequence[Any] | None = None,
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if num_actors < 1:
            raise ValueError(f"num_actors must be positive, got {num_actors}")
        if num_cpus_per_actor < 0 or num_gpus_per_actor < 0:
            raise ValueError(
                "num_cpus_per_actor and num_gpus_per_actor must not be negative, got "
                f"{num_cpus_per_actor} and {num_gpus_per_actor}"
            )
        self._count = num_actors
        self._args = tuple(init_args or ())
        self._kwargs = dict(init_kwargs or {})
        self._class = ract.remote(
            num_cpus=num_cpus_per_actor,
            num_gpus=num_gpus_per_actor,
            resources=resources_per_actor,
        )(actor_cls)
        self._members: list[ActorWrapper] = []
        self.start()

    def __getattr__(self, name: str) -> ActorGroupMethod:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if not self._members:
            raise RuntimeError("this ActorGroup was shut down; start() starts it again")
        if name not in dir(self._members[0].actor):
            raise AttributeError(f"the actors of this group have no method {name!r}")
        return ActorGroupMethod(self, name)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> ActorWrapper:
        return self._members[index]

    def __iter__(self) -> Iterator[ActorWrapper]:
        return iter(self._members)

    @property
    def actors(self) -> list[Any]:
        """The handles."""
        return [member.actor for member in self._members]

    @property
    def actor_metadata(self) -> list[Any]:
        """The ``metadata`` of all members."""
        return [member.metadata for member in self._members]

    def start(self) -> None:
        """Create the actors again after `shutdown`. Raises RuntimeError if there are any."""
        if self._members:
            raise RuntimeError("the actors were started already; call shutdown() before")
        self.add_actors(self._count)

    def add_actors(self, num_actors: int) -> None:
        """Create more actors."""
        self._members += [
            ActorWrapper(self._class.remote(*self._args, **self._kwargs)) for _ in range(num_actors)
        ]

    def remove_actors(self, actor_indexes: Iterable[int]) -> None:
        """Drop some; each ends when its calls are done, unless others have its handle.

        Raises:
            IndexError: there is no such actor; then none is dropped.
        """
        dropped = {range(len(self._members))[index] for index in actor_indexes}
        self._members = [m for i, m in enumerate(self._members) if i not in dropped]

    def shutdown(self, patience_s: float = 5) -> None:
        """End all actors.

        Args:
            patience_s: Seconds that calls have to finish; those that go on then are killed. With 0
                all are killed at once.
        """
        actors = self.actors
        self._members = []
        if patience_s > 0 and actors:
            ended = {actor.__ray_terminate__.remote(): actor for actor in actors}
            done, _ = ract.wait(list(ended), num_returns=len(ended), timeout=patience_s)
            actors = [actor for ref, actor in ended.items() if ref not in done]
        for actor in actors:
            ract.kill(actor)
