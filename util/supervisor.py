"""`Supervisor`: actors that are started again together when one of them dies.

Theory of operation
-------------------
The manner is that of Erlang's OTP. A supervisor is an actor without CPUs; it starts its children in
their order, each when the one before is ready, and stops them in the opposite order. A child is
STARTING, RUNNING, STOPPING, or ENDED: the last of one that ended as it should (`Child.restart`).
An *incarnation* of a child is an actor of its own; what is told of an earlier one is dropped.

Deaths are handled one after another. For each, the strategy says who is stopped and started again
(`affected`); whoever fails to start counts as one that died. When there have been more restarts
than the intensity allows (`Intensity`), the supervisor stops all children and has *failed*: from
then on it answers with its error. A supervisor that is a child of another and fails is, to that
one, a child that died.

Children belong to the supervisor's process: when that dies, they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ract
from ract.client.actors.handles import ActorHandle, is_dead, when_dead
from ract.core.errors import ActorHandleNotFoundError, RactError

STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
RESTARTS = ("always", "on_failure")
STARTING, RUNNING, STOPPING, ENDED = "STARTING", "RUNNING", "STOPPING", "ENDED"
WAITING_MAX = 1000
"""So many calls may wait at a supervisor."""

KILL_TIMEOUT_S = 10.0
"""So long is waited for the end of a child that was killed."""


class RestartsExceededError(RactError):
    """The children of a supervisor died more often than it may start them again."""


@dataclass(frozen=True)
class Child:
    """How to start and stop a child.

    Attributes:
        name: By which it is found; unique in its supervisor.
        target: An actor class, or a function that returns an actor's handle or a `Supervisor`.
        args, kwargs: For the class or the function.
        options: Of the actor, as for ``.options()``; for classes only.
        restart: When it is started again: "always", or "on_failure", which is not when it ended by
            `ract.actor.exit_actor` or ``sys.exit(0)``.
        stop_s: Seconds that the calls made before have when it is stopped; then it is killed. With
            0 it is killed at once.
    """

    name: str
    target: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    restart: str = "always"
    stop_s: float = 5.0


@dataclass(frozen=True)
class ChildInfo:
    """What a supervisor knows of a child.

    Attributes:
        name: Of the child.
        state: STARTING, RUNNING, STOPPING or ENDED.
        restarts: How often it was started again, for whatever reason.
        actor_id: Hex id of its actor, "" before it has one.
        last_error: Why it died last, "" if it never did.
    """

    name: str
    state: str
    restarts: int
    actor_id: str
    last_error: str


def affected(strategy: str, names: Sequence[str], died: str) -> list[str]:
    """Whom the death of a child concerns, in the order in which they are started.

    Args:
        strategy: One of `STRATEGIES`.
        names: All children, in their order.
        died: Who died.
    """
    if strategy == "one_for_one":
        return [died]
    first = names.index(died) if strategy == "rest_for_one" else 0
    return list(names[first:])


class Intensity:
    """At most ``max_restarts`` within any ``within_s`` seconds."""

    def __init__(self, max_restarts: int, within_s: float) -> None:
        self.max_restarts = max_restarts
        self.within_s = within_s
        #: When there was a restart, within the last ``within_s`` seconds before the newest.
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Whether there may be a restart now, which counts from here on."""
        while self._times and self._times[0] <= now - self.within_s:
            self._times.popleft()
        if len(self._times) >= self.max_restarts:
            return False
        self._times.append(now)
        return True


# --------------------------------------------------------------------------- what users have


class Supervisor:
    """Starts actors, and starts them again when they die. It can be passed to tasks and actors.

    It is there, with all children running, when the constructor returns. It and they end when
    nobody has it, nor a `ChildHandle` of it, any more.

    Args:
        children: In the order in which they start.
        strategy: Who is stopped and started again when a child dies: "one_for_one" that child,
            "one_for_all" all of them, "rest_for_one" that child and those behind it.
        max_restarts, within_s: When children die more than ``max_restarts`` times in ``within_s``
            seconds the supervisor stops all of them and fails.

    Attributes:
        actor: The handle of its actor.

    Raises:
        ValueError: a bad argument. TypeError: of a wrong type.
        ActorDiedError: the constructor of a child raised.
    """

    def __init__(
        self,
        children: Iterable[Child],
        *,
        strategy: str = "one_for_one",
        max_restarts: int = 3,
        within_s: float = 5.0,
    ) -> None:
        specs = _checked(children)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {STRATEGIES}, got {strategy!r}")
        if max_restarts < 0 or within_s <= 0:
            raise ValueError("max_restarts must not be negative, and within_s must be positive")
        options = {"num_cpus": 0, "max_concurrency": WAITING_MAX}
        actor_class = ract.remote(_SupervisorActor).options(**options)
        self.actor: Any = actor_class.remote(specs, strategy, Intensity(max_restarts, within_s))
        try:
            ract.get(self.actor.start.remote())
        except BaseException:
            ract.kill(self.actor)
            raise

    def child(self, name: str, *further: str) -> ChildHandle:
        """A handle of a child; with further names, of a child of that supervisor, and so on."""
        return ChildHandle(self, (name, *further))

    def children(self) -> list[ChildInfo]:
        """What there is to know of the children, in their order.

        Raises:
            RestartsExceededError: the supervisor has failed.
        """
        return ract.get(self.actor.children.remote())

    def wait(self, timeout: float | None = None) -> None:
        """Return when the supervisor was stopped.

        Args:
            timeout: Seconds; None for as long as it takes.

        Raises:
            RestartsExceededError: it has failed.
            GetTimeoutError: neither came in time.
        """
        ract.get(self.actor.wait.remote(), timeout=timeout)

    def stop(self) -> None:
        """Stop the children, the last first, then the supervisor itself."""
        ract.get(self.actor.stop.remote())
        ract.kill(self.actor)

    def __repr__(self) -> str:
        return f"Supervisor({self.actor._actor_id.hex()})"


class ChildHandle:
    """A child, whichever actor that is at the time: ``handle.method.remote(...)`` calls it.

    A call that was made to an actor which dies fails as usual, because it may have run. Calls that
    are made when its death is known wait for the next one. It can be passed to tasks and actors.
    """

    def __init__(self, supervisor: Supervisor, path: tuple[str, ...]) -> None:
        self._supervisor = supervisor
        self._path = path
        self._lock = threading.Lock()
        self._last: ActorHandle | None = None

    def actor(self) -> ActorHandle:
        """The handle of the present actor. Waits while the child is started again.

        Raises:
            RestartsExceededError: its supervisor has failed.
            ActorHandleNotFoundError: there is no such child, or it has ended and stays so.
        """
        with self._lock:
            if self._last is None or is_dead(self._last):
                self._last = ract.get(self._supervisor.actor.handle.remote(self._path))
            return self._last

    async def actor_async(self) -> ActorHandle:
        """`actor` for coroutines: ``(await child.actor_async()).method.remote()``."""
        if self._last is None or is_dead(self._last):
            self._last = await self._supervisor.actor.handle.remote(self._path)
        return self._last

    def __getattr__(self, name: str) -> _ChildMethod:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ChildMethod(self, name, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return ChildHandle, (self._supervisor, self._path)

    def __repr__(self) -> str:
        return f"ChildHandle({'/'.join(self._path)} of {self._supervisor!r})"


class _ChildMethod:
    """A method of a child."""

    def __init__(self, child: ChildHandle, name: str, options: dict[str, Any]) -> None:
        self._child = child
        self._name = name
        self._options = options

    def options(self, **options: Any) -> _ChildMethod:
        """The same method with other options for its calls."""
        return _ChildMethod(self._child, self._name, {**self._options, **options})

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns and raises as the method of an actor, and `actor`, do."""
        method = getattr(self._child.actor(), self._name)
        if self._options:
            method = method.options(**self._options)
        return method.remote(*args, **kwargs)


def _checked(children: Iterable[Child]) -> list[Child]:
    specs = list(children)
    names: set[str] = set()
    for spec in specs:
        if not isinstance(spec, Child):
            raise TypeError(f"children must be of type Child, got {type(spec).__name__}")
        if spec.name in names:
            raise ValueError(f"two children have the name {spec.name!r}")
        if spec.restart not in RESTARTS:
            raise ValueError(f"restart must be one of {RESTARTS}, got {spec.restart!r}")
        if not (callable(spec.target) or hasattr(spec.target, "remote")):
            raise TypeError(f"the target of {spec.name!r} is no actor class and no function")
        if spec.options and not hasattr(spec.target, "remote"):
            raise ValueError(f"options of {spec.name!r}: its target is no actor class")
        names.add(spec.name)
    return specs


# --------------------------------------------------------------------------- the actor


class _Life:
    """A child and its present incarnation."""

    def __init__(self, spec: Child) -> None:
        self.spec = spec
        self.state = STARTING
        self.incarnation = 0
        self.made: Any = None  #: what the target returned: a handle, or a Supervisor
        self.dead = asyncio.Event()  #: of this incarnation
        self.last_error = ""

    @property
    def actor(self) -> Any:
        return self.made.actor if isinstance(self.made, Supervisor) else self.made


class _SupervisorActor:
    def __init__(self, specs: list[Child], strategy: str, intensity: Intensity) -> None:
        self._lives = {spec.name: _Life(spec) for spec in specs}
        self._strategy = strategy
        self._intensity = intensity
        #: Deaths that are not handled yet: (name, incarnation, error).
        self._deaths: asyncio.Queue[tuple[str, int, BaseException]] = asyncio.Queue()
        self._moved = asyncio.Condition()  #: notified of every change of what is below
        self._failure = ""  #: why it has failed, "" if it has not
        self._is_stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ calls

    async def start(self) -> None:
        """Start all children. If one fails, stop those before it, and raise its error."""
        try:
            for life in self._lives.values():
                await self._start(life)
        except Exception:
            await self._stop(self._lives.values())
            raise
        self._spawn(self._watch())

    async def handle(self, path: Sequence[str]) -> Any:
        name, *further = path
        life = self._lives.get(name)
        if life is None:
            raise ActorHandleNotFoundError(f"no child is named {name!r}; {list(self._lives)} are")
        await self._until(lambda: life.state in (RUNNING, ENDED))
        if life.state == ENDED:
            raise ActorHandleNotFoundError(f"the child {name!r} has ended: {life.last_error}")
        if not further:
            return life.actor
        if not isinstance(life.made, Supervisor):
            raise ActorHandleNotFoundError(f"the child {name!r} is no supervisor")
        return await life.actor.handle.remote(further)

    async def children(self) -> list[ChildInfo]:
        if self._failure:
            raise RestartsExceededError(self._failure)
        return [
            ChildInfo(
                name,
                life.state,
                max(0, life.incarnation - 1),
                life.actor._actor_id.hex() if life.made is not None else "",
                life.last_error,
            )
            for name, life in self._lives.items()
        ]

    async def wait(self) -> None:
        with contextlib.suppress(ActorHandleNotFoundError):  # it was stopped
            await self._until(lambda: False)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await self._stop(self._lives.values())
        self._is_stopped = True
        await self._tell()

    # ------------------------------------------------------------------ deaths

    async def _watch(self) -> None:
        while not self._failure:
            name, incarnation, error = await self._deaths.get()
            life = self._lives[name]
            if incarnation != life.incarnation or life.state != RUNNING:
                continue  # of an earlier one, or asked for
            life.last_error = str(error)
            if life.spec.restart == "on_failure" and getattr(error, "kind", "") == "exited":
                await self._move(life, ENDED)
            else:
                await self._restart(life)

    async def _restart(self, life: _Life) -> None:
        """Start a child that died, and those whom it concerns, until they run or it is too much."""
        while self._intensity.allows(time.monotonic()):
            names = affected(self._strategy, list(self._lives), life.spec.name)
            lives = [self._lives[name] for name in names]
            await self._stop(lives)
            try:
                for life in lives:
                    await self._start(life)
            except Exception as error:
                life.last_error = str(error)
            else:
                return
        await self._fail(life)

    async def _fail(self, life: _Life) -> None:
        allowed = self._intensity
        await self._stop(self._lives.values())
        self._failure = (
            f"more than {allowed.max_restarts} restarts in {allowed.within_s:g} s; the last child "
            f"that died was {life.spec.name!r}: {life.last_error}"
        )
        await self._tell()

    # ------------------------------------------------------------------ one child

    async def _start(self, life: _Life) -> None:
        life.incarnation += 1
        life.made = None
        life.dead = asyncio.Event()
        await self._move(life, STARTING)
        made = await asyncio.to_thread(_make, life.spec)
        life.made = made
        self._listen(life)
        await life.actor.__ray_ready__.remote()
        if isinstance(made, Supervisor):
            self._spawn(self._hear_of_failure(life.spec.name, life.incarnation, made))
        await self._move(life, RUNNING)

    def _listen(self, life: _Life) -> None:
        loop = asyncio.get_running_loop()
        name, incarnation, dead = life.spec.name, life.incarnation, life.dead

        def died(error: BaseException) -> None:
            dead.set()
            self._deaths.put_nowait((name, incarnation, error))

        def tell(error: BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: this process ends
                loop.call_soon_threadsafe(died, error)

        when_dead(life.actor, tell)

    async def _hear_of_failure(self, name: str, incarnation: int, made: Supervisor) -> None:
        try:
            await made.actor.wait.remote()
        except RestartsExceededError as error:
            self._deaths.put_nowait((name, incarnation, error))
        except RactError:  # its actor died, which is heard of anyway
            pass

    async def _stop(self, lives: Iterable[_Life]) -> None:
        for life in reversed(list(lives)):
            if life.made is None or life.dead.is_set():
                continue
            await self._move(life, STOPPING)
            if life.spec.stop_s > 0:
                with contextlib.suppress(TimeoutError, RactError):
                    await asyncio.wait_for(_end_gracefully(life), life.spec.stop_s)
            if not life.dead.is_set():
                ract.kill(life.actor)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(life.dead.wait(), KILL_TIMEOUT_S)

    # ------------------------------------------------------------------ who waits

    async def _move(self, life: _Life, state: str) -> None:
        life.state = state
        await self._tell()

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        def is_over() -> bool:
            return bool(self._failure) or self._is_stopped

        async with self._moved:
            await self._moved.wait_for(lambda: is_over() or condition())
        if self._failure:
            raise RestartsExceededError(self._failure)
        if self._is_stopped:
            raise ActorHandleNotFoundError("the supervisor was stopped")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _make(spec: Child) -> Any:
    if hasattr(spec.target, "remote"):
        maker = spec.target.options(**spec.options) if spec.options else spec.target
        made = maker.remote(*spec.args, **spec.kwargs)
    else:
        made = spec.target(*spec.args, **spec.kwargs)
    if not isinstance(made, ActorHandle | Supervisor):
        raise TypeError(f"the target of {spec.name!r} makes {type(made).__name__}, not an actor")
    return made


async def _end_gracefully(life: _Life) -> None:
    if isinstance(life.made, Supervisor):
        await life.actor.stop.remote()
    else:
        life.actor.__ray_terminate__.remote()
        await life.dead.wait()
