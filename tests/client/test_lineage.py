"""Objects that are lost with their node are made again, exactly when that is possible."""

import gc

import numpy as np
import pytest

import ract
from ract import exceptions
from ract.client import runtime
from ract.testing import Cluster, wait_for_condition

N = 50_000  # doubles: too large to travel in a reply


@pytest.fixture
def cluster():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        cluster.connect()
        yield cluster


@ract.remote
def make(n, runs=None):
    if runs is not None:
        ract.get(runs.add.remote())
    return np.full(N, n, dtype=np.float64)


@ract.remote
def plus_one(values, runs=None):
    if runs is not None:
        ract.get(runs.add.remote())
    return values + 1


@ract.remote(num_cpus=0)
class Runs:
    """Counts, on a node that stays."""

    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1

    def count(self):
        return self.n


def runs_on_the_head(cluster):
    here = ract.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    return Runs.options(scheduling_strategy=here(cluster.head_node.node_id, False)).remote()


def made(ref):
    ract.wait([ref], fetch_local=False)
    return ref


def move(cluster, old):
    """Kill a node and start another one."""
    cluster.remove_node(old, allow_graceful=False)
    return cluster.add_node(num_cpus=1)


def is_held(object_ids):
    """Whether the cluster knows any of these objects."""
    rows = ract.util.state.list_objects(limit=1000)
    return bool({row["object_id"] for row in rows} & {i.hex() for i in object_ids})


def test_lost_result_is_made_again(cluster):
    node = cluster.add_node(num_cpus=1)
    runs = runs_on_the_head(cluster)
    ref = made(make.remote(7, runs))
    move(cluster, node)
    assert ract.get(ref).tolist() == [7.0] * N
    assert ract.get(runs.count.remote()) == 2
    assert ract.get(ref)[0] == 7  # it is here now
    assert ract.get(runs.count.remote()) == 2


def test_it_is_made_once_for_all_who_wait(cluster):
    node = cluster.add_node(num_cpus=1)
    runs = runs_on_the_head(cluster)
    ref = made(make.remote(7, runs))
    move(cluster, node)
    sums = [ract.get(plus_one.remote(ref))[0] for _ in range(3)]
    assert sums == [8.0] * 3
    assert ract.get(runs.count.remote()) == 2


def test_arguments_that_were_released_are_made_again_first(cluster):
    node = cluster.add_node(num_cpus=1)
    runs = runs_on_the_head(cluster)
    ref = made(make.remote(0, runs))
    ids = []
    for _ in range(20):
        ids.append(ref.binary())
        ref = made(plus_one.remote(ref, runs))
    gc.collect()
    wait_for_condition(lambda: not is_held(ids))
    move(cluster, node)
    assert ract.get(ref).tolist() == [20.0] * N
    assert ract.get(runs.count.remote()) == 42
    wait_for_condition(lambda: not is_held(ids))  # they go again


def test_of_many_that_are_lost_at_once_each_is_made_once(cluster):
    node = cluster.add_node(num_cpus=1)
    runs = runs_on_the_head(cluster)
    chain = [make.remote(0, runs)]
    for _ in range(9):
        chain.append(plus_one.remote(chain[-1], runs))
    made(chain[-1])
    move(cluster, node)
    assert [values[0] for values in ract.get(chain)] == list(range(10))
    assert ract.get(runs.count.remote()) == 20


def test_what_others_still_hold_is_made_again(cluster):
    keeper = runs_on_the_head(cluster)
    node = cluster.add_node(num_cpus=1)
    ref = make.remote(3)
    box = ract.put([ref])
    made(ref)
    del ref
    gc.collect()
    lineage = runtime.current_runtime().lineage
    wait_for_condition(lambda: len(lineage.recipes) == 1)
    move(cluster, node)
    [inner] = ract.get(box)
    assert ract.get(inner)[0] == 3
    del inner, box, keeper
    gc.collect()
    wait_for_condition(lambda: not lineage.recipes)


def test_a_task_that_waits_for_it_lends_its_cpu(cluster):
    node = cluster.add_node(num_cpus=1)
    ref = made(make.remote(1))
    move(cluster, node)
    # The only CPU is taken by the task that needs the lost value.

    @ract.remote
    def read(box):
        return ract.get(box[0])[0]

    assert ract.get(read.remote([ref])) == 1
    assert ract.get(plus_one.remote(ref))[0] == 2


def test_several_returns_and_items_of_generators(cluster):
    @ract.remote(num_returns=3)
    def three():
        return 1, np.full(N, 2.0), np.full(N, 3.0)

    @ract.remote
    def items():
        for i in range(4):
            yield np.full(N, float(i))

    node = cluster.add_node(num_cpus=1)
    a, b, c = three.remote()
    made(c)
    found = list(items.remote())
    del found[0]
    move(cluster, node)
    assert ract.get(c)[0] == 3
    assert (ract.get(a), ract.get(b)[0]) == (1, 2)
    assert [ract.get(ref)[0] for ref in found] == [1, 2, 3]


def test_results_of_actors_only_with_task_retries(cluster):
    @ract.remote(max_restarts=-1)
    class Maker:
        def make(self, n):
            return np.full(N, n, dtype=np.float64)

    node = cluster.add_node(num_cpus=1)
    once = Maker.options(num_cpus=0.5).remote()
    again = Maker.options(num_cpus=0.5, max_task_retries=3).remote()
    refs = [made(once.make.remote(1)), made(again.make.remote(2))]
    move(cluster, node)
    assert ract.get(refs[1])[0] == 2
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="max_task_retries"):
        ract.get(refs[0])


def test_what_cannot_be_made_again_is_lost_with_the_reason(cluster):
    @ract.remote
    def putting():
        return [ract.put(np.zeros(N))]

    node = cluster.add_node(num_cpus=1)
    never = made(make.options(max_retries=0).remote(1))
    once = made(make.options(max_retries=1).remote(1))
    [inner] = ract.get(putting.remote())
    node = move(cluster, node)
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="max_retries=0") as caught:
        ract.get(never)
    assert caught.value.object_ref_hex == never.hex()
    assert ract.get(once)[0] == 1
    with pytest.raises(exceptions.ObjectLostError):
        ract.get(inner)
    made(plus_one.remote(never))
    with pytest.raises(exceptions.ObjectReconstructionFailedError):
        ract.get(plus_one.remote(never))


def test_it_is_made_again_as_often_as_the_task_may_be_retried(cluster):
    # The driver's node gets copies: only who never reads it needs it again.
    node = cluster.add_node(num_cpus=1)
    runs = runs_on_the_head(cluster)
    ref = made(make.options(max_retries=1).remote(1, runs))
    wait_for_condition(lambda: is_ready_somewhere(ref))
    node = move(cluster, node)
    wait_for_condition(lambda: ract.get(runs.count.remote()) == 2)
    wait_for_condition(lambda: is_ready_somewhere(ref))
    move(cluster, node)
    with pytest.raises(exceptions.ObjectReconstructionFailedMaxAttemptsExceededError):
        ract.get(ref)
    assert ract.get(runs.count.remote()) == 2


def is_ready_somewhere(ref):
    rows = ract.util.state.list_objects(filters=[("object_id", "=", ref.hex())])
    return rows and rows[0]["task_status"] == "FINISHED"


def test_an_error_of_the_second_run_is_the_value(cluster, tmp_path):
    flag = tmp_path / "ran"

    @ract.remote
    def fickle():
        if flag.exists():
            raise KeyError("second run")
        flag.touch()
        return np.zeros(N)

    node = cluster.add_node(num_cpus=1)
    ref = made(fickle.remote())
    move(cluster, node)
    with pytest.raises(KeyError, match="second run"):
        ract.get(ref)
    with pytest.raises(KeyError, match="second run"):
        ract.get(plus_one.remote(ref))


def test_lineage_is_bounded(cluster, monkeypatch):
    lineage = runtime.current_runtime().lineage
    monkeypatch.setattr(lineage, "bytes_max", 10_000)
    node = cluster.add_node(num_cpus=1)
    refs = [made(make.remote(i)) for i in range(20)]
    move(cluster, node)
    with pytest.raises(exceptions.ObjectReconstructionFailedLineageEvictedError, match="10000"):
        ract.get(refs[0])
    assert ract.get(refs[-1])[0] == 19
    del refs
    gc.collect()
    wait_for_condition(lambda: not lineage.recipes)


def test_get_with_a_timeout_does_not_wait_for_it_longer(cluster):
    node = cluster.add_node(num_cpus=1)
    ref = made(make.remote(1))
    cluster.remove_node(node, allow_graceful=False)
    with pytest.raises(exceptions.GetTimeoutError, match="made again"):
        ract.get(ref, timeout=0.5)
    with pytest.raises(exceptions.GetTimeoutError, match="made again"):
        ract.get([ref, ref], timeout=0.5)
    cluster.add_node(num_cpus=1)
    assert ract.get(ref)[0] == 1


def test_lineage_that_is_over_leaves_nothing(cluster):
    cluster.add_node(num_cpus=1)
    lineage = runtime.current_runtime().lineage
    kept = made(make.remote(0))
    for i in range(10):
        made(make.remote(i))
    gc.collect()
    wait_for_condition(lambda: len(lineage.recipes) == 1)
    assert lineage.count() == 1
    del kept
    gc.collect()
    wait_for_condition(lambda: not lineage.recipes)
    assert lineage.count() == 0
