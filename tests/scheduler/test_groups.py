"""Placement groups: where their bundles lie, who may use them, how they end."""

import pytest
from simulation.cluster import CPU, Cluster

from ract.core import messages as m

G, H = b"g" * 18, b"h" * 18


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=4)
    cluster.b = cluster.node("b", cpus=4)
    cluster.process(1, cluster.node("d", cpus=0))
    return cluster


def nodes_of(cluster, group_id=G):
    return [b.node and b.node.node_id for b in cluster.machine.groups.table[group_id].bundles]


def within(group_id=G, bundle=-1):
    return {"kind": "PLACEMENT_GROUP", "group_id": group_id, "bundle": bundle}


def test_pack_takes_one_node_if_it_can(cluster):
    cluster.group(G, [{"CPU": 1}] * 4)
    assert cluster.state(G) == "CREATED"
    assert len(set(nodes_of(cluster))) == 1


def test_pack_takes_more_nodes_if_it_must(cluster):
    cluster.group(G, [{"CPU": 3}, {"CPU": 3}, {"CPU": 1}])
    assert cluster.state(G) == "CREATED"
    assert set(nodes_of(cluster)) == {cluster.a, cluster.b}


def test_spread_takes_as_many_nodes_as_there_are(cluster):
    cluster.group(G, [{"CPU": 1}] * 3, strategy="SPREAD")
    assert cluster.state(G) == "CREATED"
    assert set(nodes_of(cluster)) == {cluster.a, cluster.b}


def test_strict_pack_waits_for_one_node_for_all(cluster):
    cluster.group(G, [{"CPU": 3}, {"CPU": 3}], strategy="STRICT_PACK")
    assert cluster.state(G) == "PENDING"
    assert "never hold" in cluster.one(m.Pushed).data["message"]
    c = cluster.node("c", cpus=6)
    assert cluster.state(G) == "CREATED"
    assert nodes_of(cluster) == [c, c]


def test_strict_spread_waits_for_a_node_for_each(cluster):
    cluster.group(G, [{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    assert cluster.state(G) == "PENDING"
    cluster.node("c", cpus=1)
    assert cluster.state(G) == "CREATED"
    assert len(set(nodes_of(cluster))) == 3


def test_strict_spread_finds_the_only_assignment():
    """A greedy choice for the small bundle would take the node that the labelled one needs."""
    cluster = Cluster()
    a = cluster.node("a", cpus=4, labels={"zone": "x"})
    b = cluster.node("b", cpus=4, labels={"zone": "y"})
    c = cluster.node("c", cpus=2, labels={"zone": "z"})
    cluster.process(1, a)
    selectors = [{"zone": "in(x,y)"}, {"zone": "x"}, {"zone": "in(y,z)"}]
    bundles = [{"CPU": 2}, {"CPU": 1}, {"CPU": 2}]
    cluster.group(G, bundles, strategy="STRICT_SPREAD", selectors=selectors)
    assert nodes_of(cluster) == [b, a, c]


def test_nothing_is_taken_while_one_bundle_has_no_place(cluster):
    cluster.group(G, [{"CPU": 4}, {"CPU": 4}, {"CPU": 1}])
    assert cluster.state(G) == "PENDING"
    assert cluster.free(cluster.a) == cluster.free(cluster.b) == {"CPU": 4}


def test_soft_target_is_preferred_and_no_more(cluster):
    cluster.group(G, [{"CPU": 3}], strategy="STRICT_PACK", soft_target=cluster.b)
    cluster.group(H, [{"CPU": 3}], strategy="STRICT_PACK", soft_target=cluster.b)
    assert nodes_of(cluster) == [cluster.b]
    assert nodes_of(cluster, H) == [cluster.a]


def test_reserved_resources_are_for_those_who_name_the_group(cluster):
    cluster.group(G, [{"CPU": 4}, {"CPU": 4}])
    cluster.want(1, backlog=1)
    assert not cluster.starts()
    cluster.want(1, backlog=9, key=2, strategy=within())
    assert len(cluster.starts()) == 8


def test_bundle_index_is_kept(cluster):
    cluster.group(G, [{"CPU": 1}, {"CPU": 2}], strategy="STRICT_SPREAD")
    cluster.want(1, backlog=9, strategy=within(bundle=1))
    assert [node for node, _ in cluster.starts()] == [nodes_of(cluster)[1]] * 2


def test_devices_of_a_bundle_are_those_of_its_node():
    cluster = Cluster()
    a = cluster.node("a", cpus=4, GPU=4)
    cluster.process(1, a)
    cluster.group(G, [{"GPU": 1}])
    cluster.group(H, [{"GPU": 2, "CPU": 2}])
    cluster.want(1, backlog=2, cpus=0, GPU=1, strategy=within(H))
    assert [s.assigned for s in cluster.told(m.StartLease)] == [{"GPU": [1]}, {"GPU": [2]}]


def test_blocked_user_lends_its_cpus_to_the_group_only(cluster):
    cluster.group(G, [{"CPU": 4}, {"CPU": 4}], strategy="STRICT_SPREAD")
    cluster.want(1, backlog=1, strategy=within(bundle=0))
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.say(m.Blocked(50))
    cluster.want(1, backlog=1, key=2)
    assert not cluster.starts()
    cluster.want(1, backlog=9, key=3, strategy=within(bundle=0))
    assert len(cluster.starts()) == 4


def test_demand_that_no_bundle_can_hold_is_refused(cluster):
    cluster.group(G, [{"CPU": 1}])
    cluster.want(1, backlog=1, cpus=2, strategy=within())
    assert cluster.one(m.LeaseRefused).error == "TaskUnschedulableError"


def test_users_wait_until_the_group_is_there(cluster):
    cluster.group(G, [{"CPU": 6}])
    cluster.want(1, backlog=1, strategy=within())
    cluster.create(b"x" * 16, strategy=within())
    assert not cluster.told(m.LeaseRefused)
    c = cluster.node("c", cpus=6)
    assert [node for node, _ in cluster.starts()] == [c]
    assert cluster.one(m.StartActor, c)


def test_removal_ends_users_and_gives_back_when_they_are_gone(cluster):
    cluster.group(G, [{"CPU": 4}])
    cluster.want(1, backlog=9, cpus=2, strategy=within())
    [(node, lease), _] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.say(m.GroupRemoveWanted(1, G))
    assert cluster.state(G) == "REMOVED"
    refused, lost = cluster.one(m.LeaseRefused), cluster.one(m.LeaseLost)
    assert refused.error == "TaskPlacementGroupRemoved"
    assert (lost.lease, lost.cause.kind) == (lease, "group_removed")
    assert cluster.one(m.EndLease).kill
    assert cluster.free(node)["CPU"] == 0, "its executor is still there"
    cluster.dies(50)
    assert cluster.free(node)["CPU"] == 0, "the other one is starting"
    cluster.up(node, lease + 1, 51)
    assert cluster.free(node)["CPU"] == 4


def test_removal_ends_actors_for_good(cluster):
    cluster.group(G, [{"CPU": 1}])
    for actor_id in (b"x" * 16, b"y" * 16):
        cluster.create(actor_id, strategy=within(), running_demand={"CPU": CPU}, max_restarts=-1)
    cluster.actor_up(nodes_of(cluster)[0], b"x" * 16, 50)
    cluster.say(m.GroupRemoveWanted(1, G))
    causes = {told.actor_id[:1]: told.cause.kind for told in cluster.told(m.ActorChanged)}
    assert causes == {b"x": "group_removed", b"y": "group_removed"}


def test_second_removal_changes_nothing(cluster):
    cluster.group(G, [{"CPU": 1}])
    cluster.say(m.GroupRemoveWanted(1, G))
    assert cluster.say(m.GroupRemoveWanted(1, G)) == []


def test_pending_group_can_be_removed_and_its_users_are_told(cluster):
    cluster.group(G, [{"CPU": 6}])
    cluster.want(1, backlog=1, strategy=within())
    cluster.say(m.GroupRemoveWanted(1, G))
    assert cluster.one(m.LeaseRefused).error == "TaskPlacementGroupRemoved"


def test_user_of_a_removed_group_is_refused(cluster):
    cluster.want(1, backlog=1, strategy=within())
    assert cluster.one(m.LeaseRefused).error == "TaskPlacementGroupRemoved"


def test_lost_bundles_get_new_places_and_the_others_stay(cluster):
    cluster.group(G, [{"CPU": 3}, {"CPU": 3}])
    lost, kept = nodes_of(cluster)
    cluster.group(H, [{"CPU": 6}])
    cluster.lose(lost)
    assert cluster.state(G) == "RESCHEDULING"
    c = cluster.node("c", cpus=6)
    assert cluster.state(G) == "CREATED"
    assert nodes_of(cluster) == [c, kept]


def test_rescheduled_group_comes_before_new_ones(cluster):
    cluster.group(G, [{"CPU": 3}], strategy="STRICT_PACK")
    [lost] = nodes_of(cluster)
    cluster.group(b"o" * 18, [{"CPU": 4}])
    cluster.group(H, [{"CPU": 3}], strategy="STRICT_PACK")
    cluster.lose(lost)
    assert nodes_of(cluster) == nodes_of(cluster, H) == [None]
    c = cluster.node("c", cpus=4)
    assert nodes_of(cluster) == [c]
    assert nodes_of(cluster, H) == [None]


def test_group_ends_with_its_job_unless_detached(cluster):
    cluster.group(G, [{"CPU": 1}])
    cluster.group(H, [{"CPU": 1}], detached=True)
    cluster.dies(1)
    table = cluster.machine.groups.table
    assert (table[G].state, table[H].state) == ("REMOVED", "CREATED")


def test_group_of_a_detached_actor_ends_with_the_actor(cluster):
    cluster.create(b"x" * 16, detached=True, name="x")
    [start] = [each for each in cluster.sent if isinstance(each.message, m.StartActor)]
    cluster.actor_up(start.node_id, b"x" * 16, 50)
    cluster.group(G, [{"CPU": 1}], owner=50)
    cluster.dies(1)
    assert cluster.machine.groups.table[G].state == "CREATED"
    cluster.dies(50)
    assert cluster.machine.groups.table[G].state == "REMOVED"


def test_name_is_unique_in_its_namespace_and_free_after_removal(cluster):
    from ract.core.wire import encode

    def make(group_id):
        spec = m.GroupSpec(group_id, b"\0\0\0\1", 1, [{"CPU": CPU}], name="n")
        return cluster.ask(1, "create_group", spec=encode(spec))

    assert make(G).value is True
    assert make(H).error == "ValueError"
    assert cluster.ask(1, "get_group", name="n").value["group_id"] == G
    cluster.say(m.GroupRemoveWanted(1, G))
    assert cluster.ask(1, "get_group", name="n").error == "ValueError"
    assert make(H).value is True


def test_infeasible_group_can_be_refused_at_once(cluster):
    cluster.group(G, [{"CPU": 9}], must_fit=True)
    assert cluster.state(G) == "REMOVED"
    assert "never hold" in cluster.told(m.GroupChanged)[-1].detail


def test_explain_names_nodes_and_what_they_lack(cluster):
    cluster.group(G, [{"CPU": 4}])
    cluster.group(H, [{"CPU": 4}, {"CPU": 4}], name="big")
    told = cluster.ask(1, "explain", id=H).value
    assert told["state"] == "PENDING"
    assert "placement group big (PACK) is PENDING" in told["text"]
    assert "CPU: 4 asked, 0 there" in told["text"]


def test_reserved_resources_have_names_of_their_own(cluster):
    cluster.group(G, [{"CPU": 1}, {"CPU": 2}])
    free = cluster.ask(1, "available_resources").value
    assert free["CPU"] == 5
    assert free[f"CPU_group_{G.hex()}"] == 3
    assert free[f"CPU_group_1_{G.hex()}"] == 2
    assert cluster.ask(1, "cluster_resources").value == {"CPU": 8}


def test_large_group_gets_its_turn_among_small_tasks(cluster):
    """Small leases come and go; the group claims a node, which then runs empty."""
    cluster.want(1, backlog=10_000, key=1)
    leases = []
    for executor, (node, lease) in enumerate(cluster.starts(), 50):
        cluster.up(node, lease, executor)
        leases.append(lease)
    cluster.group(G, [{"CPU": 4}], strategy="STRICT_PACK")
    assert cluster.state(G) == "PENDING"
    executor = 100
    for _ in range(200):
        if cluster.machine.groups.table[G].state == "CREATED":
            break
        cluster.now += 0.05
        lease = leases.pop(0)
        cluster.say(m.LeaseReleased(1, lease))
        for node, new in cluster.starts():
            executor += 1
            cluster.up(node, new, executor)
            leases.append(new)
    assert cluster.machine.groups.table[G].state == "CREATED"


def test_no_lease_is_granted_in_a_removed_group(cluster):
    cluster.group(G, [{"CPU": 1}])
    cluster.want(1, backlog=1, strategy=within())
    [(node, lease)] = cluster.starts()
    cluster.say(m.GroupRemoveWanted(1, G))
    cluster.want(1, backlog=1, strategy=within())
    assert cluster.one(m.LeaseRefused).error == "TaskPlacementGroupRemoved"
    cluster.up(node, lease, 50)
    assert not cluster.told(m.LeaseGranted)


def test_labels_that_contradict_each_other_are_not_packed_onto_one_node():
    cluster = Cluster()
    cluster.process(1, cluster.node("a", cpus=4, labels={"zone": "x"}))
    cluster.node("b", cpus=4, labels={"zone": "y"})
    selectors = [{"zone": "x"}, {"zone": "y"}]
    cluster.group(G, [{"CPU": 1}] * 2, strategy="STRICT_PACK", selectors=selectors)
    assert cluster.state(G) == "PENDING"


def test_group_that_a_child_of_a_detached_actor_made_ends_with_that_actor(cluster):
    def up(actor_id, executor):
        [start] = [each for each in cluster.sent if isinstance(each.message, m.StartActor)]
        cluster.actor_up(start.node_id, actor_id, executor)

    cluster.create(b"x" * 16, detached=True, name="x")
    up(b"x" * 16, 50)
    cluster.create(b"y" * 16, owner=50)
    up(b"y" * 16, 51)
    cluster.group(G, [{"CPU": 1}], owner=51)
    cluster.dies(1)
    assert cluster.machine.groups.table[G].state == "CREATED"
    cluster.dies(50)
    assert cluster.machine.groups.table[G].state == "REMOVED"


def test_lease_is_asked_back_for_a_group_before_it_claims_anything(cluster):
    cluster.want(1, backlog=8, cpus=1)
    for executor, (node, lease) in enumerate(cluster.starts(), 50):
        cluster.up(node, lease, executor)
    cluster.group(G, [{"CPU": 1}])
    cluster.wait(0.5)
    assert not cluster.machine.ageing.claims
    assert any(lease.is_recalled for lease in cluster.machine.leases.table.values())


def test_nothing_is_kept_of_groups_that_are_gone():
    cluster = Cluster(dead_max=10)
    cluster.process(1, cluster.node("a", cpus=4))
    for i in range(100):
        group_id = i.to_bytes(18, "big")
        cluster.group(group_id, [{"CPU": 1}])
        cluster.say(m.GroupRemoveWanted(1, group_id))
    groups = cluster.machine.groups
    assert len(groups.table) == 10
    assert [groups.watched, groups.kept, groups.by_owner, groups.waiting] == [{}] * 4


def test_waiting_groups_cost_nothing_while_nothing_becomes_free(cluster):
    for i in range(3):
        cluster.group(bytes([i]) * 18, [{"CPU": 4}] * 3 + [{"CPU": 1 + i}])
    table = cluster.machine.groups.table
    attempts = [group.attempts for group in table.values()]
    for key in range(50):
        cluster.want(1, backlog=1, key=key, slot=1)  # nobody has that
    assert [group.attempts for group in table.values()] == attempts
