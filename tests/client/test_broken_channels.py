"""A channel outlives its connections: each call is answered once, whenever a connection breaks."""

import errno
import itertools
import os
import threading

import pytest

import ract
from ract.client.calls import channels
from ract.client.process import current
from ract.testing import Cluster, wait_for_condition


def break_channels():
    """Break every connection of this process to an executor; both ends live on."""
    for channel in current.runtime.channels.values():
        with channel._lock:
            channel.connection.interrupt()


@ract.remote
class Log:
    def __init__(self):
        self.seen = []

    def add(self, i):
        self.seen.append(i)
        return i

    def all(self):
        return self.seen


@pytest.fixture(scope="module")
def cluster():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 2}) as made:
        made.add_node(num_cpus=2, resources={"far": 100})
        made.connect()
        yield made


def test_calls_of_an_actor_come_once_and_in_order(cluster):
    for options in ({}, {"resources": {"far": 1}}):
        log = Log.options(**options).remote()
        found = []
        for i in range(300):
            found.append(log.add.remote(i))
            if i % 20 == 7:
                break_channels()
        assert ract.get(found) == list(range(300))
        assert ract.get(log.all.remote()) == list(range(300))


def test_an_idle_channel_is_used_again(cluster):
    log = Log.options(resources={"far": 1}).remote()
    assert ract.get(log.add.remote(1)) == 1
    break_channels()
    assert ract.get(log.add.remote(2)) == 2


def test_tasks_run_once_and_their_leases_go_back(cluster, tmp_path):
    @ract.remote(max_retries=0)
    def note(i):
        with open(tmp_path / str(i), "a") as file:
            file.write("x")
        return i

    def run(numbers, far):
        task = note.options(resources={"far": 1}) if far else note
        found = [task.remote(i) for i in numbers]
        break_channels()
        return found

    numbers = itertools.count()
    for far in (False, True):
        for _ in range(10):
            some = list(itertools.islice(numbers, 30))
            assert ract.get(run(some, far)) == some
    assert {(tmp_path / str(i)).read_text() for i in range(600)} == {"x"}
    wait_for_condition(lambda: ract.available_resources().get("CPU") == 4, 30)


def test_a_generator_goes_on(cluster):
    @ract.remote(num_returns="streaming", _generator_backpressure_num_objects=4)
    def count(n):
        yield from range(n)

    found = []
    for i, ref in enumerate(count.options(resources={"far": 1}).remote(100)):
        found.append(ract.get(ref))
        if i % 10 == 3:
            break_channels()
    assert found == list(range(100))


def test_threads_that_wait_get_their_values(cluster):
    log = Log.options(resources={"far": 1}).remote()
    wrong = []

    def call(n):
        for i in range(100):
            ref = log.add.remote((n, i))
            if i % 20 == n:
                break_channels()
            if ract.get(ref) != (n, i):
                wrong.append((n, i))

    threads = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(ract.get(log.all.remote())) == 400


def test_too_many_open_files_are_a_delay(cluster, monkeypatch):
    refused = []

    def dial(*args):
        if len(refused) < 5:
            refused.append(args)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*args)

    real = channels.dial
    monkeypatch.setattr(channels, "dial", dial)
    log = Log.options(resources={"far": 1}).remote()
    assert ract.get(log.add.remote(1), timeout=60) == 1
    assert len(refused) == 5


def test_the_wait_for_a_connection_is_described(cluster, monkeypatch):
    may_connect = threading.Event()

    def dial(*args):
        if not may_connect.is_set():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*args)

    real = channels.dial
    monkeypatch.setattr(channels, "dial", dial)
    other = Log.remote()
    ref = other.add.remote(1)
    wait_for_condition(lambda: "Too many open files" in current.runtime.describe_wait(ref), 30)
    may_connect.set()
    assert ract.get(ref, timeout=60) == 1


def test_channels_of_ended_executors_are_closed(cluster):
    @ract.remote(max_calls=1)
    def pid():
        return os.getpid()

    known = current.runtime.channels
    before = {channel.executor for channel in known.values()}
    assert len(set(ract.get([pid.remote() for _ in range(10)]))) > 1
    logs = [Log.options(**far).remote() for far in ({}, {"resources": {"far": 1}})]
    ract.get([log.all.remote() for log in logs])
    opened = {channel.executor for channel in known.values()} - before
    for log in logs:
        ract.kill(log)
    wait_for_condition(lambda: not any(map(known.get, opened)), 30)
