"""Work under faults gives all results; the long run is ``make chaos``."""

import pytest

import ract
from ract.testing import Cluster, chaos


def test_no_result_is_lost_while_executors_nodes_and_the_scheduler_are_killed():
    ract.shutdown()
    found = chaos.run(seed=3, seconds=4.0, every_s=0.3, faults_min=6)
    assert sum(found["faults"].values()) >= 6
    assert set(found["faults"]) == {"executor", "node", "scheduler"}
    assert found["tasks"] >= 100
    assert found["lost"] == 0
    assert found["duplicates"] == 0
    ract.shutdown()


def test_only_what_is_asked_for_is_killed():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 2}) as cluster:
        cluster.connect()
        add = ract.remote(max_retries=-1)(lambda i: i + 1)
        with chaos.Chaos(cluster, seed=1, every_s=0.05, kinds=("executor",)) as faults:
            for _ in range(20):
                assert ract.get([add.remote(i) for i in range(50)]) == list(range(1, 51))
        assert set(faults.faults) <= {"executor"}
        assert len(cluster.list_all_nodes()) == 1
        with pytest.raises(ValueError, match="kinds="):
            chaos.Chaos(cluster, kinds=("moon",))
        with pytest.raises(ValueError, match="the cluster has no journal"):
            chaos.Chaos(cluster, kinds=("scheduler",))
        ract.shutdown()
