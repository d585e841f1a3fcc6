"""How many nodes there should be, and which may go."""

import pytest
from simulation.cluster import CPU, Cluster

from ract.core import messages as m
from ract.scheduler.books.turn import NodesLeft, NodesWanted


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.head = cluster.node("h", cpus=0)
    cluster.machine.nodes.table[cluster.head].is_head = True
    cluster.process(1, cluster.head)
    return cluster


def wanted(cluster):
    return cluster.machine.scaling.wanted()


def may_go(cluster, count):
    """Those that may go if so many are to; with 0, as many as there are are wanted."""
    have = len(cluster.machine.scaling.managed())
    cluster.say(NodesLeft(have - count) if count else NodesWanted(have))
    return cluster.machine.may_go


def test_nothing_is_wanted_while_nothing_waits(cluster):
    assert wanted(cluster) == 0
    cluster.node("a")
    assert wanted(cluster) == 0


def test_first_node_is_wanted_though_nobody_knows_its_size(cluster):
    cluster.want(1, backlog=3)
    assert wanted(cluster) == 3  # nodes of one CPU, for all we know
    cluster.node("a", cpus=2)
    assert wanted(cluster) == 2, "two run, one waits"


def test_as_many_as_the_waiting_tasks_need(cluster):
    cluster.node("a", cpus=2)
    cluster.want(1, backlog=9)
    assert wanted(cluster) == 5
    cluster.want(1, backlog=2)
    assert wanted(cluster) == 1, "they have what they want"


def test_actors_and_groups_count(cluster):
    cluster.node("a", cpus=2)
    for i in range(4):
        cluster.create(bytes([i]) * 16, placement_demand={"CPU": 2 * CPU})
    assert wanted(cluster) == 4
    cluster.group(b"g" * 18, [{"CPU": 1}, {"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert wanted(cluster) == 7
    cluster.group(b"i" * 18, [{"CPU": 1}, {"CPU": 1}], strategy="STRICT_PACK")
    assert 7 <= wanted(cluster) <= 8


def test_what_no_new_node_could_run_is_not_waited_for(cluster):
    cluster.node("a", cpus=2)
    cluster.want(1, backlog=1, cpus=3)
    cluster.want(1, backlog=1, key=2, GPU=1)
    assert wanted(cluster) == 0


def test_request_counts_though_nothing_waits(cluster):
    cluster.node("a", cpus=2)
    bundles = [{"CPU": CPU}] * 5
    selectors = [{}] * 5
    assert cluster.ask(1, "request_resources", bundles=bundles, selectors=selectors).value == 3
    assert may_go(cluster, 9) == []
    assert cluster.ask(1, "status").value["requested"] == [{"CPU": 1.0}] * 5
    assert cluster.ask(1, "request_resources", bundles=[], selectors=[]).value == 0


def test_only_nodes_that_hold_nothing_may_go(cluster):
    a, b, c, d = (cluster.node(name, cpus=1) for name in "abcd")
    cluster.want(1, backlog=1, strategy={"kind": "NODE_AFFINITY", "node_id": a})
    cluster.group(b"g" * 18, [{"CPU": 1}])
    [reserved] = cluster.machine.groups.table[b"g" * 18].bundles
    assert reserved.node.node_id == b
    cluster.process(2, c)
    assert may_go(cluster, 9) == [d]
    assert wanted(cluster) == 3


def test_objects_are_moved_before_a_node_may_go(cluster):
    a, b = cluster.node("a", cpus=1), cluster.node("b", cpus=1)
    object_id = next(cluster.objects())
    cluster.say(m.ObjectStored(b, object_id, 1000, [], [m.Hold(object_id, 1, 1)]))
    assert may_go(cluster, 1) == []
    assert cluster.one(m.KeepObject).object_id == object_id
    [keeper] = [s.node_id for s in cluster.sent if isinstance(s.message, m.KeepObject)]
    assert keeper in (a, cluster.head)
    cluster.say(
        m.ObjectStored(keeper, object_id, 1000, [], [], is_copy=True),
        m.ObjectKept(keeper, object_id),
    )
    assert may_go(cluster, 1) == [b]
    assert not cluster.told(m.EndNode), "who scales ends it"


def test_node_that_was_to_go_is_taken_back_when_it_is_needed(cluster):
    a = cluster.node("a", cpus=1)
    assert may_go(cluster, 1) == [a]
    cluster.want(1, backlog=1)
    assert not cluster.starts()
    assert wanted(cluster) == 1
    may_go(cluster, 0)
    assert [node for node, _ in cluster.starts()] == [a]


def test_what_waits_for_a_certain_node_or_label_wants_no_new_one(cluster):
    a = cluster.node("a", cpus=1)
    cluster.want(1, backlog=9, key=1, labels={"zone": "mars"})
    cluster.want(1, backlog=9, key=2, strategy={"kind": "NODE_AFFINITY", "node_id": a})
    assert wanted(cluster) == 1


def test_whoever_has_several_kinds_of_nodes_sees_what_waits(cluster):
    node = cluster.node("a", cpus=2)
    cluster.want(1, backlog=3)
    elsewhere = {"kind": "NODE_AFFINITY", "node_id": node, "soft": False}
    cluster.want(1, backlog=2, key=2, strategy=elsewhere)
    cluster.group(b"g" * 18, [{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    view = cluster.machine.scaling.view()
    assert view["nodes"][node.hex()]["free"].get("CPU", 0) == 0
    assert view["nodes"][node.hex()]["total"]["CPU"] == 2 * CPU
    assert view["removable"] == []
    waiting = [(each["apart"], ask) for each in view["waiting"] for ask in each["asks"]]
    one = {"CPU": CPU}
    assert (False, [one, [{}], 1]) in waiting
    assert waiting.count((True, [one, [{}], 1])) == 2
    assert len(waiting) == 3, "who waits for one node needs no other"
