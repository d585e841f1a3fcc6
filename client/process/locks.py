"""The locks of a client process, and the order in which a thread takes them.

A thread that holds a lock takes only locks that stand later in `ORDER`, and never two different
locks of one rank. So no two threads can wait for each other.

With ``RACT_CHECK_LOCK_ORDER=1``, which the tests set, each lock asserts this. Else a lock is a
plain ``threading.RLock``, and the order costs nothing.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

ORDER = (
    "pools",  # the table of pools: which pool serves a shape
    "owner",  # one lease pool, the line of one actor, or one placement group
    "channels",  # which channel leads to an executor
    "table",  # refs by id, and what happens to them (`ract.client.objects.held`)
    "channel",  # the connection to one executor, and who writes to it
    "link",  # the connection to the node, and the holds that were not told yet
    "stream",  # the items of one generator: nothing is taken under it
    "actors",  # which client has which actor: held for a look, nothing else is taken under it
)
"""Ranks, in the order in which a thread may take them."""

_held = threading.local()
#: All locks that live. Adding, removing and copying are single steps in C, so it needs no lock.
_made: set[weakref.ref[Any]] = set()
#: The threads of ract itself.
_threads: set[int] = set()


def make_lock(rank: str) -> Any:
    """A reentrant lock of a rank in `ORDER`."""
    assert rank in ORDER
    checks = os.environ.get("RACT_CHECK_LOCK_ORDER") == "1"
    lock: Any = RankedLock(rank) if checks else threading.RLock()
    _made.add(weakref.ref(lock, _made.discard))
    return lock


def this_thread_serves() -> None:
    """The calling thread is one of ract's own: others wait for what it does, so it never waits."""
    _threads.add(threading.get_ident())


def this_thread_ends() -> None:
    """The calling thread, which served, ends."""
    _threads.discard(threading.get_ident())


def serves() -> bool:
    """Whether the calling thread is one of ract's own."""
    return threading.get_ident() in _threads


def holds_any() -> bool:
    """Whether the calling thread holds a lock that was made here; some 50 ns a lock."""
    made = [known() for known in tuple(_made)]
    return any(lock is not None and lock._is_owned() for lock in made)


class RankedLock:
    """A reentrant lock that asserts the order of `ORDER` each time that it is taken.

    Args:
        rank: One of `ORDER`.
    """

    def __init__(self, rank: str) -> None:
        self.rank = rank
        self._number = ORDER.index(rank)
        self._lock = threading.RLock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As `threading.RLock.acquire`.

        Raises:
            AssertionError: the thread holds a lock that comes later, or another of this rank.
        """
        held = self._of_this_thread()
        if self not in held:
            wrong = [lock.rank for lock in held if lock._number >= self._number]
            assert not wrong, f"a thread that holds {wrong} takes {self.rank}: the order is {ORDER}"
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            held.append(self)
        return taken

    def release(self) -> None:
        """As `threading.RLock.release`."""
        held = self._of_this_thread()
        for i in range(len(held) - 1, -1, -1):
            if held[i] is self:
                del held[i]
                break
        self._lock.release()

    def __enter__(self) -> RankedLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # What `threading.Condition` asks of a lock.

    def _is_owned(self) -> bool:
        return self in self._of_this_thread()

    def _release_save(self) -> int:
        depth = self._of_this_thread().count(self)
        for _ in range(depth):
            self.release()
        return depth

    def _acquire_restore(self, depth: int) -> None:
        for _ in range(depth):
            self.acquire()

    @staticmethod
    def _of_this_thread() -> list[RankedLock]:
        if not hasattr(_held, "locks"):
            _held.locks = []
        held: list[RankedLock] = _held.locks
        return held
