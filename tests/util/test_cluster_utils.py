"""The test cluster as programs written for Ray use it."""

import os
import time

import numpy as np
import pytest

import ract
from ract.client.runtime import current_runtime
from ract.compat.ported.cluster_utils import Cluster
from ract.core.session import setting
from ract.experimental import get_object_locations, set_resource
from ract.testing import wait_for_condition


@pytest.fixture
def disconnected():
    ract.shutdown()
    yield
    ract.shutdown()


@ract.remote(num_cpus=1)
class Where:
    def node(self):
        return ract.get_runtime_context().get_node_id()


def test_how_full_a_node_gets_is_told_to_the_head(disconnected):
    config = {"scheduler_spread_threshold": 0.9, "health_check_period_ms": 100}
    with Cluster(True, head_node_args={"num_cpus": 4, "_system_config": config}) as cluster:
        assert cluster.head_node is not None
        cluster.add_node(num_cpus=4)
        cluster.connect()
        actors = [Where.remote() for _ in range(4)]
        nodes = ract.get([actor.node.remote() for actor in actors])
        assert nodes == [cluster.head_node.node_id] * 4


def test_a_bad_setting_is_refused_before_anything_starts(disconnected, monkeypatch):
    bad = {"scheduler_spread_threshold": 2}
    with pytest.raises(ValueError, match="scheduler_spread_threshold"):
        Cluster(True, head_node_args={"_system_config": bad})
    with pytest.raises(ValueError, match="scheduler_spread_threshold"):
        ract.init(num_cpus=1, _system_config=bad)
    monkeypatch.setenv("RAY_scheduler_spread_threshold", "half")
    with pytest.raises(ValueError, match="half"):
        ract.init(num_cpus=1)


def test_a_node_has_rays_names(disconnected):
    with Cluster() as cluster:
        head = cluster.add_node(num_cpus=0, temp_dir="/nowhere", dashboard_agent_listen_port=1)
        node = cluster.add_node(num_cpus=1, labels={"zone": "a"}, object_manager_port=12345)
        assert cluster.head_node is head
        assert head.is_head()
        assert not node.is_head()
        assert cluster.list_all_nodes() == [head, node]
        assert node.unique_id == node.node_id
        assert len(node.unique_id) == 56
        assert node.gcs_address == head.address == cluster.address == cluster.gcs_address
        assert node.node_labels == {"zone": "a"}
        assert os.path.isdir(node.get_logs_dir_path())
        cluster.connect()
        [row] = [row for row in ract.nodes() if row["NodeID"] == node.node_id]
        assert row["NodeManagerAddress"] == node.node_ip_address
        assert row["Labels"]["zone"] == "a"
        cluster.remove_node(node, allow_graceful=False)
        assert not node.any_processes_alive()
        cluster.wait_for_nodes()


def test_resources_cannot_be_changed_later():
    with pytest.raises(DeprecationWarning):
        set_resource("thing", 1)


def test_settings_of_the_head_hold_for_all_processes_of_the_cluster(disconnected):
    config = {"max_lineage_bytes": 12345, "memory_usage_threshold": 0.5, "task_retry_delay_ms": 1}

    @ract.remote(num_cpus=1)
    def seen():
        return {name: setting(name) for name in config}

    expected = {name: str(value) for name, value in config.items()}
    with Cluster(True, head_node_args={"num_cpus": 0, "_system_config": config}) as cluster:
        cluster.add_node(num_cpus=1)
        cluster.connect()
        assert ract.get(seen.remote()) == expected
        assert {name: setting(name) for name in config} == expected
        assert current_runtime().lineage.bytes_max == 12345
    ract.shutdown()
    assert setting("max_lineage_bytes") is None
    bad = {"memory_usage_threshold": 7}
    with pytest.raises(ValueError, match="memory_usage_threshold"):
        ract.init(num_cpus=1, _system_config=bad)


def test_a_task_is_retried_after_the_delay_that_is_set(disconnected, tmp_path):
    flag = tmp_path / "died"

    @ract.remote
    def dies_once():
        if not flag.exists():
            flag.touch()
            os._exit(1)
        return time.time() - flag.stat().st_mtime

    ract.init(num_cpus=1, _system_config={"task_retry_delay_ms": 300})
    assert ract.get(dies_once.remote()) >= 0.3


@ract.remote(num_cpus=1)
def large():
    return np.zeros(200_000)


def nodes_of(ref):
    return get_object_locations([ref])[ref]["node_ids"]


def test_wait_is_over_when_the_copy_is_here_unless_it_need_not_be(disconnected):
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        node = cluster.add_node(num_cpus=1)
        cluster.connect()
        ref = large.remote()
        assert ract.wait([ref], fetch_local=False) == ([ref], [])
        # Nodes tell the scheduler a little later than those who wait.
        wait_for_condition(lambda: nodes_of(ref) == [node.node_id])
        assert ract.wait([ref]) == ([ref], [])
        both = sorted([node.node_id, cluster.head_node.node_id])
        wait_for_condition(lambda: sorted(nodes_of(ref)) == both)


def test_wait_does_not_wait_for_a_copy_when_enough_others_are_here(disconnected):
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        cluster.add_node(num_cpus=1)
        cluster.connect()
        far, here = large.remote(), ract.put(1)
        ract.wait([far], fetch_local=False)
        assert ract.wait([far, here], timeout=0) == ([here], [far])
        assert ract.wait([far, here], num_returns=2) == ([far, here], [])
