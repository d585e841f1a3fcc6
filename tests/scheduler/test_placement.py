"""Which node: hybrid packing, spread, affinity, labels, devices."""

import random

import pytest
from simulation.cluster import CPU, Cluster

from ract.core import messages as m
from ract.scheduler.books.ledger import Ledger
from ract.scheduler.books.nodes import Nodes
from ract.scheduler.books.turn import Settings, Turn
from ract.scheduler.placement.ask import Ask, matches
from ract.scheduler.placement.placement import Placement


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=4, labels={"zone": "east"})
    cluster.b = cluster.node("b", cpus=4, labels={"zone": "west"})
    cluster.process(1, cluster.b)
    return cluster


def places(cluster, n, **more):
    cluster.want(1, backlog=n, **more)
    return [node for node, _ in cluster.starts()]


def test_requesters_node_is_packed_first_then_load_is_spread(cluster):
    assert places(cluster, 2) == [cluster.b] * 2
    rest = places(cluster, 6)
    assert rest[0] == cluster.a, "above one half the other node is better"
    assert rest.count(cluster.a) + 0 == 2 or rest.count(cluster.b) <= 2


@pytest.mark.parametrize(("pack_below", "there"), [(0.0, 2), (0.5, 2), (0.75, 1), (1.0, 0)])
def test_how_full_the_first_node_gets_is_a_setting(pack_below, there):
    cluster = Cluster(pack_below=pack_below)
    near, far = cluster.node("a", cpus=4), cluster.node("b", cpus=4)
    cluster.process(1, near)
    assert places(cluster, 4).count(far) == there


def test_spread_goes_round(cluster):
    strategy = {"kind": "SPREAD"}
    assert places(cluster, 4, strategy=strategy) == [cluster.a, cluster.b] * 2


def test_selector_counts_beside_a_strategy_of_labels_and_in_its_fallbacks(cluster):
    c = cluster.node("c", cpus=4, labels={"zone": "east", "fast": "yes"})
    strategy = {"kind": "NODE_LABEL", "hard": {"zone": "east"}}
    assert places(cluster, 1, strategy=strategy, labels={"zone": "west"}) == []
    strategy = {**strategy, "fallback": [{"label_selector": {"fast": "yes"}}]}
    assert places(cluster, 1, key=3, strategy=strategy, labels={"zone": "west"}) == [c]


def test_actors_that_ask_for_nothing_are_not_packed_onto_one_node(cluster):
    for i in range(6):
        cluster.create(bytes([i]) * 16, placement_demand={})
    bodies = [actor.body.node.node_id for actor in cluster.machine.actors.table.values()]
    assert sorted(bodies) == [cluster.a] * 3 + [cluster.b] * 3


def test_hard_affinity_waits_for_its_busy_node(cluster):
    strategy = {"kind": "NODE_AFFINITY", "node_id": cluster.a, "soft": False}
    assert places(cluster, 6, strategy=strategy) == [cluster.a] * 4
    assert not cluster.told(m.LeaseRefused)


def test_soft_affinity_waits_for_a_busy_node_but_not_for_a_dead_one(cluster):
    strategy = {"kind": "NODE_AFFINITY", "node_id": cluster.a, "soft": True}
    assert places(cluster, 6, strategy=strategy) == [cluster.a] * 4
    cluster.lose(cluster.a)
    assert [node for node, _ in cluster.starts()] == [cluster.b] * 4


def test_soft_affinity_may_spill_when_told_so(cluster):
    strategy = {
        "kind": "NODE_AFFINITY",
        "node_id": cluster.a,
        "soft": True,
        "spill_on_unavailable": True,
    }
    assert places(cluster, 5, strategy=strategy) == [cluster.a] * 4 + [cluster.b]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [("east", "a"), ("!east", "b"), ("in(west, north)", "b"), ("!in(west,north)", "a")],
)
def test_label_selectors(cluster, wanted, names):
    found = places(cluster, 1, labels={"zone": wanted})
    assert found == [name.encode() * 28 for name in names]


def test_label_without_a_node_is_infeasible(cluster):
    assert places(cluster, 1, labels={"zone": "north"}) == []
    assert "labels" in cluster.one(m.Pushed).data["message"]


def test_fallback_selectors_are_tried_in_order(cluster):
    strategy = {"fallback": [{"label_selector": {"zone": "west"}}]}
    assert places(cluster, 1, labels={"zone": "north"}, strategy=strategy) == [cluster.b]


def test_every_node_has_its_id_as_a_label(cluster):
    assert places(cluster, 1, labels={"ray.io/node-id": cluster.a.hex()}) == [cluster.a]


def test_accelerator_nodes_are_left_to_those_who_need_them(cluster):
    gpus = cluster.node("g", cpus=64, GPU=1)
    assert places(cluster, 8).count(gpus) == 0


def test_equal_asks_have_equal_keys():
    one = Ask.of({"CPU": 1, "GPU": 2}, {"kind": "SPREAD"}, {"a": "b"})
    two = Ask.of({"GPU": 2, "CPU": 1, "x": 0}, {"kind": "SPREAD"}, {"a": "b"})
    assert one.key == two.key


def test_fractions_share_a_device_and_whole_ones_do_not():
    ledger = Ledger({"CPU": CPU, "GPU": 2 * CPU})
    half = ledger.take({"GPU": CPU // 2})
    other = ledger.take({"GPU": CPU // 2})
    assert half.assigned == other.assigned == {"GPU": [0]}
    whole = ledger.take({"GPU": CPU})
    assert whole.assigned == {"GPU": [1]}
    ledger.give_back(half)
    ledger.give_back(whole)
    ledger.take({"GPU": CPU * 6 // 10})
    assert not ledger.fits({"GPU": CPU * 9 // 10}), "0.9 are free, but not on one device"
    ledger.check()


def test_choice_is_the_best_of_all_nodes_whatever_changed():
    rng = random.Random(7)
    nodes = Nodes(Turn(Settings.of({})))
    placement = Placement(nodes, 0.5)
    for i in range(12):
        offer = {"CPU": rng.choice([2, 4, 8]) * CPU, **({"GPU": CPU} if i % 4 == 0 else {})}
        labels = {"zone": rng.choice("ab")}
        nodes.join(m.NodeJoined(bytes([i]) * 28, f"n{i}", "h", 7, offer, labels, "/s"))
    asks = [
        Ask.of({"CPU": CPU}, {}, {}),
        Ask.of({"CPU": 2 * CPU}, {}, {"zone": "a"}),
        Ask.of({"CPU": CPU, "GPU": CPU // 2}, {}, {}),
        Ask.of({"CPU": CPU}, {"kind": "NODE_LABEL", "soft": {"zone": "b"}}, {}),
    ]

    def rank(node, ask, near):
        used = node.ledger.utilisation()
        lacks_soft = bool(ask.soft_selector) and not matches(node, ask.soft_selector)
        wastes = "GPU" in node.ledger.total and "GPU" not in ask.demand
        return lacks_soft, wastes, 0.0 if used < 0.5 else used, node.node_id != near, node.order

    held = []
    for _ in range(1000):
        ask, near = rng.choice(asks), rng.choice(nodes.alive).node_id
        fitting = [n for n in placement.candidates(ask) if n.ledger.fits(ask.demand)]
        best = min(fitting, key=lambda n: rank(n, ask, near), default=None)
        spot = placement.choose(ask, near)
        assert (spot.node if spot is not None else None) is best
        if best is not None and rng.random() < 0.6:
            held.append((best.ledger, best.ledger.take(ask.demand)))
        elif held:
            ledger, allocation = held.pop(rng.randrange(len(held)))
            ledger.give_back(allocation)
        if rng.random() < 0.1 and held:
            ledger, allocation = rng.choice(held)
            ledger.lend(allocation)
        if rng.random() < 0.01 and len(nodes.alive) > 6:
            gone = rng.choice(nodes.alive)
            nodes.lose(gone.node_id, m.ExitCause("node_died"))
            held = [(ledger, a) for ledger, a in held if ledger is not gone.ledger]
