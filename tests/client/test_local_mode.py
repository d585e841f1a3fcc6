"""``init(local_mode=True)``: everything in this process, one call after another."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import numpy
import pytest

import ract
from ract.exceptions import ActorDiedError, ObjectLostError, RactTaskError
from ract.util import ActorPool, map_unordered


@pytest.fixture(autouse=True)
def local():
    ract.init(num_cpus=3, resources={"here": 1}, local_mode=True, namespace="home")
    yield
    ract.shutdown()


@ract.remote
def where(x=None):
    return os.getpid(), threading.get_ident(), x


@ract.remote
def echo(x):
    return x


@ract.remote
def fail(x=None):
    raise KeyError("lost")


@ract.remote(num_cpus=100)
class Counter:
    def __init__(self, n=0):
        self.n = n

    def inc(self, by=1):
        self.n += by
        return self.n

    def fail(self):
        raise ValueError("no")

    def who(self):
        context = ract.get_runtime_context()
        return context.get_actor_id(), context.get_actor_name(), context.get_task_name()

    def me(self):
        return ract.get_runtime_context().current_actor

    def leave(self):
        ract.actor.exit_actor()

    @ract.method(num_returns=2)
    def two(self):
        return 1, 2


# --------------------------------------------------------------------------- tasks


def test_no_cluster_is_started():
    assert ract.is_initialized()
    assert not list(Path(os.environ["RACT_TMPDIR"]).glob("*/node.sock"))
    assert ract.cluster_resources() == {"CPU": 3.0, "here": 1.0}
    assert ract.available_resources()["CPU"] == 3.0
    assert [node["Alive"] for node in ract.nodes()] == [True]
    with pytest.raises(RuntimeError, match="twice"):
        ract.init(local_mode=True)


def test_tasks_run_here_when_they_are_called():
    ran = []

    @ract.remote
    def note(x):
        ran.append(x)

    ref = note.remote(1)
    assert ran == [1]
    assert ract.get(ref) is None
    assert ract.get(where.remote(2)) == (os.getpid(), threading.get_ident(), 2)


def test_arguments_and_results_are_copies():
    given = [1]
    ref = echo.remote(given)
    given.append(2)
    got = ract.get(ref)
    assert got == [1]
    got.append(3)
    assert ract.get(ref) == [1]
    put = ract.put(given)
    given.append(4)
    assert ract.get(put) == [1, 2]
    array = ract.get(ract.put(numpy.zeros(3)))
    assert not array.flags.writeable


def test_what_cannot_travel_fails_here_too():
    with pytest.raises(TypeError, match="lock"):
        echo.remote(threading.Lock())
    with pytest.raises(TypeError, match="lock"):
        ract.put(threading.Lock())
    with pytest.raises(TypeError):
        echo.remote(1, 2)
    with pytest.raises(TypeError, match="already"):
        ract.put(ract.put(1))


def test_refs_are_replaced_at_the_top_and_kept_inside():
    inner = echo.remote(1)
    assert ract.get(echo.remote(inner)) == 1
    kept = ract.get(echo.remote([inner, {"a": inner}]))
    assert kept[0] is inner
    assert ract.get(kept[1]["a"]) == 1

    @ract.remote
    def nested():
        return [echo.remote(5)]

    [ref] = ract.get(nested.remote())
    assert ract.get(ref) == 5


def test_errors_are_raised_by_get_with_the_frames_of_the_function():
    ref = fail.remote()
    with pytest.raises(KeyError, match="lost") as info:
        ract.get(ref)
    assert isinstance(info.value, RactTaskError)
    frames = []
    frame = info.value.__cause__.__traceback__
    while frame is not None:
        frames.append(frame.tb_frame.f_code.co_name)
        frame = frame.tb_next
    assert frames[-1] == "fail"
    assert info.value.traceback_str.splitlines()[1].strip().startswith(f'File "{__file__}')


def test_a_failed_argument_fails_the_call():
    with pytest.raises(KeyError, match="input arguments for this task could not"):
        ract.get(echo.remote(echo.remote(fail.remote())))


def test_calls_are_tried_again_where_they_ask_for_it():
    tried = []

    @ract.remote(max_retries=2, retry_exceptions=[OSError])
    def flaky(kind):
        tried.append(kind)
        if len(tried) < 3:
            raise kind("again")
        return len(tried)

    assert ract.get(flaky.remote(OSError)) == 3
    tried.clear()
    with pytest.raises(LookupError):
        ract.get(flaky.remote(LookupError))
    assert len(tried) == 1


def test_several_returns():
    @ract.remote(num_returns=2)
    def two(values):
        return values

    assert ract.get(two.remote((1, 2))) == [1, 2]
    assert two.options(num_returns=0).remote(None) is None
    for ref in two.remote((1, 2, 3)):
        with pytest.raises(ValueError, match="returned 3 objects, but num_returns=2"):
            ract.get(ref)

    @ract.remote(num_returns=3)
    def some():
        yield 1
        yield 2
        raise KeyError("third")

    *good, bad = some.remote()
    assert ract.get(good) == [1, 2]
    with pytest.raises(KeyError, match="third"):
        ract.get(bad)


def test_generators_run_as_they_are_read():
    ran = []

    @ract.remote
    def count():
        for i in range(10**9):
            ran.append(i)
            yield i

    items = count.remote()
    assert [ract.get(next(items)) for _ in range(3)] == [0, 1, 2]
    assert ran == [0, 1, 2]


def test_generators_end_and_fail():
    @ract.remote
    def items(bad):
        yield [1]
        if bad:
            raise KeyError("second")

    assert [ract.get(ref) for ref in items.remote(False)] == [[1]]
    generator = items.remote(True)
    first, second = generator
    assert ract.get(first) == [1]
    with pytest.raises(KeyError, match="second"):
        ract.get(second)
    with pytest.raises(KeyError, match="second"):
        ract.get(generator.completed())
    assert ract.get(items.remote(False).completed()) is None
    generator = items.remote(False)
    assert ract.wait([generator, echo.remote(1)], num_returns=2)[1] == []

    async def read():
        return [await ref async for ref in items.remote(False)]

    assert asyncio.run(read()) == [[1]]


def test_refs_made_of_ids_are_found_or_lost():
    ref = echo.remote([1])
    assert ract.get(ract.ObjectRef(ref.binary())) == [1]
    for lost in (ract.ObjectRef.from_random(), ract.ObjectRef(os.urandom(28))):
        with pytest.raises(ObjectLostError):
            ract.get(lost)


def test_wait_and_futures_find_everything_ready():
    refs = [echo.remote([i]) for i in range(3)]
    assert ract.wait(refs, num_returns=2) == (refs[:2], refs[2:])
    assert refs[0].future().result(timeout=10) == [0]

    async def read():
        return await refs[1]

    assert asyncio.run(read()) == [1]
    ract.cancel(refs[0])
    assert ract.get(refs[0]) == [0]


# --------------------------------------------------------------------------- actors


def test_actors_keep_their_state_and_do_not_wait_for_resources():
    counter = Counter.remote(1)
    assert ract.get([counter.inc.remote(), counter.inc.remote(by=2)]) == [2, 4]
    assert ract.get(counter.two.remote()) == [1, 2]
    assert ract.get(counter.two.options(num_returns=1).remote()) == (1, 2)
    with pytest.raises(ValueError, match="no") as info:
        ract.get(counter.fail.remote())
    assert info.value.traceback_str.splitlines()[1].strip().startswith(f'File "{__file__}')
    with pytest.raises(TypeError):
        counter.inc.remote(1, 2)
    with pytest.raises(AttributeError, match="no method"):
        counter.n
    assert ract.get(counter.__ray_call__.remote(lambda self: self.n)) == 4


def test_handles_can_be_passed_on():
    counter = Counter.remote()

    @ract.remote
    def use(handles):
        return ract.get(handles[0].inc.remote(5))

    assert ract.get(use.remote([counter])) == 5
    assert ract.get(counter.inc.remote()) == 6
    [same] = ract.get(echo.remote([counter]))
    assert same == counter
    assert isinstance(same, ract.actor.ActorHandle)


def test_actors_have_names():
    counter = Counter.options(name="keeper").remote(1)
    assert ract.get(ract.get_actor("keeper").inc.remote()) == 2
    assert ract.get(ract.get_actor("keeper", namespace="home").inc.remote()) == 3
    with pytest.raises(ValueError, match="taken"):
        Counter.options(name="keeper").remote()
    same = Counter.options(name="keeper", get_if_exists=True).remote()
    assert same == counter
    for name, namespace in (("other", None), ("keeper", "elsewhere")):
        with pytest.raises(ValueError, match="look up"):
            ract.get_actor(name, namespace)
    del counter, same
    with pytest.raises(ValueError, match="look up"):
        ract.get_actor("keeper")
    Counter.options(name="kept", lifetime="detached").remote(7)
    assert ract.get(ract.get_actor("kept").inc.remote()) == 8


def test_code_knows_where_it_runs():
    counter = Counter.options(name="keeper").remote()
    assert ract.get(counter.who.remote()) == (counter._actor_id.hex(), "keeper", "Counter.who")
    assert ract.get(counter.me.remote()) == counter
    context = ract.get_runtime_context()
    assert (context.get_actor_id(), context.get_task_id()) == (None, None)
    assert context.namespace == "home"

    @ract.remote
    def name():
        return ract.get_runtime_context().get_task_name()

    assert ract.get(name.options(name="special").remote()) == "special"


def test_dead_actors_say_why():
    @ract.remote
    class Broken:
        def __init__(self):
            raise KeyError("in constructor")

        def method(self):
            return 1

    with pytest.raises(ActorDiedError, match="in constructor"):
        ract.get(Broken.remote().method.remote())
    killed, left, ended = Counter.remote(), Counter.remote(), Counter.remote()
    ract.kill(killed)
    with pytest.raises(ActorDiedError, match="kill"):
        ract.get(killed.inc.remote())
    for actor, ref in ((left, left.leave.remote()), (ended, ended.__ray_terminate__.remote())):
        with pytest.raises(ActorDiedError):
            ract.get([ref, actor.inc.remote()])


def test_async_actors_are_refused():
    @ract.remote
    class Async:
        async def method(self):
            return 1

    with pytest.raises(NotImplementedError, match="async actor"):
        Async.remote()


def test_tools_on_top_work():
    pool = ActorPool([Counter.remote() for _ in range(2)])
    assert list(pool.map(lambda actor, x: actor.inc.remote(x), [1, 2])) == [1, 2]
    assert sorted(map_unordered(echo, range(5))) == list(range(5))
    actor = Counter.bind(5)
    actor.inc.bind()
    assert ract.get(actor.inc.bind(echo.bind(2)).execute()) == 8


def test_what_needs_a_cluster_says_so():
    from ract.util import list_named_actors

    with pytest.raises(RuntimeError, match="local_mode=True"):
        list_named_actors()
    ract.shutdown()
    with pytest.raises(ValueError, match="local_mode=True"):
        ract.init("tls://127.0.0.1:1", local_mode=True)


def test_functions_and_handles_outlive_it_as_they_do_a_cluster():
    counter, ref = Counter.remote(), echo.remote([1])
    ract.shutdown()
    with pytest.raises(ValueError, match="left"):
        ref.future().result()
    with pytest.raises(RuntimeError, match="shutdown"):
        counter.inc.remote()
    ract.init(num_cpus=1)
    assert ract.get(where.remote())[0] != os.getpid()
    ract.shutdown()
    ract.init(local_mode=True)
    assert ract.get(where.remote())[0] == os.getpid()


def test_driver_mode_of_older_programs_asks_for_it(tmp_path):
    import subprocess

    code = """
import ract, os, warnings
warnings.simplefilter("ignore")
with ract.init(driver_mode=2):
    print(ract.get(ract.remote(os.getpid).remote()) == os.getpid())
print(ract.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr
