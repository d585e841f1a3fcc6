"""Placement groups from a program's side: made, waited for, used, removed."""

import time

import pytest

import ract
from ract.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    GetTimeoutError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
from ract.testing import wait_for_condition
from ract.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ract.util.placement_group import PlacementGroup
from ract.util.scheduling_strategies import PlacementGroupSchedulingStrategy

pytestmark = pytest.mark.parametrize("ract_module", [{"num_cpus": 4}], indirect=True)


@pytest.fixture(autouse=True)
def _cluster(ract_module):
    yield
    for ident, group in placement_group_table().items():
        if group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ract.PlacementGroupID.from_hex(ident)))


@ract.remote
def current():
    return get_current_placement_group()


@ract.remote
def current_of_child():
    return ract.get(current.remote())


@ract.remote
class Actor:
    def current(self):
        return get_current_placement_group()

    def child(self, **options):
        return ract.get(current.options(**options).remote())

    def captures(self):
        context = ract.get_runtime_context()
        return context.should_capture_child_tasks_in_placement_group

    def ident(self):
        return ract.get_runtime_context().get_placement_group_id()


def within(group, **more):
    return PlacementGroupSchedulingStrategy(group, **more)


def test_ready_becomes_the_group_and_wait_says_so():
    group = placement_group([{"CPU": 1}, {"CPU": 2}])
    assert ract.get(group.ready(), timeout=30) == group
    assert group.wait(30) is True
    assert (group.bundle_count, group.bundle_specs) == (2, [{"CPU": 1.0}, {"CPU": 2.0}])
    assert len(group.id.binary()) == 18
    ready, _ = ract.wait([group.ready()], timeout=30)
    assert len(ready) == 1


def test_group_that_does_not_fit_is_not_ready():
    group = placement_group([{"CPU": 100}])
    assert group.wait(0.05) is False
    with pytest.raises(GetTimeoutError, match="waits for resources"):
        ract.get(group.ready(), timeout=0.05)
    assert "can never hold" in ract.explain(group)
    assert "can never hold" in ract.explain(group.ready())


def test_waiting_group_is_there_when_another_one_goes():
    first, second = placement_group([{"CPU": 3}]), placement_group([{"CPU": 3}])
    assert first.wait(30)
    pending = second.ready()
    assert not second.wait(0.05)
    remove_placement_group(first)
    assert ract.get(pending, timeout=30) == second


def test_reserved_cpus_are_not_available_to_others():
    before = ract.available_resources()["CPU"]
    group = placement_group([{"CPU": 3}])
    group.wait(30)
    assert ract.available_resources()["CPU"] == before - 3
    assert ract.available_resources()[f"CPU_group_0_{group.id.hex()}"] == 3
    assert ract.cluster_resources()["CPU"] == 4
    remove_placement_group(group)
    wait_for_condition(lambda: ract.available_resources()["CPU"] == before)


def test_tasks_and_actors_run_in_the_group_that_they_name():
    group = placement_group([{"CPU": 1}])
    assert ract.get(current.options(scheduling_strategy=within(group)).remote()) == group
    assert ract.get(current.options(placement_group=group).remote()) == group
    actor = Actor.options(scheduling_strategy=within(group)).remote()
    assert ract.get(actor.current.remote()) == group
    assert ract.get(actor.ident.remote()) == group.id.hex()
    assert ract.get(current.remote()) is None
    assert get_current_placement_group() is None


def test_children_are_captured_only_when_asked_for():
    group = placement_group([{"CPU": 2}])
    plain = current_of_child.options(scheduling_strategy=within(group))
    assert ract.get(plain.remote()) is None
    strategy = within(group, placement_group_capture_child_tasks=True)
    assert ract.get(current_of_child.options(scheduling_strategy=strategy).remote()) == group
    actor = Actor.options(scheduling_strategy=strategy).remote()
    assert ract.get(actor.captures.remote())
    assert ract.get(actor.child.remote()) == group
    escaped = actor.child.remote(scheduling_strategy=within(None))
    assert ract.get(escaped) is None


def test_group_is_the_same_in_other_processes():
    group = placement_group([{"CPU": 1}])

    @ract.remote
    def use(group):
        return group, ract.get(current.options(scheduling_strategy=within(group)).remote())

    assert ract.get(use.remote(group)) == (group, group)


def test_running_task_and_actor_are_killed_with_the_group_and_not_retried(tmp_path):
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    count = tmp_path / "runs"

    @ract.remote(max_retries=5)
    def forever():
        with count.open("a") as file:
            file.write("x")
        time.sleep(1000)

    task = forever.options(scheduling_strategy=within(group)).remote()
    waiting = forever.options(scheduling_strategy=within(group)).remote()
    actor = Actor.options(scheduling_strategy=within(group), max_restarts=-1).remote()
    waiting = [waiting, forever.options(scheduling_strategy=within(group)).remote()]
    wait_for_condition(count.exists)
    remove_placement_group(group)
    for ref in [task, *waiting]:
        with pytest.raises(TaskPlacementGroupRemoved, match="was removed"):
            ract.get(ref, timeout=30)
    with pytest.raises(WorkerCrashedError):
        ract.get(task)

    def is_dead():
        try:
            ract.get(actor.current.remote(), timeout=30)
        except ActorPlacementGroupRemoved as error:
            return isinstance(error, ActorDiedError)
        return False

    wait_for_condition(is_dead)
    with pytest.raises(TaskPlacementGroupRemoved):
        ract.get(current.options(scheduling_strategy=within(group)).remote(), timeout=30)


def test_who_waits_for_a_removed_group_hears_of_it():
    group = placement_group([{"CPU": 100}])
    ready, task = group.ready(), current.options(scheduling_strategy=within(group, **{}))
    with pytest.raises(ValueError, match="bundle_index=1 is invalid"):
        task.options(scheduling_strategy=within(group, placement_group_bundle_index=1)).remote()
    waiting = task.remote()
    remove_placement_group(group)
    remove_placement_group(group)  # does nothing
    for ref in (ready, waiting):
        with pytest.raises(TaskPlacementGroupRemoved):
            ract.get(ref, timeout=30)
    assert group.wait(30) is False
    with pytest.raises(AssertionError):
        remove_placement_group(None)


def test_table_shows_bundles_nodes_and_states():
    group = placement_group([{"CPU": 1}, {"CPU": 2}], strategy="STRICT_PACK", name="shown")
    group.wait(30)
    shown = placement_group_table(group)
    [node] = ract.nodes()
    assert shown["placement_group_id"] == group.id.hex()
    assert (shown["name"], shown["strategy"], shown["state"]) == ("shown", "STRICT_PACK", "CREATED")
    assert shown["bundles"] == {0: {"CPU": 1.0}, 1: {"CPU": 2.0}}
    assert shown["bundles_to_node_id"] == {0: node["NodeID"], 1: node["NodeID"]}
    assert shown["stats"]["scheduling_state"] == "FINISHED"
    assert placement_group_table()[group.id.hex()] == shown
    remove_placement_group(group)
    assert placement_group_table(group)["state"] == "REMOVED"


def test_named_group_is_found_in_its_namespace_only():
    group = placement_group([{"CPU": 1}], name="mine", lifetime="detached")
    assert get_placement_group("mine") == group
    assert get_placement_group("mine").bundle_specs == group.bundle_specs
    with pytest.raises(ValueError, match="already taken"):
        placement_group([{"CPU": 1}], name="mine")
    remove_placement_group(group)
    for name, why in (("mine", "there is none"), ("nobodys", "there is none"), ("", "non-empty")):
        with pytest.raises(ValueError, match=why):
            get_placement_group(name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"bundles": {"CPU": 1}},
        {"bundles": []},
        {"bundles": [{}]},
        {"bundles": [{"CPU": 0}]},
        {"bundles": [{"CPU": -1}]},
        {"bundles": [{"CPU": 0.00001}]},
        {"bundles": [1]},
        {"bundles": [{"CPU": 1}], "strategy": "TIGHT"},
        {"bundles": [{"CPU": 1}], "lifetime": "long"},
        {"bundles": [{"CPU": 1}], "lifetime": "non_detached"},
        {"bundles": [{"CPU": 1}], "bundle_label_selector": [{}, {}]},
        {"bundles": [{"CPU": 1}], "bundle_label_selector": [{"zone": "in("}]},
        {"bundles": [{"CPU": 1}], "_soft_target_node_id": "00" * 28},
        {"bundles": [{"CPU": 1}], "_max_cpu_fraction_per_node": 0},
    ],
    ids=str,
)
def test_bad_groups_are_refused_at_the_call(arguments):
    with pytest.raises(ValueError):
        placement_group(**arguments)


def test_what_has_another_type_is_said():
    with pytest.raises(TypeError, match="name must be a string"):
        placement_group([{"CPU": 1}], name=1)
    with pytest.raises(TypeError, match="PlacementGroup is needed to run current"):
        current.options(scheduling_strategy=within("group")).remote()
    with pytest.raises(TypeError, match="must be a number"):
        placement_group([{"CPU": "1"}])
    with pytest.raises(ValueError, match="dict of strings"):
        placement_group([{"CPU": 1}], bundle_label_selector=[{"zone": 1}])


def test_demand_that_fits_no_bundle_is_refused_at_the_call():
    group = placement_group([{"CPU": 1}, {"CPU": 2}])
    for options in ({"num_cpus": 3}, {"num_gpus": 1}, {"resources": {"x": 1}}):
        with pytest.raises(ValueError, match="no bundle can hold"):
            current.options(scheduling_strategy=within(group), **options).remote()
        with pytest.raises(ValueError, match="no bundle can hold"):
            Actor.options(scheduling_strategy=within(group), **options).remote()
    first = within(group, placement_group_bundle_index=0)
    with pytest.raises(ValueError, match="bundle 0 cannot hold"):
        current.options(num_cpus=2, scheduling_strategy=first).remote()
    for index in (2, -2):
        wrong = within(group, placement_group_bundle_index=index)
        with pytest.raises(ValueError, match="is invalid"):
            current.options(scheduling_strategy=wrong).remote()
    with pytest.raises(ValueError, match="needs a placement group"):
        current.options(placement_group_bundle_index=0).remote()
    with pytest.raises(ValueError, match="not both"):
        current.options(scheduling_strategy="SPREAD", placement_group=group).remote()


def test_empty_group_is_none():
    empty = PlacementGroup.empty()
    assert empty.is_empty
    assert ract.get(current.options(scheduling_strategy=within(empty)).remote()) is None


def test_infeasible_group_raises_when_told_to():
    group = placement_group([{"CPU": 100}], on_infeasible="raise")
    with pytest.raises(TaskPlacementGroupRemoved, match="can never hold"):
        ract.get(group.ready(), timeout=30)
