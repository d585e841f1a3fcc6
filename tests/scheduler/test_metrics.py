"""What programs count, and what the cluster says of itself, in the pure machine."""

import pickle

import pytest
from simulation.cluster import Cluster

from ract.core import events, ids
from ract.core import messages as m
from ract.core.metrics import COUNTER, GAUGE, HISTOGRAM, WORKER, Table
from ract.scheduler.queries import system_metrics
from ract.scheduler.queries.system_metrics import FAMILIES, FUNCTIONS_MAX, OTHER, collect


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=2)
    cluster.process(1, cluster.a)
    cluster.process(2, cluster.a, kind="executor")
    return cluster


def worker(cluster, process):
    return ids.worker_id_bytes(process).hex()


def counter(value, name="ract_c"):
    return [name, COUNTER, "", [], [[[], value]]]


def gauge(cluster, process, value):
    return ["ract_g", GAUGE, "", [], [[[WORKER, worker(cluster, process)], value]]]


def found(cluster):
    """{name: {labels: value}} of all families."""
    return {
        name: {tuple(flat): value for flat, value in points}
        for name, _, _, _, points in collect(cluster.machine.cluster)
    }


def test_counters_outlive_processes_and_nodes_and_gauges_do_not(cluster):
    b = cluster.node("b")
    cluster.process(4097, b, kind="executor")
    cluster.say(
        m.NodeMetrics(cluster.a, [counter(1), gauge(cluster, 2, 5)]),
        m.NodeMetrics(b, [counter(2), gauge(cluster, 4097, 6)]),
    )
    assert found(cluster)["ract_c"] == {(): 3}
    assert len(found(cluster)["ract_g"]) == 2
    cluster.say(m.ProcessExited(cluster.a, 2, m.ExitCause("idle")))
    assert found(cluster)["ract_g"] == {(WORKER, worker(cluster, 4097)): 6}
    cluster.lose(b)
    assert "ract_g" not in found(cluster)
    assert found(cluster)["ract_c"] == {(): 3}


def test_a_gauge_that_comes_after_the_end_of_its_process_is_not_kept(cluster):
    cluster.say(m.ProcessExited(cluster.a, 2, m.ExitCause("idle")))
    cluster.say(m.NodeMetrics(cluster.a, [gauge(cluster, 2, 5), counter(1)]))
    assert "ract_g" not in found(cluster)
    assert found(cluster)["ract_c"] == {(): 1}


def test_a_gauge_that_is_nobodys_is_not_kept(cluster):
    nobodys = ["ract_g", GAUGE, "", [], [[[], 5], [[WORKER, "no id"], 5], [5, 5]]]
    cluster.say(m.NodeMetrics(cluster.a, [nobodys, counter(1)]))
    assert "ract_g" not in found(cluster)
    assert found(cluster)["ract_c"] == {(): 1}


def test_what_was_refused_is_counted_though_its_node_goes(cluster):
    b = cluster.node("b")
    cluster.say(m.NodeMetrics(b, [counter(1)], 3), m.NodeMetrics(b, [], 7))
    cluster.say(m.NodeMetrics(cluster.a, [["ract_c", GAUGE, "", [], []], None], 1))
    cluster.lose(b)
    assert found(cluster)["ract_metric_values_refused"] == {(): 9}


def test_words_of_a_lost_node_count_no_more(cluster):
    b = cluster.node("b")
    cluster.lose(b)
    cluster.say(m.NodeMetrics(b, [counter(1)]))
    assert "ract_c" not in found(cluster)


def test_the_sums_can_be_kept_like_the_rest_of_the_machine(cluster):
    histogram = ["ract_h", HISTOGRAM, "", [1], [[[], [1, 2, 3.5]]]]
    cluster.say(m.NodeMetrics(cluster.a, [counter(1), histogram, gauge(cluster, 2, 5)]))
    table = pickle.loads(pickle.dumps(cluster.machine.metrics.table))
    assert isinstance(table, Table)
    assert list(table.batch()) == list(cluster.machine.metrics.table.batch())
    table.forget(worker(cluster, 2))
    table.check()


# --------------------------------------------------------------------------- the cluster's own


def test_every_point_has_the_labels_of_its_family(cluster):
    gpu = {"index": 0, "name": "A", "memory_used_bytes": 1, "memory_total_bytes": 2}
    executor = {"kind": "task", "cpu_percent": 50.0, "rss_bytes": 7}
    stats = dict.fromkeys(system_metrics._OF_STATS.values(), 1)
    stats |= {"gpus": [{**gpu, "utilization_percent": 5}], "executors": [executor, executor]}
    cluster.say(m.NodeStats(cluster.a, stats))
    run(cluster, 1)
    shown = found(cluster)
    # There is no group or actor, nor a task that failed or runs.
    missing = {"ract_placement_groups", "ract_tasks", "ract_tasks_failed", "ract_actors"}
    assert set(FAMILIES) - set(shown) == missing
    for name, points in shown.items():
        for flat in points:
            assert flat[::2] == FAMILIES[name][2], name
    node = cluster.a.hex()
    assert shown["ract_executors"] == {("NodeId", node, "Kind", "task"): 2}
    assert shown["ract_executors_cpu_percent"] == {("NodeId", node, "Kind", "task"): 100}
    assert shown["ract_processes"] == {("Kind", "driver"): 1, ("Kind", "executor"): 1}
    cpus = {flat: n for flat, n in shown["ract_resources"].items() if flat[1] == "CPU"}
    assert sum(cpus.values()) == 2


def test_a_gpu_in_parts_has_no_utilization(cluster):
    gpu = {"index": 0, "name": "A", "memory_used_bytes": 1, "memory_total_bytes": 2}
    cluster.say(m.NodeStats(cluster.a, {"gpus": [{**gpu, "utilization_percent": None}]}))
    assert "ract_gpu_utilization_percent" not in found(cluster)
    assert list(found(cluster)["ract_gpu_memory_used_bytes"].values()) == [1]


def run(cluster, n, name="f"):
    """Calls of this name ended, ``n`` of them."""
    cluster.machine.tasks.counts[name, events.NORMAL_TASK, events.FINISHED] += n


def test_tasks_are_counted_by_their_names_of_which_there_are_not_too_many(cluster):
    for i in range(FUNCTIONS_MAX + 20):
        run(cluster, 2, f"f{FUNCTIONS_MAX + 20 - i:04}")  # the later, the smaller
    before = found(cluster)["ract_tasks_finished"]
    assert len(before) == FUNCTIONS_MAX + 1
    assert before["Name", OTHER] == 40
    assert set(before.values()) == {2, 40}
    run(cluster, 3, "a new one")
    after = found(cluster)["ract_tasks_finished"]
    assert after == {**before, ("Name", OTHER): 43}


def test_nodes_are_told_by_their_state(cluster):
    b, c = cluster.node("b"), cluster.node("c")
    cluster.lose(b)
    cluster.machine.drains.begin(cluster.machine.nodes.get(c), "test", None)
    assert found(cluster)["ract_nodes"] == {
        ("State", "ALIVE"): 1,
        ("State", "DEAD"): 1,
        ("State", "DRAINING"): 1,
    }
