"""A cluster that grows and shrinks by node types, with real processes."""

import time

import pytest

import ract
from ract.autoscaler.sdk import request_resources
from ract.compat.ported.cluster_utils import AutoscalingCluster
from ract.testing import wait_for_condition
from ract.util.placement_group import placement_group

TYPES = {
    "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    "special": {
        "resources": {"CPU": 2, "GPU": 1, "thing": 1},
        "labels": {"zone": "far"},
        "min_workers": 0,
        "max_workers": 1,
    },
}


@pytest.fixture(scope="module")
def cluster():
    ract.shutdown()
    with AutoscalingCluster({"CPU": 0}, TYPES, idle_timeout_minutes=0.01) as cluster:
        cluster.start()
        ract.init("auto")
        yield cluster
        ract.shutdown()


@pytest.fixture
def shrinking(cluster):
    yield cluster
    wait_for_condition(lambda: groups() == [], timeout=60)


def groups():
    found = [node["Labels"].get("ray.io/node-group") for node in ract.nodes() if node["Alive"]]
    return sorted(filter(None, found))


@ract.remote
def labels(seconds=0.0):
    time.sleep(seconds)
    return ract.get_runtime_context().get_node_labels()


def test_nodes_come_for_tasks_that_wait_and_go_again(shrinking):
    found = ract.get([labels.remote(1.0) for _ in range(4)], timeout=60)
    assert {each["ray.io/node-group"] for each in found} == {"small"}


def test_type_is_chosen_by_resources_and_labels(shrinking):
    by_gpu = labels.options(num_gpus=1).remote()
    assert ract.get(by_gpu, timeout=60)["ray.io/node-group"] == "special"
    by_label = labels.options(label_selector={"zone": "far"}).remote()
    assert ract.get(by_label, timeout=60)["zone"] == "far"


def test_bundles_that_are_to_be_apart_get_nodes(shrinking):
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(60)
    assert groups() == ["small", "small"]
    ract.util.remove_placement_group(group)


def test_what_is_asked_for_in_advance_stays(shrinking):
    request_resources(bundles=[{"CPU": 1}, {"thing": 1}])
    wait_for_condition(lambda: groups() == ["small", "special"], timeout=60)
    request_resources()


def test_a_type_without_resources_is_named():
    with pytest.raises(ValueError, match=r"'bad'.*resources"):
        AutoscalingCluster({"CPU": 0}, {"bad": {"CPU": 1}})


def test_least_of_a_type_stays():
    kind = {"resources": {"CPU": 1}, "min_workers": 1}
    with AutoscalingCluster({"CPU": 1}, {"kept": kind}, idle_timeout_minutes=0) as cluster:
        cluster.start()
        with pytest.raises(RuntimeError, match="already"):
            cluster.start()
        ract.shutdown()
        ract.init(cluster.address)
        wait_for_condition(lambda: groups() == ["kept"], timeout=60)
        ract.shutdown()
