"""Whatever happens, in whatever order: books that balance, groups all or nothing, nobody forgotten.

The invariants are those of `SchedulerMachine.check`, which runs after each event: nothing is held
twice or by nobody, nothing but lent CPUs is oversubscribed, a group has all its bundles or (unless
a node was lost) none, strict strategies hold.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule
from simulation.cluster import CPU, Cluster

from ract.core import messages as m
from ract.scheduler.books.turn import NodesLeft, NodesWanted

DEMANDS = (
    {"CPU": 1.0},
    {"CPU": 3.0},
    {"CPU": 0.0},
    {"GPU": 0.5, "CPU": 0.5},
    {"GPU": 2.0},
    {"CPU": 1.0, "disk": 0.3},
)
KINDS = ({}, {"kind": "SPREAD"}, {"kind": "NODE_LABEL", "soft": {"zone": "a"}})
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


def units(demand):
    return {name: round(n * CPU) for name, n in demand.items()}


class Scheduling(RuleBasedStateMachine):
    nodes = Bundle("nodes")
    actors = Bundle("actors")
    groups = Bundle("groups")

    @initialize()
    def begin(self):
        self.cluster = Cluster()
        self.head = self.cluster.node("!", cpus=4, GPU=2, disk=1)
        for process in (1, 2):
            self.cluster.process(process, self.head)
        self.count = 100
        self.starting = {}  # lease -> node
        self.held = {}  # lease -> (requester, executor)
        self.bodies = {}  # executor -> actor
        self.pending_bodies = {}  # (actor, incarnation) -> node
        self.stopped = []  # StopActor, and where
        self.ended = []  # executors of leases that are over
        self.blocked = set()

    def number(self):
        self.count += 1
        return self.count

    def say(self, *events):
        for event in events:
            self.cluster.say(event)
            for sent in self.cluster.sent:
                self.note(sent.node_id, sent.message)

    def note(self, node, message):
        """What nodes and processes would remember."""
        if isinstance(message, m.StartLease):
            self.starting[message.lease] = node
        elif isinstance(message, m.LeaseGranted):
            self.held[message.lease] = (message.process, message.executor)
        elif isinstance(message, m.EndLease):
            _, executor = self.held.pop(message.lease, (0, 0))
            if message.kill and executor:
                self.ended.append(executor)
        elif isinstance(message, m.LeaseLost):
            _, executor = self.held.pop(message.lease, (0, 0))
            self.ended.append(executor)
        elif isinstance(message, m.StartActor):
            self.pending_bodies[message.spec.actor_id, message.incarnation] = node
        elif isinstance(message, m.StopActor):
            self.stopped.append((node, message))

    @property
    def alive(self):
        return self.cluster.machine.processes.alive

    # ------------------------------------------------------------------ rules

    @rule(target=nodes, cpus=st.integers(0, 6), gpus=st.integers(0, 3), zone=st.sampled_from("ab"))
    def join(self, cpus, gpus, zone):
        if len(self.cluster.machine.nodes.alive) >= 6:
            return multiple()
        name = chr(self.number())
        more = {"labels": {"zone": zone}, **({"GPU": gpus} if gpus else {})}
        node = (name.encode() * 28)[:28]
        total = {"CPU": cpus * CPU, **({"GPU": gpus * CPU} if gpus else {})}
        joined = m.NodeJoined(node, "tls://x:1", "x", 7, total, more["labels"], "/s")
        self.say(joined)
        return node

    @rule(node=consumes(nodes))
    def lose(self, node):
        self.starting = {lease: n for lease, n in self.starting.items() if n != node}
        self.pending_bodies = {key: n for key, n in self.pending_bodies.items() if n != node}
        self.cluster.lose(node)
        for sent in self.cluster.sent:
            self.note(sent.node_id, sent.message)
        self.forget_the_dead()

    @rule(node=consumes(nodes))
    def drain(self, node):
        """It may take as long as it likes; then it is gone."""
        self.cluster.machine.nodes.table[node].is_head = False
        args = {"node_id": node.hex(), "reason": "test"}
        self.say(m.Request(1, self.number(), "drain_node", args))

    @rule(count=st.integers(0, 3))
    def scale_down(self, count):
        self.say(NodesLeft(count))
        for node_id in self.cluster.machine.may_go:
            node = self.cluster.machine.nodes.table[node_id]
            assert not node.ledger.holders
            assert node_id not in self.starting.values()

    def forget_the_dead(self):
        self.bodies = {e: a for e, a in self.bodies.items() if e in self.alive}
        self.blocked &= set(self.alive)

    @rule(
        process=st.sampled_from((1, 2)),
        which=st.integers(0, len(DEMANDS) - 1),
        kind=st.sampled_from(KINDS),
        backlog=st.integers(0, 6),
        priority=st.integers(0, 2),
        unheard=st.integers(0, 2),
    )
    def want(self, process, which, kind, backlog, priority, unheard):
        """Of what was granted, ``unheard`` is on its way when the process says so."""
        shape = m.Shape(units(DEMANDS[which]), process.to_bytes(4, "big"), "", dict(kind))
        key = which * 10 + KINDS.index(kind)
        held = max(0, self.cluster.held(process, key) - unheard)
        self.say(m.LeasesWanted(process, key, shape, backlog, ["f"], priority, held=held))

    @rule(
        process=st.sampled_from((1, 2)),
        group=groups,
        index=st.integers(-1, 1),
        backlog=st.integers(0, 3),
    )
    def want_within(self, process, group, index, backlog):
        strategy = {"kind": "PLACEMENT_GROUP", "group_id": group.hex(), "bundle": index}
        shape = m.Shape({"CPU": CPU}, process.to_bytes(4, "big"), "", strategy)
        key = 1000 + 10 * int.from_bytes(group, "big") + index
        held = self.cluster.held(process, key)
        self.say(m.LeasesWanted(process, key, shape, backlog, ["f"], held=held))

    @rule()
    def executors_come_up(self):
        for lease, node in list(self.starting.items()):
            del self.starting[lease]
            executor = self.number()
            self.say(
                m.ProcessJoined(node, executor, "executor", executor),
                m.LeaseStarted(node, lease, executor, "/e", executor),
            )
        for (actor_id, incarnation), node in list(self.pending_bodies.items()):
            del self.pending_bodies[actor_id, incarnation]
            executor = self.number()
            self.bodies[executor] = actor_id
            self.say(
                m.ProcessJoined(node, executor, "executor", executor),
                m.ActorStarted(node, actor_id, incarnation, executor, "/e", executor),
            )

    @rule()
    def those_who_must_go_are_gone(self):
        ended, self.ended = self.ended, []
        stopped, self.stopped = self.stopped, []
        for node, stop in stopped:
            self.pending_bodies.pop((stop.actor_id, stop.incarnation), None)
            ended += [e for e, actor_id in self.bodies.items() if actor_id == stop.actor_id]
            self.say(m.ActorExited(node, stop.actor_id, stop.incarnation, stop.cause))
        for executor in ended:
            if executor in self.alive:
                node = self.alive[executor].node_id
                self.say(m.ProcessExited(node, executor, m.ExitCause("killed")))
        self.forget_the_dead()

    @rule(data=st.data())
    def release(self, data):
        if self.held:
            lease = data.draw(st.sampled_from(sorted(self.held)))
            process, executor = self.held.pop(lease)
            if executor in self.blocked:
                self.blocked.discard(executor)
                self.say(m.Unblocked(executor))
            self.say(m.LeaseReleased(process, lease))

    @rule(data=st.data())
    def block_or_go_on(self, data):
        executors = sorted(e for _, e in self.held.values() if e in self.alive)
        if executors:
            executor = data.draw(st.sampled_from(executors))
            is_blocked = executor in self.blocked
            self.blocked ^= {executor}
            self.say(m.Unblocked(executor) if is_blocked else m.Blocked(executor))

    @rule(data=st.data())
    def executor_dies(self, data):
        executors = sorted(e for e in self.alive if e > 2)
        if executors:
            executor = data.draw(st.sampled_from(executors))
            self.say(
                m.ProcessExited(self.alive[executor].node_id, executor, m.ExitCause("crashed"))
            )
            self.held = {k: v for k, v in self.held.items() if v[1] != executor}
            self.forget_the_dead()

    @rule(
        target=actors,
        demand=st.sampled_from(DEMANDS),
        keeps=st.booleans(),
        restarts=st.sampled_from((0, 1, -1)),
    )
    def create_actor(self, demand, keeps, restarts):
        actor_id = self.number().to_bytes(16, "big")
        running = units(demand) if keeps else {}
        spec = self.cluster.spec(
            actor_id,
            placement_demand=units(demand),
            running_demand=running,
            max_restarts=restarts,
            detached=True,
        )
        self.say(m.ActorWanted(1, spec))
        return actor_id

    @rule(target=actors, group=groups)
    def create_actor_within(self, group):
        actor_id = self.number().to_bytes(16, "big")
        strategy = {"kind": "PLACEMENT_GROUP", "group_id": group.hex()}
        spec = self.cluster.spec(actor_id, strategy=strategy, detached=True)
        self.say(m.ActorWanted(1, spec))
        return actor_id

    @rule(actor_id=consumes(actors))
    def kill_actor(self, actor_id):
        self.say(m.ActorKillWanted(1, actor_id, True))

    @rule(
        target=groups,
        bundles=st.lists(st.sampled_from([d for d in DEMANDS if any(d.values())]), min_size=1).map(
            lambda bundles: bundles[:4]
        ),
        strategy=st.sampled_from(STRATEGIES),
    )
    def reserve(self, bundles, strategy):
        group_id = self.number().to_bytes(18, "big")
        positive = [{k: n for k, n in units(b).items() if n} for b in bundles]
        spec = m.GroupSpec(group_id, b"\0\0\0\1", 1, positive, strategy, detached=True)
        self.say(m.GroupWanted(1, spec))
        return group_id

    @rule(group=consumes(groups))
    def unreserve(self, group):
        self.say(m.GroupRemoveWanted(1, group))

    @rule(seconds=st.sampled_from((0.05, 1.0, 5.0)))
    def time_passes(self, seconds):
        self.cluster.wait(seconds)
        for sent in self.cluster.sent:
            self.note(sent.node_id, sent.message)

    # ------------------------------------------------------------------ the end

    def teardown(self):
        """Everybody goes; then every demand that fits is served, and everything is given back."""
        if not hasattr(self, "cluster"):
            return
        machine = self.cluster.machine
        for group_id in list(machine.groups.table):
            self.say(m.GroupRemoveWanted(1, group_id))
        for actor_id in list(machine.actors.table):
            self.say(m.ActorKillWanted(1, actor_id, True))
        for _ in range(60):
            waits = any(want.need for want in machine.leases.wants.values())
            bodies = any(a.body is not None for a in machine.actors.table.values())
            if not (self.starting or self.held or machine.leases.table or bodies or waits):
                break
            self.executors_come_up()
            self.those_who_must_go_are_gone()
            for lease, (process, executor) in list(self.held.items()):
                if executor in self.blocked:
                    self.say(m.Unblocked(executor))
                    self.blocked.discard(executor)
                del self.held[lease]
                self.say(m.LeaseReleased(process, lease))
            for executor in [e for e in self.alive if e > 2]:
                node = self.alive[executor].node_id
                self.say(m.ProcessExited(node, executor, m.ExitCause("crashed")))
            self.cluster.wait(1.0)
            for sent in self.cluster.sent:
                self.note(sent.node_id, sent.message)
        self.say(NodesWanted(1000))
        for want in machine.leases.wants.values():
            assert not want.need or machine.placement.verdict(want.ask).kind == "infeasible", want
        assert not machine.leases.table
        for node in machine.nodes.alive:
            assert node.ledger.free == node.ledger.total
            assert not node.ledger.holders


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
