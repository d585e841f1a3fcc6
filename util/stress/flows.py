"""Calls on their way: cancelled, timed out, streamed, waited for, submitted by many at once."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np

import ract
from ract.core.errors import GetTimeoutError, RactError, TaskCancelledError
from ract.util.stress.rounds import Act, acts_of
from ract.util.stress.values import Wanted, Wrong, produce, value

KINDS = ("task", "sync", "threaded", "async")
PLACES = ("here", "there")


class Worker:
    """An actor that never waits for another."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def work(self, i: int, wait_s: float = 0.0) -> int:
        """Give back a number after a moment."""
        time.sleep(wait_s)
        return i

    def take(self, value: Any, i: int) -> int:
        """Give back a number, whatever else was given."""
        return i

    def items(self, seed: int, n: int, wait_s: float = 0.0, fails: bool = False) -> Any:
        """Yield values, and at last an error if asked to."""
        yield from _items(seed, n, wait_s, fails)

    def in_order(self, who: int, i: int) -> bool:
        """Whether the calls of somebody come in order."""
        before = self.seen.get(who, -1)
        self.seen[who] = i
        return i == before + 1

    def several(self, i: int) -> tuple[int, Any, int]:
        """Three returns, one of them large."""
        return i, value("shared", i), i + 2


class AsyncWorker:
    """A `Worker` of coroutines."""

    async def work(self, i: int, wait_s: float = 0.0) -> int:
        """Give back a number after a moment."""
        await asyncio.sleep(wait_s)
        return i

    async def take(self, value: Any, i: int) -> int:
        """Give back a number, whatever else was given."""
        return i

    async def items(self, seed: int, n: int, wait_s: float = 0.0, fails: bool = False) -> Any:
        """Yield values, and at last an error if asked to."""
        for item in _items(seed, n, 0.0, fails):
            await asyncio.sleep(wait_s)
            yield item

    async def several(self, i: int) -> tuple[int, Any, int]:
        """Three returns, one of them large."""
        return i, value("shared", i), i + 2


def _items(seed: int, n: int, wait_s: float, fails: bool) -> Iterator[Any]:
    for i in range(n):
        if wait_s:
            time.sleep(wait_s)
        yield _item(seed, i)
    if fails:
        raise Wanted(seed)


def _item(seed: int, i: int) -> Any:
    """Item ``i``: a small one, a large one, or a ref, in turns."""
    if i % 3 == 0:
        return seed + i
    if i % 3 == 1:
        return value("shared" if seed % 5 == 0 else "inline", seed + i)
    return [ract.put(seed + i)]


def _check_item(found: Any, seed: int, i: int) -> None:
    if i % 3 == 2:
        found = ract.get(found[0])
    if isinstance(found, np.ndarray):
        found = found[-1]
    if found != seed + i:
        raise Wrong(f"item {i} is {found!r}, not {seed + i}")


@ract.remote(max_retries=0)
def _work(i: int, wait_s: float = 0.0) -> int:
    time.sleep(wait_s)
    return i


@ract.remote(max_retries=0)
def _take(value: Any, i: int) -> int:
    return i


@ract.remote(max_retries=0)
def _stream(seed: int, n: int, wait_s: float = 0.0, fails: bool = False) -> Any:
    yield from _items(seed, n, wait_s, fails)


@ract.remote(max_retries=0, num_returns=3)
def _several(i: int) -> Any:
    return i, value("shared", i), i + 2


@ract.remote(max_retries=0)
def _nested(i: int) -> int:
    return ract.get(_work.remote(i))


@ract.remote(max_retries=0)
def _tree(depth: int) -> int:
    if depth == 0:
        return 1
    return sum(ract.get([_tree.remote(depth - 1) for _ in range(2)]))


@ract.remote(max_calls=1, max_retries=0)
def _once(i: int) -> list[Any]:
    return [_work.remote(i, 0.02)]


class FlowCast:
    """Actors of all kinds on both nodes, and tasks, behind the same names."""

    def __init__(self) -> None:
        classes = {
            "sync": ract.remote(num_cpus=0)(Worker),
            "threaded": ract.remote(num_cpus=0, max_concurrency=4)(Worker),
            "async": ract.remote(num_cpus=0)(AsyncWorker),
        }
        self.actors = {
            (kind, place): made.options(resources={place: 0.001}).remote()
            for kind, made in classes.items()
            for place in PLACES
        }

    def call(self, kind: str, name: str, rng: random.Random) -> Any:
        """What has ``.remote``: a task or method, somewhere."""
        place = rng.choice(PLACES)
        if kind != "task":
            return getattr(self.actors[kind, place], name)
        tasks = {"work": _work, "take": _take, "items": _stream, "several": _several}
        return tasks[name].options(resources={place: 0.001})


FLOWS: list[Act] = []
_act = acts_of(FLOWS, KINDS)


def _expect(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Wrong(f"{found!r} instead of {wanted!r}")


def _value_or_cancelled(ref: Any, wanted: Any) -> None:
    try:
        _expect(ract.get(ref), wanted)
    except TaskCancelledError:
        pass
    except RactError as error:  # of what had it as an argument
        if not isinstance(getattr(error, "cause", None), TaskCancelledError):
            raise


# --------------------------------------------------------------------------- cancel


@_act("cancelled before it runs")
def _cancelled_early(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    ref = cast.call(kind, "work", rng).remote(1, 0.002)
    ract.cancel(ref)
    yield
    _value_or_cancelled(ref, 1)


@_act("cancelled while it runs")
def _cancelled_late(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    refs = [cast.call(kind, "work", rng).remote(i, 0.002) for i in range(4)]
    yield
    time.sleep(rng.random() / 100)
    for ref in refs:
        ract.cancel(ref)
    for i, ref in enumerate(refs):
        _value_or_cancelled(ref, i)


@_act("cancelled while it waits for an argument")
def _cancelled_waiting(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    late = produce.remote("small", 3, 0.005)
    ref = cast.call(kind, "take", rng).remote(late, 8)
    yield
    ract.cancel(late if rng.random() < 0.5 else ref)
    _value_or_cancelled(ref, 8)
    _value_or_cancelled(late, 3)


@_act("cancelled after it ran")
def _cancelled_after(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    ref = cast.call(kind, "work", rng).remote(1)
    yield
    ract.wait([ref])
    ract.cancel(ref)
    _expect(ract.get(ref), 1)


@_act("cancelled with what it has submitted", only=["task"])
def _cancelled_children(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    ref = _tree.remote(2)
    yield
    time.sleep(rng.random() / 50)
    ract.cancel(ref)
    _value_or_cancelled(ref, 4)


@_act("cancelled from two threads")
def _cancelled_twice(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    ref = cast.call(kind, "work", rng).remote(1, 0.003)
    other = threading.Thread(target=ract.cancel, args=(ref,))
    other.start()
    yield
    ract.cancel(ref)
    _value_or_cancelled(ref, 1)
    other.join()


# --------------------------------------------------------------------------- get and wait


@_act("get with a timeout")
def _timed_out(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    ref = cast.call(kind, "work", rng).remote(5, 0.003)
    yield
    for timeout in (0, 0.001, 0.003, None):
        try:
            _expect(ract.get(ref, timeout=timeout), 5)
        except GetTimeoutError:
            continue


@_act("get by several threads")
def _read_by_threads(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    refs = [cast.call(kind, "work", rng).remote(i, 0.001) for i in range(3)]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(ract.get(refs))) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    _expect(found, [[0, 1, 2]] * 3)


@_act("wait")
def _waited(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    refs = [cast.call(kind, "work", rng).remote(i, rng.random() / 200) for i in range(5)]
    refs.append(produce.remote("shared", 1))
    yield
    wanted, left = rng.randint(1, 6), list(refs)
    seen = 0
    while left:
        timeout = rng.choice([None, 0, 0.002, 5])
        count = min(wanted, len(left))
        ready, rest = ract.wait(
            left, num_returns=count, timeout=timeout, fetch_local=rng.random() < 0.5
        )
        if len(ready) > count or set(ready) | set(rest) != set(left):
            raise Wrong(f"wait gives {ready} and {rest} of {left}")
        if timeout is None and len(ready) < count:
            raise Wrong(f"wait without a timeout gives {len(ready)} of {count}")
        seen += len(ready)
        left = rest
    _expect(seen, 6)
    _expect(ract.get(refs[:5]), list(range(5)))


@_act("several returns")
def _several_returns(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    seed = rng.getrandbits(30)
    call = cast.call(kind, "several", rng)
    refs = call.remote(seed) if kind == "task" else call.options(num_returns=3).remote(seed)
    ref = refs.pop(rng.randrange(3)) if rng.random() < 0.5 else None
    yield
    for found in ract.get(refs):
        if int(np.max(found)) not in (seed, seed + 2):
            raise Wrong(f"{found!r:.100} instead of {seed}")
    del ref


@_act("an argument that is large, late or both")
def _arguments(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    call = cast.call(kind, "take", rng)
    refs = [
        call.remote(value("shared", 1), 0),
        call.remote(produce.remote("shared", 1, 0.002), 1),
        call.remote([produce.remote("shared", 1, 0.002)], 2),
        call.remote(ract.put(value("shared", 1)), 3),
        call.remote(value("inline", 1), 4),
    ]
    yield
    _expect(ract.get(refs), list(range(5)))


@_act("in order, from several threads", only=["sync"])
def _in_order(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    actor = cast.actors["sync", rng.choice(PLACES)]
    who = rng.getrandbits(50)
    refs: list[Any] = []

    def submit(who: int) -> None:
        refs.extend([actor.in_order.remote(who, i) for i in range(6)])

    threads = [threading.Thread(target=submit, args=(who + i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    _expect(ract.get(refs), [True] * 18)


@_act("nested", only=["task"])
def _tree_of_tasks(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    refs = [_tree.remote(2), _nested.remote(3)]
    yield
    _expect(ract.get(refs), [4, 3])


@_act("its executor ends, and its refs live on", only=["task"])
def _max_calls(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    given = _once.remote(3)
    yield
    _expect(ract.get(ract.get(given)), [3])


# --------------------------------------------------------------------------- code of users


class _Cycle:
    """Only the garbage collector finds it, anywhere; then it does something."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.me = self
        self.do = do

    def __del__(self) -> None:
        self.do()


@ract.remote(max_retries=0)
def _make_garbage(i: int) -> int:
    for _ in range(3):
        _Cycle(lambda: _work.remote(i))
    return i


@_act("finalizers that call", only=["task", "sync"])
def _finalizers(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    call = cast.call(kind, "work", rng)
    made: list[Any] = []

    def make(i: int) -> None:
        _Cycle(lambda: made.append((i, call.remote(i))))

    for i in range(3):
        make(i)
    ref = _make_garbage.remote(7)
    yield
    while len(made) < 3:
        gc.collect()
        time.sleep(0.001)
    for i, each in made:
        _expect(ract.get(each), i)
    _expect(ract.get(ref), 7)


@_act("callbacks that call and read")
def _callbacks(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    call = cast.call(kind, "work", rng)
    seen: Future[int] = Future()

    def go_on(future: Future[int]) -> None:
        seen.set_result(ract.get(call.remote(future.result() + 1)))

    call.remote(1).future().add_done_callback(go_on)
    yield
    _expect(seen.result(), 2)


class _Reads:
    """Unpickling it runs a task."""

    def __getstate__(self) -> dict[str, int]:
        return {"n": 5}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.n = ract.get(_work.remote(state["n"]))


@_act("arguments and values whose unpickling reads")
def _unpickled(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    refs = [cast.call(kind, "take", rng).remote(_Reads(), 6), _give_reads.remote()]
    future = refs[1].future()
    yield
    _expect(ract.get(refs[0]), 6)
    _expect(ract.get(refs[1]).n, 5)
    _expect(future.result().n, 5)


@ract.remote(max_retries=0)
def _give_reads() -> _Reads:
    return _Reads()


# --------------------------------------------------------------------------- generators


@_act("streamed")
def _streamed(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    seed, n = rng.getrandbits(30), rng.randrange(8)
    fails = rng.random() < 0.3
    options: dict[str, Any] = {"num_returns": "streaming"}
    # Other actors would wait for who reads, who may wait for another call of theirs.
    if kind == "task" and rng.random() < 0.3:
        options["_generator_backpressure_num_objects"] = rng.randint(1, 3)
    call = cast.call(kind, "items", rng).options(**options)
    made = call.remote(seed, n, rng.choice([0.0, 0.001]), fails)
    yield
    count = 0
    try:
        for ref in made:
            item = ract.get(ref)
            _check_item(item, seed, count)
            count += 1
    except Wanted:
        if not fails:
            raise
    _expect(count, n)


@_act("streamed, awaited")
def _streamed_async(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    seed, n = rng.getrandbits(30), rng.randrange(8)
    made = cast.call(kind, "items", rng).options(num_returns="streaming").remote(seed, n, 0.001)
    yield

    async def all_items() -> list[Any]:
        return [await ref async for ref in made]

    items = asyncio.run(all_items())
    _expect(len(items), n)
    for i, item in enumerate(items):
        _check_item(item, seed, i)


@_act("streamed, dropped half-read")
def _half_read(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    seed = rng.getrandbits(30)
    made = cast.call(kind, "items", rng).options(num_returns="streaming").remote(seed, 8, 0.001)
    for i in range(rng.randrange(4)):
        _check_item(ract.get(next(made)), seed, i)
    ref = next(made) if rng.random() < 0.5 else None
    if rng.random() < 0.5:
        del made
    yield
    if ref is not None:
        ract.get(ref)


@_act("streamed, read by several threads")
def _streamed_to_threads(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    seed, n = rng.getrandbits(30), 8
    made = cast.call(kind, "items", rng).options(num_returns="streaming").remote(seed, n, 0.001)
    found: list[Any] = []

    def take() -> None:
        for ref in made:
            item = ract.get(ref)
            found.append(ract.get(item[0]) if isinstance(item, list) else int(np.max(item)))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    _expect(sorted(found), [seed + i for i in range(n)])


@_act("streamed, cancelled")
def _stream_cancelled(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    seed = rng.getrandbits(30)
    made = cast.call(kind, "items", rng).options(num_returns="streaming").remote(seed, 8, 0.001)
    yield
    count = 0
    ract.cancel(made)
    try:
        for ref in made:
            _check_item(ract.get(ref), seed, count)
            count += 1
    except TaskCancelledError:
        pass


@_act("streamed, waited for")
def _stream_waited(cast: FlowCast, kind: str, rng: random.Random) -> Iterator[None]:
    seed, n = rng.getrandbits(30), 5
    made = cast.call(kind, "items", rng).options(num_returns="streaming").remote(seed, n, 0.001)
    yield
    count = 0
    while True:
        ready, _ = ract.wait([made], timeout=rng.choice([0.001, None]))
        if not ready:
            continue
        try:
            _check_item(ract.get(next(made)), seed, count)
        except StopIteration:
            break
        count += 1
    _expect(count, n)
