"""Dask's adaptive scaling of a cluster by what ract needs, with real processes."""

import time

import dask
import pytest
from distributed import LocalCluster

import ract
from ract.autoscaler.sdk import request_resources
from ract.core import security
from ract.testing import wait_for_condition


@pytest.fixture
def cluster():
    ract.shutdown()
    settings = {
        **security.security_config(security.load_or_create_token()),
        "distributed.scheduler.preload": ["ract.scheduler.preload"],
        "distributed.worker.preload": ["ract.worker.preload"],
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=0, threads_per_worker=2, dashboard_address=None) as cluster,
    ):
        ract.init(cluster.scheduler_address)
        yield cluster
        ract.shutdown()


@ract.remote
def busy(seconds):
    time.sleep(seconds)
    return ract.get_runtime_context().get_node_id()


def count(cluster):
    return len(cluster.workers)


def test_cluster_grows_for_what_waits_and_shrinks_when_nothing_does(cluster):
    cluster.adapt(minimum=0, maximum=3, interval="100ms", wait_count=2)
    found = ract.get([busy.remote(1.0) for _ in range(6)], timeout=60)
    assert 1 < len({*found}) <= 3
    wait_for_condition(lambda: count(cluster) == 0, timeout=60)
    request_resources(num_cpus=4)
    wait_for_condition(lambda: count(cluster) == 2, timeout=60)
    request_resources()
    wait_for_condition(lambda: count(cluster) == 0, timeout=60)
