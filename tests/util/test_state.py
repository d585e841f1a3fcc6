"""Tables of a cluster, asked for from inside it."""

import pytest

import ract
from ract.testing import wait_for_condition
from ract.util import placement_group, remove_placement_group, state
from ract.util.state.exception import RayStateApiException


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
class Listed:
    def ping(self):
        return 1


@ract.remote
def seen():
    return 1


def test_actors_are_listed_filtered_and_found_by_id():
    one, two = Listed.options(name="listed").remote(), Listed.remote()
    ract.get([one.ping.remote(), two.ping.remote()])
    (row,) = state.list_actors(filters=[("name", "=", "LISTED"), ("state", "!=", "DEAD")])
    assert row.actor_id == row["actor_id"] == one._actor_id.hex()
    assert (row.class_name, row.state) == ("Listed", "ALIVE")
    assert state.get_actor(two._actor_id.hex()).name == ""
    assert state.get_actor("00" * 16) is None
    assert len(state.list_actors(limit=1)) == 1
    ract.kill(two)
    wait_for_condition(lambda: state.get_actor(two._actor_id.hex()).state == "DEAD")
    counts = state.summarize_actors()["cluster"]["summary"]["Listed"]["state_counts"]
    assert counts == {"ALIVE": 1, "DEAD": 1}


def test_tasks_are_listed_and_found_by_their_refs():
    ref = seen.options(name="noticed").remote()
    ract.get(ref)
    wait_for_condition(lambda: state.get_task(ref) is not None)
    row = state.get_task(ref)
    assert (row.name, row.state, row.type) == ("noticed", "FINISHED", "NORMAL_TASK")
    assert row in state.list_tasks(filters=[("task_id", "=", ref.task_id().hex())])
    assert "noticed" in state.summarize_tasks()["cluster"]["summary"]


def test_nodes_workers_jobs_and_objects_are_listed():
    ref = ract.put(b"x" * 1_000_000)
    (node,) = state.list_nodes()
    assert node.node_id == ract.get_runtime_context().get_node_id()
    assert state.get_node(node.node_id) == node
    me = ract.get_runtime_context().get_worker_id()
    assert me
    assert any(worker.worker_type == "DRIVER" for worker in state.list_workers())
    assert state.get_job(ract.get_runtime_context().get_job_id()).status == "RUNNING"
    wait_for_condition(lambda: len(state.get_objects(ref.hex())) == 1)
    assert state.get_objects(ref.hex())[0].object_size >= 1_000_000


def test_placement_groups_are_listed_with_their_bundles():
    group = placement_group([{"CPU": 1}], name="listed", lifetime="detached")
    assert group.wait(30)
    row = state.get_placement_group(group.id.hex())
    assert (row.name, row.state, row.is_detached) == ("listed", "CREATED", True)
    assert row in state.list_placement_groups(filters=[("name", "=", "listed")])
    (bundle,) = row.bundles
    assert bundle["unit_resources"] == {"CPU": 1.0}
    assert bundle["node_id"] == ract.get_runtime_context().get_node_id()
    remove_placement_group(group)
    wait_for_condition(lambda: state.get_placement_group(group.id.hex()).state == "REMOVED")


def test_rows_behave_as_objects_and_as_dicts():
    (node,) = state.list_nodes()
    assert dict(node) == node.asdict()
    assert "node_id" in node
    assert node.node_id in repr(node)
    with pytest.raises(AttributeError, match="no column 'colour'"):
        _ = node.colour


def test_bad_limits_and_filters_are_refused():
    with pytest.raises(RayStateApiException, match="10000"):
        state.list_actors(limit=10_001)
    with pytest.raises(ValueError, match="'=' or '!='"):
        state.list_actors(filters=[("state", "<", "DEAD")])
