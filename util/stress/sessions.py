"""A driver that joins a cluster and leaves it at any moment, while its threads use the cluster.

Each round joins, starts threads that do one thing again and again, leaves in some way, and looks
that all threads come to an end, each with an error that says what happened. One round at a time: a
process is in one cluster at most.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ract
from ract.core.errors import RactError
from ract.util.stress.values import Wrong, produce, value

THREADS = 3
LIVES_MAX_S = 0.1
"""So long at most a session lasts after its threads have begun."""

_names = itertools.count()


@dataclass(frozen=True)
class Session:
    """One cell: what the threads do, and how the process leaves."""

    use: str
    leave: str

    def __str__(self) -> str:
        return f"{self.use}, left {self.leave}"

    def play(self, cast: None, rng: random.Random) -> Iterator[None]:
        """One round: see `ract.util.stress.rounds.Cell`."""
        use, leave = USES[self.use], LEAVES[self.leave]
        errors: list[BaseException] = []
        if rng.random() < 0.7:
            ract.init()  # to $RACT_ADDRESS; else a thread does so by using it
        threads = [
            threading.Thread(target=_again_and_again, args=(use, errors), daemon=True)
            for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(rng.random() * LIVES_MAX_S)
        leave()
        yield
        # Who comes too late for this session may have begun another one by using it.
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                ract.shutdown()
        ract.shutdown()
        for error in errors:
            if not _says_what_happened(error):
                raise Wrong(f"a thread got {error!r} when the process left") from error


def _again_and_again(use: Callable[[], None], errors: list[BaseException]) -> None:
    """Use the cluster until that fails, but not much longer than it is there."""
    until = time.monotonic() + 2 * LIVES_MAX_S
    try:
        while time.monotonic() < until:
            use()
    except BaseException as error:
        errors.append(error)


_TEXTS = ("ract.shutdown()", "has left", "not initialized", "is gone", "left the cluster")


def _says_what_happened(error: BaseException) -> bool:
    is_typed = isinstance(error, (RuntimeError, ValueError, RactError))
    return is_typed and any(text in str(error) for text in _TEXTS)


# --------------------------------------------------------------------------- what threads do


class _Body:
    def echo(self, given: Any) -> Any:
        return given

    def items(self) -> Any:
        yield from range(5)


_Actor = ract.remote(num_cpus=0)(_Body)


@ract.remote(num_cpus=0)
def _echo(given: Any) -> Any:
    return given


@ract.remote(num_cpus=0)
def _items() -> Any:
    yield from range(5)


def _put() -> None:
    for kind in ("small", "inline", "shared"):
        ract.get(ract.put(value(kind, 1)))


def _task() -> None:
    if ract.get(_echo.remote(5)) != 5:
        raise Wrong("another value")


def _tasks() -> None:
    refs = [produce.remote("small", i) for i in range(20)]
    if ract.get(refs) != list(range(20)):
        raise Wrong("other values")


def _large() -> None:
    ract.get(_echo.remote(ract.put(value("shared", 1))))


def _actor() -> None:
    actor = _Actor.remote()
    if ract.get([actor.echo.remote(i) for i in range(3)]) != [0, 1, 2]:
        raise Wrong("other values")


def _named() -> None:
    name = f"session-{next(_names)}-{os.getpid()}"
    job = ract.get_runtime_context().get_job_id()
    actor = _Actor.options(name=name, get_if_exists=True).remote()
    try:
        found = ract.get_actor(name)
    except ValueError:
        if ract.get_runtime_context().get_job_id() == job:
            raise
        return  # another thread has begun another session: there is no such name in it
    ract.get(found.echo.remote(1))
    ract.kill(actor)


def _forget() -> None:
    for _ in range(10):
        _echo.remote(ract.put(value("inline", 1)))


def _streamed() -> None:
    if [ract.get(ref) for ref in _items.remote()] != list(range(5)):
        raise Wrong("other items")


def _waited() -> None:
    refs = [_echo.remote(i) for i in range(4)]
    ract.wait(refs, num_returns=3, timeout=5)
    ract.cancel(refs[0])


def _future() -> None:
    if _echo.remote(3).future().result() != 3:
        raise Wrong("another value")


def _coroutine() -> None:
    async def run() -> None:
        refs = [_echo.remote(i) for i in range(3)]
        if [await ref for ref in refs] != [0, 1, 2]:
            raise Wrong("other values")

    asyncio.run(run())


def _asked() -> None:
    ref = _echo.remote(1)
    ract.explain(ref)
    ract.nodes()
    ract.available_resources()


USES: dict[str, Callable[[], None]] = {
    "put": _put,
    "a task": _task,
    "many tasks": _tasks,
    "large values": _large,
    "an actor": _actor,
    "an actor by name": _named,
    "tasks that nobody reads": _forget,
    "a generator": _streamed,
    "wait and cancel": _waited,
    "futures": _future,
    "coroutines": _coroutine,
    "questions": _asked,
}


# --------------------------------------------------------------------------- how it leaves


def _by_two_threads() -> None:
    threads = [threading.Thread(target=ract.shutdown) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _by_callback() -> None:
    left = threading.Event()

    def leave(future: Any) -> None:
        ract.shutdown()
        left.set()

    try:
        _echo.remote(1).future().add_done_callback(leave)
    except (RuntimeError, ValueError):  # not joined, or another thread's session ended
        return
    left.wait()


class _Leaver:
    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        ract.shutdown()


def _by_finalizer() -> None:
    _Leaver()
    gc.collect()


def _by_coroutine() -> None:
    async def leave() -> None:
        ract.shutdown()

    asyncio.run(leave())


def _and_again() -> None:
    for _ in range(3):
        ract.shutdown()
        try:
            ract.init()
        except RuntimeError:  # a thread has done so by using it
            continue


LEAVES: dict[str, Callable[[], None]] = {
    "by this thread": ract.shutdown,
    "by two threads": _by_two_threads,
    "by a callback": _by_callback,
    "by a finalizer": _by_finalizer,
    "by a coroutine": _by_coroutine,
    "and joined again": _and_again,
}

SESSIONS = [Session(use, leave) for use in USES for leave in LEAVES]
