"""Every way a ref travels: who makes it, how it leaves, what it stands for, who reads it and when.

A travel begins in its *maker*, which makes a ref (`_made`) and lets it go in some way
(`departing`). What comes of this is a *parcel*: the answer of the maker's call, or the thing itself
if the driver is the maker. The *reader* takes the ref out of the parcel and checks the value
(`arriving`).

Nothing here can wait in a circle: readers wait for makers, keepers and producers, makers for
producers, and those for nobody.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ract
from ract.util.stress import values
from ract.util.stress.values import VALUES, Reading, Wanted, aread, checking, read

MAKERS = ("driver", "task", "sync actor", "threaded actor", "async actor")
LEAVES = (
    "returned",
    "nested",
    "put",
    "kept",
    "argument",
    "item",
    "closure",
    "function",
    "exception",
)
READERS = ("driver", "task", "sync actor", "threaded actor", "async actor")
TIMES = ("before", "while", "after")
PLACES = ("here", "there")
WAIT_S = 0.004  #: so long a value takes that is read before it is there


@dataclass(frozen=True)
class Travel:
    """One cell of the matrix."""

    maker: str
    leaves: str
    value: str
    reader: str
    place: str  #: whether the reader is on the driver's node ("here") or on another
    time: str  #: whether the value is read before it is there, as it comes, or after

    def __str__(self) -> str:
        return (
            f"{self.value} made by {self.maker}, {self.leaves}, "
            f"read by {self.reader} {self.place} {self.time}"
        )

    def play(self, cast: Cast, rng: random.Random) -> Iterator[None]:
        """One round: see `ract.util.stress.rounds.Cell`."""
        return _play(self, cast, rng)


TRAVELS = [
    Travel(*each)
    for each in itertools.product(MAKERS, LEAVES, VALUES, READERS, PLACES, TIMES)
    if (each[3], each[4]) != ("driver", "there")
]


# --------------------------------------------------------------------------- the cast


class Carrier(Exception):
    """An error that has a ref."""

    def __init__(self, ref: Any) -> None:
        super().__init__(ref)
        self.ref = ref


class Party:
    """An actor of any part: it makes values and refs, keeps refs, passes them on and reads them."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    def produce(self, kind: str, seed: int, wait_s: float = 0.0) -> Any:
        """Make a value."""
        return values.make(kind, seed, wait_s)

    def depart(self, travel: Travel, seed: int, tools: Tools) -> Any:
        """Make a ref and let it go."""
        return read(departing(travel, seed, tools, self.kept))

    def items(self, travel: Travel, seed: int, tools: Tools) -> Any:
        """Make a ref and yield it."""
        yield read(departing(travel, seed, tools, self.kept))

    def read(self, travel: Travel, seed: int, parcel: Any) -> int:
        """Read and check."""
        return read(arriving(travel, seed, parcel), fetch_by(seed))

    def keep(self, seed: int, refs: list[Any]) -> None:
        """Keep refs until `give`."""
        self.kept[seed] = refs

    def give(self, seed: int) -> Any:
        """Give away what was kept."""
        return self.kept.pop(seed)

    def same(self, refs: list[Any]) -> list[Any]:
        """Pass refs on."""
        return refs


class AsyncParty:
    """A `Party` of coroutines."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    async def depart(self, travel: Travel, seed: int, tools: Tools) -> Any:
        """Make a ref and let it go."""
        return await aread(departing(travel, seed, tools, self.kept))

    async def items(self, travel: Travel, seed: int, tools: Tools) -> Any:
        """Make a ref and yield it."""
        yield await aread(departing(travel, seed, tools, self.kept))

    async def read(self, travel: Travel, seed: int, parcel: Any) -> int:
        """Read and check."""
        return await aread(arriving(travel, seed, parcel))

    async def give(self, seed: int) -> Any:
        """Give away what was kept."""
        return self.kept.pop(seed)


@dataclass
class Tools:
    """The actors that a maker needs."""

    producer: Any = None
    keeper: Any = None
    passer: Any = None


class Cast:
    """The actors and tasks of one cluster with two nodes, whose resources are named `PLACES`."""

    def __init__(self) -> None:
        sync = ract.remote(num_cpus=0)(Party)
        many = ract.remote(num_cpus=0, max_concurrency=4)(Party)
        coroutines = ract.remote(num_cpus=0)(AsyncParty)
        kinds = {"sync actor": sync, "threaded actor": many, "async actor": coroutines}

        def at(place: str) -> dict[str, float]:
            return {place: 0.001}

        def actors(what: dict[str, Any]) -> dict[tuple[str, str], Any]:
            return {
                (kind, place): made.options(resources=at(place)).remote()
                for kind, made in what.items()
                for place in PLACES
            }

        self.makers = actors(kinds)
        self.readers = actors(kinds)
        self.helpers = actors({"producer": sync, "keeper": sync, "passer": sync})
        self.depart = {p: _depart.options(resources=at(p)) for p in PLACES}
        self.items = {p: _items.options(resources=at(p)) for p in PLACES}
        self.read = {p: _read.options(resources=at(p)) for p in PLACES}

    def tools(self, travel: Travel, rng: random.Random) -> Tools:
        """What the maker needs for a travel, on any of the nodes."""
        tools = Tools()
        if rng.random() < 0.3:
            tools.producer = self.helpers["producer", rng.choice(PLACES)]
        if travel.leaves == "kept":
            tools.keeper = self.helpers["keeper", rng.choice(PLACES)]
        if travel.leaves == "argument":
            tools.passer = self.helpers["passer", rng.choice(PLACES)]
        return tools


@ract.remote(max_retries=0)
def _depart(travel: Travel, seed: int, tools: Tools) -> Any:
    return read(departing(travel, seed, tools, None))


@ract.remote(max_retries=0)
def _items(travel: Travel, seed: int, tools: Tools) -> Any:
    yield read(departing(travel, seed, tools, None))


@ract.remote(max_retries=0)
def _read(travel: Travel, seed: int, parcel: Any) -> int:
    return read(arriving(travel, seed, parcel), fetch_by(seed))


# --------------------------------------------------------------------------- a round


def _play(travel: Travel, cast: Cast, rng: random.Random) -> Iterator[None]:
    seed = rng.getrandbits(40)
    tools = cast.tools(travel, rng)
    parcel = _parcel(travel, seed, tools, cast, rng.choice(PLACES))
    if travel.time == "after" and isinstance(parcel[0], ract.ObjectRef):
        ract.wait([parcel[0]])
    if travel.reader == "driver":
        yield
        read(arriving(travel, seed, parcel), rng.choice(WAYS))
        return
    if travel.reader == "task":
        call = cast.read[travel.place]
    else:
        call = cast.readers[travel.reader, travel.place].read
    done = call.remote(travel, seed, parcel)
    del parcel, tools
    yield
    found = ract.get(done)
    if found != seed:
        raise values.Wrong(f"the reader's answer is {found!r}, not {seed}")


def _parcel(travel: Travel, seed: int, tools: Tools, cast: Cast, place: str) -> list[Any]:
    """What the reader is given: what the maker's call returns, and who keeps the ref."""
    if travel.maker == "driver":
        try:
            carried = read(departing(travel, seed, tools, None))
        except Carrier as error:
            carried = error
        if travel.leaves == "item":
            carried = next(_item_of.remote([carried]))
        return [carried, tools.keeper]
    if travel.maker == "task":
        call = cast.items[place] if travel.leaves == "item" else cast.depart[place]
        keeper = tools.keeper
    else:
        keeper = cast.makers[travel.maker, place]
        call = keeper.items if travel.leaves == "item" else keeper.depart
    made = call.remote(travel, seed, tools)
    return [next(made) if travel.leaves == "item" else made, keeper]


@ract.remote(max_retries=0)
def _item_of(carried: list[Any]) -> Any:
    yield carried[0]


def _made(travel: Travel, seed: int, tools: Tools) -> Any:
    """Make a ref: of a put value if it has to be there at once, else of a call."""
    if travel.time == "after" and travel.value != "error" and seed % 2:
        return ract.put(values.value(travel.value, seed))
    wait_s = WAIT_S if travel.time == "before" else 0.0
    call = values.produce if tools.producer is None else tools.producer.produce
    return call.remote(travel.value, seed, wait_s)


def departing(travel: Travel, seed: int, tools: Tools, kept: dict[int, Any] | None) -> Reading:
    """In the maker: make a ref and let it go.

    Args:
        kept: What the maker keeps, if it is an actor.

    Returns:
        What the reader is given.

    Raises:
        Carrier: that is how it leaves.
    """
    ref = _made(travel, seed, tools)
    if travel.time == "after":
        try:
            yield ref
        except Wanted:
            pass
    leaves = travel.leaves
    if leaves == "nested":
        return {"deep": [(seed, ref)], "again": ref}
    if leaves == "put":
        return ract.put([ref])
    if leaves == "kept":
        if kept is not None:
            kept[seed] = [ref]
            return None
        yield tools.keeper.keep.remote(seed, [ref])
        return None
    if leaves == "argument":
        return tools.passer.same.remote([ref])
    if leaves == "closure":
        return lambda: ref
    if leaves == "function":
        return ract.remote(num_cpus=0)(lambda: [ref])
    if leaves == "exception":
        raise Carrier(ref)
    return ref  # returned, or an item


def arriving(travel: Travel, seed: int, parcel: list[Any]) -> Reading:
    """In the reader: take the ref out, read and check the value. Returns the seed."""
    carried, keeper = parcel
    parcel.clear()
    if travel.maker != "driver" or travel.leaves == "item":
        try:
            carried = yield carried
        except Carrier as error:
            carried = error
    leaves = travel.leaves
    if leaves == "nested":
        ((_, ref),) = carried["deep"]
        if carried["again"] is not ref:
            raise values.Wrong("a ref came twice as two different ones")
    elif leaves in ("put", "argument"):
        (ref,) = yield carried
    elif leaves == "kept":
        (ref,) = yield keeper.give.remote(seed)
    elif leaves == "closure":
        ref = carried()
    elif leaves == "function":
        (ref,) = yield carried.remote()
    elif leaves == "exception":
        ref = carried.ref
    else:
        ref = carried
    del carried, keeper
    yield from checking(travel.value, seed, ref)
    return seed


# --------------------------------------------------------------------------- ways to read


def _get_of_several(ref: Any) -> Any:
    return ract.get([ref, ref])[1]


def _get_with_timeout(ref: Any) -> Any:
    return ract.get(ref, timeout=3600)


def _wait_first(ref: Any) -> Any:
    ract.wait([ref])
    return ract.get(ref)


def _wait_for_nothing(ref: Any) -> Any:
    ract.wait([ref], timeout=0, fetch_local=False)
    return ract.get([ref])[0]


def _future(ref: Any) -> Any:
    return ref.future().result()


def _coroutine(ref: Any) -> Any:
    async def wait() -> Any:
        return await ref

    return asyncio.run(wait())


WAYS: tuple[Callable[[Any], Any], ...] = (
    ract.get,
    ract.get,
    _get_of_several,
    _get_with_timeout,
    _wait_first,
    _wait_for_nothing,
    _future,
    _coroutine,
)


def fetch_by(seed: int) -> Callable[[Any], Any]:
    """One of the ways to read, by the seed."""
    return WAYS[seed % len(WAYS)]
