"""Actors on a real embedded cluster: state, order, names, lifetime, errors, concurrency."""

import asyncio
import inspect
import os
import time

import numpy as np
import psutil
import pytest

import ract
from ract.actor import ActorClass, ActorHandle, ActorProxy
from ract.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RactActorError,
    RactTaskError,
    TaskCancelledError,
)
from ract.testing import SignalActor, wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
class Counter:
    def __init__(self, start=0, *, step=1):
        self.n = start
        self.step = step

    def add(self, k=None):
        self.n += self.step if k is None else k
        return self.n

    def pid(self):
        return os.getpid()

    def fail(self):
        raise ValueError("as asked")

    def die(self):
        os._exit(7)

    @ract.method(num_returns=2)
    def two(self):
        return self.n, -self.n

    def value(self, x):
        return x


def test_state_stays_in_the_actor():
    counter = Counter.remote(5, step=2)
    assert ract.get([counter.add.remote() for _ in range(3)]) == [7, 9, 11]
    assert ract.get(counter.add.remote(k=9)) == 20


def test_calls_run_in_submission_order_though_arguments_are_late():
    @ract.remote
    def late(signal):
        ract.get(signal.wait.remote())
        return "late"

    @ract.remote
    class Log:
        def __init__(self):
            self.seen = []

        def note(self, x):
            self.seen.append(x)

        def read(self):
            return self.seen

    log = Log.remote()
    signal = SignalActor.remote()
    log.note.remote(late.remote(signal))
    for i in range(50):
        log.note.remote(i)
    ract.get(signal.send.remote())
    assert ract.get(log.read.remote()) == ["late", *range(50)]


def test_many_calls():
    counter = Counter.remote()
    assert ract.get([counter.add.remote() for _ in range(3000)]) == list(range(1, 3001))


def test_method_errors_leave_the_actor_alive():
    counter = Counter.remote()
    with pytest.raises(ValueError, match="as asked") as caught:
        ract.get(counter.fail.remote())
    assert isinstance(caught.value, RactTaskError)
    assert ract.get(counter.add.remote()) == 1


def test_several_returns_and_options():
    counter = Counter.remote(3)
    a, b = counter.two.remote()
    assert ract.get([a, b]) == [3, -3]
    assert ract.get(counter.two.options(num_returns=1).remote()) == (3, -3)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda c: Counter(), TypeError),
        (lambda c: Counter.remote(1, 2), TypeError),
        (lambda c: Counter.remote(nope=1), TypeError),
        (lambda c: Counter.options(max_restart=1), ValueError),
        (lambda c: c.add.remote(1, 2), TypeError),
        (lambda c: c.add(1), TypeError),
        (lambda c: c.nothing, AttributeError),
        (lambda c: ract.kill("x"), ValueError),
        (lambda c: ract.get_actor("nobody"), ValueError),
        (lambda c: ract.get_actor(""), ValueError),
    ],
)
def test_misuse(make, error):
    counter = Counter.remote()
    with pytest.raises(error):
        make(counter)


def test_failing_constructor_reaches_every_caller():
    @ract.remote
    class Broken:
        def __init__(self):
            raise RuntimeError("cannot be")

        def f(self):
            return 1

    broken = Broken.remote()
    with pytest.raises(ActorDiedError, match="cannot be"):
        ract.get(broken.f.remote(), timeout=60)
    with pytest.raises(RactActorError):
        ract.get(broken.f.remote(), timeout=60)


def test_kill_and_its_errors():
    counter = Counter.remote()
    assert ract.get(counter.add.remote()) == 1
    ract.kill(counter)
    with pytest.raises(RactActorError):
        ract.get(counter.add.remote(), timeout=60)


def test_crash_says_how_it_died():
    counter = Counter.remote()
    with pytest.raises(ActorDiedError, match="7"):
        ract.get(counter.die.remote(), timeout=60)


def test_restart_after_crash():
    counter = Counter.options(max_restarts=1, max_task_retries=-1).remote()
    first = ract.get(counter.pid.remote())
    os.kill(first, 9)
    second = ract.get(counter.pid.remote(), timeout=60)
    assert second != first
    os.kill(second, 9)
    with pytest.raises((ActorDiedError, ActorUnavailableError)):
        ract.get(counter.pid.remote(), timeout=60)


def test_the_last_handle_ends_the_actor():
    counter = Counter.remote()
    pid = ract.get(counter.pid.remote())
    del counter
    wait_for_condition(lambda: not os.path.exists(f"/proc/{pid}"), timeout=30)


def test_calls_outlive_their_handle():
    assert ract.get(Counter.remote().add.remote()) == 1


def test_handles_travel():
    counter = Counter.remote()

    @ract.remote
    def bump(box):
        return ract.get(box["counter"].add.remote())

    assert ract.get([bump.remote({"counter": counter}) for _ in range(2)]) in ([1, 2], [2, 1])
    assert ract.get(ract.get(ract.put([counter]))[0].add.remote()) == 3


def test_named_actors():
    counter = Counter.options(name="the one").remote()
    assert ract.get(ract.get_actor("the one").add.remote()) == 1
    with pytest.raises(ValueError, match="taken"):
        Counter.options(name="the one").remote()
    same = Counter.options(name="the one", get_if_exists=True).remote()
    assert ract.get(same.add.remote()) == 2
    assert same == counter
    ract.kill(counter)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ract.get_actor("the one")
        except ValueError:
            break
    again = Counter.options(name="the one").remote()
    assert ract.get(again.add.remote()) == 1


def test_actor_creates_actors_and_waits_for_them():
    @ract.remote
    class Parent:
        def __init__(self):
            self.child = Counter.remote(10)

        def through(self):
            return ract.get(self.child.add.remote())

    assert ract.get(Parent.remote().through.remote(), timeout=60) == 11


def test_self_handle_from_the_runtime_context():
    @ract.remote
    class Selfish:
        def me(self):
            return ract.get_runtime_context().current_actor

        def ok(self):
            return "ok"

    selfish = Selfish.remote()
    assert ract.get(ract.get(selfish.me.remote()).ok.remote()) == "ok"


def test_async_actor_interleaves():
    @ract.remote
    class Door:
        def __init__(self):
            self.open = asyncio.Event()

        async def wait(self):
            await self.open.wait()
            return "in"

        async def unlock(self):
            self.open.set()

    door = Door.remote()
    waiting = [door.wait.remote() for _ in range(10)]
    assert ract.wait(waiting, timeout=0.2) == ([], waiting)
    ract.get(door.unlock.remote())
    assert ract.get(waiting) == ["in"] * 10


def test_cancel_of_an_async_call():
    @ract.remote
    class Sleeper:
        async def sleep(self):
            await asyncio.sleep(1000)

        async def ok(self):
            return 1

    sleeper = Sleeper.remote()
    ref = sleeper.sleep.remote()
    ract.get(sleeper.ok.remote())
    ract.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ract.get(ref, timeout=30)
    assert ract.get(sleeper.ok.remote()) == 1


def test_threaded_actor_and_concurrency_groups():
    import threading

    @ract.remote(max_concurrency=2, concurrency_groups={"io": 1})
    class Threads:
        def __init__(self):
            self.barrier = threading.Barrier(2)

        def meet(self):
            return self.barrier.wait(30) in (0, 1)

        @ract.method(concurrency_group="io")
        def name(self):
            return threading.current_thread().name

    threads = Threads.remote()
    assert ract.get([threads.meet.remote() for _ in range(2)], timeout=60) == [True, True]
    assert "io" in ract.get(threads.name.remote())


def test_exit_actor():
    @ract.remote
    class Leaver:
        def leave(self):
            ract.actor.exit_actor()

        def ok(self):
            return 1

    leaver = Leaver.remote()
    with pytest.raises(ActorDiedError):
        ract.get(leaver.leave.remote(), timeout=60)
    with pytest.raises(ActorDiedError):
        ract.get(leaver.ok.remote(), timeout=60)


def test_large_values_in_and_out():
    counter = Counter.remote()
    array = np.arange(500_000)
    out = ract.get(counter.value.remote(array))
    np.testing.assert_array_equal(out, array)
    assert not out.flags.writeable


def test_inheritance_and_isinstance():
    class Base:
        def hello(self):
            return "base"

    @ract.remote
    class Derived(Base):
        def more(self):
            return super().hello() + "+"

    derived = Derived.remote()
    assert ract.get([derived.hello.remote(), derived.more.remote()]) == ["base", "base+"]
    assert isinstance(derived, ract.actor.ActorHandle)


def test_a_class_that_names_itself():
    @ract.remote
    class Node:
        def __init__(self, depth=0, *, name="root"):
            self.depth, self.name = depth, name

        def describe(self, mark="!"):
            return f"{self.name}{self.depth}{mark}"

        def child(self):
            self.made = Node.remote(self.depth + 1, name="child")
            return self.made

    parent = Node.remote()
    child = ract.get(parent.child.remote())
    assert ract.get(child.describe.remote(mark="?")) == "child1?"
    with pytest.raises(TypeError, match="marks"):
        child.describe.remote(marks=1)


def test_a_fresh_actor_was_not_reconstructed():
    @ract.remote
    class Fresh:
        def look(self):
            return ract.get_runtime_context().was_current_actor_reconstructed

    assert ract.get(Fresh.remote().look.remote()) is False


def test_exit_actor_gives_no_result_even_if_it_is_caught():
    @ract.remote
    class Stubborn:
        def leave(self):
            try:
                ract.actor.exit_actor()
            except BaseException:
                return "still here"

    actor = Stubborn.remote()
    with pytest.raises(ActorDiedError, match="exit_actor"):
        ract.get(actor.leave.remote())


def test_the_death_of_an_actor_is_told_with_all_facts():
    actor = Counter.options(name="doomed").remote()
    pid = ract.get(actor.pid.remote())
    ract.kill(actor)
    with pytest.raises(ActorDiedError) as caught:
        ract.get(actor.pid.remote())
    text = str(caught.value)
    for fact in ("Counter", actor._actor_id.hex(), "doomed", "namespace", str(pid), "127.0.0.1"):
        assert fact in text


@pytest.mark.parametrize("kind", ["threads", "async, get", "async, await"])
def test_concurrent_actors_that_wait_lend_their_cpus(kind):
    @ract.remote
    def one():
        return 1

    class Threads:
        def ask(self):
            return ract.get(one.remote())

    class Get:
        async def ask(self):
            return ract.get(one.remote())

    class Await:
        async def ask(self):
            return await one.remote()

    cls = {"threads": Threads, "async, get": Get, "async, await": Await}[kind]
    actor = ract.remote(cls).options(num_cpus=2, max_concurrency=2).remote()
    assert ract.get([actor.ask.remote() for _ in range(3)], timeout=30) == [1, 1, 1]


def test_an_async_actor_takes_no_calls_after_its_termination(tmp_path):
    @ract.remote
    class Async:
        async def wait_for(self, path):
            while not os.path.exists(path):
                await asyncio.sleep(0.001)

        async def ping(self):
            return 1

    actor, gate = Async.remote(), tmp_path / "gate"
    waiting = actor.wait_for.remote(str(gate))
    ract.get(actor.ping.remote())
    ended, late = actor.__ray_terminate__.remote(), actor.ping.remote()
    if ract.wait([late], timeout=0.5)[0]:  # it started together with the termination
        late = actor.ping.remote()
    gate.touch()
    assert ract.get(waiting) is None
    for ref in (ended, late):
        with pytest.raises(ActorDiedError):
            ract.get(ref)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_the_title_names_the_method_while_it_runs_and_the_class_afterwards(concurrency):
    class Titled:
        def title(self):
            return psutil.Process().cmdline()[0].split()[0]

        def pid(self):
            return os.getpid()

    actor = ract.remote(Titled).options(max_concurrency=concurrency).remote()
    assert ract.get(actor.title.remote()) == "ract::Titled.title"
    assert ract.get(actor.title.options(name="asked").remote()) == "ract::asked"
    process = psutil.Process(ract.get(actor.pid.remote()))
    wait_for_condition(lambda: process.cmdline()[0].split()[0] == "ract::Titled")


def test_a_forced_cancel_of_an_actor_call_is_refused_though_it_has_finished():
    counter = Counter.remote()
    ref = counter.add.remote()
    ract.get(ref)
    with pytest.raises(ValueError, match="force=True"):
        ract.cancel(ref, force=True)


def test_a_result_for_a_loop_that_is_closed_does_not_hold_up_others():
    @ract.remote
    class Both:
        def __init__(self):
            self.gate = asyncio.Event()

        async def wait(self):
            await self.gate.wait()
            return 1

        async def open(self):
            self.gate.set()

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(abandoned, 0.05)

    both = Both.remote()
    abandoned, wanted = both.wait.remote(), both.wait.remote()
    asyncio.run(give_up())
    both.open.remote()
    assert ract.get(wanted, timeout=30) == 1
    assert ract.get(abandoned, timeout=30) == 1


def test_methods_reach_the_attributes_of_their_class_by_its_name():
    class Base:
        inherited = 2

    @ract.remote
    class Named(Base):
        limit = 3

        @staticmethod
        def double(x):
            return 2 * x

        def all(self):
            return Named.inherited, Named.limit, Named.double(4), [Named.limit for _ in range(1)]

    assert Named.limit == 3
    assert ract.get(Named.remote().all.remote()) == (2, 3, 8, [3])
    with pytest.raises(AttributeError, match="missing"):
        _ = Named.missing


def test_classes_and_handles_take_types_in_annotations():
    class Calm:
        pass

    def use(kind: ActorClass[Calm], handle: ActorHandle[Calm], typed: ActorProxy[Calm]):
        return kind, handle, typed

    assert len(inspect.signature(use).parameters) == 3


def test_the_mark_of_a_method_may_be_bare_but_takes_keywords_only():
    @ract.remote
    class Marked:
        @ract.method
        def twice(self, x: int) -> int:
            return 2 * x

    assert ract.get(Marked.remote().twice.remote(2)) == 4
    for wrong in (lambda: ract.method(3), lambda: ract.method(), lambda: ract.method(unknown=1)):
        for kind in (ValueError, AssertionError):
            with pytest.raises(kind):
                wrong()


@pytest.mark.parametrize("kind", ["async", "threads"])
def test_calls_that_run_on_do_not_hold_up_the_news_of_an_exit(kind, tmp_path):
    class Async:
        async def wait_for(self, path):
            while not os.path.exists(path):
                await asyncio.sleep(0.001)
            return "finished"

        async def leave(self):
            ract.actor.exit_actor()

    class Threads:
        def wait_for(self, path):
            while not os.path.exists(path):
                time.sleep(0.001)
            return "finished"

        def leave(self):
            ract.actor.exit_actor()

    actor = ract.remote(Async if kind == "async" else Threads).options(max_concurrency=2).remote()
    gate = tmp_path / "gate"
    running = actor.wait_for.remote(str(gate))
    for ref in (actor.leave.remote(), actor.wait_for.remote(str(gate))):
        with pytest.raises(ActorDiedError, match="exit_actor"):
            ract.get(ref, timeout=30)
    gate.touch()
    assert ract.get(running, timeout=30) == "finished"
