"""A seeded world around the real machines: that of the scheduler, and one on every node.

Theory of operation
-------------------
`World` has one clock, one heap of things to happen, one generator. The machines under test are the
production ones; what is around them is simulated: nodes (`simulation.nodes`) perform the commands
of their machine, processes (`simulation.peers`) are small models that obey the protocol.
Every message travels on a *link* that keeps its order; links have random delays, so that messages
on different links overtake each other. A crash cuts a node's link to the scheduler: some of what
was on its way still arrives, then `NodeLost` does.

With a journal the scheduler crashes too, at any step, and comes back from it; what was on its way
is lost with the connections. Nodes come back to it one by one, those that died meanwhile never.

After each event of a machine its invariants are checked, and the truth beside them: no incarnation
of an actor twice, no more CPUs in use than there are and were lent, no memory reused under a view.
At the end everybody stops; whatever is then left is a leak.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import heapq
import itertools
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
from simulation.nodes import SimNode
from simulation.peers import SimProcess
from simulation.truth import Truth, what_waits
from simulation.wires import FIRST_FD, Pipe, hosted, without_gc

from ract.core.messages import ActorKillWanted, ExitCause, Request
from ract.core.wire import decode, encode
from ract.scheduler.books.turn import AllBack, NodeLost, Restarted, Tick
from ract.scheduler.durable.durable import Durable, Record
from ract.scheduler.durable.journal import Journal
from ract.scheduler.machine import SchedulerMachine

STEPS_MAX = 400_000
COLLECT_S = 1.0
REST_S = 1000.0
"""So long after the last fault, everything must have come to an end."""

STORY_LINES = int(os.environ.get("RACT_SIM_LINES", "200"))
EPOCH_S = 1_600_000_000.0
RECONNECT_S = 1.0
REQUESTS_FROM = 2**40  #: numbers of what is asked from outside, whose answers nobody reads
CONFIG = {"process_block": 64, "reconnect_s": RECONNECT_S}


class World:
    """Everything in one simulation."""

    def __init__(
        self,
        seed: int,
        *,
        crashes: bool = True,
        nodes: int = 3,
        check: bool = True,
        journal: Path | None = None,
        kills_scheduler: bool = True,
    ):
        self.seed = seed
        self.rng = random.Random(seed)
        self.crashes = crashes
        self.check = check
        self.now = 0.0
        self.path = journal
        self.kills_scheduler = kills_scheduler
        self.sent = hashlib.sha256()  #: all that any scheduler has sent
        self.journal: Journal | None = None
        self.durable: Durable | None = None  #: None while the scheduler is away
        #: Nodes with a connection to the scheduler, and those that are waited for after a restart.
        self.attached: set[bytes] = set()
        self.awaited: set[bytes] = set()
        self.schedulers = 0  #: how many there were so far
        self.skew = 0.0  #: how much less time has passed for the machine
        self._start_scheduler()
        self.nodes: dict[bytes, SimNode] = {}
        self.processes: dict[int, SimProcess] = {}
        #: Living processes of each (actor, incarnation).
        self.bodies: Counter[tuple[bytes, int]] = Counter()
        self.freed: set[bytes] = set()  #: by `ract.free`: their memory may go under a view
        self._story: deque[tuple[float, str, Any]] = deque(maxlen=STORY_LINES)
        self.is_stopping = False
        self.truth = Truth(crashes=crashes)
        self.pipes: list[Pipe] = []
        self.faults: Counter[str] = Counter()  #: how often each kind of fault has happened
        self.ids = itertools.count(1)
        self._rest_by = float("inf")
        self._fds = itertools.count(FIRST_FD)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._link_free_at: dict[Any, float] = {}
        self._tick_at: float | None = None
        for number in range(nodes):
            self.add_node(is_head=number == 0)

    # ------------------------------------------------------------------ time and links

    def clock(self) -> float:
        """Stands for `time.monotonic` in the clients."""
        return self.now

    def epoch_clock(self) -> float:
        """Stands for `time.time` in the clients."""
        return EPOCH_S + self.now

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
            if self.now > self._rest_by:
                break
        else:
            self._rest_by = 0.0
        at_rest = self.now <= self._rest_by
        assert at_rest, f"the world does not come to rest: {self._what_goes_on()}"
        if until is not None:
            self.now = until

    def _what_goes_on(self) -> str:
        """For people: who still has something to do."""
        living = [process for process in self._living() if process.is_welcome]
        waits = {process.number: list(what_waits(process))[:5] for process in living}
        ticking = [process.number for process in living if not process.runtime.reactor.is_asleep]
        at = f"at {self.now:.1f} s, {len(self._heap)} events"
        return f"{at}, ticking: {ticking}, waiting: {waits}"

    # ------------------------------------------------------------------ the scheduler

    @property
    def machine(self) -> SchedulerMachine:
        """The machine of the scheduler."""
        assert self.durable is not None, "the scheduler is away"
        return self.durable.machine

    def to_scheduler(self, node: SimNode, message: Any) -> None:
        """Put a message on a node's stream."""
        batch = node.link.pack([encode(message)])
        if node.node_id in self.attached:
            self._travel_up(node, batch)

    def _travel_up(self, node: SimNode, batch: dict[str, Any]) -> None:
        scheduler = self.schedulers

        def arrive() -> None:
            if not node.is_alive:
                node.is_cut = node.is_cut or node.is_reported or self.rng.random() < 0.3
            if not node.is_cut and scheduler == self.schedulers and self.durable is not None:
                if self.durable.is_news(node.node_id, batch["seq"], batch["ack"]):
                    seen = batch["seq"], batch["ack"], batch["frames"]
                    self.handle(Record(self._machine_now(), node.node_id, *seen))

        self.travel(("up", node.node_id), arrive)

    def _travel_down(self, node: SimNode, batch: dict[str, Any]) -> None:
        scheduler = self.schedulers

        def arrive() -> None:
            if scheduler != self.schedulers or not node.is_alive:
                return
            node.link.acknowledged(batch["ack"])
            if node.link.take(batch["seq"]):
                for frame in batch["frames"]:
                    node.receive(decode(frame))

        self.travel(("down", node.node_id), arrive)

    def handle_local(self, event: Any, at: float = 0.0) -> None:
        """One turn of the machine under test, about something that no node says."""
        if self.durable is not None:
            self.handle(Record(self._machine_now(at), event=event))

    def _machine_now(self, at: float = 0.0) -> float:
        """Its time; rounding takes it neither back nor before ``at``."""
        assert self.durable is not None
        return max(self.now - self.skew, self.durable.now, at)

    def handle(self, record: Record) -> None:
        """One turn of the scheduler under test."""
        assert self.durable is not None
        self.tell("SCHED", record.event or list(map(decode, record.frames)))
        if self.journal is not None:
            self.journal.append(record, self.durable.checksum)
            dice = self.rng.random()
            if dice < 0.0005 and self.kills_scheduler and self._crash_scheduler(is_ahead=True):
                return
        for node_id, batch in self.durable.take(record).items():
            self.tell("   -> " + node_id[:2].hex(), list(map(decode, batch["frames"])))
            self.sent.update(msgpack.packb([node_id, batch]))
            if node_id in self.attached and "seq" in batch:
                self._travel_down(self.nodes[node_id], batch)
        if self.check:
            self.machine.check()
        if self.journal is not None:
            if dice > 0.998 and self.kills_scheduler:
                self.journal.snapshot(self.durable)
            if isinstance(record.event, NodeLost):
                self._not_awaited(record.event.node_id)
        self._arm()

    def _arm(self) -> None:
        if self.durable is None:
            return
        at = self.machine.next_deadline()
        if at is not None and (self._tick_at is None or at < self._tick_at):
            self._tick_at = at
            self.after(max(0.0, at + self.skew - self.now), lambda: self._tick(at))

    # ------------------------------------------------------------------ a scheduler that comes back

    def _start_scheduler(self) -> None:
        self.schedulers += 1
        if self.path is None:
            self.durable = Durable(b"c" * 16, self.seed + 1, CONFIG)
            return
        self.journal = Journal(self.path)
        if self.journal.get("machine") is None:
            self.journal.put("machine", [b"c" * 16, self.seed + 1, CONFIG])
        self.durable = self.journal.recover(CONFIG)
        self.skew = self.now - self.durable.now

    def _crash_scheduler(self, *, is_ahead: bool = False) -> bool:
        """SIGKILL; False if that would be the end of the world, for want of nodes.

        Args:
            is_ahead: the journal has one turn more than was taken.
        """
        assert self.durable is not None
        assert self.journal is not None
        [head] = [node for node in self.nodes.values() if node.is_head]
        if self.is_stopping or not head.machine.cluster_id:
            return False
        self.tell("SCHED", "CRASH")
        self.count("the scheduler crashes")
        before = None if is_ahead else self.durable
        self.schedulers += 1  # what is on its way is lost
        self.durable = self._tick_at = None
        self.attached.clear()
        self.awaited.clear()
        self.journal.close()
        for node in list(self.nodes.values()):
            if node.is_alive and not node.machine.cluster_id:
                node.crash()  # it has not heard yet that it is worth waiting
        self.after(self.rng.expovariate(1 / 0.2), lambda: self._restart_scheduler(before))
        return True

    def _restart_scheduler(self, before: Durable | None) -> None:
        self._start_scheduler()
        assert self.durable is not None
        assert self.journal is not None
        assert not self.journal.is_different
        if before is not None:
            assert self.durable.checksum == before.checksum
            assert self.machine.next_deadline() == before.machine.next_deadline()
        self.tell("SCHED", "BACK")
        scheduler = self.schedulers
        self.awaited = {node.node_id for node in self.machine.nodes.alive}
        self.handle_local(Restarted(0.0))
        for node in self.nodes.values():
            if node.is_alive:
                self.after(self.rng.expovariate(1 / 0.1), lambda n=node: self._rejoin(n, scheduler))
        self.after(RECONNECT_S, lambda: self._give_up(scheduler))

    def _rejoin(self, node: SimNode, scheduler: int) -> None:
        if scheduler != self.schedulers or self.durable is None or not node.is_alive:
            return
        link = self.durable.links.get(node.node_id)
        if link is None:
            self.tell(node.node_id[:2].hex(), "TOO LATE")
            assert not node.is_head
            node.crash()
            return
        up, down = node.link.resume(link.received), link.resume(node.link.received)
        self.attached.add(node.node_id)
        for batch in up:
            self._travel_up(node, batch)
        for batch in down:
            self._travel_down(node, batch)
        self._not_awaited(node.node_id)

    def _not_awaited(self, node_id: bytes) -> None:
        if node_id in self.awaited:
            self.awaited.remove(node_id)
            if not self.awaited:
                self.handle_local(AllBack())

    def _give_up(self, scheduler: int) -> None:
        for node_id in sorted(self.awaited):
            if scheduler == self.schedulers and self.durable is not None:
                self.nodes[node_id].is_reported = True
                self.handle_local(NodeLost(node_id, ExitCause("node_died", "did not come back")))

    # ------------------------------------------------------------------ faults and chance

    def number(self) -> int:
        """A number that nothing else has."""
        return next(self.ids)

    def next_fd(self) -> int:
        """A descriptor."""
        return next(self._fds)

    def count(self, fault: str) -> None:
        """A fault has happened."""
        self.faults[fault] += 1

    def happens(self, fault: str, probability: float, *, is_harmless: bool = True) -> bool:
        """Whether a fault happens now; those that may end calls do so only among crashes."""
        found = self.rng.random() < probability and (self.crashes or is_harmless)
        if found:
            self.count(fault)
        return found and not self.is_stopping

    def linger(self, process: SimProcess, things: list[Any]) -> None:
        """Have a program's things go, which runs their finalizers: soon, or after a while."""
        delay = 0.0
        if self.happens("a finalizer runs late", 0.5):
            delay = self.rng.expovariate(1 / self.rng.choice((0.005, 0.5)))
        process.later(delay, things.clear)

    def mischief(self) -> None:
        """Something small goes wrong, which nobody dies of, then something else."""
        if self.is_stopping:
            return
        if self.rng.random() < 0.5:
            self._break_something()
        else:
            living = self._living()
            if living:
                self.count("a process stops for a while")
                seconds = self.rng.expovariate(1 / self.rng.choice((0.01, 0.01, 0.3)))
                self.rng.choice(living).stop_for(seconds)
        self.after(self.rng.expovariate(1 / 0.03), self.mischief)

    def _break_something(self) -> None:
        """A connection breaks although both ends live."""
        self.pipes = [pipe for pipe in self.pipes if pipe.is_up]
        if self.pipes:
            self.count("a channel breaks and both ends live")
            self.rng.choice(self.pipes).break_()

    def tell(self, who: str, what: Any) -> None:
        """Remember what happens, for whoever must find out why it went wrong."""
        self._story.append((self.now, who, what))

    @property
    def story(self) -> list[str]:
        """The newest lines of what has happened."""
        return [f"{at:.4f} {who} {in_short(what)}" for at, who, what in self._story]

    def _tick(self, at: float) -> None:
        if self._tick_at == at:
            self._tick_at = None
            self.handle_local(Tick(), at)
            self._arm()

    # ------------------------------------------------------------------ what befalls the world

    def add_node(self, *, is_head: bool = False) -> SimNode:
        """A node joins; one in three brings no driver."""
        node = SimNode(self, next(self.ids), is_head)
        self.nodes[node.node_id] = node
        self.attached.add(node.node_id)
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
        scheduler = self.schedulers

        def report() -> None:
            if scheduler == self.schedulers and node.node_id in self.attached:
                node.is_reported = True
                self.handle_local(NodeLost(node.node_id, cause))

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
            self.count("an executor is killed")
            self.rng.choice(victims).die(9)
        elif dice < 0.67 and nodes:
            self.count("a node crashes")
            self.crash_node(self.rng.choice(nodes))
        elif dice < 0.72 and nodes and drivers:
            node, driver = self.rng.choice(nodes), self.rng.choice(drivers)
            args = {"node_id": node.node_id, "deadline_s": self.rng.choice((0.2, 2.0))}
            op = self.rng.choice(("kill_node", "drain_node"))
            self.count("a node is drained or killed")
            driver.say(Request(driver.number, next(self.ids) + REQUESTS_FROM, op, args))
        elif dice < 0.8 and len(nodes) < 6 and self.durable is not None:
            self.add_node()
        elif dice < 0.85 and len(drivers) > 1:
            self.count("a driver is killed")
            self.rng.choice(drivers).die(9)
        elif dice > 0.9 and self.journal and self.kills_scheduler and self.durable:
            self._crash_scheduler()
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
            with hosted(self), without_gc():
                if self.crashes:
                    self.after(0.3, self.chaos)
                    self.after(0.3, self.mischief)
                self.after(COLLECT_S, self._collect)
                self.run(until=seconds)
                self.is_stopping = True
                self._rest_by = self.now + REST_S
                self._finish()
        except BaseException:
            print("\n".join(self.story))
            name = (
                "nothing_fails"
                if not self.crashes
                else "of_executors"
                if self.path is None
                else "too"
            )
            print(f"To replay it: RACT_SIM_SEED={self.seed} pytest tests/simulation -k {name}")
            raise

    def _collect(self) -> None:
        """Cycles of objects go, in all processes at once; while it stops, some times more."""
        gc.collect()
        if self.now < self._rest_by - REST_S + 10 * COLLECT_S:
            self.after(COLLECT_S, self._collect)

    def _finish(self) -> None:
        for process in self._living("driver"):
            if process.is_welcome:
                process.turn(process.program.stop)
        self.run(until=self.now + 2.0)
        self._kill_detached()  # of dead drivers: they would keep resources for ever
        self.run()
        for process in self._living("executor"):
            process.turn(process.program.forget)  # actors may hold each other, or themselves
        gc.collect()
        self.run()
        for process in self._living():
            if process.is_welcome:
                self.truth.assert_nothing_waits(process)
        if not self.crashes:
            self._assert_released()  # by holds alone, while the drivers still live
        self._kill_detached()
        self.run()
        assert not self.machine.holds.negative, "dropped after a while"
        for process in self._living("driver"):
            process.die(0)
        self.run()
        self._assert_released()
        for process in self._living():
            job_id = process.program.job_id if process.is_welcome else b""
            assert not job_id, f"process {process.number} outlived its job"

    def _kill_detached(self) -> None:
        """Detached actors outlive their jobs; somebody has to end them."""
        drivers = self._living("driver")
        if not drivers:
            [head] = [node for node in self.nodes.values() if node.is_head]
            driver = head.start_driver()
            assert driver is not None, "the head node has no process numbers left"
            drivers = [driver]
            self.run(until=self.now + 1.0)
            driver.turn(driver.program.stop)
        for actor_id, actor in self.machine.actors.table.items():
            if actor.spec.detached:
                drivers[0].say(ActorKillWanted(drivers[0].number, actor_id, True))

    def _living(self, kind: str = "") -> list[SimProcess]:
        found = [p for p in self.processes.values() if p.is_alive]
        return [p for p in found if not kind or p.kind == kind]

    def _assert_released(self) -> None:
        machine = self.machine
        machine.check()
        left = [
            (actor_id.hex(), actor.state, actor.spec.detached, machine.holds.by_id.get(actor_id))
            for actor_id, actor in machine.actors.table.items()
            if actor.state != "DEAD"
        ]
        assert not left, f"actors left: {left}"
        held = {id_.hex(): counts for id_, counts in machine.holds.by_id.items()}
        assert not held, f"holds are left: {held}"
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


def in_short(what: Any) -> str:
    """A message or event as one line, ids in hex without their fillers."""
    if isinstance(what, bytes):
        return (what.hex().replace("f" * 24, "-") if len(what) > 8 else what.hex())[:60]
    if isinstance(what, (list, tuple)):
        return f"[{', '.join(map(in_short, what))}]"
    if dataclasses.is_dataclass(what):
        fields = {each.name: getattr(what, each.name) for each in dataclasses.fields(what)}
        told = [f"{k}={in_short(v)}" for k, v in fields.items() if v not in (b"", "", [], None, {})]
        return f"{type(what).__name__}({', '.join(told)})"[:500]
    return str(what)[:200]
