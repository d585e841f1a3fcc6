"""A seeded world around the real machines: that of the scheduler, and one on every node.

Theory of operation
-------------------
`World` has one clock, one heap of things to happen, one generator. The machines under test are the
production ones; what is around them is simulated: nodes (`simulation.nodes`) perform the commands
of their machine, processes (`simulation.peers`) are small models that obey the protocol.
Every message travels on a *link* that keeps its order; links have random delays, so that messages
on different links overtake each other. A crash cuts a node's link to the scheduler: some of what
was on its way still arrives, then `NodeLost` does.

After each event of a machine its invariants are checked, and the truth beside them: no incarnation
of an actor twice, no more CPUs in use than there are and were lent, no memory reused under a view.
At the end everybody stops; whatever is then left is a leak.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from simulation.nodes import SimNode
from simulation.peers import SimProcess

from ract.core.messages import ActorKillWanted, ExitCause, Request
from ract.core.wire import decode, encode
from ract.scheduler.machine import SchedulerMachine
from ract.scheduler.turn import NodeLost, Tick

STEPS_MAX = 400_000
STORY_LINES = 200


class World:
    """Everything in one simulation."""

    def __init__(self, seed: int, *, crashes: bool = True, nodes: int = 3, check: bool = True):
        self.seed = seed
        self.rng = random.Random(seed)
        self.crashes = crashes
        self.check = check
        self.now = 0.0
        self.machine = SchedulerMachine(b"c" * 16, random.Random(seed + 1), {"process_block": 64})
        self.nodes: dict[bytes, SimNode] = {}
        self.processes: dict[int, SimProcess] = {}
        #: Living processes of each (actor, incarnation).
        self.bodies: Counter[tuple[bytes, int]] = Counter()
        self.freed: set[bytes] = set()  #: by `ract.free`: their memory may go under a view
        self._story: deque[tuple[float, str, Any]] = deque(maxlen=STORY_LINES)
        self.is_stopping = False
        self.ids = itertools.count(1)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._link_free_at: dict[Any, float] = {}
        self._tick_at: float | None = None
        for number in range(nodes):
            self.add_node(is_head=number == 0)

    # ------------------------------------------------------------------ time and links

    def after(self, delay: float, call: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._heap, (self.now + delay, next(self._order), call))

    def travel(self, link: Any, call: Callable[[], None]) -> None:
        """Deliver on a link: after a random delay, in the order of sending."""
        delay = self.rng.expovariate(1 / 0.002) if self.rng.random() < 0.995 else 0.2
        at = max(self._link_free_at.get(link, 0.0), self.now + delay)
        self._link_free_at[link] = at
        heapq.heappush(self._heap, (at, next(self._order), call))

    def run(self, until: float | None = None) -> None:
        """Let things happen until ``until``, or until nothing is left to happen."""
        for _ in range(STEPS_MAX):
            if not self._heap or (until is not None and self._heap[0][0] > until):
                break
            self.now, _order, call = heapq.heappop(self._heap)
            call()
        else:
            raise AssertionError("the world does not come to rest")
        if until is not None:
            self.now = until

    # ------------------------------------------------------------------ the scheduler

    def to_scheduler(self, node: SimNode, message: Any) -> None:
        """Put a message on a node's stream."""
        frame = encode(message)

        def arrive() -> None:
            if not node.is_alive:
                node.is_cut = node.is_cut or node.is_reported or self.rng.random() < 0.3
            if not node.is_cut:
                self.handle(decode(frame))

        self.travel(("up", node.node_id), arrive)

    def handle(self, event: Any) -> None:
        """One turn of the machine under test."""
        self.tell("SCHED", event)
        commands = self.machine.handle(event, self.now)
        for command in commands:
            self.tell("   -> " + command.node_id[:2].hex(), command.message)
            node = self.nodes[command.node_id]
            frame = encode(command.message)
            self.travel(("down", command.node_id), lambda n=node, f=frame: n.receive(decode(f)))
        if self.check:
            self.machine.check()
        at = self.machine.next_deadline()
        if at is not None and (self._tick_at is None or at < self._tick_at):
            self._tick_at = at
            self.after(max(0.0, at - self.now), lambda: self._tick(at))

    def tell(self, who: str, what: Any) -> None:
        """Remember what happens, for whoever must find out why it went wrong."""
        self._story.append((self.now, who, what))

    @property
    def story(self) -> list[str]:
        """The newest lines of what has happened."""
        return [f"{at:.4f} {who} {what!s:.220}" for at, who, what in self._story]

    def _tick(self, at: float) -> None:
        if self._tick_at == at:
            self._tick_at = None
            self.handle(Tick())

    # ------------------------------------------------------------------ what befalls the world

    def add_node(self, *, is_head: bool = False) -> SimNode:
        """A node joins; one in three brings no driver."""
        node = SimNode(self, next(self.ids), is_head)
        self.nodes[node.node_id] = node
        node.join()
        if is_head or self.rng.random() < 0.66:
            node.wants_drivers = self.rng.randint(1, 2)
        return node

    def crash_node(self, node: SimNode) -> None:
        """The machine of a node is gone, with all that runs there."""
        self.tell(node.node_id[:2].hex(), "CRASH")
        self._lose(node, ExitCause("node_died", "crashed in simulation", node_id=node.node_id))

    def end_node(self, node: SimNode) -> None:
        """The daemon of a node ends because its machine said so."""
        if node.is_alive:
            self.tell(node.node_id[:2].hex(), "LEAVES")
            self._lose(node, ExitCause("shutdown", "kill_node", node_id=node.node_id))

    def _lose(self, node: SimNode, cause: ExitCause) -> None:
        node.crash()

        def report() -> None:
            node.is_reported = True
            self.handle(NodeLost(node.node_id, cause))

        self.travel(("up", node.node_id), report)

    def chaos(self) -> None:
        """Something bad happens, then again later."""
        if self.is_stopping:
            return
        dice = self.rng.random()
        victims = [p for p in self.processes.values() if p.is_alive and p.kind == "executor"]
        nodes = [n for n in self.nodes.values() if n.is_alive and not n.is_head]
        drivers = [p for p in self.processes.values() if p.is_alive and p.kind == "driver"]
        if dice < 0.6 and victims:
            self.rng.choice(victims).die(9)
        elif dice < 0.67 and nodes:
            self.crash_node(self.rng.choice(nodes))
        elif dice < 0.72 and nodes and drivers:
            node, driver = self.rng.choice(nodes), self.rng.choice(drivers)
            args = {"node_id": node.node_id, "deadline_s": self.rng.choice((0.2, 2.0))}
            op = self.rng.choice(("kill_node", "drain_node"))
            driver.say(Request(driver.number, next(self.ids), op, args))
        elif dice < 0.8 and len(nodes) < 6:
            self.add_node()
        elif dice < 0.85 and len(drivers) > 1:
            self.rng.choice(drivers).die(9)
        self.after(self.rng.expovariate(1 / 0.2), self.chaos)

    # ------------------------------------------------------------------ truth

    def body_started(self, actor_id: bytes, incarnation: int) -> None:
        """A process has become an incarnation of an actor."""
        self.bodies[actor_id, incarnation] += 1
        alive = [key for key, n in self.bodies.items() if n and key[0] == actor_id]
        assert len(alive) == 1, f"actor {actor_id.hex()} lives as {alive}"
        assert self.bodies[actor_id, incarnation] == 1

    def body_ended(self, actor_id: bytes, incarnation: int) -> None:
        """That process is gone."""
        self.bodies[actor_id, incarnation] -= 1

    # ------------------------------------------------------------------ the end

    def play(self, seconds: float) -> None:
        """Run with load (and chaos), then let everybody stop, then look for leaks."""
        try:
            if self.crashes:
                self.after(0.3, self.chaos)
            self.run(until=seconds)
            self.is_stopping = True
            self._finish()
        except BaseException:
            print("\n".join(self.story))
            name = "among_crashes" if self.crashes else "when_nothing_fails"
            print(f"To replay it: RACT_SIM_SEED={self.seed} pytest tests/simulation -k {name}")
            raise

    def _finish(self) -> None:
        for process in self._living("driver"):
            process.stop()
        self.run(until=self.now + 2.0)
        self._kill_detached()  # of dead drivers: they would keep resources for ever
        self.run()
        for process in self._living():
            left = [task.number for task in process.waiting_tasks()]
            assert not left, f"process {process.number} still waits for {left}"
            assert not process.gets, f"process {process.number} never got {process.gets}"
        if not self.crashes:
            self._assert_released()  # by holds alone, while the drivers still live
        self._kill_detached()
        self.run()
        for process in self._living("driver"):
            process.die(0)
        self.run()
        self._assert_released()
        for process in self._living():
            assert not process.job_id, f"process {process.number} outlived its job"

    def _kill_detached(self) -> None:
        """Detached actors outlive their jobs; somebody has to end them."""
        drivers = self._living("driver")
        if not drivers:
            [head] = [node for node in self.nodes.values() if node.is_head]
            driver = head.start_driver()
            assert driver is not None, "the head node has no process numbers left"
            driver.is_stopped = True
            drivers = [driver]
            self.run(until=self.now + 1.0)
        for actor_id, actor in self.machine.actors.table.items():
            if actor.spec.detached:
                drivers[0].say(ActorKillWanted(drivers[0].number, actor_id, True))

    def _living(self, kind: str = "") -> list[SimProcess]:
        found = [p for p in self.processes.values() if p.is_alive]
        return [p for p in found if not kind or p.kind == kind]

    def _assert_released(self) -> None:
        machine = self.machine
        machine.check()
        detached = [a for a in machine.actors.table.values() if a.state != "DEAD"]
        assert not detached, f"actors left: {detached}"
        left = {id_.hex(): counts for id_, counts in machine.holds.by_id.items()}
        assert not left, f"holds are left: {left}"
        assert not machine.holds.contained, "containers are left"
        assert not machine.objects.table, "objects are left"
        assert not machine.objects.pulls.table, "pulls are left"
        assert not machine.leases.table, "leases are left"
        assert not machine.leases.wants, "wants are left"
        assert not machine.groups.waiting, "groups wait"
        assert not machine.groups.emptying, "bundles of removed groups are not given back"
        assert all(group.state == "REMOVED" for group in machine.groups.table.values())
        assert not machine.ageing.claims, "nodes are claimed"
        for node in machine.nodes.alive:
            assert node.ledger.free == node.ledger.total
            self.nodes[node.node_id].assert_rest()
