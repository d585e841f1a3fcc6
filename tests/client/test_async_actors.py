"""Actors that run on event loops, futures of refs, and concurrency groups."""

import asyncio
import concurrent.futures
import threading

import pytest

import ract
from ract.testing import SignalActor, wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote(num_cpus=0)
class Meeting:
    """``meet`` returns how many were inside at once when the door was opened."""

    async def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.door = asyncio.Event()
        self.inside = self.most = 0

    async def meet(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.door.wait()
        finally:
            self.inside -= 1
        return self.most

    async def is_on_the_loop_of_the_constructor(self):
        return asyncio.get_running_loop() is self.loop

    def plain_method_is_there_too(self):
        return asyncio.get_running_loop() is self.loop

    async def fail(self):
        raise ValueError("as asked")

    async def ask(self, refs):
        first = await refs[0]
        tasks = [asyncio.wrap_future(ref.future()) for ref in refs]
        done, _ = await asyncio.wait(tasks)
        return first, await asyncio.gather(*refs), sorted(task.result() for task in done)


def test_as_many_coroutines_run_as_may():
    meeting = Meeting.options(max_concurrency=3).remote()
    refs = [meeting.meet.remote() for _ in range(5)]
    opened = meeting.__ray_call__.remote(lambda actor: actor.door.set())
    assert ract.wait([opened], timeout=0.3)[0] == []  # there is no room for it
    ract.cancel(refs[0])
    assert ract.wait([opened], timeout=0.3)[0] == []  # the fourth took the room
    for ref in refs[1:3]:
        ract.cancel(ref)
    ract.get(opened, timeout=30)
    assert ract.get(meeting.__ray_call__.remote(lambda actor: actor.most)) == 3


def test_by_default_hundreds_of_coroutines_run():
    meeting = Meeting.remote()
    refs = [meeting.meet.remote() for _ in range(200)]
    ract.get(meeting.__ray_call__.remote(lambda actor: actor.door.set()))
    assert max(ract.get(refs, timeout=30)) == 200


def test_all_methods_run_on_the_loop_that_the_constructor_had():
    meeting = Meeting.remote()
    assert ract.get(meeting.is_on_the_loop_of_the_constructor.remote())
    assert ract.get(meeting.plain_method_is_there_too.remote())


def test_refs_are_awaited_gathered_and_waited_for():
    refs = [ract.put(i) for i in range(3)]
    assert ract.get(Meeting.remote().ask.remote(refs)) == (0, [0, 1, 2], [0, 1, 2])


def test_a_loop_of_the_driver_awaits_refs():
    meeting = Meeting.remote()

    async def main():
        with pytest.raises(ValueError, match="as asked"):
            await meeting.fail.remote()
        failed = await asyncio.gather(meeting.fail.remote(), return_exceptions=True)
        ref = ract.put(1)
        return type(failed[0].cause), await ref, await ref

    assert asyncio.run(main()) == (ValueError, 1, 1)


def test_giving_up_waiting_leaves_the_call_alone():
    meeting = Meeting.remote()
    ref = meeting.meet.remote()

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ref, 0.05)

    asyncio.run(give_up())
    ract.get(meeting.__ray_call__.remote(lambda actor: actor.door.set()))
    assert ract.get(ref, timeout=30) == 1


def test_futures_of_refs_are_those_of_the_standard_library():
    signal, meeting = SignalActor.options(num_cpus=0).remote(), Meeting.remote()
    refs = [signal.wait.remote(), ract.put(1), meeting.fail.remote()]
    waiting, ready, failing = futures = [ref.future() for ref in refs]
    assert ready.result(timeout=30) == 1
    assert isinstance(failing.exception(timeout=30), ValueError)
    with pytest.raises(concurrent.futures.TimeoutError):
        waiting.result(timeout=0.05)
    assert not waiting.running()
    called = threading.Event()
    waiting.add_done_callback(lambda future: called.set())
    signal.send.remote()
    assert called.wait(30)
    assert set(concurrent.futures.as_completed(futures, timeout=30)) == set(futures)


def test_cancelling_a_future_leaves_the_call_alone():
    signal = SignalActor.options(num_cpus=0).remote()
    ref = signal.wait.remote()
    assert ref.future().cancel()
    signal.send.remote()
    assert ract.get(ref, timeout=30) is None


def test_groups_of_an_async_actor_have_loops_of_their_own():
    @ract.remote(num_cpus=0, concurrency_groups={"io": 1, "compute": 2})
    class Grouped:
        @ract.method(concurrency_group="io")
        async def io(self):
            return id(asyncio.get_running_loop()), threading.get_ident()

        @ract.method(concurrency_group="compute")
        async def compute(self):
            return id(asyncio.get_running_loop()), threading.get_ident()

        async def other(self):
            return id(asyncio.get_running_loop()), threading.get_ident()

    grouped = Grouped.remote()
    one, two, three = ract.get([m.remote() for m in (grouped.io, grouped.compute, grouped.other)])
    assert len({one, two, three}) == 3
    moved = grouped.other.options(concurrency_group="io").remote()
    assert ract.get([moved, grouped.io.remote()]) == [one, one]
    with pytest.raises(ValueError, match="nowhere"):
        ract.get(grouped.io.options(concurrency_group="nowhere").remote(), timeout=30)


@pytest.mark.parametrize("kind", ["async", "threads", "unordered"])
def test_a_call_whose_argument_is_late_holds_up_only_ordered_actors(kind):
    class Plain:
        def __init__(self):
            self.seen = []

        def add(self, item):
            self.seen.append(item)

        def all(self):
            return self.seen

    class Async(Plain):
        async def nothing(self):
            pass

    options = {"async": {}, "threads": {"max_concurrency": 2}}
    chosen = options.get(kind, {"allow_out_of_order_execution": True})
    cls = ract.remote(Async if kind == "async" else Plain)
    actor = cls.options(num_cpus=0, **chosen).remote()
    signal = SignalActor.options(num_cpus=0).remote()
    late = actor.add.remote(signal.wait.remote())
    ract.get(actor.add.remote(1), timeout=30)
    assert ract.get(actor.all.remote()) == [1]
    ract.get([signal.send.remote(), late])
    wait_for_condition(lambda: ract.get(actor.all.remote()) == [1, None])
