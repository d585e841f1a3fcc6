"""Processes of the simulation: drivers and executors with their clients, small and honest.

Theory of operation
-------------------
`SimProcess` submits tasks over leases, calls actors, passes refs and handles along, creates actors
and objects, gets and drops them. Drivers act at random until the world stops; executors do what
tasks tell them. To its node a process speaks as real ones do, in messages on one socket; to other
processes on direct channels, which keep their order too.

Holds are kept as the contract says: who hands an id to another process adds that process' hold on
its own stream first; who has no use for an id any more gives back all the holds it knows of.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ract.core import messages as m
from ract.core.ids import COUNTER_BITS
from ract.core.messages import Contained, ExitCause, Hold
from ract.core.wire import decode, encode
from ract.worker.node import events as ev

if TYPE_CHECKING:
    from simulation.nodes import SimNode
    from simulation.simulator import World

CPU = 10_000
SHAPES = (
    {"CPU": CPU},
    {"CPU": 2 * CPU},
    {"CPU": CPU // 2},
    {},
    {"CPU": CPU, "disk": CPU},
)
BUNDLES: tuple[list[dict[str, int]], ...] = (
    [{"CPU": CPU}],
    [{"CPU": CPU}, {"CPU": CPU}],
    [{"CPU": 2 * CPU}, {"CPU": CPU, "disk": CPU}],
    [{"CPU": CPU}] * 3,
    [{"CPU": 4 * CPU}, {"slot": CPU}],
)
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
SIZES = (1_000, 100_000, 400_000, 2**20, 2 * 2**20, 4 * 2**20)
OWN_SEGMENT_BYTES_MIN = 2**20


@dataclass(eq=False)
class Task:
    """A call, over a lease or to an actor."""

    number: int
    shape: int
    args: list[bytes]
    duration: float
    children: int = 0
    result: bytes = b""
    tries: int = 0
    is_cancelled: bool = False
    is_again: bool = False  #: it makes an object that was lost
    is_answered: bool = False


@dataclass(eq=False)
class Use:
    """A lease as its requester sees it."""

    lease: int
    executor: int
    shape: int
    task: Task | None = None
    is_recalled: bool = False


@dataclass(eq=False)
class Handle:
    """An actor as its caller sees it."""

    state: str = "PENDING_CREATION"
    incarnation: int = 0
    executor: int = 0
    calls: list[Task] = field(default_factory=list)  #: sent and not answered


class SimProcess:
    """A driver or executor and its client."""

    def __init__(self, world: World, node: SimNode, number: int, kind: str) -> None:
        self.world = world
        self.node = node
        self.number = number
        self.pid = 1000 + number
        self.kind = kind
        self.is_alive = True
        self.has_connected = False
        self.job_id = b""
        # as an executor
        self.lease = 0
        self.demand: dict[str, int] = {}
        self.task: Task | None = None
        self.caller: SimProcess | None = None
        self.is_blocked = False
        self.was_blocked = False
        self.early: list[tuple[SimProcess, int, Task]] = []  #: calls that overtook `UseLease`
        self.spec: m.ActorSpec | None = None
        self.incarnation = 0
        self.is_constructed = False
        self.accepted: deque[tuple[SimProcess, Task]] = deque()
        self.ending: ExitCause | None = None
        # as a client
        self.shapes = {key: m.Shape(dict(demand), b"") for key, demand in enumerate(SHAPES)}
        self.groups: dict[bytes, str] = {}  #: states of the placement groups it has made
        self.queues: dict[int, deque[Task]] = {}
        self.uses: dict[int, Use] = {}
        self.stored: set[bytes] = set()  #: objects that it has put into its node's store
        self.announced: Counter[int] = Counter()
        self.held: Counter[bytes] = Counter()
        self.pins: Counter[bytes] = Counter()
        self.actors: dict[bytes, Handle] = {}
        self.gets: Counter[bytes] = Counter()
        self.asked: dict[int, Callable[[m.SegmentGranted | None], None]] = {}
        self.made: dict[bytes, Task] = {}  #: how its tasks' results could be made again
        self.leaving: set[bytes] = set()  #: those of them that it holds no more
        self.segment: m.SegmentGranted | None = None
        self.used = 0
        self.children = 0
        self.is_replying = False
        self.is_stopped = False

    def say(self, message: Any) -> None:
        """Tell the node."""
        if self.is_alive:
            frame, number = encode(message), self.number
            said = lambda: self.node.feed(ev.FromProcess(number, decode(frame)))  # noqa: E731
            self.world.travel(("up", number), said)

    def direct(self, other: SimProcess, call: Callable[[], None]) -> None:
        """Something for another process, on the channel to it."""
        self.world.travel(("direct", self.number, other.number), call)

    # ------------------------------------------------------------------ life and death

    def connect(self) -> None:
        """Say hello."""
        if self.is_alive:
            self.has_connected = True
            connected = ev.Connected(self.number, m.Hello(self.kind, self.pid, self.number))
            self.world.travel(("up", self.number), lambda: self.node.feed(connected))

    def vanish(self) -> None:
        """Die without a word (with the node)."""
        self.is_alive = False
        if self.spec is not None:
            self.world.body_ended(self.spec.actor_id, self.incarnation)

    def die(self, status: int) -> None:
        """Die; the node notices."""
        if self.is_alive:
            self.vanish()
            self.node.ended(self, status)

    def receive(self, message: Any) -> None:
        """The node, or through it the scheduler, says something."""
        if self.is_alive:
            assert message.process == self.number or isinstance(message, m.CancelWanted)
            getattr(self, "_on_" + type(message).__name__)(message)

    def _on_Welcome(self, message: m.Welcome) -> None:
        if self.kind == "driver":
            self.job_id = message.job_id
            self.act()

    def _on_Reply(self, message: m.Reply) -> None:
        pass

    def _on_Pushed(self, message: m.Pushed) -> None:
        pass

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
            + [self._call_actor, self._call_actor, self._cancel]
            + [self._reserve, self._submit_within, self._submit_within, self._unreserve]
        )
        rng.choice(actions)()
        self.world.after(rng.expovariate(1 / 0.02), self.act)

    def stop(self) -> None:
        """No new work; let go of everything once what runs is done."""
        self.is_stopped = True
        for actor_id, handle in list(self.actors.items()):
            if handle.state != "DEAD" and actor_id[-1] == 1:
                self.say(m.ActorKillWanted(self.number, actor_id, True))
        for group_id, state in self.groups.items():
            if state != "REMOVED":
                self.say(m.GroupRemoveWanted(self.number, group_id))
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
        duration = rng.expovariate(1 / 0.03)
        result = self._new_id(28) if rng.random() < 0.5 else b""
        self.submit(Task(next(self.world.ids), shape, args, duration, children, result))

    def _reserve(self) -> None:
        rng = self.world.rng
        if len(self.living_groups()) >= 2:
            return
        group_id = self._new_id(18)
        spec = m.GroupSpec(
            group_id=group_id,
            job_id=self.job_id,
            owner=self.number,
            bundles=[dict(bundle) for bundle in rng.choice(BUNDLES)],
            strategy=rng.choice(STRATEGIES),
            name=rng.choice(("", "", "group")),
        )
        if spec.name:
            args = {"spec": encode(spec)}
            self.say(m.Request(self.number, next(self.world.ids), "create_group", args))
        else:
            self.say(m.GroupWanted(self.number, spec))
        self.groups[group_id] = "PENDING"

    def living_groups(self) -> list[bytes]:
        """The groups that it has made and not removed."""
        return [group_id for group_id, state in self.groups.items() if state != "REMOVED"]

    def _unreserve(self) -> None:
        groups = self.living_groups()
        if groups and self.world.rng.random() < 0.6:
            self.say(m.GroupRemoveWanted(self.number, self.world.rng.choice(groups)))

    def _on_GroupChanged(self, message: m.GroupChanged) -> None:
        assert self.groups[message.group_id] != "REMOVED", "nothing comes after the end"
        self.groups[message.group_id] = message.state

    def _submit_within(self) -> None:
        """A task in a placement group, that may be removed by now."""
        if not self.groups:
            return
        rng = self.world.rng
        group_id = rng.choice(list(self.groups)[-4:])
        strategy = {
            "kind": "PLACEMENT_GROUP",
            "group_id": group_id.hex(),
            "bundle": rng.choice((-1, -1, 0)),
        }
        shape = m.Shape({"CPU": rng.choice((CPU, CPU // 2))}, b"", "", strategy)
        known = [key for key, each in self.shapes.items() if each == shape]
        key = known[0] if known else len(self.shapes)
        self.shapes[key] = shape
        result = self._new_id(28) if rng.random() < 0.5 else b""
        children = rng.choice((0, 0, 1))
        task = Task(next(self.world.ids), key, [], rng.expovariate(1 / 0.03), children, result)
        self.submit(task)

    def _put(self) -> None:
        object_id = self._new_id(28)
        held = [i for i in self.held if self.held[i] > 0]
        inner = self.world.rng.sample(held, min(len(held), self.world.rng.choice((0, 0, 1, 2))))
        self.held[object_id] += 1
        self.pins[object_id] += 1  # no release may overtake the hold that comes with the value
        holds = [Hold(object_id, self.number, 1)]
        self.publish(object_id, inner, holds, lambda: self._unpin(object_id))

    def _put_later(self) -> None:
        object_id = self._new_id(28)
        holds = [Hold(object_id, self.number, 1)]
        self.say(m.ObjectPublished(self.number, object_id, None, [], holds, "later"))
        self.held[object_id] += 1
        delay = self.world.rng.random()
        self.world.after(delay, lambda: self.publish(object_id, [], [], lambda: None))

    def publish(
        self, object_id: bytes, inner: list[bytes], holds: list[Hold], then: Callable[[], None]
    ) -> None:
        """Give an object its value, inline or in the store; go on with ``then``."""
        if not self.is_alive:
            return
        contains = [Contained(each) for each in inner]
        for each in inner:
            self.pins[each] += 1

        def done() -> None:
            for each in inner:
                self._unpin(each)
            then()

        def inline() -> None:
            blob = m.Blob(b"value")
            self.say(m.ObjectPublished(self.number, object_id, blob, contains, holds, ""))
            done()

        size = self.world.rng.choice(SIZES)

        def write(segment: m.SegmentGranted | None) -> None:
            if segment is None:
                inline()
                return
            is_own = size >= OWN_SEGMENT_BYTES_MIN
            offset = 0 if is_own else self.used
            self.node.write(object_id, (segment.segment, offset, size))
            self.stored.add(object_id)
            sealed = (object_id, segment.segment, offset, size, contains, holds)
            self.say(m.ObjectSealed(self.number, *sealed))
            if is_own:
                self.say(m.SegmentClosed(self.number, segment.segment))
            else:
                self.used += size
            done()

        if self.world.rng.random() < 0.5:
            inline()
        else:
            self._want_segment(size, write)

    def _want_segment(self, size: int, then: Callable[[m.SegmentGranted | None], None]) -> None:
        """Room for an object: of its own if it is large, else in one for several."""
        if size >= OWN_SEGMENT_BYTES_MIN:
            self._ask_segment(size, then)
            return
        if self.segment is not None:
            if self.used + size <= self.segment.size:
                then(self.segment)
                return
            self.say(m.SegmentClosed(self.number, self.segment.segment))
            self.segment = None

        def shared(segment: m.SegmentGranted | None) -> None:
            if segment is not None:
                if self.segment is not None:  # another request was quicker
                    self.say(m.SegmentClosed(self.number, self.segment.segment))
                self.segment, self.used = segment, 0
            then(segment)

        self._ask_segment(size, shared)

    def _ask_segment(self, size: int, then: Callable[[m.SegmentGranted | None], None]) -> None:
        request = next(self.world.ids)
        self.asked[request] = then
        self.say(m.SegmentWanted(self.number, request, size))

    def _on_SegmentGranted(self, message: m.SegmentGranted) -> None:
        assert segment_of(message.path) == message.segment
        self.asked.pop(message.request)(message)

    def _on_SegmentsMoved(self, message: m.SegmentsMoved) -> None:
        """What it looks at it keeps; the rest it maps anew."""

    def _on_SegmentRefused(self, message: m.SegmentRefused) -> None:
        assert message.error in ("ObjectStoreFullError", "OutOfDiskError")
        self.asked.pop(message.request)(None)

    def _get(self) -> None:
        objects = [i for i in self.held if len(i) == 28]
        if objects:
            self.get(self.world.rng.choice(objects))

    def get(self, object_id: bytes) -> None:
        """Wait for a value; now and then not for long."""
        self.gets[object_id] += 1
        if self.gets[object_id] > 1:
            return
        self.pins[object_id] += 1
        self.say(m.ObjectWanted(self.number, object_id))
        if self.world.rng.random() < 0.1:
            self.world.after(0.005, lambda: self._give_up(object_id))

    def _give_up(self, object_id: bytes) -> None:
        if self.is_alive and object_id in self.gets:
            self.say(m.ObjectUnwanted(self.number, object_id))
            del self.gets[object_id]
            self._unpin(object_id)

    def _on_ObjectHere(self, message: m.ObjectHere) -> None:
        object_id = message.object_id
        if object_id not in self.gets:
            return  # given up meanwhile
        if message.blob is None:
            if segment_of(message.path) not in self.node.files:
                # A copy that was evicted before we could open it: ask again.
                self.say(m.ObjectWanted(self.number, object_id))
                return
            place = (segment_of(message.path), message.offset, message.size)
            if object_id not in self.world.freed:
                self.node.see(self.number, object_id, place)
        error = ""
        if message.blob is not None and message.blob.is_error:
            error = message.blob.head.decode()
        kind = error.partition(":")[0]
        known = ("", "lost", "owner_died", "freed", "full", "unrecoverable", "attempts")
        assert kind in known, error
        if not self.world.crashes:
            assert kind in ("", "freed", "full"), f"{object_id.hex()}: {error}"
        del self.gets[object_id]
        self._unpin(object_id)

    def _free(self) -> None:
        objects = [i for i in self.held if len(i) == 28]
        if objects and self.world.rng.random() < 0.2:
            object_id = self.world.rng.choice(objects)
            self.world.freed.add(object_id)
            self.say(m.ObjectsFreed(self.number, [object_id]))

    def _drop(self) -> None:
        if self.held:
            self.drop(self.world.rng.choice(list(self.held)))

    def drop(self, id_: bytes) -> None:
        """Give back all holds, unless a task or a get still needs the id."""
        if not self.pins[id_] and id_ in self.held:
            count = self.held.pop(id_)
            self.node.views.pop((self.number, id_), None)
            if count:
                self.say(m.HoldsChanged(self.number, [Hold(id_, self.number, -count)]))
            if id_ in self.made:
                self.leaving.add(id_)
                self.say(m.LineageKept(self.number, [id_]))

    def _on_LineageOver(self, message: m.LineageOver) -> None:
        for id_ in message.object_ids:
            self.leaving.discard(id_)
            self.made.pop(id_, None)

    def _on_ObjectUntold(self, message: m.ObjectUntold) -> None:
        """It comes, or nobody here knows."""

    def _on_ObjectLost(self, message: m.ObjectLost) -> None:
        """Run the task again, if that is known and the dice say so."""
        task = self.made.get(message.object_id)
        if task is None or self.world.rng.random() < 0.2:
            self._give_up_on(message.object_id, "unrecoverable")
            return
        args = [i for i in task.args if self.held[i] > 0]
        again = Task(next(self.world.ids), task.shape, args, task.duration, 0, task.result)
        again.is_again = True
        self.submit(again)

    def _give_up_on(self, object_id: bytes, kind: str) -> None:
        self.say(m.ObjectUnrecoverable(self.number, object_id, kind, "it is said so"))

    def _create_actor(self) -> None:
        rng = self.world.rng
        if len([1 for handle in self.actors.values() if handle.state != "DEAD"]) > 3:
            return
        is_detached = rng.random() < 0.2
        actor_id = self._new_id(15) + bytes([is_detached])
        name = rng.choice(("", "", "ann", "bob"))
        held = [i for i in self.held if self.held[i] > 0]
        strategy: dict[str, Any] = {}
        if self.groups and rng.random() < 0.3:
            group_id = rng.choice(list(self.groups)[-4:])
            strategy = {"kind": "PLACEMENT_GROUP", "group_id": group_id.hex()}
        spec = m.ActorSpec(
            actor_id=actor_id,
            job_id=self.job_id,
            owner=self.number,
            class_name="Sim",
            creation=m.Blob(b"cls"),
            contains=[Contained(i) for i in rng.sample(held, min(len(held), rng.choice((0, 1))))],
            # A slot, not a CPU: actors that tasks keep alive must not keep tasks from running.
            placement_demand={"CPU": CPU, "slot": CPU // 2} if not strategy else {"CPU": CPU},
            strategy=strategy,
            running_demand=rng.choice(({}, {"slot": CPU // 2})) if not strategy else {},
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
        self.actors[actor_id] = Handle()
        self.say(m.ActorWatched(self.number, actor_id))

    def _kill_actor(self) -> None:
        alive = [i for i, handle in self.actors.items() if handle.state != "DEAD"]
        if alive and self.world.rng.random() < 0.3:
            no_restart = self.world.rng.random() < 0.5
            actor_id = self.world.rng.choice(alive)
            self.say(m.ActorKillWanted(self.number, actor_id, no_restart))

    def _cancel(self) -> None:
        running = [use for use in self.uses.values() if use.task is not None]
        if not running or self.world.rng.random() < 0.5:
            return
        use = self.world.rng.choice(running)
        assert use.task is not None
        is_forced = self.world.crashes and self.world.rng.random() < 0.3
        use.task.is_cancelled = True
        number = use.task.number
        self.say(m.CancelWanted(self.number, use.executor, number, is_forced, False))

    def _new_id(self, size: int) -> bytes:
        made = next(self.world.ids)
        task = self.number << COUNTER_BITS | made
        return task.to_bytes(8, "big") + made.to_bytes(size - 8, "big")

    # ------------------------------------------------------------------ client: tasks over leases

    def waiting_tasks(self) -> list[Task]:
        """Tasks and calls that have no answer yet."""
        running = [use.task for use in self.uses.values() if use.task is not None]
        queued = [task for queue in self.queues.values() for task in queue]
        return [*running, *queued, *(c for each in self.actors.values() for c in each.calls)]

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
            wanted = replace(self.shapes[shape], job_id=self.job_id)
            held = sum(use.shape == shape for use in self.uses.values())
            self.say(m.LeasesWanted(self.number, shape, wanted, len(queue), ["sim"], held=held))

    def _push(self, use: Use, task: Task) -> None:
        use.task = task
        task.tries += 1
        if task.args:
            holds = [Hold(id_, use.executor, 1) for id_ in task.args]
            self.say(m.HoldsChanged(self.number, holds))
        executor = self.world.processes[use.executor]
        self.direct(executor, lambda: executor.run(self, use.lease, task))

    def _release_if_idle(self, use: Use) -> None:
        if self.is_alive and use.lease in self.uses and use.task is None:
            self._release(use)

    def _release(self, use: Use) -> None:
        del self.uses[use.lease]
        self.say(m.LeaseReleased(self.number, use.lease))

    def _on_LeaseGranted(self, message: m.LeaseGranted) -> None:
        assert message.lease not in self.uses
        self.uses[message.lease] = Use(message.lease, message.executor, message.shape_key)
        self.announced[message.shape_key] = max(0, self.announced[message.shape_key] - 1)
        self._fill(message.shape_key)

    def _on_LeaseRecalled(self, message: m.LeaseRecalled) -> None:
        use = self.uses.get(message.lease)
        if use is not None:
            use.is_recalled = True
            self._fill(use.shape)

    def _on_LeaseLost(self, message: m.LeaseLost) -> None:
        use = self.uses.pop(message.lease, None)
        if use is not None:
            self._retry(use)

    def _on_LeaseRefused(self, message: m.LeaseRefused) -> None:
        assert self.world.crashes or self.shapes[message.shape_key].strategy, message
        for task in self.queues.pop(message.shape_key, ()):
            self._finished(task)
        self.announced[message.shape_key] = 0

    def _retry(self, use: Use) -> None:
        task = use.task
        if task is not None and task.tries < 4 and not task.is_cancelled:
            self.queues.setdefault(task.shape, deque()).appendleft(task)
        elif task is not None:
            self._finished(task)
        self._fill(use.shape)

    def replied(self, lease: int, task: Task, result: bytes, seen_on: bytes) -> None:
        """The executor has answered."""
        if not self.is_alive:
            return
        if result:
            self.held[result] += 1
            task.is_answered = True
            if self.kind == "driver":
                self.made[result] = task
        use = self.uses.get(lease)
        if seen_on and task.is_again:
            self.say(m.ObjectPublished(self.number, result, None, [], [], seen_on=seen_on))
        if use is None or use.task is not task:
            return  # lost meanwhile, and retried
        use.task = None
        self._finished(task)
        self._fill(use.shape)

    def _finished(self, task: Task) -> None:
        for id_ in task.args:
            self._unpin(id_)
        if task.is_again and not task.is_answered:
            self._give_up_on(task.result, "attempts")
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

    # ------------------------------------------------------------------ client: actor calls

    def _on_ActorChanged(self, message: m.ActorChanged) -> None:
        handle = self.actors[message.actor_id]
        assert message.incarnation >= handle.incarnation or message.state == "DEAD"
        assert handle.state != "DEAD" or message.state == "DEAD", "an actor rose from the dead"
        is_same = message.incarnation == handle.incarnation and message.state == "ALIVE"
        handle.state, handle.incarnation = message.state, message.incarnation
        handle.executor = message.executor
        if not is_same:
            lost, handle.calls = handle.calls, []
            for call in lost:
                self._finished_call(message.actor_id, call)

    def _call_actor(self) -> None:
        alive = [i for i, handle in self.actors.items() if handle.state == "ALIVE"]
        alive = [i for i in alive if self.held.get(i)]
        if not alive:
            return
        rng = self.world.rng
        actor_id = rng.choice(alive)
        handle = self.actors[actor_id]
        ids = [i for i in self.held if self.held[i] > 0]
        args = rng.sample(ids, min(len(ids), rng.choice((0, 1))))
        result = self._new_id(28) if rng.random() < 0.5 else b""
        call = Task(next(self.world.ids), 0, args, rng.expovariate(1 / 0.01), 0, result)
        handle.calls.append(call)
        for id_ in (actor_id, *args):
            self.pins[id_] += 1
        if args:
            holds = [Hold(id_, handle.executor, 1) for id_ in args]
            self.say(m.HoldsChanged(self.number, holds))
        executor = self.world.processes[handle.executor]
        incarnation = handle.incarnation
        self.direct(executor, lambda: executor.accept(self, actor_id, incarnation, call))

    def actor_replied(self, actor_id: bytes, call: Task, result: bytes) -> None:
        """An actor has answered."""
        if not self.is_alive:
            return
        if result:
            self.held[result] += 1
        handle = self.actors[actor_id]
        if call in handle.calls:
            handle.calls.remove(call)
            self._finished_call(actor_id, call)

    def _finished_call(self, actor_id: bytes, call: Task) -> None:
        for id_ in (actor_id, *call.args):
            self._unpin(id_)

    # ------------------------------------------------------------------ executor: running a task

    def _on_UseLease(self, message: m.UseLease) -> None:
        assert self.task is None, "a lease was given to a busy executor"
        assert self.spec is None
        assert self.job_id in (b"", message.shape.job_id), "an executor served two jobs"
        assert message.lease > self.lease
        self.lease, self.demand = message.lease, message.shape.demand
        self.job_id = message.shape.job_id
        self.was_blocked = False
        early, self.early = self.early, []
        for call in early:
            self.run(*call)

    def run(self, caller: SimProcess, lease: int, task: Task) -> None:
        """A call arrives on the direct channel."""
        if not self.is_alive:
            return
        if lease > self.lease:
            self.early.append((caller, lease, task))
            return
        assert self.lease == lease, "a call of a lease that is over"
        assert self.task is None
        self.task, self.caller = task, caller
        self.node.check_cpus()
        self._take(task)
        self.world.after(task.duration, lambda: self._computed(task))

    def _take(self, task: Task) -> None:
        for id_ in task.args:
            self.held[id_] += 1
            if len(id_) == 28 and self.world.rng.random() < 0.5:
                self.get(id_)

    def _computed(self, task: Task) -> None:
        if not self.is_alive or self.task is not task:
            return
        if not task.children or task.is_cancelled:
            self._reply(task)
            return
        self.children = task.children
        self.is_blocked = True
        self.say(m.Blocked(self.number))
        for _ in range(task.children):
            self._submit()

    def _unblock(self) -> None:
        self.is_blocked, self.was_blocked = False, True
        self.say(m.Unblocked(self.number))
        task = self.task
        assert task is not None
        self.world.after(self.world.rng.random() * 0.02, lambda: self._reply(task))

    def _on_CancelCall(self, message: m.CancelCall) -> None:
        assert not message.force, "the node does that"
        task = self.task
        is_free = not (self.is_blocked or self.is_replying)
        if task is not None and task.number == message.task and is_free:
            task.result = b""
            self._reply(task)

    def _reply(self, task: Task) -> None:
        caller = self.caller
        if not self.is_alive or self.task is not task or caller is None or self.is_replying:
            return
        self.is_replying = True
        lease = self.lease

        def answer() -> None:
            for id_ in list(self.held):
                self.drop(id_)
            self.task, self.is_replying = None, False
            seen_on = self.node.node_id if task.result in self.stored else b""
            self.direct(caller, lambda: caller.replied(lease, task, task.result, seen_on))

        self._publish_result(caller, task, answer)

    def _publish_result(self, caller: SimProcess, task: Task, then: Callable[[], None]) -> None:
        if not task.result:
            then()
            return
        inner = [i for i in task.args if self.held[i] > 0]
        self.publish(task.result, inner, [Hold(task.result, caller.number, 1)], then)

    # ------------------------------------------------------------------ executor: being an actor

    def _on_CreateActor(self, message: m.CreateActor) -> None:
        assert self.task is None
        assert self.spec is None
        assert self.lease == 0, "an executor that has run tasks became an actor"
        self.spec, self.incarnation = message.spec, message.incarnation
        self.job_id = message.spec.job_id
        self.world.body_started(self.spec.actor_id, self.incarnation)
        self.world.after(self.world.rng.random() * 0.05, self._constructed)

    def _constructed(self) -> None:
        if not self.is_alive:
            return
        assert self.spec is not None
        me = (self.node.node_id, self.spec.actor_id, self.incarnation)
        self.is_constructed = True
        if self.world.rng.random() < 0.05:
            self.say(m.ActorInitFailed(*me, m.Blob(b"ctor", [], True)))
            self._leave(ExitCause("init_failed"))
            return
        self.say(m.ActorStarted(*me, self.number, "a", self.pid))
        self._serve()

    def accept(self, caller: SimProcess, actor_id: bytes, incarnation: int, call: Task) -> None:
        """A call arrives on the direct channel."""
        if self.is_alive and self.ending is None:
            assert self.spec is not None
            assert (self.spec.actor_id, self.incarnation) == (actor_id, incarnation)
            assert self.is_constructed
            self.accepted.append((caller, call))
            self._serve()

    def _serve(self) -> None:
        """Run the next accepted call; when there is none and the end is wanted, end."""
        if not self.is_alive or self.task is not None or not self.is_constructed:
            return
        if self.accepted:
            self.caller, self.task = self.accepted.popleft()
            task = self.task
            self._take(task)
            self.world.after(task.duration, lambda: self._answer(task))
        elif self.ending is not None:
            self._leave(self.ending)

    def _answer(self, task: Task) -> None:
        caller, spec = self.caller, self.spec
        if not self.is_alive:
            return
        assert caller is not None
        assert spec is not None

        def answer() -> None:
            for id_ in list(self.held):
                self.drop(id_)
            self.task = None
            actor_id = spec.actor_id
            self.direct(caller, lambda: caller.actor_replied(actor_id, task, task.result))
            self._serve()

        self._publish_result(caller, task, answer)

    def _on_EndProcess(self, message: m.EndProcess) -> None:
        if self.spec is None:  # asked for idleness: it may say that it owes something
            if self.world.rng.random() < 0.3:
                self.say(m.StillOwes(self.number))
            else:
                self._leave(message.cause)
            return
        self.ending = message.cause
        self._serve()

    def _leave(self, cause: ExitCause) -> None:
        self.say(m.EndProcess(self.number, cause))
        self.die(0)


def segment_of(path: str) -> int:
    """The number of a segment, by its path."""
    return int(path.rpartition("-")[2])
