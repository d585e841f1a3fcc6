"""A scheduler machine with a handful of nodes and processes, for tests of one behaviour each."""

import random
from collections.abc import Iterator
from typing import Any

from ract.core import messages as m
from ract.core.wire import encode
from ract.scheduler.books.turn import NodeLost, Send, Tick
from ract.scheduler.machine import SchedulerMachine

CPU = 10_000


class Cluster:
    """Feeds events to a machine, keeps its commands, checks its invariants after each."""

    def __init__(self, **config: Any) -> None:
        self.machine = SchedulerMachine(b"cluster", random.Random(1), config)
        self.now = 0.0
        self.sent: list[Send] = []  #: commands of the newest event
        self._objects = 0

    def say(self, *events: Any) -> list[Send]:
        """Handle events; return (and keep) what the machine commands."""
        self.sent = []
        for event in events:
            self.sent += self.machine.handle(event, self.now)
            self.machine.check()
        return self.sent

    def wait(self, seconds: float) -> list[Send]:
        """Let time pass, with the ticks that the machine asks for."""
        end = self.now + seconds
        sent = []
        while (at := self.machine.next_deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            sent += self.say(Tick())
        self.now = end
        self.sent = sent
        return sent

    def told(self, kind: type, node: bytes | None = None) -> list[Any]:
        """Messages of one kind among the newest commands."""
        return [
            command.message
            for command in self.sent
            if isinstance(command.message, kind) and node in (None, command.node_id)
        ]

    def one(self, kind: type, node: bytes | None = None) -> Any:
        """The only message of that kind among the newest commands."""
        [message] = self.told(kind, node)
        return message

    # ------------------------------------------------------------------ shorthands

    def node(self, name: str = "a", cpus: float = 2, **more: Any) -> bytes:
        """A node joins; more resources by keyword, ``labels`` aside."""
        node_id = name.encode() * 28
        labels = more.pop("labels", {})
        total = {"CPU": int(cpus * CPU), **{k: int(n * CPU) for k, n in more.items()}}
        self.say(m.NodeJoined(node_id, f"tls://{name}:1", f"10.0.0.{name}", 7, total, labels, "/s"))
        return node_id

    def process(self, number: int, node: bytes, kind: str = "driver", namespace: str = "") -> int:
        self.say(m.ProcessJoined(node, number, kind, 1000 + number, namespace))
        return number

    def lose(self, node: bytes) -> None:
        self.say(NodeLost(node, m.ExitCause("node_died", "gone")))

    def dies(self, number: int, kind: str = "crashed") -> None:
        node = self.machine.processes.alive[number].node_id
        self.say(m.ProcessExited(node, number, m.ExitCause(kind)))

    def want(self, process: int, backlog: int, key: int = 1, cpus: float = 1, **more: Any) -> None:
        """State a backlog. ``strategy`` and ``labels`` aside, keywords are resources."""
        strategy, labels = more.pop("strategy", {}), more.pop("labels", {})
        demand = {"CPU": int(cpus * CPU), **{k: int(n * CPU) for k, n in more.items()}}
        shape = m.Shape(demand, b"\0\0\0\1", "", strategy, labels)
        self.say(m.LeasesWanted(process, key, shape, backlog, ["f"], held=self.held(process, key)))

    def held(self, process: int, key: int) -> int:
        """How many leases of a shape a process has that has heard everything."""
        want = self.machine.leases.wants.get((process, key))
        return want.held if want is not None else 0

    def starts(self) -> list[tuple[bytes, int]]:
        """(node, lease) of the leases started by the newest commands."""
        return [
            (c.node_id, c.message.lease) for c in self.sent if isinstance(c.message, m.StartLease)
        ]

    def up(self, node: bytes, lease: int, executor: int) -> None:
        """The executor of a lease is up."""
        self.process(executor, node, "executor")
        self.say(m.LeaseStarted(node, lease, executor, f"/e{executor}", 1))

    def spec(self, actor_id: bytes, owner: int = 1, **more: Any) -> m.ActorSpec:
        defaults: dict[str, Any] = {
            "actor_id": actor_id,
            "job_id": b"\0\0\0\1",
            "owner": owner,
            "class_name": "Counter",
            "creation": m.Blob(b"class"),
            "contains": [],
            "placement_demand": {"CPU": CPU},
            "running_demand": {},
        }
        return m.ActorSpec(**{**defaults, **more})

    def create(self, actor_id: bytes, owner: int = 1, **more: Any) -> None:
        """Hold, then create, as clients do."""
        spec = self.spec(actor_id, owner, **more)
        self.say(
            m.HoldsChanged(owner, [m.Hold(actor_id, owner, 1)]),
            m.ActorWatched(owner, actor_id),
            m.ActorWanted(owner, spec),
        )

    def actor_up(self, node: bytes, actor_id: bytes, executor: int, incarnation: int = 1) -> None:
        self.process(executor, node, "executor")
        self.say(m.ActorStarted(node, actor_id, incarnation, executor, f"/e{executor}", 1))

    def group(self, group_id: bytes, bundles: list[dict[str, float]], **more: Any) -> None:
        """Reserve a placement group for process 1, or ``owner``."""
        owner = more.pop("owner", 1)
        units = [{name: int(n * CPU) for name, n in bundle.items()} for bundle in bundles]
        spec = m.GroupSpec(group_id, b"\0\0\0\1", owner, units, **more)
        self.say(m.GroupWanted(owner, spec))

    def state(self, group_id: bytes) -> str:
        """The state that the last of the newest commands tells of a group."""
        return [told.state for told in self.told(m.GroupChanged) if told.group_id == group_id][-1]

    def ask(self, process: int, op: str, **args: Any) -> m.Reply:
        self.say(m.Request(process, 1, op, args))
        return self.one(m.Reply)

    def ask_create(self, process: int, spec: m.ActorSpec, get_if_exists: bool = False) -> m.Reply:
        return self.ask(process, "create_actor", spec=encode(spec), get_if_exists=get_if_exists)

    def free(self, node: bytes) -> dict[str, float]:
        """What is free on a node."""
        free = self.machine.nodes.table[node].ledger.free
        return {name: n / CPU for name, n in free.items()}

    def objects(self) -> Iterator[bytes]:
        """Ever new object ids."""
        while True:
            self._objects += 1
            yield self._objects.to_bytes(28, "big")
