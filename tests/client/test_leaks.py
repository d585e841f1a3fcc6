"""Whatever a program does with refs: values are right, and nothing is left when it lets go."""

import asyncio
import gc
import os
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

import ract
from ract.client.runtime import current_runtime
from ract.testing import wait_for_condition

SIZES = (1, 20_000, 200_000)  # floats: in the process, inline, in shared memory


def value(seed, size):
    return np.full(size, seed, dtype=np.float64)


@ract.remote
def make(seed, size):
    return value(seed, size)


@ract.remote
def nest(seed, size):
    return [ract.put(value(seed, size))]


@ract.remote
def same(array):
    return array


@ract.remote
def pass_on(refs):
    return refs


@ract.remote(num_cpus=0)
class Keeper:
    def __init__(self):
        self.kept = []

    def keep(self, refs):
        self.kept += refs

    def give(self):
        return self.kept.pop() if self.kept else None

    def clear(self):
        self.kept.clear()


class Programs(RuleBasedStateMachine):
    refs = Bundle("refs")  # of (ref, seed, size)
    seed = 0

    def __init__(self):
        super().__init__()
        self.keeper = Keeper.remote()
        self.inside = []  # what the keeper has

    def next(self):
        Programs.seed += 1
        return Programs.seed

    @rule(target=refs, size=st.sampled_from(SIZES))
    def put(self, size):
        seed = self.next()
        return ract.put(value(seed, size)), seed, size

    @rule(target=refs, size=st.sampled_from(SIZES))
    def run(self, size):
        seed = self.next()
        return make.remote(seed, size), seed, size

    @rule(target=refs, known=refs)
    def run_with(self, known):
        ref, seed, size = known
        return same.remote(ref), seed, size

    @rule(target=refs, size=st.sampled_from(SIZES))
    def made_by_somebody_else(self, size):
        seed = self.next()
        return ract.get(nest.remote(seed, size))[0], seed, size

    @rule(target=refs, known=refs)
    def passed_through_a_container(self, known):
        ref, seed, size = known
        return ract.get(pass_on.remote([ref]))[0], seed, size

    @rule(target=refs, known=refs)
    def within_an_object(self, known):
        ref, seed, size = known
        return ract.get(ract.put({"a": [ref]}))["a"][0], seed, size

    @rule(known=refs)
    def kept_by_an_actor(self, known):
        ract.get(self.keeper.keep.remote([known[0]]))
        self.inside.append(known[1:])

    @rule(target=refs)
    def taken_from_the_actor(self):
        ref = ract.get(self.keeper.give.remote())
        if ref is None:
            return ract.put(value(0, 1)), 0, 1
        return ref, *self.inside.pop()

    @rule()
    def dropped_by_the_actor(self):
        ract.get(self.keeper.clear.remote())
        self.inside.clear()

    @rule(known=refs)
    def read(self, known):
        ref, seed, size = known
        found = ract.get(ref)
        assert found.shape == (size,)
        assert found[0] == found[-1] == seed

    @rule(known=consumes(refs))
    def drop(self, known):
        del known

    def teardown(self):
        self.keeper = None
        self.bundles.clear()
        self.names_to_values.clear()
        self.names_list.clear()
        gc.collect()


Programs.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def left():
    """What the scheduler and the node still have."""
    link = current_runtime().link
    (store,) = link.request("store").values()
    status = link.request("status")
    return status["objects"], store["objects"], store["object_bytes"]


def test_nothing_is_left_of_random_programs(ract_module):
    Programs.TestCase("runTest").runTest()
    gc.collect()
    wait_for_condition(lambda: left() == (0, 0, 0), timeout=30)


class WithRefs(Exception):
    def __init__(self, refs):
        super().__init__(refs)
        self.refs = refs


@ract.remote
def fails():
    raise WithRefs([ract.put(np.ones(100_000))])


@ract.remote
def fails_late():
    yield 1
    raise WithRefs([ract.put(np.ones(100_000))])


@pytest.mark.parametrize("returns", [0, 1, 3, "streaming"])
@pytest.mark.parametrize("retries", [0, 2])
def test_refs_in_exceptions_live_as_long_as_these(ract_module, returns, retries):
    task = fails_late if returns == "streaming" else fails
    task = task.options(num_returns=returns, max_retries=retries, retry_exceptions=retries > 0)
    made = task.remote()
    refs = [] if returns == 0 else made if returns == 3 else [made]
    if returns == "streaming":
        refs = list(made)[1:]
    found = []
    for ref in refs:
        with pytest.raises(WithRefs) as caught:
            ract.get(ref)
        found.append(caught.value.refs[0])
        del caught
    for inner in found:
        assert ract.get(inner).sum() == 100_000
    del made, refs, found
    ref = inner = None
    gc.collect()
    wait_for_condition(lambda: not ract.util.state.list_objects())


def test_what_a_function_captures_goes_with_the_function(ract_module):
    array = ract.put(np.zeros(200_000))
    handle = Pinger.remote()

    @ract.remote
    def captures():
        return ract.get(array).size, ract.get(handle.ping.remote())

    assert ract.get([captures.remote() for _ in range(3)]) == [(200_000, "pong")] * 3
    captures = array = handle = None
    gc.collect()
    wait_for_condition(lambda: not ract.util.state.list_objects())
    wait_for_condition(
        lambda: (
            not ract.util.state.list_actors(
                filters=[("state", "=", "ALIVE"), ("class_name", "=", "Pinger")]
            )
        )
    )


@ract.remote(num_cpus=0)
class Pinger:
    def ping(self):
        return "pong"


def test_an_executor_that_dies_before_it_replies_leaves_nothing(ract_module):
    def dies_after(owner, name):
        """Let a method do its work and end the process, once the cluster knows what it did."""
        method = getattr(owner, name)

        def last(*args):
            method(*args)
            ract.nodes()
            os._exit(1)

        setattr(owner, name, last)

    @ract.remote(max_retries=0)
    def announce_and_die():
        large = ract.put(np.zeros(100_000))
        dies_after(current_runtime().table, "hand_over_result")
        return [large]

    @ract.remote(max_retries=0)
    def store_and_die():
        dies_after(current_runtime().store, "write")
        return np.zeros(100_000)

    @ract.remote(max_retries=0)
    def raise_and_die():
        large = ract.put(np.zeros(100_000))
        dies_after(current_runtime().table, "hand_over_result")
        raise WithRefs([large])

    for task in (announce_and_die, store_and_die, raise_and_die):
        with pytest.raises(ract.exceptions.WorkerCrashedError):
            ract.get(task.remote())
    wait_for_condition(lambda: not ract.util.state.list_objects())


class Busy:
    def wait(self, path):
        while not os.path.exists(path):
            time.sleep(0.01)

    def take(self, refs): ...


class BusyAsync:
    async def wait(self, path):
        while not os.path.exists(path):
            await asyncio.sleep(0.01)

    async def take(self, refs): ...


@pytest.mark.parametrize("cls", [Busy, BusyAsync])
def test_a_call_that_is_cancelled_before_it_has_begun_leaves_nothing(ract_module, cls, tmp_path):
    actor = ract.remote(cls).options(max_concurrency=1).remote()
    running = actor.wait.remote(str(tmp_path / "end"))
    kept = ract.put(value(1, 200_000))
    waiting = actor.take.remote([kept])
    ract.wait([running], timeout=0.1)  # so that both calls have been sent
    ract.cancel(waiting)
    ract.wait([waiting], timeout=1)  # so that the cancellation is there before the call can begin
    (tmp_path / "end").touch()
    ract.get(running)
    with pytest.raises(ract.exceptions.TaskCancelledError):
        ract.get(waiting)
    del kept
    wait_for_condition(lambda: not ract.util.state.list_objects(), timeout=20)
