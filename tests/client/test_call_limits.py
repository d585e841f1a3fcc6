"""What calls have beyond Ray's: timeouts, priorities, bounded mailboxes, interruptible actors."""

import asyncio
import contextlib
import os
import pickle
import threading
import time

import pytest

import ract
from ract.client.process import current
from ract.exceptions import (
    ActorDiedError,
    MailboxFullError,
    RactError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from ract.testing import SignalActor, wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@pytest.fixture
def signal():
    made = SignalActor.remote()
    yield made
    ract.get(made.send.remote())


@ract.remote
def note(path, text):
    with open(path, "a") as notes:
        notes.write(f"{text}\n")
    return text


@ract.remote
def wait_for(signal):
    ract.get(signal.wait.remote())
    return "done"


@ract.remote
class Worker:
    def wait_for(self, signal):
        ract.get(signal.wait.remote())
        return "done"

    def spin(self, path):
        open(path, "w").close()
        while True:
            time.sleep(0.001)

    def note(self, path, text):
        with open(path, "a") as notes:
            notes.write(f"{text}\n")

    def pid(self):
        return os.getpid()


def read(path):
    return path.read_text().split() if path.exists() else []


# --------------------------------------------------------------------------- timeouts


def test_a_task_that_takes_too_long_fails_and_is_cancelled(signal, tmp_path):
    @ract.remote
    def interrupted(path):
        try:
            open(path + ".begun", "w").close()
            while True:
                time.sleep(0.001)
        except KeyboardInterrupt:
            open(path, "w").close()
            raise

    ract.get(ract.remote(lambda: 0).remote())  # there is an executor: the task begins at once
    path = tmp_path / "interrupted"
    ref = interrupted.options(timeout=0.5).remote(str(path))
    with pytest.raises(TaskTimeoutError, match=r"within 0\.5 s: .*interrupted") as info:
        ract.get(ref)
    assert isinstance(info.value, TimeoutError)
    wait_for_condition(path.exists)


def test_a_call_without_returns_is_cancelled_when_it_takes_too_long(tmp_path):
    @ract.remote(num_returns=0, timeout=0.5)
    def interrupted(path):
        try:
            while True:
                time.sleep(0.001)
        except KeyboardInterrupt:
            open(path, "w").close()
            raise

    path = tmp_path / "interrupted"
    assert interrupted.remote(str(path)) is None
    wait_for_condition(path.exists)


def test_a_call_without_returns_that_has_finished_is_waited_for_no_more(tmp_path):
    path = tmp_path / "notes"
    worker = Worker.remote()
    runtime = current.runtime
    note.options(num_returns=0, timeout=60).remote(str(path), "x")
    worker.note.options(num_returns=0, timeout=60).remote(str(path), "x")
    with runtime.table.lock:
        calls = [known() for *_, known in runtime.cancelling.timeouts]  # as long as they are in use
    wait_for_condition(lambda: not runtime.cancelling.timeouts)
    assert read(path) == ["x", "x"]
    assert not any(call.cancelled for call in calls if call is not None)


def test_a_call_in_time_is_not_disturbed(signal):
    assert ract.get(wait_for.options(timeout=60).remote(_open(signal))) == "done"
    worker = Worker.remote()
    assert isinstance(ract.get(worker.pid.options(timeout=60).remote()), int)


def _open(signal):
    ract.get(signal.send.remote())
    return signal


def test_an_actor_call_that_takes_too_long_fails_and_the_actor_lives(signal):
    worker = Worker.remote()
    late = worker.wait_for.options(timeout=0.05).remote(signal)
    behind = worker.note.options(timeout=0.05).remote("/nowhere", "x")
    for ref in (late, behind):
        with pytest.raises(TaskTimeoutError):
            ract.get(ref)
    ract.get(signal.send.remote())
    assert isinstance(ract.get(worker.pid.remote()), int)


def test_a_call_that_waits_for_its_arguments_can_time_out(signal, tmp_path):
    path = tmp_path / "notes"
    late = wait_for.remote(signal)
    with pytest.raises(TaskTimeoutError, match="arguments"):
        ract.get(note.options(timeout=0.05).remote(str(path), late))
    ract.get(signal.send.remote())
    assert ract.get(late) == "done"
    assert read(path) == []


def test_an_async_call_and_a_generator_can_time_out():
    @ract.remote
    class Async:
        async def sleep(self):
            await asyncio.sleep(1000)

        async def items(self):
            yield 1
            await asyncio.sleep(1000)

    actor = Async.remote()
    with pytest.raises(TaskTimeoutError):
        ract.get(actor.sleep.options(timeout=0.05).remote())
    first, error = actor.items.options(timeout=0.3).remote()
    assert ract.get(first) == 1
    with pytest.raises(TaskTimeoutError):
        ract.get(error)


# --------------------------------------------------------------------------- priorities


def test_a_higher_priority_runs_first_among_tasks_that_wait(tmp_path):
    path, gate = tmp_path / "notes", tmp_path / "gate"

    @ract.remote
    def hold(path):  # its CPUs; waiting in get would lend them
        while not os.path.exists(path):
            time.sleep(0.001)

    whole = {"num_cpus": 2}
    holder = hold.options(**whole).remote(str(gate))
    refs = [
        note.options(**whole, priority=priority).remote(str(path), f"{priority}.{i}")
        for i in range(2)
        for priority in (0, 5, -1)
    ]
    gate.touch()
    ract.get([holder, *refs])
    found = read(path)
    if found[0] == "0.0":  # it was sent ahead of the others, behind the holder
        assert found[1:] == ["5.0", "5.1", "0.1", "-1.0", "-1.1"]
    else:
        assert found == ["5.0", "5.1", "0.0", "0.1", "-1.0", "-1.1"]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_higher_priority_runs_first_among_calls_of_an_actor(signal, tmp_path, concurrency):
    path = tmp_path / "notes"
    worker = Worker.options(max_concurrency=concurrency).remote()
    held = [worker.wait_for.remote(signal) for _ in range(concurrency)]
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == concurrency)
    refs = [
        worker.note.options(priority=priority).remote(str(path), str(priority))
        for priority in (0, 1, -1, 2)
    ]
    ract.get(signal.send.remote())
    ract.get([*held, *refs])
    found = read(path)
    assert sorted(found) == ["-1", "0", "1", "2"]
    if concurrency == 1:
        assert found == ["2", "1", "0", "-1"]


def test_priorities_and_timeouts_are_checked():
    with pytest.raises(TypeError, match="priority"):
        note.options(priority=1.5)
    with pytest.raises(ValueError, match="timeout"):
        note.options(timeout=0)
    with pytest.raises(ValueError, match="mailbox_size"):
        Worker.options(mailbox_size=0)
    with pytest.raises(ValueError, match="on_full"):
        Worker.options(mailbox_size=1, on_full="wait")


# --------------------------------------------------------------------------- mailboxes


@ract.remote
class Boxed:
    def __init__(self):
        self.seen = []

    def wait_for(self, signal, n):
        ract.get(signal.wait.remote())
        self.seen.append(n)
        return n

    def all(self):
        return self.seen


def test_a_full_mailbox_raises(signal):
    boxed = Boxed.options(mailbox_size=2, on_full="raise").remote()
    refs = [boxed.wait_for.remote(signal, 0)]
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)
    refs += [boxed.wait_for.remote(signal, n) for n in (1, 2)]
    with pytest.raises(MailboxFullError, match="wait_for"):
        boxed.wait_for.remote(signal, 3)
    ract.get(signal.send.remote())
    assert ract.get(refs) == [0, 1, 2]
    assert ract.get(boxed.all.remote()) == [0, 1, 2]


def test_a_full_mailbox_sheds(signal):
    boxed = Boxed.options(mailbox_size=1, on_full="shed").remote()
    first = boxed.wait_for.remote(signal, 0)
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)
    second, third = boxed.wait_for.remote(signal, 1), boxed.wait_for.remote(signal, 2)
    with pytest.raises(MailboxFullError):
        ract.get(third)
    ract.get(signal.send.remote())
    assert ract.get([first, second]) == [0, 1]


def test_a_full_mailbox_blocks_its_callers_until_there_is_room(signal):
    boxed = Boxed.options(mailbox_size=1).remote()
    refs = [boxed.wait_for.remote(signal, 0)]
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)
    refs.append(boxed.wait_for.remote(signal, 1))
    sent = threading.Event()

    def call():
        refs.append(boxed.wait_for.remote(signal, 2))
        sent.set()

    thread = threading.Thread(target=call)
    thread.start()
    assert not sent.wait(0.1)
    ract.get(signal.send.remote())
    thread.join()
    assert ract.get(refs) == [0, 1, 2]


def test_room_goes_back_when_the_call_is_not_sent(signal):
    boxed = Boxed.options(mailbox_size=2, on_full="raise").remote()
    held = boxed.wait_for.remote(signal, 0)
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)

    @ract.remote(num_cpus=0)
    def fail():
        raise KeyError("no argument")

    def sent(*args):
        """The ref, once there is room: it comes back a moment after a call has failed."""
        found = []

        def try_it():
            with contextlib.suppress(MailboxFullError):
                found.append(boxed.wait_for.remote(*args))
            return bool(found)

        wait_for_condition(try_it, raise_exceptions=True)
        return found[0]

    for _ in range(5):  # more than there is room for
        with pytest.raises(TypeError):
            sent(signal, threading.Lock())  # it cannot be pickled
    for _ in range(5):
        with pytest.raises(KeyError):
            ract.get(sent(signal, fail.remote()), timeout=30)
    for _ in range(5):
        ract.cancel(sent(signal, signal.wait.remote()))  # while its argument is late
    refs = [sent(signal, 1), sent(signal, 2)]
    with pytest.raises(MailboxFullError):
        boxed.wait_for.remote(signal, 3)
    ract.get(signal.send.remote())
    assert ract.get([held, *refs], timeout=30) == [0, 1, 2]


def test_all_callers_share_a_mailbox(signal):
    boxed = Boxed.options(mailbox_size=3, on_full="raise").remote()
    held = boxed.wait_for.remote(signal, 0)
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)

    @ract.remote
    def send(actor, signal, n):
        sent = 0
        for _ in range(n):
            try:
                actor.wait_for.remote(signal, 1)
                sent += 1
            except MailboxFullError:
                pass
        return sent

    # Each of them could send three, if it were alone.
    assert sum(ract.get([send.remote(boxed, signal, 3) for _ in range(3)])) == 3
    ract.get(signal.send.remote())
    assert ract.get(held) == 0


def test_a_cancelled_call_leaves_its_room(signal):
    boxed = Boxed.options(mailbox_size=1, on_full="raise").remote()
    held = boxed.wait_for.remote(signal, 0)
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)
    waiting = boxed.wait_for.remote(signal, 1)
    ract.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        ract.get(waiting)
    last = boxed.wait_for.remote(signal, 2)
    ract.get(signal.send.remote())
    assert ract.get([held, last]) == [0, 2]


def test_calls_to_a_dead_actor_with_a_mailbox_fail_as_usual():
    boxed = Boxed.options(mailbox_size=1).remote()
    ract.get(boxed.all.remote())
    ract.kill(boxed)
    with pytest.raises(ActorDiedError):
        ract.get(boxed.all.remote())


# --------------------------------------------------------------------------- interruptible actors


def test_an_interruptible_actor_is_interrupted_and_lives(tmp_path):
    path = tmp_path / "begun"
    worker = Worker.options(interruptible=True).remote()
    ref = worker.spin.remote(str(path))
    wait_for_condition(path.exists)
    ract.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ract.get(ref)
    assert isinstance(ract.get(worker.pid.remote()), int)


def test_other_actors_finish_what_they_run(signal):
    worker = Worker.remote()
    ref = worker.wait_for.remote(signal)
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)
    ract.cancel(ref, recursive=False)  # what it waits for would be cancelled, too
    ract.get(signal.send.remote())
    assert ract.get(ref) == "done"


def test_what_they_call_is_cancelled(signal):
    worker = Worker.remote()
    ref = worker.wait_for.remote(signal)
    wait_for_condition(lambda: ract.get(signal.cur_num_waiters.remote()) == 1)
    ract.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ract.get(ref)


# --------------------------------------------------------------------------- errors that explain


def check_facts(error, **expected):
    again = pickle.loads(pickle.dumps(error))
    for each in (error, again):
        assert str(each) == str(error)
        for name, value in expected.items():
            assert getattr(each, name) == value, name
        assert each.node_id == ract.get_runtime_context().get_node_id()
        assert abs(time.time() - each.died_at) < 60
        assert "last words" in each.stderr_tail
    assert "last words" in str(error)
    assert "s before this error" in str(error)


def test_the_death_of_a_worker_is_explained():
    @ract.remote(max_retries=0)
    def die():
        import sys

        print("last words", file=sys.stderr, flush=True)
        os._exit(7)

    with pytest.raises(WorkerCrashedError, match="exit code 7") as info:
        ract.get(die.remote())
    check_facts(info.value, exit_code=7, signal=None, kind="crashed", restarts=0)


def test_the_death_of_an_actor_is_explained(tmp_path):
    @ract.remote(max_restarts=1)
    class Dying:
        def die(self):
            import signal
            import sys

            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        def pid(self):
            return os.getpid()

    dying = Dying.remote()
    first = ract.get(dying.pid.remote())
    with pytest.raises(RactError):
        ract.get(dying.die.remote())
    wait_for_condition(lambda: ract.get(dying.pid.remote()) != first)
    with pytest.raises(RactError):
        ract.get(dying.die.remote())
    with pytest.raises(ActorDiedError, match="signal 9 SIGKILL") as info:
        ract.get(dying.pid.remote())
    check_facts(info.value, signal=9, exit_code=None, restarts=1)
    assert "1 of 1 restarts used" in str(info.value)


# --------------------------------------------------------------------------- concurrency groups


def test_groups_of_an_async_actor_do_not_delay_each_other(tmp_path):
    gate = str(tmp_path / "gate")

    @ract.remote(concurrency_groups={"io": 2, "compute": 1})
    class Grouped:
        @ract.method(concurrency_group="compute")
        async def block(self, path):
            while not os.path.exists(path):  # keeps its loop from everything else
                time.sleep(0.001)
            return threading.current_thread().name

        @ract.method(concurrency_group="io")
        async def quick(self):
            await asyncio.sleep(0)
            return threading.current_thread().name

        async def default(self):
            return threading.current_thread().name

    actor = Grouped.remote()
    blocked = actor.block.remote(gate)
    names = ract.get([actor.quick.remote(), actor.quick.remote(), actor.default.remote()])
    assert names[0] == names[1] != names[2]
    open(gate, "w").close()
    assert ract.get(blocked) not in names
    ref = actor.quick.options(concurrency_group="compute").remote()
    assert ract.get(ref) == ract.get(blocked)


def test_all_deaths_of_actors_have_the_same_facts():
    @ract.remote
    class Broken:
        def __init__(self):
            raise ValueError("in the constructor")

        def ping(self):
            return 1

    with pytest.raises(ActorDiedError) as info:
        ract.get(Broken.remote().ping.remote())
    assert info.value.kind == "init_failed"
    assert (info.value.exit_code, info.value.signal, info.value.restarts) == (None, None, 0)
    killed = Worker.remote()
    ract.kill(killed)
    with pytest.raises(ActorDiedError, match=r"killed by `ract\.kill`") as info:
        ract.get(killed.pid.remote())
    assert info.value.kind == "killed"
    assert abs(info.value.died_at - time.time()) < 60


def test_timeouts_that_many_threads_set_all_come(signal):
    """Each thread's come earlier and earlier: a new one is always the next to be looked at."""
    worker = Worker.remote()
    held = worker.wait_for.remote(signal)
    refs = []

    def call():
        for i in range(100):
            seconds = 0.3 - i * 0.002
            refs.append(worker.wait_for.options(timeout=seconds).remote(signal))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ready, rest = ract.wait(refs, num_returns=len(refs), timeout=60)
    assert (len(ready), rest) == (400, [])
    for ref in refs:
        with pytest.raises(TaskTimeoutError):
            ract.get(ref)
    ract.get(signal.send.remote())
    assert ract.get(held) == "done"
