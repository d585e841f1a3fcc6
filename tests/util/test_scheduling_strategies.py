"""Where work runs on several nodes: strategies, labels, data, groups over nodes."""

import numpy as np
import pytest

import ract
from ract.exceptions import ActorUnschedulableError, TaskUnschedulableError
from ract.testing import Cluster, wait_for_condition
from ract.util import placement_group, placement_group_table, remove_placement_group
from ract.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)


@pytest.fixture(scope="module")
def cluster():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        for name in "ab":
            cluster.add_node(num_cpus=2, resources={name: 1}, labels={"zone": name, "fast": "yes"})
        cluster.add_node(num_cpus=2, resources={"c": 1})
        cluster.wait_for_nodes()
        cluster.connect()
        yield cluster


@pytest.fixture
def ids(cluster):
    """Node ids of a, b and c."""
    return [node.node_id for node in cluster.list_all_nodes()[1:]]


@ract.remote
def where(*_):
    return ract.get_runtime_context().get_node_id()


@ract.remote(num_cpus=1)
class Actor:
    def where(self):
        return ract.get_runtime_context().get_node_id()


@pytest.mark.parametrize("soft", [False, True])
def test_affinity_to_a_node(ids, soft):
    for node_id in ids:
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=soft)
        assert ract.get(where.options(scheduling_strategy=strategy).remote()) == node_id
        actor = Actor.options(scheduling_strategy=strategy).remote()
        assert ract.get(actor.where.remote()) == node_id


def test_hard_affinity_to_a_dead_or_too_small_node_fails_and_soft_goes_elsewhere(ids):
    unknown = "ab" * 28
    for node_id, options in ((unknown, {}), (ids[0], {"resources": {"c": 1}})):
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        options = {"scheduling_strategy": strategy, **options}
        with pytest.raises(TaskUnschedulableError, match=r"dead or unknown|can never run"):
            ract.get(where.options(**options).remote(), timeout=30)
        with pytest.raises(ActorUnschedulableError):
            ract.get(Actor.options(**options).remote().where.remote(), timeout=30)
        soft = {**options, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, True)}
        assert ract.get(where.options(**soft).remote(), timeout=30) in ids


def test_fail_on_unavailable_does_not_wait(ids):
    strategy = NodeAffinitySchedulingStrategy(ids[0], soft=False)
    actor = Actor.options(num_cpus=2, scheduling_strategy=strategy).remote()
    assert ract.get(actor.where.remote()) == ids[0]
    failing = NodeAffinitySchedulingStrategy(ids[0], soft=False, _fail_on_unavailable=True)
    with pytest.raises(TaskUnschedulableError, match="no room now"):
        ract.get(where.options(scheduling_strategy=failing).remote(), timeout=30)
    spilling = NodeAffinitySchedulingStrategy(ids[0], soft=True, _spill_on_unavailable=True)
    found = ract.get(where.options(scheduling_strategy=spilling).remote(), timeout=30)
    assert found in ids[1:]
    ract.kill(actor)


def test_spread_goes_round_all_nodes(ids):
    actors = [Actor.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    found = ract.get([actor.where.remote() for actor in actors])
    assert sorted(found) == sorted(ids * 2)
    del actors
    found = ract.get([where.options(scheduling_strategy="SPREAD").remote() for _ in range(9)])
    assert {*found} == {*ids}


@pytest.mark.parametrize(
    ("hard", "allowed"),
    [
        ({"zone": In("a")}, "a"),
        ({"zone": In("a", "b")}, "ab"),
        ({"zone": NotIn("a")}, "bc"),
        ({"zone": Exists()}, "ab"),
        ({"zone": DoesNotExist(), "fast": DoesNotExist()}, "c"),
        ({"fast": In("yes"), "zone": NotIn("b")}, "a"),
    ],
    ids=str,
)
def test_conditions_on_labels(ids, hard, allowed):
    # The head has no CPUs, else it would do where a label must not exist.
    names = dict(zip("abc", ids, strict=True))
    strategy = NodeLabelSchedulingStrategy(hard=hard)
    found = ract.get([where.options(scheduling_strategy=strategy).remote() for _ in range(4)])
    assert {*found} <= {names[name] for name in allowed}


def test_soft_conditions_are_preferred_and_no_more(ids):
    for zone, node_id in (("b", ids[1]), ("nowhere", None)):
        strategy = NodeLabelSchedulingStrategy(hard={}, soft={"zone": In(zone)})
        found = ract.get(where.options(scheduling_strategy=strategy).remote())
        assert found == node_id if node_id else found in ids


def test_label_selectors_and_their_fallbacks(ids):
    assert ract.get(where.options(label_selector={"zone": "b"}).remote()) == ids[1]
    assert ract.get(where.options(label_selector={"zone": "!in(a,b)"}).remote()) == ids[2]
    fallback = [{"label_selector": {"zone": "nowhere"}}, {"label_selector": {"zone": "in(b)"}}]
    options = {"label_selector": {"zone": "z"}, "fallback_strategy": fallback}
    assert ract.get(where.options(**options).remote()) == ids[1]
    actor = Actor.options(**options).remote()
    assert ract.get(actor.where.remote()) == ids[1]


def test_default_labels_name_the_node(ids):
    node = next(node for node in ract.nodes() if node["NodeID"] == ids[0])
    assert node["Labels"]["ray.io/node-id"] == ids[0]
    selector = {"ray.io/node-id": ids[0]}
    assert ract.get(where.options(label_selector=selector).remote()) == ids[0]


def test_task_goes_to_the_node_with_its_large_arguments(ids):
    @ract.remote(num_cpus=0)
    def make(n):
        return np.ones(n)

    def is_idle():
        return ract.available_resources()["CPU"] == ract.cluster_resources()["CPU"]

    for name, node_id in zip("bca", [ids[1], ids[2], ids[0]], strict=True):
        large = make.options(resources={name: 1}).remote(200_000)
        small = make.options(resources={"c": 1}).remote(20_000)
        ract.wait([large, small], num_returns=2, fetch_local=False)
        wait_for_condition(is_idle)  # else they would go where there is room
        assert ract.get([where.remote(small, large) for _ in range(2)]) == [node_id] * 2
        inner = where.options(scheduling_strategy="SPREAD")
        assert len({*ract.get([inner.remote(large) for _ in range(6)])}) > 1


def test_infeasible_calls_raise_when_told_to(cluster):
    options = {"resources": {"nobody": 1}, "on_infeasible": "raise"}
    with pytest.raises(TaskUnschedulableError, match="no node of the cluster"):
        ract.get(where.options(**options).remote(), timeout=30)
    with pytest.raises(ActorUnschedulableError, match="no node of the cluster"):
        ract.get(Actor.options(**options).remote().where.remote(), timeout=30)


def test_bundles_are_laid_out_as_the_strategy_says(ids):
    for strategy, nodes in (
        ("STRICT_PACK", 1),
        ("PACK", 1),
        ("SPREAD", 2),
        ("STRICT_SPREAD", 2),
    ):
        group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy=strategy)
        assert group.wait(30)
        used = placement_group_table(group)["bundles_to_node_id"]
        assert len({*used.values()}) == nodes
        for index, node_id in used.items():
            within = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            assert ract.get(where.options(scheduling_strategy=within).remote()) == node_id
        remove_placement_group(group)


def test_bundle_of_a_dead_node_moves_and_its_actors_restart_there():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        doomed = cluster.add_node(num_cpus=2)
        kept = cluster.add_node(num_cpus=1)
        cluster.connect()
        group = placement_group([{"CPU": 2}, {"CPU": 1}], strategy="STRICT_SPREAD")
        assert group.wait(30)
        within = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        options = {"scheduling_strategy": within, "max_restarts": -1, "max_task_retries": -1}
        actor = Actor.options(**options).remote()
        assert ract.get(actor.where.remote()) == doomed.node_id
        doomed.kill()
        wait_for_condition(lambda: placement_group_table(group)["state"] == "RESCHEDULING")
        assert "RESCHEDULING" in ract.explain(group)
        new = cluster.add_node(num_cpus=2)
        assert ract.get(actor.where.remote(), timeout=30) == new.node_id
        used = placement_group_table(group)["bundles_to_node_id"]
        assert used == {0: new.node_id, 1: kept.node_id}
        ract.shutdown()


@pytest.mark.parametrize(
    "make",
    [
        lambda: NodeAffinitySchedulingStrategy("xyz", soft=False),
        lambda: NodeAffinitySchedulingStrategy("ab", soft=False),
        lambda: NodeAffinitySchedulingStrategy(None, soft=True),
        lambda: NodeAffinitySchedulingStrategy("ab" * 28, False, _spill_on_unavailable=True),
        lambda: NodeAffinitySchedulingStrategy("ab" * 28, True, _fail_on_unavailable=True),
        lambda: NodeLabelSchedulingStrategy(hard={}),
        lambda: NodeLabelSchedulingStrategy(hard=None, soft={}),
        lambda: NodeLabelSchedulingStrategy(hard=["zone"]),
        lambda: NodeLabelSchedulingStrategy(hard={1: In("a")}),
        lambda: NodeLabelSchedulingStrategy(hard={"zone": "a"}),
        lambda: In(),
        lambda: In(""),
        lambda: NotIn("a", 1),
        lambda: where.options(scheduling_strategy="EVERYWHERE"),
        lambda: where.options(label_selector={"zone": "in(a"}),
        lambda: where.options(label_selector={"zone": "a b"}),
        lambda: where.options(label_selector={"": "a"}),
        lambda: where.options(fallback_strategy=[{"labels": {}}]),
        lambda: where.options(on_infeasible="wait a bit"),
    ],
)
def test_bad_strategies_are_refused_where_they_are_made(make):
    with pytest.raises(ValueError):
        make()


def test_label_selector_must_be_text():
    for bad in ("zone", {"zone": 1}, {1: "a"}):
        with pytest.raises(TypeError):
            where.options(label_selector=bad)
