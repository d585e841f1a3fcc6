"""Nodes and processes of the simulation: small models that obey the protocol.

Theory of operation
-------------------
`SimNode` stands for a daemon: it numbers processes, starts and ends executors, keeps copies of
objects, seeks and pulls. `SimProcess` stands for a driver or executor with its client: it submits
tasks over leases, passes refs and handles along, creates actors and objects, gets and drops them.
Drivers act at random until the world stops; executors do what tasks tell them.

Holds are kept as the contract says: who hands an id to another process adds that process' hold on
its own stream first; who has no use for an id any more gives back all the holds it knows of.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ract.core import messages as m
from ract.core.messages import Contained, ExitCause, Hold
from ract.core.wire import encode

if TYPE_CHECKING:
    from simulation.simulator import World

CPU = 10_000
SHAPES = (
    {"CPU": CPU},
    {"CPU": 2 * CPU},
    {"CPU": CPU // 2},
    {},
    {"CPU": CPU, "disk": CPU},
)


@dataclass(eq=False)
class Task:
    """A call over a lease."""

    name: str
    shape: int
    args: list[bytes]
    duration: float
    children: int = 0
    returns: bool = False
    tries: int = 0


@dataclass(eq=False)
class NodeLease:
    """A lease as its node sees it."""

    lease: int
    demand: dict[str, int]
    executor: int = 0
    is_over: bool = False


@dataclass(eq=False)
class Use:
    """A lease as its requester sees it."""

    lease: int
    executor: int
    shape: int
    task: Task | None = None
    is_recalled: bool = False


class SimNode:
    """A daemon."""

    def __init__(self, world: World, number: int, is_head: bool) -> None:
        self.world = world
        self.node_id = number.to_bytes(2, "big") * 14
        self.is_head = is_head
        self.is_alive = True
        self.is_reported = False
        self.wants_drivers = 0
        self.total = {"CPU": world.rng.choice((2, 3, 4)) * CPU, "disk": 2 * CPU, "slot": 50 * CPU}
        self.numbers: deque[int] = deque()
        self.leases: dict[int, NodeLease] = {}
        self.actors: dict[bytes, SimProcess | None] = {}
        self.store: dict[bytes, list[Contained]] = {}
        self.waiting: dict[bytes, list[int]] = {}

    def join(self) -> None:
        address = f"sim://{self.node_id[:2].hex()}"
        self.say(m.NodeJoined(self.node_id, address, "127.0.0.1", 1, self.total, {}, "/x", "h"))

    def say(self, message: Any) -> None:
        if self.is_alive:
            self.world.to_scheduler(self, message)

    def processes(self) -> list[SimProcess]:
        return [p for p in self.world.processes.values() if p.node is self and p.is_alive]

    def fork(self, kind: str) -> SimProcess:
        if len(self.numbers) == 8:
            self.say(m.ProcessBlockWanted(self.node_id))
        process = SimProcess(self.world, self, self.numbers.popleft(), kind)
        assert process.number not in self.world.processes, "process number given twice"
        self.world.processes[process.number] = process
        self.say(m.ProcessJoined(self.node_id, process.number, kind, process.number))
        return process

    def crash(self) -> None:
        for process in self.processes():
            process.vanish()
        self.is_alive = False
        self.leases.clear()
        self.store.clear()

    # ------------------------------------------------------------------ from the scheduler

    def receive(self, message: Any) -> None:
        if not self.is_alive:
            return
        if hasattr(message, "process") and not isinstance(message, m.ProcessAccepted):
            process = self.world.processes.get(message.process)
            if process is not None and process.is_alive:
                process.receive(message)
            return
        handler = getattr(self, "_on_" + type(message).__name__)
        handler(message)

    def _on_NodeAccepted(self, message: m.NodeAccepted) -> None:
        self._number(message)
        for _ in range(self.wants_drivers):
            self.fork("driver")

    def _on_ProcessBlock(self, message: m.ProcessBlock) -> None:
        self._number(message)

    def _number(self, message: Any) -> None:
        first = message.first_process
        self.numbers.extend(range(first, first + message.process_count))

    def _on_ProcessAccepted(self, message: m.ProcessAccepted) -> None:
        process = self.world.processes[message.process]
        if process.kind == "driver" and process.is_alive:
            process.job_id = message.job_id
            process.act()

    def _on_NodesChanged(self, message: m.NodesChanged) -> None:
        pass

    def _on_EndNode(self, message: m.EndNode) -> None:
        raise AssertionError("no node is declared dead while it lives")

    def _on_StartLease(self, message: m.StartLease) -> None:
        assert message.lease not in self.leases
        lease = NodeLease(message.lease, message.shape.demand)
        self.leases[message.lease] = lease
        if self.world.rng.random() < 0.01:
            del self.leases[message.lease]
            self.say(m.LeaseFailed(self.node_id, message.lease, "RuntimeEnvSetupError", "sim"))
            return
        job_id = message.shape.job_id
        self.world.after(self.world.rng.random() * 0.02, lambda: self._lease_up(lease, job_id))

    def _lease_up(self, lease: NodeLease, job_id: bytes) -> None:
        if not self.is_alive:
            return
        idle = [p for p in self.processes() if p.is_idle and p.job_id == job_id]
        process = idle[0] if idle else self.fork("executor")
        process.job_id = job_id
        process.lease, process.was_blocked = lease, False
        lease.executor = process.number
        self.say(m.LeaseStarted(self.node_id, lease.lease, process.number, "a", process.number))

    def _on_EndLease(self, message: m.EndLease) -> None:
        lease = self.leases.get(message.lease)
        if lease is None:
            return  # its executor is dead, which the scheduler has yet to hear
        assert lease.executor, "a lease was ended before it was up"
        del self.leases[message.lease]
        process = self.world.processes[lease.executor]
        assert process.lease is lease
        if message.kill:
            process.die(message.cause)
        else:
            assert process.task is None, "a lease was ended while its task runs"
            process.lease = None

    def _on_StartActor(self, message: m.StartActor) -> None:
        spec = message.spec
        assert spec.actor_id not in self.actors, "an actor was started twice on a node"
        self.actors[spec.actor_id] = None
        process = self.fork("executor")
        process.job_id = spec.job_id
        process.become(spec, message.incarnation)
        self.actors[spec.actor_id] = process
        delay = self.world.rng.random() * 0.05
        self.world.after(delay, lambda: self._constructed(process, spec, message.incarnation))

    def _constructed(self, process: SimProcess, spec: m.ActorSpec, incarnation: int) -> None:
        if not process.is_alive:
            return
        if self.world.rng.random() < 0.05:
            error = m.Blob(b"ctor", [], True)
            self.say(m.ActorInitFailed(self.node_id, spec.actor_id, incarnation, error))
            process.die(ExitCause("init_failed"))
            return
        number = process.number
        self.say(m.ActorStarted(self.node_id, spec.actor_id, incarnation, number, "a", number))

    def _on_StopActor(self, message: m.StopActor) -> None:
        process = self.actors.get(message.actor_id)
        if process is None or process.incarnation != message.incarnation:
            return
        delay = self.world.rng.random() * (0.1 if message.graceful else 0.01)
        self.world.after(delay, lambda: process.die(message.cause))

    def _on_JobFinished(self, message: m.JobFinished) -> None:
        for process in self.processes():
            is_detached = process.spec is not None and process.spec.detached
            if process.job_id == message.job_id and not is_detached:
                process.die(message.cause)

    # ------------------------------------------------------------------ objects

    def want(self, object_id: bytes, process: int) -> None:
        if object_id in self.store:
            self.world.processes[process].got(object_id, "")
            return
        if object_id not in self.waiting:
            self.say(m.ObjectSought(self.node_id, object_id))
        self.waiting.setdefault(object_id, []).append(process)

    def _on_ObjectLocated(self, message: m.ObjectLocated) -> None:
        object_id = message.object_id
        if message.blob is not None:
            error = message.blob.head.decode() if message.blob.is_error else ""
            self._answer(object_id, error)
            return
        assert message.node_ids, "neither a value nor a place"
        source = message.node_ids[0]
        link = ("pull", source, self.node_id)
        self.world.travel(link, lambda: self._pulled(object_id, source))

    def _pulled(self, object_id: bytes, source: bytes) -> None:
        if not self.is_alive:
            return
        peer = self.world.nodes[source]
        if peer.is_alive and object_id in peer.store:
            self.store[object_id] = peer.store[object_id]
            self.say(m.ObjectStored(self.node_id, object_id, 9, [], [], is_copy=True))
            self._answer(object_id, "")
        else:
            self.say(m.ObjectMissing(self.node_id, object_id, source))

    def _answer(self, object_id: bytes, error: str) -> None:
        for number in self.waiting.pop(object_id, []):
            process = self.world.processes[number]
            if process.is_alive:
                process.got(object_id, error)

    def _on_FreeObject(self, message: m.FreeObject) -> None:
        self.store.pop(message.object_id, None)

    # ------------------------------------------------------------------ truth

    def check_cpus(self) -> None:
        """CPUs that tasks use, forced ones aside, are at most those there are."""
        used = 0
        for process in self.processes():
            if process.lease and process.task and not (process.is_blocked or process.was_blocked):
                used += process.lease.demand.get("CPU", 0)
        assert used <= self.total["CPU"], f"{used} CPUs in use on {self.node_id[:2].hex()}"


class SimProcess:
    """A driver or executor and its client."""

    def __init__(self, world: World, node: SimNode, number: int, kind: str) -> None:
        self.world = world
        self.node = node
        self.number = number
        self.kind = kind
        self.is_alive = True
        self.job_id = b""
        # as an executor
        self.lease: NodeLease | None = None
        self.task: Task | None = None
        self.caller: SimProcess | None = None
        self.is_blocked = False
        self.was_blocked = False
        self.spec: m.ActorSpec | None = None
        self.incarnation = 0
        # as a client
        self.queues: dict[int, deque[Task]] = {}
        self.uses: dict[int, Use] = {}
        self.announced: Counter[int] = Counter()
        self.held: Counter[bytes] = Counter()
        self.pins: Counter[bytes] = Counter()
        self.actors: dict[bytes, tuple[int, str]] = {}
        self.gets: Counter[bytes] = Counter()
        self.children = 0
        self.is_stopped = False

    @property
    def is_idle(self) -> bool:
        return self.kind == "executor" and not (self.lease or self.spec)

    def say(self, message: Any) -> None:
        if self.is_alive:
            self.node.say(message)

    # ------------------------------------------------------------------ life and death

    def become(self, spec: m.ActorSpec, incarnation: int) -> None:
        self.spec, self.incarnation = spec, incarnation
        self.world.body_started(spec.actor_id, incarnation)

    def vanish(self) -> None:
        """Die without a word (with the node)."""
        self.is_alive = False
        if self.spec is not None:
            self.world.body_ended(self.spec.actor_id, self.incarnation)
            self.node.actors.pop(self.spec.actor_id, None)
        if self.lease is not None:
            self.node.leases.pop(self.lease.lease, None)

    def die(self, cause: ExitCause) -> None:
        """Die; the node notices and says so, in one order or the other."""
        if not self.is_alive:
            return
        self.vanish()
        node_id = self.node.node_id
        words: list[Any] = [m.ProcessExited(node_id, self.number, cause)]
        if self.spec is not None:
            words.append(m.ActorExited(node_id, self.spec.actor_id, self.incarnation, cause))
        self.world.rng.shuffle(words)
        for word in words:
            self.node.say(word)

    # ------------------------------------------------------------------ driver: random actions

    def act(self) -> None:
        """Do something, then again later."""
        if not self.is_alive or self.is_stopped:
            return
        rng = self.world.rng
        actions = (
            [self._submit] * 5
            + [self._put, self._put, self._put_later, self._get, self._drop, self._free]
            + [self._create_actor, self._kill_actor, self._drop, self._drop]
        )
        rng.choice(actions)()
        self.world.after(rng.expovariate(1 / 0.02), self.act)

    def stop(self) -> None:
        """No new work; let go of everything once what runs is done."""
        self.is_stopped = True
        for actor_id, (_, state) in list(self.actors.items()):
            if state != "DEAD" and actor_id[-1] == 1:
                self.say(m.ActorKillWanted(self.number, actor_id, True))
        self._let_go_of_all()

    def _let_go_of_all(self) -> None:
        if not self.is_alive:
            return
        for id_ in list(self.held):
            self.drop(id_)
        if self.held or self.uses or any(self.queues.values()) or self.gets:
            self.world.after(0.5, self._let_go_of_all)

    def _submit(self) -> None:
        rng = self.world.rng
        ids = [i for i in self.held if self.held[i] > 0]
        args = rng.sample(ids, min(len(ids), rng.choice((0, 0, 1, 2))))
        children = rng.choice((0, 0, 0, 1, 3)) if self.kind == "driver" else 0
        shape = rng.randrange(len(SHAPES)) if self.kind == "driver" else rng.choice((0, 2, 3))
        name = f"task{next(self.world.ids)}"
        duration = rng.expovariate(1 / 0.03)
        self.submit(Task(name, shape, args, duration, children, rng.random() < 0.5))

    def _put(self) -> None:
        object_id = self._new_id(28)
        held = [i for i in self.held if self.held[i] > 0]
        inner = self.world.rng.sample(held, min(len(held), self.world.rng.choice((0, 0, 1, 2))))
        self.publish(object_id, inner, [Hold(object_id, self.number, 1)])
        self.held[object_id] += 1

    def _put_later(self) -> None:
        object_id = self._new_id(28)
        holds = [Hold(object_id, self.number, 1)]
        self.say(m.ObjectPublished(self.number, object_id, None, [], holds, "later"))
        self.held[object_id] += 1
        delay = self.world.rng.random()
        self.world.after(delay, lambda: self.publish(object_id, [], []))

    def publish(self, object_id: bytes, inner: list[bytes], holds: list[Hold]) -> None:
        """Give an object its value, inline or in the store."""
        contains = [Contained(each) for each in inner]
        if not self.is_alive:
            return
        if self.world.rng.random() < 0.5:
            blob = m.Blob(b"value")
            self.say(m.ObjectPublished(self.number, object_id, blob, contains, holds, ""))
        else:
            self.node.store[object_id] = contains
            self.say(m.ObjectStored(self.node.node_id, object_id, 9, contains, holds))

    def _get(self) -> None:
        objects = [i for i in self.held if len(i) == 28]
        if objects:
            self.get(self.world.rng.choice(objects))

    def get(self, object_id: bytes) -> None:
        self.gets[object_id] += 1
        self.pins[object_id] += 1
        self.node.want(object_id, self.number)

    def got(self, object_id: bytes, error: str) -> None:
        """The answer of a get."""
        self.gets[object_id] -= 1
        if not self.gets[object_id]:
            del self.gets[object_id]
        self._unpin(object_id)
        assert not error or error.startswith(("lost:", "owner_died:", "freed:")), error
        if not self.world.crashes:
            assert not error or error.startswith("freed:"), f"{object_id.hex()}: {error}"

    def _free(self) -> None:
        objects = [i for i in self.held if len(i) == 28]
        if objects and self.world.rng.random() < 0.2:
            self.say(m.ObjectsFreed(self.number, [self.world.rng.choice(objects)]))

    def _drop(self) -> None:
        if self.held:
            self.drop(self.world.rng.choice(list(self.held)))

    def drop(self, id_: bytes) -> None:
        """Give back all holds, unless a task or a get still needs the id."""
        if not self.pins[id_] and id_ in self.held:
            count = self.held.pop(id_)
            if count:
                self.say(m.HoldsChanged(self.number, [Hold(id_, self.number, -count)]))

    def _create_actor(self) -> None:
        rng = self.world.rng
        if len([1 for _, state in self.actors.values() if state != "DEAD"]) > 3:
            return
        is_detached = rng.random() < 0.2
        actor_id = self._new_id(15) + bytes([is_detached])
        name = rng.choice(("", "", "ann", "bob"))
        held = [i for i in self.held if self.held[i] > 0]
        spec = m.ActorSpec(
            actor_id=actor_id,
            job_id=self.job_id,
            owner=self.number,
            class_name="Sim",
            creation=m.Blob(b"cls"),
            contains=[Contained(i) for i in rng.sample(held, min(len(held), rng.choice((0, 1))))],
            # A slot, not a CPU: actors that tasks keep alive must not keep tasks from running.
            placement_demand={"CPU": CPU, "slot": CPU // 2},
            running_demand=rng.choice(({}, {"slot": CPU // 2})),
            name=name,
            detached=is_detached,
            max_restarts=rng.choice((0, 1, -1)),
        )
        self.held[actor_id] += 1
        self.say(m.HoldsChanged(self.number, [Hold(actor_id, self.number, 1)]))
        if name:
            args = {"spec": encode(spec), "get_if_exists": False}
            self.say(m.Request(self.number, next(self.world.ids), "create_actor", args))
        else:
            self.say(m.ActorWanted(self.number, spec))
        self.actors[actor_id] = (0, "PENDING_CREATION")
        self.say(m.ActorWatched(self.number, actor_id))

    def _kill_actor(self) -> None:
        alive = [i for i, (_, state) in self.actors.items() if state != "DEAD"]
        if alive and self.world.rng.random() < 0.3:
            no_restart = self.world.rng.random() < 0.5
            actor_id = self.world.rng.choice(alive)
            self.say(m.ActorKillWanted(self.number, actor_id, no_restart))

    def _new_id(self, size: int) -> bytes:
        return self.number.to_bytes(4, "big") + next(self.world.ids).to_bytes(size - 4, "big")

    # ------------------------------------------------------------------ client: tasks over leases

    def waiting_tasks(self) -> list[Task]:
        running = [use.task for use in self.uses.values() if use.task is not None]
        return [*running, *(task for queue in self.queues.values() for task in queue)]

    def submit(self, task: Task) -> None:
        for id_ in task.args:
            self.pins[id_] += 1
        self.queues.setdefault(task.shape, deque()).append(task)
        self._fill(task.shape)

    def _fill(self, shape: int) -> None:
        """Push tasks to free leases, give back recalled ones, say what still waits."""
        queue = self.queues.setdefault(shape, deque())
        for use in [u for u in self.uses.values() if u.shape == shape and u.task is None]:
            if use.is_recalled:
                self._release(use)
            elif queue:
                self._push(use, queue.popleft())
            else:
                self.world.after(0.2, lambda u=use: self._release_if_idle(u))
        if len(queue) != self.announced[shape]:
            self.announced[shape] = len(queue)
            message = m.Shape(dict(SHAPES[shape]), self.job_id)
            self.say(m.LeasesWanted(self.number, shape, message, len(queue), ["sim"]))

    def _push(self, use: Use, task: Task) -> None:
        use.task = task
        task.tries += 1
        if task.args:
            holds = [Hold(id_, use.executor, 1) for id_ in task.args]
            self.say(m.HoldsChanged(self.number, holds))
        executor = self.world.processes[use.executor]
        link = ("direct", self.number, use.executor)
        self.world.travel(link, lambda: executor.run(self, use.lease, task))

    def _release_if_idle(self, use: Use) -> None:
        if self.is_alive and use.lease in self.uses and use.task is None:
            self._release(use)

    def _release(self, use: Use) -> None:
        del self.uses[use.lease]
        self.say(m.LeaseReleased(self.number, use.lease))

    def receive(self, message: Any) -> None:
        if isinstance(message, m.LeaseGranted):
            assert message.lease not in self.uses
            self.uses[message.lease] = Use(message.lease, message.executor, message.shape_key)
            self.announced[message.shape_key] = max(0, self.announced[message.shape_key] - 1)
            self._fill(message.shape_key)
        elif isinstance(message, m.LeaseRecalled):
            use = self.uses.get(message.lease)
            if use is not None:
                use.is_recalled = True
                self._fill(use.shape)
        elif isinstance(message, m.LeaseLost):
            use = self.uses.pop(message.lease, None)
            if use is not None:
                self._retry(use)
        elif isinstance(message, m.LeaseRefused):
            for task in self.queues.pop(message.shape_key, ()):
                self._finished(task)
            self.announced[message.shape_key] = 0
        elif isinstance(message, m.ActorChanged):
            self._actor_changed(message)
        else:
            assert isinstance(message, m.Reply | m.Pushed), message

    def _retry(self, use: Use) -> None:
        task = use.task
        if task is not None and task.tries < 4:
            self.queues.setdefault(task.shape, deque()).appendleft(task)
        elif task is not None:
            self._finished(task)
        self._fill(use.shape)

    def _actor_changed(self, message: m.ActorChanged) -> None:
        incarnation, state = self.actors.get(message.actor_id, (0, ""))
        assert message.incarnation >= incarnation or message.state == "DEAD"
        assert state != "DEAD" or message.state == "DEAD", "an actor rose from the dead"
        self.actors[message.actor_id] = (message.incarnation, message.state)

    def replied(self, lease: int, task: Task, result: bytes | None) -> None:
        """The executor has answered."""
        if not self.is_alive:
            return
        if result is not None:
            self.held[result] += 1
        use = self.uses.get(lease)
        if use is None or use.task is not task:
            return  # lost meanwhile, and retried
        use.task = None
        self._finished(task)
        self._fill(use.shape)

    def _finished(self, task: Task) -> None:
        for id_ in task.args:
            self._unpin(id_)
        if self.kind == "executor":
            self.children -= 1
            if not self.children and self.is_blocked:
                self._unblock()

    def _unpin(self, id_: bytes) -> None:
        self.pins[id_] -= 1
        if not self.pins[id_]:
            del self.pins[id_]
            if self.kind == "executor" or self.is_stopped:
                self.drop(id_)

    # ------------------------------------------------------------------ executor: running a task

    def run(self, caller: SimProcess, lease: int, task: Task) -> None:
        """A call arrives on the direct channel."""
        if not self.is_alive:
            return
        assert self.lease is not None
        assert self.lease.lease == lease
        assert self.task is None
        self.task, self.caller = task, caller
        self.node.check_cpus()
        for id_ in task.args:
            self.held[id_] += 1
            if len(id_) == 28 and self.world.rng.random() < 0.5:
                self.get(id_)
        self.world.after(task.duration, lambda: self._computed(task))

    def _computed(self, task: Task) -> None:
        if not self.is_alive or self.task is not task:
            return
        if not task.children:
            self._reply()
            return
        self.children = task.children
        self.is_blocked = True
        self.say(m.Blocked(self.number))
        for _ in range(task.children):
            self._submit()

    def _unblock(self) -> None:
        self.is_blocked, self.was_blocked = False, True
        self.say(m.Unblocked(self.number))
        self.world.after(self.world.rng.random() * 0.02, self._reply)

    def _reply(self) -> None:
        task, caller = self.task, self.caller
        if not self.is_alive or task is None or caller is None:
            return
        assert self.lease is not None
        result = None
        if task.returns:
            result = self._new_id(28)
            inner = [i for i in task.args if self.held[i] > 0]
            self.publish(result, inner, [Hold(result, caller.number, 1)])
        for id_ in list(self.held):
            self.drop(id_)
        self.task = None
        lease = self.lease.lease
        link = ("direct", self.number, caller.number)
        self.world.travel(link, lambda: caller.replied(lease, task, result))
