"""Actors whose state outlives their processes."""

import os
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import ract
from ract.client.start.tool import ask_node
from ract.exceptions import ActorDiedError, DurableStateError
from ract.testing import Cluster, wait_for_condition

WAIT_S = 60


class Plain:
    """Counts in a list, so that no call can be applied twice unseen."""

    def __init__(self, first=0):
        self.seen = []
        self.first = first

    def add(self, i, die=""):
        marker = Path(die.partition(":")[2] or "/dev/null")
        if die.startswith("before") and not marker.exists():
            marker.touch()
            os._exit(1)
        self.seen.append(i)
        if die.startswith("after") and not marker.exists():
            marker.touch()
            os._exit(1)
        return len(self.seen)

    def all(self):
        return self.seen

    def pid(self):
        return os.getpid()

    def fail(self, i):
        self.seen.append(i)
        raise ValueError(f"call {i}")

    def array(self, i, size):
        self.seen.append(i)
        return np.full(size, i)

    def put(self, i):
        self.seen.append(i)
        return [ract.put(np.full(10, i))]

    def limit_files(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def __ract_save__(self):
        return self.seen

    def __ract_restore__(self, state):
        self.seen = state


FOREVER = {"max_restarts": -1, "max_task_retries": -1}
durable = ract.remote(durable="call", **FOREVER)(Plain)


@ract.remote(durable="call", **FOREVER)
class Async(Plain):
    async def add(self, i, die=""):
        return super().add(i, die)


bounded = ract.remote(durable="call", mailbox_size=1000, **FOREVER)(Plain)
KINDS = [durable, Async, bounded]


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """A cluster, and where the states of its actors are."""
    folder = tmp_path / "states"
    monkeypatch.setenv("RACT_durable_path", str(folder))
    request.getfixturevalue("ract_start")
    return folder


def node_of(actor):
    here = lambda self: ract.get_runtime_context().get_node_id()  # noqa: E731
    return get(actor.__ray_call__.remote(here))


def saved(folder):
    return [path for path in folder.rglob("state") if path.is_file()]


def get(refs):
    return ract.get(refs, timeout=WAIT_S)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_calls_that_end_the_process_are_applied_once(folder, tmp_path, kind, when):
    actor = kind.remote()
    refs = [
        actor.add.remote(i, f"{when}:{tmp_path}/{i}" if i % 20 == 7 else "") for i in range(100)
    ]
    counts = get(refs)
    seen = get(actor.all.remote())
    assert sorted(seen) == list(range(100))
    assert sorted(counts) == list(range(1, 101))
    if kind is durable:
        assert seen == list(range(100)), "in order"


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_applied_once_while_the_process_is_killed_at_any_time(folder, kind):
    actor = kind.remote()
    total = 600
    refs = [actor.add.remote(-1)]
    is_over = threading.Event()

    def kill():
        for _ in range(5):
            with_pid = get(actor.pid.remote())
            is_over.wait(0.02)  # somewhere in the middle of what goes on
            os.kill(with_pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    for i in range(total):
        refs.append(actor.add.remote(i))
        if i % 50 == 0:
            get(refs[-1])
    while killer.is_alive():
        refs.append(actor.add.remote(len(refs) - 1))
        get(refs[-1])
    killer.join()
    counts = get(refs)
    assert sorted(get(actor.all.remote())) == list(range(-1, len(refs) - 1))
    assert sorted(counts) == list(range(1, len(refs) + 1))


def test_two_callers_and_a_killed_actor(folder):
    actor = durable.remote()

    @ract.remote
    def call(actor, start):
        return ract.get([actor.add.remote(start + i) for i in range(200)])

    both = [call.remote(actor, 0), call.remote(actor, 1000)]
    for _ in range(3):
        os.kill(get(actor.pid.remote()), signal.SIGKILL)
    counts = sorted(each for counts in get(both) for each in counts)
    assert counts == list(range(1, 401))
    assert sorted(get(actor.all.remote())) == [*range(200), *range(1000, 1200)]


def test_results_of_all_kinds_are_given_again(folder, tmp_path):
    actor = durable.remote()
    size = 10**6  # these lie in the store
    first = actor.array.remote(1, size)
    small = actor.array.remote(2, 10)
    inner = actor.put.remote(3)
    failed = actor.fail.remote(4)
    last = actor.add.remote(5, f"after:{tmp_path}/died")
    assert get(last) == 5
    assert (get(first) == 1).all()
    assert (get(small) == 2).all()
    assert (get(get(inner)[0]) == 3).all()
    with pytest.raises(ValueError, match="call 4"):
        get(failed)
    assert get(actor.all.remote()) == [1, 2, 3, 4, 5]


def test_a_call_that_is_retried_for_its_own_error_runs_again(folder):
    actor = durable.remote()
    with pytest.raises(ValueError, match="call 1"):
        get(actor.fail.options(max_task_retries=2, retry_exceptions=True).remote(1))
    assert get(actor.all.remote()) == [1, 1, 1]


def test_what_is_remembered_of_calls_goes_when_their_results_have_arrived(folder):
    actor = durable.remote()
    get([actor.add.remote(i) for i in range(1000)])
    for i in range(10):
        get(actor.add.remote(1000 + i))
    [file] = saved(folder)
    size_with_answers = len(range(1010)) * 20
    assert file.stat().st_size < size_with_answers


def test_the_constructor_runs_with_its_arguments_before_the_state_is_restored(folder):
    @ract.remote(durable="call", **FOREVER)
    class Told(Plain):
        def told(self):
            return self.first, self.seen

    actor = Told.remote(first=42)
    get(actor.add.remote(1))
    os.kill(get(actor.pid.remote()), signal.SIGKILL)
    assert get(actor.told.remote()) == (42, [1])


@pytest.mark.parametrize("how", ["killed", "out of scope", "exited", "no restarts left"])
def test_the_state_is_removed_when_the_actor_ends_for_good(folder, how):
    actor = durable.options(max_restarts=0 if how == "no restarts left" else 3).remote()
    get(actor.add.remote(1))
    assert len(saved(folder)) == 1
    if how == "killed":
        ract.kill(actor)
    elif how == "exited":
        actor.__ray_terminate__.remote()
    elif how == "no restarts left":
        os.kill(get(actor.pid.remote()), signal.SIGKILL)
    else:
        del actor
    wait_for_condition(lambda: not list(folder.iterdir()))


def test_the_state_is_removed_with_the_cluster(folder):
    actor = durable.options(lifetime="detached", name="stays").remote()
    get(actor.add.remote(1))
    assert len(saved(folder)) == 1
    ract.shutdown()
    wait_for_condition(lambda: not list(folder.iterdir()))


def test_the_state_is_kept_while_the_actor_may_restart(folder):
    actor = durable.remote()
    get(actor.add.remote(1))
    before = get(actor.pid.remote())
    ract.kill(actor, no_restart=False)
    wait_for_condition(lambda: get(actor.pid.remote()) != before)
    assert get(actor.all.remote()) == [1]


@pytest.mark.parametrize("path", ["/dev/null/there", "nonsense://there", "local:///dev/null/there"])
def test_an_actor_whose_state_cannot_be_kept_is_not_made(ract_start, path):
    actor = durable.options(durable_path=path).remote()
    with pytest.raises(ActorDiedError, match="DurableStateError") as caught:
        get(actor.all.remote())
    assert path.partition("://")[2] in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_whose_state_cannot_be_written_says_so_and_the_actor_goes_on(folder, kind):
    actor = kind.remote()
    pid = get(actor.pid.remote())
    get(actor.add.remote(1))
    with pytest.raises(DurableStateError, match=r"could not be saved at .*File too large"):
        get(actor.limit_files.remote(10))
    for ref in [actor.add.remote(2) for _ in range(3)]:
        with pytest.raises(DurableStateError, match="File too large"):
            get(ref)
    os.kill(pid, signal.SIGKILL)
    assert get(actor.all.remote()) == [1], "as it was saved last"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (threading.Lock(), "could not be taken"),
        (ValueError("no state today"), "no state today"),
        ("a ref", "returned refs or actor handles"),
    ],
)
def test_a_call_whose_state_cannot_be_taken_says_so(folder, state, message):
    what = type(state).__name__, str(state)

    @ract.remote(durable="call", **FOREVER)
    class Bad(Plain):
        def __ract_save__(self):
            if not self.seen:
                return []
            if what[0] == "lock":
                return threading.Lock()
            if what[0] == "ValueError":
                raise ValueError(what[1])
            return ract.put(1)

    actor = Bad.remote()
    assert get(actor.all.remote()) == []
    with pytest.raises(DurableStateError, match=message):
        get(actor.add.remote(1))


def test_a_state_that_cannot_be_restored_is_the_cause_of_death(folder):
    @ract.remote(durable="call", **FOREVER)
    class Forgetful(Plain):
        def __ract_restore__(self, state):
            raise KeyError("what was it")

    actor = Forgetful.remote()
    os.kill(get(actor.pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError, match=r"could not be restored .* KeyError: 'what was it'"):
        get(actor.all.remote())


def test_a_damaged_state_is_the_cause_of_death(folder):
    actor = durable.remote()
    pid = get(actor.pid.remote())
    [file] = saved(folder)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError, match="is damaged"):
        get(actor.all.remote())


def test_a_state_on_another_node_is_missed_unless_the_nodes_share_its_place(tmp_path):
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 1}) as cluster:
        for name in ("one", "two"):
            own = {"RACT_durable_path": str(tmp_path / name)}
            cluster.add_node(num_cpus=2, resources={"here": 1}, env_vars=own)
            if name == "one":
                cluster.connect()
                anywhere = durable.options(resources={"here": 0.1})
                alone = anywhere.remote()
                shared = anywhere.options(durable_path=str(tmp_path / "shared")).remote()
                get([alone.add.remote(1), shared.add.remote(1)])
        cluster.remove_node(cluster.worker_nodes[0], allow_graceful=False)
        assert get(shared.all.remote()) == [1]
        with pytest.raises(ActorDiedError, match=r"was saved on node .* that all nodes share"):
            get(alone.all.remote())
        ract.shutdown()


# --------------------------------------------------------------------------- interval

INTERVAL_S = 0.2


@ract.remote(durable="interval", durable_interval_s=INTERVAL_S, **FOREVER)
class Sometimes(Plain):
    pass


@ract.remote(durable="interval", durable_interval_s=INTERVAL_S, **FOREVER)
class SometimesAsync(Plain):
    async def add(self, i, die=""):
        return super().add(i, die)


@ract.remote(durable="interval", durable_interval_s=INTERVAL_S, max_concurrency=3, **FOREVER)
class SometimesInThreads(Plain):
    pass


@pytest.mark.parametrize("kind", [Sometimes, SometimesAsync, SometimesInThreads])
def test_in_an_interval_what_was_done_before_is_saved_without_further_calls(folder, kind):
    actor = kind.remote()
    get(actor.add.remote(1))
    [file] = saved(folder)
    before = file.read_bytes()
    wait_for_condition(lambda: file.read_bytes() != before)
    os.kill(get(actor.pid.remote()), signal.SIGKILL)
    assert get(actor.all.remote()) == [1]


def test_no_more_is_lost_than_what_was_done_in_an_interval(folder):
    actor = Sometimes.remote()
    pid = get(actor.pid.remote())
    done = []  # when each call had its answer
    start = time.monotonic()
    while time.monotonic() - start < 4 * INTERVAL_S:
        get(actor.add.remote(len(done)))
        done.append(time.monotonic())
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    kept = len(get(actor.all.remote()))
    assert kept < len(done) + 1
    slack_s = 1.0  # until the save that was due had its turn
    assert all(killed - at < INTERVAL_S + slack_s for at in done[kept:])
    assert kept > 0


def test_calls_do_not_run_while_the_state_of_an_interval_cannot_be_saved(folder):
    actor = Sometimes.remote()
    get(actor.limit_files.remote(10))

    def is_refused():
        try:
            get(actor.add.remote(1))
        except DurableStateError as error:
            return "File too large" in str(error)
        return False

    wait_for_condition(is_refused)
    with pytest.raises(DurableStateError):
        get(actor.limit_files.remote(resource.RLIM_INFINITY))


def test_an_actor_that_moves_to_another_node_takes_its_newest_state_along():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 1}) as cluster:
        node = cluster.add_node(num_cpus=1, resources={"here": 1})
        cluster.connect()
        slow = Sometimes.options(durable_interval_s=1000, resources={"here": 0.1})
        actor = slow.remote()
        get([actor.add.remote(i) for i in range(10)])
        cluster.add_node(num_cpus=1, resources={"here": 1})
        drain = {"node_id": node.node_id, "deadline_s": WAIT_S}
        ask_node(cluster.head_node.session_dir, "drain_node", **drain)
        wait_for_condition(lambda: node_of(actor) != node.node_id, timeout=WAIT_S)
        assert get(actor.all.remote()) == list(range(10))
        ract.shutdown()


# --------------------------------------------------------------------------- options


def test_a_class_without_the_two_methods_cannot_be_durable():
    class Without:
        def __ract_save__(self):
            pass

    with pytest.raises(TypeError, match=r"Without is to be durable: it needs .* __ract_restore__"):
        ract.remote(durable="call")(Without)
    with pytest.raises(TypeError, match="__ract_restore__"):
        ract.remote(Without).options(durable="interval")
