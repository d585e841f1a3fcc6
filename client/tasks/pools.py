"""Which pool serves which shape, in one process.

Theory of operation
-------------------
There is one `TaskPool` per shape, found by a key that is equal for equal shapes, and one more per
node on which large arguments of that shape lie. A program may make ever new shapes (one for each
placement group): with `POOLS_MAX` of them, pools without work are dropped.

Somebody may still hold a pool that is dropped, and give it a call. So the drop is noted in the
pool, under the pool's own lock, and a pool that gets work takes itself back first (`take_back`).
The lock of the table is taken before that of any pool: nobody asks the table for anything while he
holds a pool's lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.client.calls.surroundings import Surroundings
from ract.client.process import current, finalizers
from ract.client.process.locks import make_lock
from ract.client.tasks.pool import TaskPool
from ract.core.messages import LeaseReleased

if TYPE_CHECKING:
    from ract.client.calls.call import Call
    from ract.core.messages import LeaseGranted, LeaseLost, LeaseRefused, Shape

POOLS_MAX = 256
"""With so many shapes, those of which nothing waits or runs are forgotten."""


class Pools:
    """The pools of one process.

    Args:
        runtime: The parts of this process.
    """

    def __init__(self, runtime: Surroundings) -> None:
        self._runtime = runtime
        self._lock = make_lock("pools")
        self._table: dict[Any, TaskPool] = {}
        #: The pools in the table, by the key that messages have.
        self._by_number: dict[int, TaskPool] = {}
        self._numbers = itertools.count(1)

    def find(self, key: Any, make_shape: Callable[[], Shape]) -> TaskPool:
        """The pool for a shape; ``key`` is hashable and equal for equal shapes."""
        pool = self._table.get(key)
        if pool is None:
            shape = make_shape()
            self.release_idle_leases()  # other shapes' may be in the way of this one
            pool = self._find_or_add(key, shape, b"")
        return pool

    def near(self, pool: TaskPool, node_id: bytes) -> TaskPool:
        """The pool for tasks of the same shape whose arguments lie on another node."""
        here = self._runtime.node_id
        if node_id in (here, b"") or (pool.is_near_elsewhere and node_id == pool.near):
            return pool
        key = (pool.key, node_id)
        return self._table.get(key) or self._find_or_add(key, pool.shape, node_id)

    def _find_or_add(self, key: Any, shape: Shape, near: bytes) -> TaskPool:
        with self._lock:  # two threads that look for one shape get one pool
            pool = self._table.get(key)
            if pool is None:
                if len(self._table) >= POOLS_MAX:
                    self._drop_idle()
                pool = TaskPool(self._runtime, self, next(self._numbers), shape, near)
                self._keep(key, pool)
            return pool

    def _keep(self, key: Any, pool: TaskPool) -> None:
        self._by_number[pool.key] = pool
        self._table[key] = pool

    def _drop_idle(self) -> None:
        for key, pool in list(self._table.items()):
            if pool.drop_if_idle():
                del self._table[key]
                self._by_number.pop(pool.key, None)
        current.renew_scope()  # remote functions find theirs anew

    def take_back(self, pool: TaskPool) -> None:
        """A pool that was dropped gets work. Its lock is not held."""
        with self._lock:
            self._keep(("again", pool.key), pool)
            pool.undo_drop()

    @property
    def all(self) -> list[TaskPool]:
        """Those of all shapes; a pool may be dropped a moment later."""
        return list(self._table.values())

    @property
    def waiting(self) -> list[Call]:
        """Calls that were not pushed to an executor."""
        return [call for pool in self.all for call in pool.waiting]

    @property
    def is_active(self) -> bool:
        """Whether any has calls or leases."""
        return any(pool.is_active for pool in self.all)

    def release_idle_leases(self) -> None:
        """Give back executors that are only kept for calls that may come."""
        if finalizers.amid and finalizers.is_amid():  # the caller may hold the lock of a pool
            finalizers.later(self.release_idle_leases)
            return
        for pool in self.all:
            pool.release_idle()

    def tick(self, now: float) -> bool:
        """Called by the reactor; returns whether more ticks are needed."""
        is_busy = False
        for pool in self.all:
            if pool.is_active:
                pool.tick(now)
                is_busy = True
        return is_busy

    # ------------------------------------------------------------------ what the cluster says

    def granted(self, message: LeaseGranted) -> None:
        """A lease was granted; nothing of a shape that was dropped waits for one."""
        pool = self._by_number.get(message.shape_key)
        if pool is None or not pool.granted(message):
            self._runtime.tell(LeaseReleased(self._runtime.process, message.lease))

    def recalled(self, lease_id: int) -> None:
        """Others wait for what a lease holds."""
        for pool in self.all:
            pool.recalled(lease_id)

    def lost(self, message: LeaseLost) -> None:
        """The executor of a lease has died."""
        for pool in self.all:
            pool.lease_lost(message)

    def refused(self, message: LeaseRefused) -> None:
        """No executor of a shape will ever come."""
        pool = self._by_number.get(message.shape_key)
        if pool is not None:
            pool.lease_refused(message.error, message.detail)
