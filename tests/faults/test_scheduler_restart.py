"""A scheduler with a journal is killed and started again: to who works, it was late."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest

import ract
from ract.client.start import node_processes, tool
from ract.core.errors import SchedulerAwayError
from ract.core.reliable import ACK_EVERY
from ract.exceptions import RayActorError
from ract.experimental import internal_kv
from ract.scheduler.durable.journal import Journal
from ract.testing import Cluster, wait_for_condition

TIMEOUT_S = 60.0


@pytest.fixture
def cluster(tmp_path):
    """A scheduler of its own with a journal, a head node, and this process as a driver."""
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 2}, journal=tmp_path / "journal") as made:
        made.connect("here")
        yield made


def get(refs):
    return ract.get(refs, timeout=TIMEOUT_S)


@ract.remote
class Counter:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n

    def pid(self):
        return os.getpid()


@ract.remote
def note(folder, i):
    """A side effect that can be counted."""
    with open(f"{folder}/{i}", "a") as file:
        file.write("x")
    return i * i


def test_work_goes_on_while_the_scheduler_is_killed_again_and_again(cluster, tmp_path):
    folder = tmp_path / "effects"
    folder.mkdir()
    counter = Counter.remote()
    pid = get(counter.pid.remote())
    is_over = threading.Event()
    kills = []

    def kill():
        while len(kills) < 4:
            cluster.scheduler.kill()
            kills.append(None)
            cluster.scheduler.start()
            is_over.wait(0.7)  # not to synchronise: the next kill comes at some time of the work
        is_over.set()

    killer = threading.Thread(target=kill)
    killer.start()
    done = 0
    while not is_over.is_set():
        refs = [note.remote(str(folder), i) for i in range(done, done + 50)]
        counts = [counter.add.remote() for _ in refs]
        assert get(refs) == [i * i for i in range(done, done + 50)]
        done += 50
        assert get(counts) == list(range(done - 49, done + 1))
    killer.join()
    assert get(counter.pid.remote()) == pid
    # No task has retries left unused: each ran once.
    assert sorted(int(path.name) for path in folder.iterdir()) == list(range(done))
    assert {path.read_text() for path in folder.iterdir()} == {"x"}
    assert len(ract.nodes()) == 1


def test_what_needs_no_scheduler_goes_on_without_one(cluster):
    counter = Counter.remote()
    get(counter.add.remote())
    big = ract.put(b"x" * 2**22)
    assert get(big)[:1] == b"x"
    cluster.scheduler.kill()
    assert get([counter.add.remote() for _ in range(100)]) == list(range(2, 102))
    assert len(get(big)) == 2**22
    assert get(ract.put(7)) == 7
    # What needs one waits.
    square = ract.remote(lambda i: i * i)
    late = Counter.remote()
    waiting = [late.add.remote(), *[square.options(num_cpus=2).remote(i) for i in range(3)]]
    ready, _ = ract.wait(waiting, num_returns=4, timeout=0.2)
    assert ready == []
    cluster.scheduler.start()
    assert get(waiting) == [1, 0, 1, 4]


def test_everything_that_was_made_is_there_after_the_restart(cluster):
    detached = Counter.options(name="kept", lifetime="detached").remote()
    get(detached.add.remote())
    group = ract.util.placement_group([{"CPU": 1}])
    assert group.wait(TIMEOUT_S)
    inside = Counter.options(
        num_cpus=1,
        scheduling_strategy=ract.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group),
    ).remote()
    get(inside.add.remote())
    infeasible = Counter.options(resources={"moon": 1}).remote()
    pending = infeasible.add.remote()
    small, large = ract.put({"a": 1}), ract.put(b"y" * 2**20)
    kept = get(Counter.remote().pid.remote()) and ract.put([small, large])  # escaped
    internal_kv._internal_kv_put("key", "value")
    jobs = [row["job_id"] for row in ract.util.state.list_jobs()]
    for _ in range(2):
        cluster.scheduler.kill()
        cluster.scheduler.start()
    assert get(ract.get_actor("kept").add.remote()) == 2
    assert get(inside.add.remote()) == 2
    assert ract.util.placement_group_table(group)["state"] == "CREATED"
    assert [get(ref) for ref in get(kept)] == [{"a": 1}, b"y" * 2**20]
    assert internal_kv._internal_kv_get("key") == b"value"
    assert [row["job_id"] for row in ract.util.state.list_jobs()] == jobs
    assert ract.wait([pending], timeout=0)[0] == []
    cluster.add_node(num_cpus=1, resources={"moon": 1})
    assert get(pending) == 1


def test_a_scheduler_that_is_stopped_leaves_a_snapshot_and_nodes_wait(cluster):
    counter = Counter.remote()
    get(counter.add.remote())
    cluster.scheduler.stop()
    assert get(counter.add.remote()) == 2
    cluster.scheduler.start()
    assert get(Counter.remote().add.remote()) == 1
    assert get(counter.add.remote()) == 3


def test_what_a_node_has_got_is_kept_no_longer(cluster):
    for i in range(200):
        internal_kv._internal_kv_put(f"key{i}", "value")
    cluster.scheduler.stop()
    journal = Journal(cluster.scheduler.journal)
    links = journal.recover({}).links
    journal.close()
    assert [link.kept < ACK_EVERY for link in links.values()] == [True]
    cluster.scheduler.start()
    assert internal_kv._internal_kv_get("key199") == b"value"


def test_a_death_during_the_outage_is_known_afterwards(cluster):
    counter = Counter.remote()
    pid = get(counter.pid.remote())
    again = Counter.options(max_restarts=1, max_task_retries=1).remote()
    first = get(again.pid.remote())
    cluster.scheduler.kill()
    os.kill(pid, signal.SIGKILL)
    os.kill(first, signal.SIGKILL)
    wait_for_condition(lambda: not psutil.pid_exists(pid), timeout=TIMEOUT_S)
    call = again.pid.remote()
    cluster.scheduler.start()
    with pytest.raises(RayActorError):
        get(counter.add.remote())
    assert get(call) != first


DRIVER = """
    import sys, ract
    ract.init(sys.argv[1], namespace="other")
    f = ract.remote(lambda: 42)
    print("answer", ract.get(f.remote(), timeout=60))
"""


def test_a_driver_that_starts_meanwhile_waits_and_is_told_why(cluster):
    cluster.scheduler.kill()
    node = node_processes.local_node(cluster.address)
    # The node has noticed: whoever only asks is told at once.
    wait_for_condition(lambda: _is_refused(node["session_dir"]), timeout=TIMEOUT_S)
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), cluster.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = driver.stderr.readline()
    assert "waiting for the cluster: the scheduler at " in said
    cluster.scheduler.start()
    out, _ = driver.communicate(timeout=TIMEOUT_S)
    assert out == "answer 42\n"


def _is_refused(session_dir):
    try:
        tool.ask_node(session_dir, "status")
    except SchedulerAwayError as error:
        return "has been away since" in str(error)
    except TimeoutError:
        return False
    return False


def test_status_says_that_the_scheduler_is_away(cluster):
    command = [sys.executable, "-m", "ract.commands.main", "status", "--address", cluster.address]
    cluster.scheduler.kill()
    node = node_processes.local_node(cluster.address)
    wait_for_condition(lambda: _is_refused(node["session_dir"]), timeout=TIMEOUT_S)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert "has been away since" in done.stderr
    cluster.scheduler.start()
    wait_for_condition(lambda: not _is_refused(node["session_dir"]), timeout=TIMEOUT_S)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert "1 node" in done.stdout


def test_a_node_that_waits_in_vain_ends(tmp_path):
    ract.shutdown()
    head = {"num_cpus": 1, "_system_config": {"gcs_rpc_server_reconnect_timeout_s": 1}}
    with Cluster(True, head_node_args=head, journal=tmp_path / "journal") as cluster:
        cluster.scheduler.kill()
        wait_for_condition(lambda: not cluster.head_node.alive, timeout=TIMEOUT_S)


def test_a_node_that_does_not_come_back_is_lost(tmp_path):
    ract.shutdown()
    # Longer than a scheduler takes to start on a busy machine.
    head = {"num_cpus": 1, "_system_config": {"gcs_rpc_server_reconnect_timeout_s": 10}}
    with Cluster(True, head_node_args=head, journal=tmp_path / "journal") as cluster:
        other = cluster.add_node(num_cpus=1, resources={"there": 1})
        cluster.connect()
        counter = Counter.options(resources={"there": 0.1}).remote()
        get(counter.add.remote())
        cluster.scheduler.kill()
        other.kill()
        cluster.scheduler.start()
        with pytest.raises(RayActorError):
            get(counter.add.remote())
        alive = [row["NodeID"] for row in ract.nodes() if row["Alive"]]
        assert alive == [cluster.head_node.node_id]


def test_without_the_journal_a_scheduler_does_not_take_nodes_back(cluster, tmp_path):
    cluster.scheduler.kill()
    cluster.scheduler.journal = tmp_path / "another"
    port = cluster.address.rpartition(":")[2]
    command = [sys.executable, "-m", "ract.scheduler.cli", "--no-dashboard", "--port", port]
    other = subprocess.Popen(
        [*command, "--journal", str(tmp_path / "another"), "--until-pid", str(os.getpid())],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_condition(lambda: not cluster.head_node.alive, timeout=TIMEOUT_S)
    finally:
        other.terminate()
        assert other.wait(TIMEOUT_S) == 0


def test_a_second_scheduler_on_a_journal_does_not_start(cluster):
    command = [sys.executable, "-m", "ract.scheduler.cli", "--no-dashboard", "--port", "0"]
    done = subprocess.run(
        [*command, "--journal", str(cluster.scheduler.journal)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "another scheduler has the journal" in done.stderr
    assert get(Counter.remote().add.remote()) == 1


def test_a_scheduler_does_not_start_with_a_damaged_journal(cluster):
    get(Counter.remote().add.remote())
    cluster.scheduler.stop()
    with cluster.scheduler.journal.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (cluster.scheduler.journal.stat().st_size - 4096))
    command = [sys.executable, "-m", "ract.scheduler.cli", "--no-dashboard", "--port", "0"]
    done = subprocess.run(
        [*command, "--journal", str(cluster.scheduler.journal)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "is damaged" in done.stderr


DASK = """
    import sys, time
    from distributed import Client, wait
    import dask
    from ract.core.security import load_token, security_config
    dask.config.set(security_config(load_token()))
    client = Client(sys.argv[1])
    print(client.submit(sum, range(10), pure=False).result(), flush=True)
    kept = [client.submit(bytes, 1000 + i) for i in range(5)]
    busy = client.submit(time.sleep, 1)
    wait(kept)
    print("has data", flush=True)
    sys.stdin.readline()  # with tasks and data of Dask's on the node
"""


def test_a_node_with_tasks_of_dasks_comes_back_too(cluster):
    counter = Counter.remote()
    get(counter.add.remote())
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DASK), cluster.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # its client complains that the scheduler is gone
        text=True,
    ) as dask:
        assert dask.stdout.readline() == "45\n"
        assert dask.stdout.readline() == "has data\n"
        cluster.scheduler.kill()
        dask.kill()
    cluster.scheduler.start()
    assert get(Counter.remote().add.remote()) == 1
    assert get(counter.add.remote()) == 2
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DASK), cluster.address],
        input="\n",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stdout == "45\nhas data\n", done.stderr
