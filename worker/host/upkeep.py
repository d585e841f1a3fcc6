"""What a node does again and again: it reports, watches its memory, follows logs, removes history.

No error ends one of these: it is logged, once until it changes, and the work goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ract.core import history
from ract.core import messages as m
from ract.worker.hardware import statistics
from ract.worker.hardware.memory_settings import Settings
from ract.worker.hardware.memory_watch import MemoryWatch
from ract.worker.hardware.statistics import Statistics, Totals
from ract.worker.node import events as ev
from ract.worker.node.machine import NodeMachine

logger = logging.getLogger("ract.worker")

STATS_PERIOD_S = 1.0
LOGS_PERIOD_S = 0.1
PRUNE_PERIOD_S = 60.0

Spawn = Callable[[Coroutine[Any, Any, Any]], None]


async def again_and_again(what: str, period_s: float, step: Callable[[], Awaitable[None]]) -> None:
    """Do ``step`` every ``period_s`` seconds, until this is cancelled.

    Args:
        what: It cannot be done if it raises; as in "cannot read the logs".
        period_s: The pause between two steps, in seconds.
        step: What is done.
    """
    said = ""
    while True:
        await asyncio.sleep(period_s)
        try:
            await step()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if text != said:
                logger.warning("cannot %s: %s", what, text, exc_info=not isinstance(error, OSError))
            said = text
        else:
            said = ""


class Upkeep:
    """The upkeep of one node.

    Args:
        machine: The node's.
        turn: Takes events for it.
        send: Sends a message to the scheduler.
        totals: What the adapter has counted.
    """

    def __init__(
        self,
        machine: NodeMachine,
        turn: Callable[[Any], None],
        send: Callable[[Any], None],
        totals: Totals,
    ) -> None:
        self._machine = machine
        self._turn = turn
        self._send = send
        self._totals = totals
        self._sampled: dict[str, Any] = {}

    def start(
        self, spawn: Spawn, watching: Settings, folder: str, read_logs: Callable[[], object]
    ) -> None:
        """Begin to report, to follow the logs, and to keep the history within its quota.

        Args:
            spawn: Starts a coroutine that ends with the node.
            watching: How memory is watched.
            folder: The session directory.
            read_logs: Reads what was added to the logs.
        """
        self._sampler = Statistics(watching, folder)

        async def tail() -> None:
            read_logs()

        async def prune() -> None:
            await asyncio.to_thread(history.prune, time.time())

        spawn(again_and_again("say how this node is", STATS_PERIOD_S, self._report))
        spawn(again_and_again("read the logs", LOGS_PERIOD_S, tail))
        spawn(again_and_again("keep the history within its quota", PRUNE_PERIOD_S, prune))

    async def _report(self) -> None:
        try:
            processes = statistics.watched(self._machine)
            at = asyncio.get_running_loop().time()
            self._sampled = await asyncio.to_thread(self._sampler.sample, processes, at)
        finally:  # what is known of the machine is told all the same
            self._turn(ev.ReportDue())
            told = statistics.of_machine(self._machine, self._totals)
            self._send(m.NodeStats(self._machine.node_id, {**self._sampled, **told}))

    def watch_memory(self, spawn: Spawn, settings: Settings) -> None:
        """Begin to look whether memory is short."""
        watch = MemoryWatch(settings)
        executors = self._machine.executors

        async def look() -> None:
            pids = [each.pid for each in executors.values() if each.pid]
            if pids:
                at = asyncio.get_running_loop().time()
                high = await asyncio.to_thread(watch.look, pids, at)
                if high is not None:
                    self._turn(high)

        spawn(again_and_again("look at the memory", settings.period_s, look))
