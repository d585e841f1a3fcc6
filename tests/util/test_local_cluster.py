"""Several nodes on this machine: where work runs, objects between nodes, nodes that leave."""

import os
import signal

import numpy as np
import psutil
import pytest

import ract
from ract.exceptions import ActorDiedError, ObjectLostError
from ract.testing import Cluster, kill_node, wait_for_condition

BIG = 1_000_000


@pytest.fixture(scope="module")
def cluster():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 1, "resources": {"A": 1}}) as cluster:
        cluster.add_node(num_cpus=1, resources={"B": 1})
        cluster.add_node(num_cpus=2, resources={"C": 2}, labels={"zone": "c"}, node_name="third")
        cluster.wait_for_nodes()
        cluster.connect(namespace="cluster-tests")
        yield cluster


@pytest.fixture
def ids(cluster):
    return [node.node_id for node in cluster.list_all_nodes()]


@ract.remote(num_cpus=0)
def where(*_):
    return ract.get_runtime_context().get_node_id()


@ract.remote(num_cpus=0)
def make(n):
    return np.arange(n, dtype=np.float64)


@ract.remote(num_cpus=0)
def look(array):
    """(node, sum, file behind the array, whether it can be written)."""
    address = array.__array_interface__["data"][0]
    path = ""
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                path = line.split()[-1]
    node = ract.get_runtime_context().get_node_id()
    return node, float(array.sum()), path, array.flags.writeable


@ract.remote(num_cpus=0)
class Keeper:
    def __init__(self):
        self.kept = None

    def where(self):
        return ract.get_runtime_context().get_node_id()

    def pid(self):
        return os.getpid()

    def keep(self, n):
        self.kept = ract.put(np.ones(n))
        return [self.kept]


def at(target, resource, **more):
    return target.options(resources={resource: 1}, **more)


def test_a_node_offers_no_more_than_its_own_variables_let_it_see(cluster):
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        cluster.add_node(num_gpus=2, env_vars={"CUDA_VISIBLE_DEVICES": "0"})
    assert len(cluster.list_all_nodes()) == 3


def test_tasks_and_actors_land_where_their_resources_are(ids):
    for name, node_id in zip("ABC", ids, strict=True):
        assert ract.get(at(where, name).remote()) == node_id
        assert ract.get(at(Keeper, name).remote().where.remote()) == node_id


def test_cluster_says_what_it_has(cluster, ids):
    rows = {row["NodeID"]: row for row in ract.nodes()}
    assert set(ids) <= set(rows)
    third = rows[ids[2]]
    assert third["Resources"]["C"] == 2
    assert third["Labels"]["zone"] == "c"
    assert third["NodeName"] == "third"
    total = ract.cluster_resources()
    assert (total["CPU"], total["A"], total["B"], total["C"]) == (4, 1, 1, 2)


@pytest.mark.parametrize("n", [10, BIG, 4 * BIG])
def test_object_of_one_node_is_read_on_another(ids, n):
    ref = at(make, "B").remote(n)
    node, total, _, is_writeable = ract.get(at(look, "C").remote(ref))
    assert (node, total) == (ids[2], n * (n - 1) / 2)
    assert not is_writeable or n == 10
    array = ract.get(ref)
    assert array.sum() == n * (n - 1) / 2
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_second_reader_of_a_node_reads_the_same_copy(cluster, ids):
    ref = at(make, "B").remote(BIG)
    first, second = ract.get([at(look, "C").remote(ref) for _ in range(2)])
    assert first == second
    assert first[2].startswith("/dev/shm/ract-")
    assert ids[2][:8] in first[2]
    there = ract.get(at(look, "B").remote(ref))
    assert ids[1][:8] in there[2]


def test_objects_of_every_node_are_freed_when_nobody_holds_them(cluster):
    def bytes_of_nodes():
        from ract.client.runtime import current_runtime

        return sum(s["object_bytes"] for s in current_runtime().link.request("store").values())

    wait_for_condition(lambda: bytes_of_nodes() == 0)
    ref = at(make, "B").remote(BIG)
    ract.get(at(look, "C").remote(ref))
    ract.get(ref)
    assert bytes_of_nodes() >= 2 * 8 * BIG
    del ref
    wait_for_condition(lambda: bytes_of_nodes() == 0)


def test_nested_calls_cross_nodes(ids):
    @ract.remote(num_cpus=0)
    def outer():
        inner = [where.options(resources={name: 1}).remote() for name in "ABC"]
        return ract.get(inner)

    assert ract.get([outer.remote() for _ in range(3)]) == [ids] * 3


def test_named_actor_is_found_from_every_node(ids):
    keeper = at(Keeper, "C", name="keeper").remote()

    @ract.remote(num_cpus=0)
    def find():
        return ract.get(ract.get_actor("keeper").pid.remote())

    pid = ract.get(keeper.pid.remote())
    assert ract.get([at(find, name).remote() for name in "AB"]) == [pid, pid]


def test_removed_node_is_gone_with_its_actors(cluster):
    node = cluster.add_node(resources={"D": 1})
    keeper = at(Keeper, "D").remote()
    pid = ract.get(keeper.pid.remote())
    cluster.remove_node(node)
    assert not node.alive
    cluster.wait_for_nodes()
    wait_for_condition(lambda: not psutil.pid_exists(pid))
    with pytest.raises(ActorDiedError):
        ract.get(keeper.pid.remote(), timeout=30)
    with pytest.raises(ValueError, match="not \\(any more\\) a node"):
        cluster.remove_node(node)


def test_killed_node_loses_its_objects_and_the_others_go_on(cluster, ids):
    node = cluster.add_node(resources={"D": 2})
    keeper = at(Keeper, "D").remote()
    lost = ract.get(keeper.keep.remote(BIG))[0]
    pid = ract.get(keeper.pid.remote())
    kill_node(node.node_id)
    wait_for_condition(lambda: not node.alive)
    cluster.remove_node(node, allow_graceful=False)
    cluster.wait_for_nodes()
    with pytest.raises(ObjectLostError):
        ract.get(lost, timeout=30)
    with pytest.raises(ActorDiedError):
        ract.get(keeper.pid.remote(), timeout=30)
    wait_for_condition(lambda: not psutil.pid_exists(pid))
    assert not [f for f in os.listdir("/dev/shm") if node.node_id[:8] in f]
    assert ract.get(at(where, "B").remote()) == ids[1]


def test_task_whose_node_is_killed_runs_again_elsewhere(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, resources={"E": 1})
    first = node.node_id

    @ract.remote(num_cpus=0, resources={"E": 1})
    def attempt():
        here = ract.get_runtime_context().get_node_id()
        with open(tmp_path / "attempts", "a") as file:
            file.write(f"{here}\n")
        while here == first:
            signal.pause()
        return here

    ref = attempt.remote()
    wait_for_condition((tmp_path / "attempts").exists)
    other = cluster.add_node(num_cpus=1, resources={"E": 1})
    node.kill()
    assert ract.get(ref, timeout=60) == other.node_id
    assert (tmp_path / "attempts").read_text().split() == [node.node_id, other.node_id]
    cluster.remove_node(node)
    cluster.remove_node(other)
    cluster.wait_for_nodes()


def test_bad_arguments_are_named(cluster):
    with pytest.raises(TypeError, match=r"num_cpu.*did you mean num_cpus"):
        cluster.add_node(num_cpu=1)
    with pytest.raises(ValueError, match="initialize_head"):
        Cluster(head_node_args={"num_cpus": 1})
    with pytest.raises(ValueError, match="initialize_head"):
        Cluster(connect=True)
    with pytest.raises(RuntimeError, match="no head"):
        Cluster().connect()
    with pytest.raises(RuntimeError, match="no head"):
        Cluster().wait_for_nodes()
