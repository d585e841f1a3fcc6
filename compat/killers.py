"""Actors that kill processes of the cluster while a test runs, as Ray's tests start them.

Only processes of this machine, as its clusters for tests have them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import psutil

import ract
from ract.core.events import IN_GET, IN_WAIT, RUNNING
from ract.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ract.util.state.api import list_tasks
from ract.util.state.common import MAX_LIMIT

NAME = "ResourceKiller"


class ResourceKiller(ABC):
    """Kills something now and then, from `run` to `stop_run`.

    Args:
        head_node_id: Of the node to be spared, in hex.
        kill_interval_s: Seconds between two rounds.
        kill_delay_s: Seconds before the first.
        max_to_kill: So many in all; None: no limit.
        batch_size_to_kill: So many in a round.
        kill_filter_fn: Asked whether something (its row) may be killed.
    """

    def __init__(
        self,
        head_node_id: str,
        kill_interval_s: float = 60.0,
        kill_delay_s: float = 0.0,
        max_to_kill: int | None = 2,
        batch_size_to_kill: int = 1,
        kill_filter_fn: Callable[[Any], bool] | None = None,
    ) -> None:
        self.head_node_id = head_node_id
        self._interval_s, self._delay_s = kill_interval_s, kill_delay_s
        self._most = max_to_kill
        self._batch = batch_size_to_kill
        self._may_go = kill_filter_fn or (lambda _: True)
        self._is_running = False
        self._is_over = asyncio.Event()
        self.killed: set[Any] = set()

    @abstractmethod
    def victims(self) -> list[tuple[Any, Any, int]]:
        """(name, row, pid) of all that may be killed now."""

    async def ready(self) -> bool:
        """True: it is there."""
        return True

    async def run(self) -> None:
        """Kill until all are killed that may be, or until `stop_run`."""
        self._is_running = True
        await self._pause(self._delay_s)
        while self._is_running and (self._most is None or len(self.killed) < self._most):
            left = self._batch if self._most is None else self._most - len(self.killed)
            found = await asyncio.to_thread(self.victims)
            found = [each for each in found if self._may_go(each[1])]
            for name, _, pid in random.sample(found, min(len(found), self._batch, left)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
                    self.killed.add(name)
            await self._pause(self._interval_s)
        self._is_running = False

    async def stop_run(self) -> bool:
        """Kill nothing more; returns whether it was at it."""
        was_running, self._is_running = self._is_running, False
        self._is_over.set()
        return was_running

    async def get_killed_nodes(self) -> set[Any]:
        """What was killed: ids of nodes, or (task id, pid, node id)."""
        return self.killed

    async def get_total_killed(self) -> set[Any]:
        """The same; its name in earlier releases of Ray."""
        return self.killed

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._is_over.wait(), seconds)


@ract.remote(num_cpus=0)
class RayletKiller(ResourceKiller):
    """Kills the daemons of nodes, but not the head's."""

    def victims(self) -> list[tuple[Any, Any, int]]:
        """All other nodes that live."""
        return [
            (node["NodeID"], node, node["pid"])
            for node in ract.nodes()
            if node["Alive"] and node["NodeID"] != self.head_node_id and not node["IsHead"]
        ]


@ract.remote(num_cpus=0)
class WorkerKillerActor(ResourceKiller):
    """Kills processes in which tasks, or calls of actors, run."""

    def victims(self) -> list[tuple[Any, Any, int]]:
        """Where something runs that is not the killer's own."""
        me = ract.get_runtime_context().get_actor_id()
        return [
            ((row.task_id, row.worker_pid, row.node_id), row, row.worker_pid)
            for state in (RUNNING, IN_GET, IN_WAIT)
            for row in list_tasks(filters=[("state", "=", state)], detail=True, limit=MAX_LIMIT)
            if row.worker_pid and row.actor_id != me
        ]


def get_and_run_resource_killer(
    resource_killer_cls: Any,
    kill_interval_s: float,
    namespace: str | None = None,
    lifetime: str | None = None,
    no_start: bool = False,
    max_to_kill: int | None = 2,
    batch_size_to_kill: int = 1,
    kill_delay_s: float = 0,
    kill_filter_fn: Callable[[Any], bool] | None = None,
) -> Any:
    """Start a killer on this driver's node, and have it begin unless ``no_start``."""
    here = ract.get_runtime_context().get_node_id()
    options = {"namespace": namespace, "lifetime": lifetime}
    killer = resource_killer_cls.options(
        name=NAME,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        **{name: value for name, value in options.items() if value is not None},
    ).remote(
        here,
        kill_interval_s=kill_interval_s,
        kill_delay_s=kill_delay_s,
        max_to_kill=max_to_kill,
        batch_size_to_kill=batch_size_to_kill,
        kill_filter_fn=kill_filter_fn,
    )
    ract.get(killer.ready.remote())
    if not no_start:
        killer.run.remote()
    return killer
