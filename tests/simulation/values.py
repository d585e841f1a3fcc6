"""What simulated programs compute: what a call is to do, and the values that it makes."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from simulation.wires import ZEROS

from ract.client.actors.handles import ActorHandle
from ract.client.objects.refs import ObjectRef

SIZES = (150_000, 400_000, 900_000, 3 * 2**19, 2 * 2**20, 4 * 2**20 - 2**14)
"""Of objects in shared memory: some share a segment, some have one of their own."""


class Plan(NamedTuple):
    """What a call does. It travels as plain values, as the first argument."""

    number: int  #: the same in all attempts at the call
    duration_s: float = 0.0
    children: int = 0  #: calls that it makes
    waits: bool = False  #: for all that it can wait for
    result: str = "plain"  #: "inline", "large", "error": the refs that it has are in it
    size: int = 0  #: of a large result
    keeps: bool = False  #: an actor keeps the refs that it gets, until it is told to forget them
    items: int = 0  #: of a generator


class Large:
    """A value of many bytes, without content, and what it contains."""

    def __init__(self, inner: Any, size: int) -> None:
        self.inner = inner
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        return _large, (self.inner, self.size, pickle.PickleBuffer(ZEROS[: self.size]))


def _large(inner: Any, size: int, content: Any) -> Large:
    return Large(inner, size)


class SimError(Exception):
    """An exception of a simulated program; it may have refs in it."""

    def __init__(self, number: int, found: list[Any]) -> None:
        super().__init__(number, found)
        self.number = number
        self.found = found


def value_of(plan: Plan, found: list[Any]) -> Any:
    """What a call returns, with these refs and handles in it. Raises SimError."""
    if plan.result == "error":
        raise SimError(plan.number, found)
    if plan.result == "large":
        return Large([plan.number, found], plan.size)
    return [plan.number, found] if plan.result == "inline" else plan.number


def number_of(value: Any) -> int:
    """The number of the plan that a value is from."""
    if isinstance(value, Large):
        value = value.inner
    return value[0] if isinstance(value, list) else value


def refs_in(value: Any) -> Iterator[Any]:
    """The refs and handles in a value."""
    if isinstance(value, (ObjectRef, ActorHandle)):
        yield value
    elif isinstance(value, Large):
        yield from refs_in(value.inner)
    elif isinstance(value, SimError):
        yield from refs_in(value.found)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from refs_in(each)


def random_plan(rng: random.Random, number: int, *, may_call: bool) -> Plan:
    """What some call does."""
    return Plan(
        number,
        rng.choice((0.0, 0.0, rng.expovariate(1 / 0.03))),
        rng.choice((0, 0, 0, 1, 3)) if may_call else 0,
        rng.random() < 0.5,
        rng.choice(("plain", "inline", "inline", "large", "error")),
        rng.choice(SIZES),
        rng.random() < 0.3,
    )
