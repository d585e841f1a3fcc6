"""What simulated programs do with the client: the same calls that users make.

Theory of operation
-------------------
`Program` is what drivers and executors have in common: they call remote functions and methods, and
wait for values. Where a user's thread would wait in ``get``, a program goes on in a callback, by
the way that ``await ref`` takes.

A `Driver` does something at random every few milliseconds, until it is told to stop. Then it drops
all that it holds; whatever is still under way must come to an end by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulation.values import Large, Plan, number_of, random_plan, refs_in

from ract.client.actors.handles import ActorHandle
from ract.client.api.actor_class import ActorClass
from ract.client.api.remote_function import RemoteFunction
from ract.client.calls.streams import ObjectRefGenerator
from ract.client.objects.refs import READY, STORED, ObjectRef
from ract.client.objects.store import Location
from ract.core import errors
from ract.core import messages as m
from ract.core.messages import ActorWanted
from ract.core.options import actor_options, task_options
from ract.core.wire import encode

if TYPE_CHECKING:
    from simulation.peers import SimProcess

CPU = 10_000
OPTIONS: tuple[dict[str, Any], ...] = (
    {"num_cpus": 1},
    {"num_cpus": 2},
    {"num_cpus": 0.5},
    {"num_cpus": 0},
    {"num_cpus": 1, "resources": {"disk": 1}},
    {"num_cpus": 1, "scheduling_strategy": "SPREAD"},
)
BUNDLES: tuple[list[dict[str, int]], ...] = (
    [{"CPU": CPU}],
    [{"CPU": CPU}, {"CPU": CPU}],
    [{"CPU": 2 * CPU}, {"CPU": CPU, "disk": CPU}],
    [{"CPU": CPU}] * 3,
    [{"CPU": 4 * CPU}, {"slot": CPU}],
)
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
WAITS_MAX = 60
"""So many values a driver waits for at a time."""

FAULTS = (
    errors.ObjectLostError,
    errors.OwnerDiedError,
    errors.ObjectReconstructionFailedError,
    errors.WorkerCrashedError,
    errors.NodeDiedError,
    errors.OutOfMemoryError,
)
"""What a call or an object may end with where processes and nodes die."""

DEEDS = (
    errors.TaskCancelledError,
    errors.TaskTimeoutError,
    errors.ObjectFreedError,
    errors.ObjectStoreFullError,
    errors.TaskPlacementGroupRemoved,
    errors.ActorPlacementGroupRemoved,
    errors.TaskUnschedulableError,
    errors.ActorUnschedulableError,
    errors.ActorDiedError,
    errors.ActorUnavailableError,  # it was killed, and restarts
    errors.RactTaskError,
)
"""What it may end with because a program wanted it so."""


def quick(plan, *args): ...
def slow(plan, *args): ...
def items(plan, *args):
    yield


class Counter:
    """The class of simulated actors."""

    def __init__(self, *args): ...
    def call(self, plan, *args): ...
    def stream(self, plan, *args):
        yield


class InGroup:
    """A scheduling strategy: in a placement group."""

    def __init__(self, group_id: bytes, bundle: int) -> None:
        self._plain = {"kind": "PLACEMENT_GROUP", "group_id": group_id.hex(), "bundle": bundle}

    def to_plain(self) -> dict[str, Any]:
        return dict(self._plain)

    def __repr__(self) -> str:
        return f"InGroup({self._plain})"


class Program:
    """What runs in a process."""

    def __init__(self, process: SimProcess) -> None:
        self.process = process
        self.world = process.world
        self.rng = process.world.rng
        self.runtime = process.runtime
        self._functions: dict[Any, RemoteFunction] = {}
        #: What is waited for: since when, and the ref.
        self.waits: dict[object, tuple[float, ObjectRef]] = {}

    def ended(self) -> None:
        """The process is gone."""
        self.waits.clear()

    def some(self, given: list[Any], most: int) -> list[Any]:
        """At most so many of these, at random."""
        return self.rng.sample(given, min(len(given), self.rng.randrange(most + 1)))

    # ------------------------------------------------------------------ calls

    def call(self, plan: Plan, args: list[Any], **options: Any) -> Any:
        """Submit a task."""
        body = items if plan.items else self.rng.choice((quick, slow))
        key = (body, *sorted((name, repr(value)) for name, value in options.items()))
        function = self._functions.get(key)
        if function is None:
            if plan.items:
                options["num_returns"] = "streaming"
            function = self._functions[key] = RemoteFunction(body, task_options(**options))
        made = function.remote(tuple(plan), *args)
        self.world.truth.submitted(self, made, plan, options.get("max_retries", 3))
        return made

    def call_actor(self, handle: ActorHandle, plan: Plan, args: list[Any], **options: Any) -> Any:
        """Call an actor."""
        method = handle.stream if plan.items else handle.call
        if plan.items:
            options["num_returns"] = "streaming"
        if options:
            method = method.options(**options)
        made = method.remote(tuple(plan), *args)
        retries = options.get("max_task_retries", handle._info.max_task_retries)
        self.world.truth.submitted(self, made, plan, retries)
        return made

    def call_children(self, plan: Plan, found: list[Any]) -> list[Any]:
        """A task calls others. It may wait for them, so they must not wait for what it holds up."""
        made = []
        for _ in range(plan.children):
            child = random_plan(self.rng, self.world.number(), may_call=False)
            args = [self.some(found, 2)] if self.rng.random() < 0.5 else []
            options = dict(self.rng.choice((OPTIONS[0], OPTIONS[2], OPTIONS[3])))
            made.append(self.call(child, args, max_retries=self.rng.choice((0, 3)), **options))
        return made

    # ------------------------------------------------------------------ values

    def is_readable(self, ref: ObjectRef) -> bool:
        """Whether `load` need not wait."""
        if not self.runtime.values.is_here(ref):
            return False
        if ref._state != STORED:
            return True
        _, path, offset, size, is_error = ref._value
        return self.runtime.store.has(Location(path, offset, size, is_error))

    def bring(self, ref: ObjectRef, then: Callable[[], None], seen_on: bytes = b"") -> None:
        """Have the value of a complete ref brought here: it lies elsewhere, or was evicted."""
        self.runtime.values._want_here(ref, then, seen_on)

    def get(self, ref: ObjectRef, then: Callable[[Any], None]) -> object:
        """Call ``then(value)``, or with the error, when there is one; returns a token."""
        token = object()
        self.waits[token] = (self.world.now, ref)

        def look(ref: ObjectRef) -> None:
            if token not in self.waits:
                return
            if not self.is_readable(ref):
                self.bring(ref, lambda: look(ref))
                return
            del self.waits[token]
            then(self._load(ref))

        ref._when_here(look)
        return token

    def _load(self, ref: ObjectRef) -> Any:
        """The value, which must be the one that its call has made, or the error."""
        try:
            value = ref._load()
        except BaseException as error:
            error.__traceback__ = None
            self.world.truth.check_error(ref, error)
            return getattr(error, "cause", None) or error
        self.world.truth.check_value(ref, number_of(value))
        return value

    def get_all(
        self, wanted: list[Any], then: Callable[[list[Any]], None], patience_s: float | None
    ) -> None:
        """Call ``then(values)`` when all are there, or, with those that are, after a while."""
        refs = [each for each in wanted if isinstance(each, ObjectRef)]
        values: list[Any] = []
        tokens: list[object] = []
        is_over = False

        def finish() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                for token in tokens:
                    self.waits.pop(token, None)
                tokens.clear()
                then(values)

        def got(value: Any) -> None:
            values.append(value)
            if len(values) == len(refs):
                finish()

        if patience_s is not None:
            self.process.later(patience_s, finish)
        for ref in refs:
            tokens.append(self.get(ref, got))
        if not refs:
            finish()


class Driver(Program):
    """A program that does things at random.

    Attributes:
        things: The refs, handles and generators that it holds.
    """

    def __init__(self, process: SimProcess) -> None:
        super().__init__(process)
        self.things: list[Any] = []
        self.is_stopped = False
        self._actors: dict[Any, ActorClass] = {}
        process.later(0.0, self.act)

    def ended(self) -> None:
        """The process is gone."""
        super().ended()
        self.things.clear()

    def accept(self, sock: Any) -> None:
        """Nobody calls a driver."""
        raise AssertionError("somebody has connected to a driver")

    # ------------------------------------------------------------------ at random

    def act(self) -> None:
        """Do something, then again later."""
        if self.is_stopped:
            return
        actions = (
            [self._submit] * 6
            + [self._put, self._get, self._get, self._get, self._drop, self._drop, self._free]
            + [self._create_actor, self._kill, self._cancel]
            + [self._call_actor] * 4
            + [self._stream, self._read, self._read]
            + [self._reserve, self._submit_within, self._submit_within, self._unreserve]
        )
        self.rng.choice(actions)()
        if len(self.things) > 40:
            self._drop()
        self.process.later(self.rng.expovariate(1 / 0.01), self.act)

    def stop(self) -> None:
        """Do nothing new, and let go of everything."""
        self.is_stopped = True
        self.world.linger(self.process, self.things)
        self.things = []
        for group_id, state in self.process.groups.items():
            if state != "REMOVED":
                self.runtime.tell(m.GroupRemoveWanted(self.process.number, group_id))

    def _refs(self) -> list[ObjectRef]:
        return [each for each in self.things if isinstance(each, ObjectRef)]

    def _handles(self) -> list[ActorHandle]:
        return [each for each in self.things if isinstance(each, ActorHandle)]

    def _arguments(self) -> list[Any]:
        """Refs in their own right, whose values the call waits for, and refs inside of others."""
        args: list[Any] = self.some(self._refs(), 2)
        if self.rng.random() < 0.4:
            found = [each for each in self.things if not isinstance(each, ObjectRefGenerator)]
            args.append(self.some(found, 3))
        return args

    def _take(self, value: Any) -> None:
        """Keep what a value contains, or some of it."""
        if not self.is_stopped:
            self.things += [each for each in refs_in(value) if self.rng.random() < 0.5]

    def _plan(self, **more: Any) -> Plan:
        plan = random_plan(self.rng, self.world.number(), may_call=True)
        return plan._replace(**more)

    def _submit(self) -> None:
        options = dict(self.rng.choice(OPTIONS))
        options["max_retries"] = self.rng.choice((0, 0, 3, 3, -1))
        if options["max_retries"] > 0 and self.rng.random() < 0.2:
            options["retry_exceptions"] = True
        if self.rng.random() < 0.05:
            options["timeout"] = self.rng.choice((0.02, 1.0))
        self.things.append(self.call(self._plan(), self._arguments(), **options))

    def _put(self) -> None:
        plan = self._plan()
        inner = self.some([*self._refs(), *self._handles()], 2)

        def put() -> None:
            try:
                ref = self.runtime.put(Large([plan.number, inner], plan.size))
            except errors.ObjectStoreFullError:
                return
            self.world.truth.made(ref, plan.number)
            if not self.is_stopped:
                self.things.append(ref)

        if self.rng.random() < 0.5:
            self.runtime.store.with_room(plan.size + 8192, put)
        else:
            ref = self.runtime.put([plan.number, inner])
            self.world.truth.made(ref, plan.number)
            self.things.append(ref)

    def _get(self) -> None:
        refs = self._refs()
        if refs and len(self.waits) < WAITS_MAX:
            self.get(self.rng.choice(refs), self._take)

    def _drop(self) -> None:
        if self.things:
            self.world.linger(self.process, [self.things.pop(self.rng.randrange(len(self.things)))])

    def _free(self) -> None:
        """As `ract.util.testing.free`, which waits for an answer."""
        stored = [ref for ref in self._refs() if ref._state == STORED and ref._holds]
        if stored and self.rng.random() < 0.2:
            ref = self.rng.choice(stored)
            self.world.freed.add(ref.binary())
            self.runtime.values.forget_value(ref, errors.ObjectFreedError(ref.hex(), "", ""))
            self.runtime.tell(m.ObjectsFreed(self.process.number, [ref.binary()]))

    def _cancel(self) -> None:
        refs = [ref for ref in self._refs() if ref._state < READY]
        if refs:
            ref = self.rng.choice(refs)
            is_task = ref._call is not None and ref._call.actor_id is None
            force = is_task and self.world.crashes and self.rng.random() < 0.3
            self.world.count("a call is cancelled")
            self.runtime.cancel(ref, force, self.rng.random() < 0.5)

    # ------------------------------------------------------------------ generators

    def _stream(self) -> None:
        plan = self._plan(items=self.rng.choice((1, 3, 8)), result="plain", waits=False)
        handles = self._handles()
        if handles and self.rng.random() < 0.4:
            made = self.call_actor(self.rng.choice(handles), plan, self._arguments())
        else:
            limit = self.rng.choice((None, 2))
            more = {"_generator_backpressure_num_objects": limit} if limit else {}
            made = self.call(plan, self._arguments(), max_retries=3, num_cpus=1, **more)
        self.things.append(made)

    def _read(self) -> None:
        """Take what has come of a generator; drop it when it is over."""
        made = [each for each in self.things if isinstance(each, ObjectRefGenerator)]
        if not made:
            return
        generator = self.rng.choice(made)
        while generator.next_ready():
            self.things.append(next(generator))
        if generator.is_finished():
            self.things.remove(generator)

    # ------------------------------------------------------------------ actors

    def _create_actor(self) -> None:
        """As `ActorClass.remote`, which waits for an answer if the actor has a name."""
        if len(self._handles()) > 4:
            return
        rng, runtime = self.rng, self.runtime
        options: dict[str, Any] = {
            "max_restarts": rng.choice((0, 1, -1)),
            "max_task_retries": rng.choice((0, 2)),
            "name": rng.choice((None, None, "ann", "bob")),
            "lifetime": rng.choice((None, None, None, "detached")),
        }
        # A slot, not a CPU: actors that tasks keep alive must not keep tasks from running.
        demand = {"slot": CPU // 2}
        group = self._group()
        if group is not None and rng.random() < 0.3:
            options["scheduling_strategy"] = InGroup(group, -1)
            demand = {}
        actor_class = ActorClass(Counter, actor_options(**options))
        spec, refs = actor_class._spec(runtime, (self.some(self._refs(), 1),), {})
        spec = replace(spec, placement_demand={"CPU": CPU, **demand})
        spec = replace(spec, running_demand=rng.choice(({}, demand)))
        client = runtime.actor(spec.actor_id)
        client.hold()
        client.kept = refs
        info = actor_class._info(runtime)
        if not spec.name:
            self.things.append(client.strong_handle(info))
            runtime.tell(ActorWanted(self.process.number, spec))
            client.watch()
            return

        def answered(reply: m.Reply) -> None:
            if reply.error or not reply.value["created"]:
                client.forget_holds()
                return
            client.watch()
            handle = client.strong_handle(info)
            if not self.is_stopped:
                self.things.append(handle)

        number = runtime.link.next_request()
        self.process.asked[number] = answered
        args = {"spec": encode(spec), "get_if_exists": False}
        runtime.tell(m.Request(self.process.number, number, "create_actor", args))

    def _call_actor(self) -> None:
        handles = self._handles()
        if handles:
            handle = self.rng.choice(handles)
            self.things.append(self.call_actor(handle, self._plan(), self._arguments()))

    def _kill(self) -> None:
        handles = self._handles()
        if handles and self.rng.random() < 0.3:
            handle = self.rng.choice(handles)
            handle._client.kill(no_restart=self.rng.random() < 0.5)

    # ------------------------------------------------------------------ placement groups

    def _living_groups(self) -> list[bytes]:
        return [each for each, state in self.process.groups.items() if state != "REMOVED"]

    def _group(self) -> bytes | None:
        """One of the newest groups, which may be removed by now."""
        known = list(self.process.groups)[-4:]
        return self.rng.choice(known) if known else None

    def _reserve(self) -> None:
        rng, number = self.rng, self.process.number
        if len(self._living_groups()) >= 2:
            return
        spec = m.GroupSpec(
            group_id=self.world.number().to_bytes(18, "big"),
            job_id=self.runtime.job_id,
            owner=number,
            bundles=[dict(bundle) for bundle in rng.choice(BUNDLES)],
            strategy=rng.choice(STRATEGIES),
            name=rng.choice(("", "", "group")),
        )
        if spec.name:
            request = self.runtime.link.next_request()
            self.process.asked[request] = lambda reply: None
            args = {"spec": encode(spec)}
            self.runtime.tell(m.Request(number, request, "create_group", args))
        else:
            self.runtime.tell(m.GroupWanted(number, spec))
        self.process.groups[spec.group_id] = "PENDING"

    def _unreserve(self) -> None:
        groups = self._living_groups()
        if groups and self.rng.random() < 0.6:
            group_id = self.rng.choice(groups)
            self.runtime.tell(m.GroupRemoveWanted(self.process.number, group_id))

    def _submit_within(self) -> None:
        group = self._group()
        if group is not None:
            where = InGroup(group, self.rng.choice((-1, -1, 0)))
            options = {"num_cpus": self.rng.choice((1, 0.5)), "scheduling_strategy": where}
            plan = self._plan(children=self.rng.choice((0, 0, 1)))
            self.things.append(self.call(plan, [], max_retries=self.rng.choice((0, 3)), **options))
