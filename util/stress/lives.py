"""Lives of actors: made, passed on, dropped, found by name, killed, restarted while called."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import ract
from ract.core.errors import ActorDiedError, ActorUnavailableError, RactActorError
from ract.util.placement_group import placement_group, remove_placement_group
from ract.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from ract.util.stress.rounds import Act, acts_of
from ract.util.stress.values import Wanted, Wrong, produce

KINDS = ("sync", "threaded", "async")
PLACES = ("here", "there")
_names = itertools.count()


class Body:
    """An actor that can do whatever the acts ask for."""

    def __init__(self, fails: int = 0) -> None:
        if fails:
            raise Wanted(fails)
        self.calls = 0
        self.kept: list[Any] = []

    def echo(self, value: Any) -> Any:
        """Give back what was given."""
        self.calls += 1
        return value

    def slow(self, value: Any) -> Any:
        """As `echo`, after a moment."""
        time.sleep(0.003)
        return value

    def keep(self, *what: Any) -> None:
        """Keep refs and handles."""
        self.kept += what

    def through(self, value: Any) -> Any:
        """Ask the actor that was kept."""
        return ract.get(self.kept[0].echo.remote(value))

    def refs(self, seed: int) -> list[Any]:
        """Refs of tasks that have just begun."""
        return [produce.remote("small", seed + i, 0.01) for i in range(3)]

    def crash(self) -> None:
        """End the process at once."""
        os._exit(1)

    def leave(self) -> None:
        """End it in order."""
        ract.actor.exit_actor()


class AsyncBody:
    """A `Body` of coroutines."""

    def __init__(self, fails: int = 0) -> None:
        if fails:
            raise Wanted(fails)
        self.kept: list[Any] = []

    async def echo(self, value: Any) -> Any:
        """Give back what was given."""
        return value

    async def slow(self, value: Any) -> Any:
        """As `echo`, after a moment."""
        import asyncio

        await asyncio.sleep(0.003)
        return value

    async def keep(self, *what: Any) -> None:
        """Keep refs and handles."""
        self.kept += what

    async def through(self, value: Any) -> Any:
        """Ask the actor that was kept."""
        return await self.kept[0].echo.remote(value)

    async def refs(self, seed: int) -> list[Any]:
        """Refs of tasks that have just begun."""
        return [produce.remote("small", seed + i, 0.01) for i in range(3)]

    async def crash(self) -> None:
        """End the process at once."""
        os._exit(1)

    async def leave(self) -> None:
        """End it in order."""
        ract.actor.exit_actor()


_CLASSES = {
    "sync": ract.remote(num_cpus=0)(Body),
    "threaded": ract.remote(num_cpus=0, max_concurrency=3)(Body),
    "async": ract.remote(num_cpus=0)(AsyncBody),
}


def _class(kind: str, rng: random.Random, **options: Any) -> Any:
    return _CLASSES[kind].options(resources={rng.choice(PLACES): 0.001}, **options)


def _expect(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Wrong(f"{found!r} instead of {wanted!r}")


def _values_or_death(refs: list[Any], wanted: list[Any]) -> int:
    """Check that each call ended with its value or the actor's end; returns how many ended well."""
    fine = 0
    for ref, value in zip(refs, wanted, strict=True):
        try:
            _expect(ract.get(ref), value)
        except (ActorDiedError, ActorUnavailableError):
            continue
        fine += 1
    return fine


# --------------------------------------------------------------------------- the acts

LIVES: list[Act] = []
_act = acts_of(LIVES, KINDS)


@_act("made, called and dropped")
def _dropped(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng).remote()
    refs = [actor.echo.remote(i) for i in range(5)]
    if rng.random() < 0.5:
        del actor  # calls that were made before still run
    yield
    _expect(ract.get(refs), list(range(5)))


@_act("dropped at once")
def _dropped_at_once(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    ref = _class(kind, rng).remote().echo.remote(7)
    yield
    _expect(ract.get(ref), 7)


@_act("passed to a task")
def _to_task(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng).remote()
    ref = _call.remote([actor], 5)
    if rng.random() < 0.5:
        del actor
    yield
    _expect(ract.get(ref), 5)


@_act("passed to an actor, which keeps it")
def _to_actor(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor, other = _class(kind, rng).remote(), _class(kind, rng).remote()
    kept = other.keep.remote(actor)
    if kind != "sync":  # its calls may overtake each other
        ract.get(kept)
    ref = other.through.remote(9)
    del actor, other
    yield
    _expect(ract.get(ref), 9)


@_act("made by a task and given away")
def _from_task(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    given = _give_actor.remote(_class(kind, rng))
    yield
    actor = ract.get(given)[0]
    del given
    _expect(ract.get(actor.echo.remote(4)), 4)


@_act("made by a task, which names it and puts it")
def _from_task_put(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    name = f"put-{next(_names)}-{rng.getrandbits(32)}"
    given = _put_actor.remote(_class(kind, rng, name=name))
    yield
    inside = ract.get(given)
    del given
    (actor,) = ract.get(inside)
    del inside
    _expect(ract.get(actor.echo.remote(4)), 4)


@_act("looked up by name")
def _by_name(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    name = f"name-{next(_names)}-{rng.getrandbits(32)}"
    actor = _class(kind, rng, name=name).remote()
    found = _find.remote(name, 3)
    mine = ract.get_actor(name).echo.remote(2)
    yield
    _expect(ract.get([found, mine]), [3, 2])
    del actor
    # The name is free again, or soon.
    again = _class(kind, rng, name=name, get_if_exists=True).remote()
    _expect(ract.get(again.echo.remote(6)), 6)


@_act("got or made by its name, again and again")
def _got_or_made(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    name = f"again-{next(_names)}-{rng.getrandbits(32)}"
    made = _class(kind, rng, name=name, get_if_exists=True)
    ref = made.remote().echo.remote(1)
    yield
    _expect(ract.get(ref), 1)
    for i in range(2):
        actor = made.remote()
        _expect(ract.get(actor.echo.remote(i)), i)
        del actor


@_act("one for all, got or made by its name")
def _detached(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    made = _CLASSES[kind].options(name=f"all-{kind}", get_if_exists=True, lifetime="detached")
    ref = made.remote().echo.remote(1)
    found = _find.remote(f"all-{kind}", 2) if rng.random() < 0.3 else ref
    yield
    _expect(ract.get(ref), 1)
    _expect(ract.get(found), 2 if found is not ref else 1)


@_act("killed while it is called")
def _killed(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng).remote()
    refs = [actor.slow.remote(i) for i in range(5)]
    if rng.random() < 0.5:
        ract.wait(refs)
    ract.kill(actor)
    refs += [actor.echo.remote(i) for i in range(5, 8)]
    yield
    if _values_or_death(refs[5:], [5, 6, 7]):
        raise Wrong("a call after kill has run")
    _values_or_death(refs[:5], list(range(5)))


@_act("killed, and restarted, while it is called")
def _killed_and_restarted(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng, max_restarts=-1, max_task_retries=-1).remote()
    refs = [actor.slow.remote(i) for i in range(4)]
    if rng.random() < 0.5:
        ract.wait(refs)
    ract.kill(actor, no_restart=False)
    refs += [actor.slow.remote(i) for i in range(4, 8)]
    yield
    _expect(ract.get(refs), list(range(8)))


@_act("restarted while it is called")
def _restarted(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng, max_restarts=1).remote()
    refs = [actor.slow.remote(i) for i in range(3)]
    crash = actor.crash.remote()
    refs += [actor.slow.remote(i) for i in range(3, 6)]
    if rng.random() < 0.3:
        del actor
    yield
    _values_or_death(refs, list(range(6)))
    try:
        ract.get(crash)
    except RactActorError:
        pass


@_act("leaves while it is called")
def _leaves(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng).remote()
    refs = [actor.slow.remote(i) for i in range(3)]
    leaving = actor.leave.remote()
    refs += [actor.slow.remote(i) for i in range(3, 6)]
    yield
    fine = _values_or_death(refs, list(range(6)))
    if kind == "sync" and fine != 3:
        raise Wrong(f"{fine} of 3 calls before the end have run")
    try:
        ract.get(leaving)
    except RactActorError:
        pass


@_act("dropped, and its refs of unfinished tasks live on")
def _owes(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng).remote()
    given = actor.refs.remote(10)
    leaves = rng.random() < 0.5
    if leaves and kind == "sync":
        actor.leave.remote()
    del actor
    yield
    _expect(ract.get(ract.get(given)), [10, 11, 12])


@_act("cannot be made")
def _fails(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng).remote(fails=5)
    refs = [actor.echo.remote(i) for i in range(3)]
    yield
    refs.append(actor.echo.remote(3))
    if _values_or_death(refs, list(range(4))):
        raise Wrong("a call of an actor that could not be made has run")


@_act("calls with refs, before the refs are there")
def _with_refs(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    actor = _class(kind, rng).remote()
    late = produce.remote("small", 3, 0.005)
    refs = [actor.echo.remote(late), actor.echo.remote(4)]
    if rng.random() < 0.3:
        del actor
    del late
    yield
    _expect(ract.get(refs), [3, 4])


@_act("in a placement group that is removed")
def _grouped(cast: Any, kind: str, rng: random.Random) -> Iterator[None]:
    group = placement_group([{rng.choice(PLACES): 0.001}])
    where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    actor = _CLASSES[kind].options(scheduling_strategy=where).remote()
    refs = [actor.echo.remote(i) for i in range(3)]
    if rng.random() < 0.5:
        _expect(ract.get(refs), [0, 1, 2])
    remove_placement_group(group)
    refs.append(actor.echo.remote(3))
    yield
    _values_or_death(refs, [0, 1, 2, 3])


@ract.remote(num_cpus=0)
def _call(actors: list[Any], value: Any) -> Any:
    return ract.get(actors[0].echo.remote(value))


@ract.remote(num_cpus=0)
def _give_actor(made: Any) -> list[Any]:
    return [made.remote()]


@ract.remote(num_cpus=0)
def _put_actor(made: Any) -> Any:
    return ract.put([made.remote()])


@ract.remote(num_cpus=0)
def _find(name: str, value: Any) -> Any:
    return ract.get(ract.get_actor(name).echo.remote(value))
