"""What travels: each kind of value is made from a seed, and checked by it."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import numpy as np

import ract

INLINE_WORDS = 640  #: 5 KB: travels in messages
SHARED_WORDS = 131_072  #: 1 MiB: lies in shared memory

VALUES = ("small", "none", "inline", "shared", "error", "refs")

Reading = Generator[Any, Any, Any]
"""Code that yields each ref that it waits for and is sent the value, or is thrown the error.

So the same code reads in a thread (`read`) and in a coroutine (`aread`).
"""


class Wrong(Exception):
    """A value is not what it must be."""


class Wanted(ValueError):
    """The error that tasks raise on purpose: the value of the kind "error"."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seed = seed


def value(kind: str, seed: int) -> Any:
    """Make the value of a kind; of the kind "refs" with a value that was put and one of a task.

    Raises:
        Wanted: the kind is "error".
    """
    if kind == "small":
        return seed
    if kind == "none":
        return None
    if kind == "inline":
        return np.full(INLINE_WORDS, seed)
    if kind == "shared":
        return np.full(SHARED_WORDS, seed)
    if kind == "error":
        raise Wanted(seed)
    assert kind == "refs"
    return [ract.put(value("inline", seed)), produce.remote("small", seed)]


def checking(kind: str, seed: int, ref: Any) -> Reading:
    """Read a ref, and what is inside of its value. Raises `Wrong`."""
    try:
        found = yield ref
    except Wanted as error:
        is_right = kind == "error" and error.seed == seed
        found = error
    else:
        is_right = kind != "error" and _is_right(kind, seed, found)
    if not is_right:
        raise Wrong(f"the value of {ref!r} is {found!r:.200}, not that of {kind} {seed}")
    if kind == "refs":
        yield from checking("inline", seed, found[0])
        yield from checking("small", seed, found[1])


def _is_right(kind: str, seed: int, found: Any) -> bool:
    if kind == "small":
        return found == seed and type(found) is int
    if kind == "none":
        return found is None
    if kind == "refs":
        return isinstance(found, list) and len(found) == 2
    words = INLINE_WORDS if kind == "inline" else SHARED_WORDS
    return found.shape == (words,) and found[0] == found[-1] == seed


def read(reading: Reading, fetch: Any = ract.get) -> Any:
    """Run code that reads, in this thread."""
    try:
        wanted = next(reading)
        while True:
            try:
                found = fetch(wanted)
            except Exception as error:
                wanted = reading.throw(error)
            else:
                wanted = reading.send(found)
    except StopIteration as end:
        return end.value


async def aread(reading: Reading) -> Any:
    """Run code that reads, in this coroutine."""
    try:
        wanted = next(reading)
        while True:
            try:
                found = await wanted
            except Exception as error:
                wanted = reading.throw(error)
            else:
                wanted = reading.send(found)
    except StopIteration as end:
        return end.value


def make(kind: str, seed: int, wait_s: float = 0.0) -> Any:
    """What calls that make a value do: wait a little, and make it."""
    if wait_s:
        time.sleep(wait_s)
    return value(kind, seed)


produce = ract.remote(max_retries=0)(make)
