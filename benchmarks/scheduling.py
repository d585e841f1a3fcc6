"""What decisions of the scheduler cost: the pure machine alone, by nodes and by what waits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from ract.core import messages as m
from ract.core.resources import UNIT
from ract.scheduler.machine import SchedulerMachine

Row = tuple[str, int, float, str]
CPUS = 4
SECONDS = 0.7
"""How long each rate is measured."""

IDLE = m.ExitCause("idle")


def rows(most: int = 1_000_000) -> Iterator[Row]:
    """(what, how many, rate, unit), one by one; ``most`` limits what waits."""
    for name, measure in MEASURES.items():
        for nodes in (10, 100, 1000):
            yield f"{name}, nodes", nodes, measure(Bench(nodes)), "/s"
    pending = 1_000
    while pending <= most:
        bench = Bench(100)
        bench.wait_for_more(pending)
        yield "leases, pending demands", pending, leases(bench), "/s"
        pending *= 10


class Bench:
    """A machine with nodes of four CPUs, one of them with a driver.

    Args:
        nodes: How many there are.
    """

    def __init__(self, nodes: int) -> None:
        self.machine = SchedulerMachine(b"benchmark", random.Random(0), {})
        self.ids = [i.to_bytes(28, "big") for i in range(nodes)]
        self.now = 0.0
        self._last = 100
        for i, node_id in enumerate(self.ids):
            offer = {"CPU": CPUS * UNIT}
            self.say(m.NodeJoined(node_id, f"tls://n{i}:1", f"n{i}", 7, offer, {}, "/s"))
        self.say(m.ProcessJoined(self.ids[0], 1, "driver", 1))

    def say(self, event: Any) -> list[Any]:
        """Handle one event."""
        self.now += 1e-5
        return self.machine.handle(event, self.now)

    def number(self) -> int:
        """Of a process, an actor or a group that nobody had before."""
        self._last += 1
        return self._last

    def actor(self, demand: dict[str, int]) -> m.ActorSpec:
        """A new one."""
        actor_id = self.number().to_bytes(16, "big")
        return m.ActorSpec(actor_id, b"job0", 1, "A", m.Blob(b""), [], demand, demand)

    def wait_for_more(self, pending: int) -> None:
        """Half as many actors as ``pending``, and tasks, that have to wait for a CPU of a kind."""
        self.say(m.NodeJoined(b"x" * 28, "tls://x:1", "x", 7, {"rare": UNIT}, {}, "/s"))
        self.say(m.ActorWanted(1, self.actor({"rare": UNIT})))
        for i in range(pending // 2):
            self.say(m.ActorWanted(1, self.actor({"rare": UNIT // (1 + i % 4)})))
        shape = m.Shape({"rare": UNIT}, b"job0")
        self.say(m.LeasesWanted(1, 99, shape, pending - pending // 2, ["g"]))


def _rate(step: Callable[[], int]) -> float:
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        done += step()
    if not done:
        raise AssertionError("the machine has decided nothing")
    return done / (time.perf_counter() - start)


def leases(bench: Bench, strategy: dict[str, Any] | None = None) -> float:
    """Leases granted, started, used once and given back, per second."""
    shape = m.Shape({"CPU": UNIT}, b"job0", "", strategy or {})

    def step() -> int:
        started = bench.say(m.LeasesWanted(1, 1, shape, 8, ["f"]))
        count = 0
        for command in started:
            if isinstance(command.message, m.StartLease):
                node_id, lease, executor = command.node_id, command.message.lease, bench.number()
                bench.say(m.ProcessJoined(node_id, executor, "executor", executor))
                bench.say(m.LeaseStarted(node_id, lease, executor, "address", executor))
                bench.say(m.LeaseReleased(1, lease))
                bench.say(m.ProcessExited(node_id, executor, IDLE))
                count += 1
        return count

    return _rate(step)


def spread_leases(bench: Bench) -> float:
    """As `leases`, over all nodes in turn."""
    return leases(bench, {"kind": "SPREAD"})


def actors(bench: Bench) -> float:
    """Actors created, started and killed, per second."""

    def step() -> int:
        spec = bench.actor({"CPU": UNIT})
        [start] = [c for c in bench.say(m.ActorWanted(1, spec)) if c.message != IDLE]
        executor = bench.number()
        bench.say(m.ProcessJoined(start.node_id, executor, "executor", executor))
        up = m.ActorStarted(start.node_id, spec.actor_id, 1, executor, "address", executor)
        bench.say(up)
        bench.say(m.ActorKillWanted(1, spec.actor_id, True))
        bench.say(m.ProcessExited(start.node_id, executor, IDLE))
        return 1

    return _rate(step)


def groups(bench: Bench) -> float:
    """Placement groups of four bundles reserved and removed, per second."""

    def step() -> int:
        group_id = bench.number().to_bytes(18, "big")
        bundles = [{"CPU": UNIT}] * 4
        spec = m.GroupSpec(group_id, b"job0", 1, bundles, "SPREAD")
        told = bench.say(m.GroupWanted(1, spec))
        if told[-1].message.state != "CREATED":
            raise AssertionError("the group has no place")
        bench.say(m.GroupRemoveWanted(1, group_id))
        return 1

    return _rate(step)


MEASURES: dict[str, Callable[[Bench], float]] = {
    "leases": leases,
    "leases with SPREAD": spread_leases,
    "actors": actors,
    "placement groups": groups,
}
