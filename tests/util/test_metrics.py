"""Counters, gauges and histograms of programs, up to the sums that the scheduler has."""

import os
import pickle
import subprocess
import sys
import warnings

import pytest

import ract
from ract.client.process.metrics import TOKENS_MAX, Recorder, recorder
from ract.core.session import child_environment
from ract.testing import Cluster, wait_for_condition
from ract.util.metrics import Counter, Gauge, Histogram

# --------------------------------------------------------------------------- the interface


def test_info_is_what_was_given():
    assert Counter("c_info").info == {
        "name": "c_info",
        "description": "",
        "tag_keys": (),
        "default_tags": {},
    }
    histogram = Histogram("h_info", "sizes", [1, 2.5], ("k",))
    assert histogram.info == {
        "name": "h_info",
        "description": "sizes",
        "tag_keys": ("k",),
        "default_tags": {},
        "boundaries": [1, 2.5],
    }


def test_default_tags_are_told_and_the_metric_is_returned():
    counter = Counter("c_tags", tag_keys=("a", "b"))
    assert counter.set_default_tags({"a": "x"}) is counter
    assert counter.info["default_tags"] == {"a": "x"}
    with pytest.raises(ValueError, match="Unrecognized tag key z"):
        counter.set_default_tags({"z": "x"})
    with pytest.raises(TypeError, match="Tag values must be str, got int"):
        counter.set_default_tags({"a": 1})


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "Empty name", lambda: Counter("")),
        (TypeError, "name must be a str", lambda: Counter(3)),
        (TypeError, "description must be a str", lambda: Counter("c", None)),
        (TypeError, "tag_keys should be a tuple", lambda: Counter("c", "", ["a"])),
        (TypeError, "tag_keys should be a tuple", lambda: Gauge("c", "", "a")),
        (TypeError, "Tag keys must be str, got int", lambda: Counter("c", "", (1,))),
        (ValueError, "boundaries argument should be provided", lambda: Histogram("h")),
        (ValueError, "boundaries argument should be provided", lambda: Histogram("h", "", [])),
        (ValueError, "at index 1", lambda: Histogram("h", "", [1, 0])),
        (ValueError, "at index 0", lambda: Histogram("h", "", [-1, 1])),
    ],
)
def test_bad_metrics_are_refused(error, message, make):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("error", "message", "value", "tags"),
    [
        (ValueError, "value must be >0, got 0", 0, {"a": "x"}),
        (ValueError, "value must be >0", -1, {"a": "x"}),
        (ValueError, "value must be >0", float("nan"), {"a": "x"}),
        (TypeError, "value must be int or float, got str", "1", {"a": "x"}),
        (TypeError, "Tag values must be str, got int", 1, {"a": 1}),
        (ValueError, r"Missing value for tag key\(s\): a\.", 1, None),
    ],
)
def test_bad_values_are_refused(error, message, value, tags):
    with pytest.raises(error, match=message):
        Counter("c_bad", tag_keys=("a",)).inc(value, tags)


def test_gauges_and_histograms_refuse_what_is_no_number():
    with pytest.raises(TypeError, match="int or float, got NoneType"):
        Histogram("h_bad", boundaries=[1]).observe(None)
    with pytest.raises(TypeError, match="int or float, got str"):
        Gauge("g_bad").set("1")
    Gauge("g_bad").set(None)


def test_names_that_cannot_be_shown_are_warned_of():
    with pytest.warns(UserWarning, match="Invalid metric name: a-b c"):
        counter = Counter("a-b c")
    counter.inc()


def test_two_kinds_of_one_name_are_warned_of():
    Counter("c_twice")
    with pytest.warns(UserWarning, match="another metric already, a counter"):
        Gauge("c_twice")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Counter("c_twice")


def test_tags_that_were_not_declared_are_refused():
    counter = Counter("c_undeclared", tag_keys=("a",))
    with pytest.raises(ValueError, match="Unrecognized tag key z"):
        counter.inc(1, {"a": "1", "z": "2"})


def test_metrics_can_be_pickled():
    counter = pickle.loads(pickle.dumps(Counter("c_pickled", "d", ("a",))))
    assert counter.info == Counter("c_pickled", "d", ("a",)).info
    counter.inc(1, {"a": "x"})


# --------------------------------------------------------------------------- in one process


def test_calls_in_a_row_send_messages_up_to_a_limit(monkeypatch):
    """A result says that what its call has counted is safe, but not at any price."""
    mine = Recorder()
    sent = []
    monkeypatch.setattr(mine, "flush", lambda: sent.append(1))
    for _ in range(10 * int(TOKENS_MAX)):
        mine.flush_before_reply()
    assert TOKENS_MAX <= len(sent) < 2 * TOKENS_MAX


def test_what_is_counted_without_a_cluster_is_kept():
    assert not ract.is_initialized()
    mine = Recorder()
    mine.record(("c", "counter", "", ()), (), 2.0)
    mine.flush()
    assert not mine.is_dirty
    mine.record(("c", "counter", "", ()), (), 3.0)
    assert mine._table.families["c"].series == {(): 5.0}


def test_a_finalizer_may_count_while_its_thread_counts():
    mine = Recorder()

    class Finalized:
        def __del__(self):
            mine.record(("c", "counter", "", ()), (), 1.0)

    class Name(str):
        """Drops what it has when it is looked up, as garbage collection may at any time."""

        holds = [Finalized()]

        def __hash__(self):
            self.holds.clear()
            return super().__hash__()

    mine.record((Name("c"), "counter", "", ()), (), 2.0)
    assert mine._table.families["c"].series == {(): 3.0}


def test_a_fork_has_not_counted_what_its_parent_has():
    Counter("c_forked").inc()
    pid = os.fork()
    if pid == 0:
        os._exit(recorder._table.count)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --------------------------------------------------------------------------- in a cluster


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of two CPUs; gives what the scheduler has summed up."""
    cluster = Cluster()
    cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=2)
    cluster.connect()
    yield cluster
    ract.shutdown()
    cluster.shutdown()


def families():
    """{name: {labels: value}} as the scheduler has it."""
    link = ract.util.testing._runtime().link
    return {
        name: {tuple(flat): value for flat, value in points}
        for name, _, _, _, points in link.request("metrics")
    }


def total(name, **labels):
    """The sum of all series with these labels."""

    def is_meant(flat):
        have = dict(zip(flat[::2], flat[1::2], strict=True))
        return all(have.get(key) == value for key, value in labels.items())

    return sum(value for flat, value in families().get(name, {}).items() if is_meant(flat))


@ract.remote
def count(name, amounts, **tags):
    counter = Counter(name, "counted by tasks", tuple(tags))
    for amount in amounts:
        counter.inc(amount, tags)
    return ract.get_runtime_context().get_node_id()


def test_counters_of_tasks_on_two_nodes_sum_up_exactly(cluster):
    spread = count.options(scheduling_strategy="SPREAD")
    nodes = ract.get([spread.remote("c_tasks", [1, 2, 0.5], kind="a") for _ in range(40)])
    ract.get([spread.remote("c_tasks", [1], kind="b") for _ in range(8)])
    assert len(set(nodes)) == 2
    wait_for_condition(lambda: total("ract_c_tasks") == 40 * 3.5 + 8)
    assert total("ract_c_tasks", kind="b") == 8
    job = ract.get_runtime_context().get_job_id()
    assert total("ract_c_tasks", JobId=job) == 40 * 3.5 + 8
    for node in set(nodes):
        assert total("ract_c_tasks", kind="a", NodeId=node) == 3.5 * nodes.count(node)


@ract.remote(max_restarts=0, num_cpus=0)
class Worker:
    def work(self, n):
        Counter("c_actor").inc(n)
        Gauge("g_actor").set(n)
        Histogram("h_actor", boundaries=[1, 10]).observe(n)
        return ract.get_runtime_context().get_worker_id()

    def die(self):
        os.kill(os.getpid(), 9)


def test_death_loses_no_count_and_takes_the_gauges_along(cluster):
    one, two = Worker.remote(), Worker.remote()
    worker = ract.get(one.work.remote(5))
    other = ract.get(two.work.remote(20))
    wait_for_condition(lambda: len(families().get("ract_g_actor", ())) == 2)
    assert total("ract_g_actor", WorkerId=worker) == 5
    with pytest.raises(ract.exceptions.ActorDiedError):
        ract.get(one.die.remote())
    wait_for_condition(lambda: len(families()["ract_g_actor"]) == 1)
    assert total("ract_g_actor", WorkerId=other) == 20
    assert total("ract_c_actor") == 25
    ract.get(two.work.remote(0.5))
    wait_for_condition(lambda: total("ract_c_actor") == 25.5)
    counted = [sum(column) for column in zip(*families()["ract_h_actor"].values(), strict=True)]
    assert counted == [1, 1, 1, 25.5]


def test_what_a_call_has_counted_survives_the_end_of_its_process_right_after(cluster):
    worker = Worker.remote()
    before = total("ract_c_actor")
    ract.get(worker.work.remote(1000))
    ract.kill(worker)
    wait_for_condition(lambda: total("ract_c_actor") == before + 1000)


@ract.remote(num_cpus=0)
def make(size):
    import numpy as np

    return np.zeros(size, np.uint8)


@ract.remote(num_cpus=0)
def use(array):
    return len(array)


def test_nodes_tell_what_they_copied_from_each_other(cluster):
    from ract.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there, here = [node["NodeID"] for node in ract.nodes()]
    size = 3 * 2**20
    ref = make.options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=False)
    ).remote(size)
    assert (
        ract.get(
            use.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)
            ).remote(ref)
        )
        == size
    )

    def stores():
        return ract.util.testing._runtime().link.request("store")

    wait_for_condition(
        lambda: (
            stores()[here]["received_from_bytes"].get(there, 0) >= size
            and stores()[there]["served_bytes_total"] >= size
        )
    )
    found = stores()
    assert found[here]["pulled_bytes_total"] == sum(found[here]["received_from_bytes"].values())
    assert found[there]["serves_total"] == found[here]["pulls_total"]
    assert total("ract_pulled_bytes", NodeId=here) == found[here]["pulled_bytes_total"]
    assert total("ract_served_bytes", NodeId=there) == found[there]["served_bytes_total"]


def test_drivers_count_too(cluster):
    Counter("c_driver").inc(3)
    wait_for_condition(lambda: total("ract_c_driver") == 3)


def test_programs_written_for_ray_find_its_names(cluster, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import ray\n"
        "from ray.util.metrics import Counter\n"
        "ray.init('auto')\n"
        "@ray.remote\n"
        "def f():\n"
        "    Counter('c_ray').inc()\n"
        "ray.get([f.remote() for _ in range(3)])\n"
    )
    environment = child_environment(RACT_ADDRESS=cluster.address)
    command = [sys.executable, "-m", "ract.commands.main", "run", "--ray", str(program)]
    subprocess.run(command, env=environment, check=True, timeout=60)
    wait_for_condition(lambda: total("ray_c_ray") == 3)
