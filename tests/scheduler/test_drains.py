"""Nodes that are to go without loss."""

import pytest
from simulation.cluster import Cluster

from ract.core import messages as m
from ract.core.ids import COUNTER_BITS, object_id_bytes, task_id_bytes


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.head = cluster.node("h", cpus=0)
    cluster.machine.nodes.table[cluster.head].is_head = True
    cluster.a = cluster.node("a", cpus=2)
    cluster.process(1, cluster.head)
    return cluster


def drain(cluster, node, **more):
    return cluster.ask(1, "drain_node", node_id=node.hex(), **more)


def is_told_to_end(cluster, node):
    return bool(cluster.told(m.EndNode, node))


def test_idle_node_ends_at_once(cluster):
    assert drain(cluster, cluster.a).value == {"left": []}
    assert is_told_to_end(cluster, cluster.a)


def test_nothing_new_starts_there_and_work_moves_to_others(cluster):
    cluster.want(1, backlog=9)
    [(_, first), (_, second)] = cluster.starts()
    cluster.up(cluster.a, first, 50)
    cluster.up(cluster.a, second, 51)
    reply = drain(cluster, cluster.a)
    assert reply.value == {"left": ["2 leases"]}
    assert {told.lease for told in cluster.told(m.LeaseRecalled)} == {first, second}
    b = cluster.node("b", cpus=2)
    assert [node for node, _ in cluster.starts()] == [b, b]
    for lease in (first, second):
        assert not is_told_to_end(cluster, cluster.a)
        cluster.say(m.LeaseReleased(1, lease))
        assert not cluster.starts()
    cluster.wait(1.0)
    assert is_told_to_end(cluster, cluster.a)


def test_actor_that_may_restart_moves_without_using_a_restart(cluster):
    cluster.create(b"x" * 16, max_restarts=1)
    cluster.actor_up(cluster.a, b"x" * 16, 50)
    b = cluster.node("b", cpus=2)
    drain(cluster, cluster.a)
    stop = cluster.one(m.StopActor, cluster.a)
    assert (stop.graceful, stop.cause.kind) == (True, "drained")
    cluster.say(m.ActorExited(cluster.a, b"x" * 16, 1, stop.cause))
    assert cluster.one(m.StartActor, b).incarnation == 2
    assert cluster.machine.actors.table[b"x" * 16].restarts == 0
    changed = cluster.told(m.ActorChanged)
    assert [told.state for told in changed] == ["RESTARTING"]
    cluster.wait(1.0)
    assert is_told_to_end(cluster, cluster.a)


def test_actor_that_may_not_restart_is_waited_for(cluster):
    cluster.create(b"x" * 16)
    cluster.actor_up(cluster.a, b"x" * 16, 50)
    assert drain(cluster, cluster.a).value == {"left": ["1 actors"]}
    cluster.wait(60.0)
    assert not is_told_to_end(cluster, cluster.a)
    cluster.dies(50, "exited")
    cluster.wait(1.0)
    assert is_told_to_end(cluster, cluster.a)


def promised(cluster, process):
    """A call that the process submitted, and whose ref process 1 has got."""
    object_id = object_id_bytes(task_id_bytes(process << COUNTER_BITS | 1, b"\0\0\0\1"), 0)
    holds = [m.Hold(object_id, 1, 1)]
    cluster.say(m.ObjectPublished(process, object_id, None, [], holds, "inner"))
    return object_id


def test_process_that_promised_a_value_is_waited_for(cluster):
    cluster.want(1, backlog=1)
    [(_, lease)] = cluster.starts()
    cluster.up(cluster.a, lease, 50)
    object_id = promised(cluster, 50)
    cluster.say(m.LeaseReleased(1, lease))
    left = drain(cluster, cluster.a).value["left"]
    assert left == ["1 processes that others wait for"]
    cluster.wait(60.0)
    assert not is_told_to_end(cluster, cluster.a)
    assert (
        "yet to bring the value of task inner"
        in (cluster.ask(1, "explain", id=cluster.a).value["text"])
    )
    cluster.say(m.ObjectPublished(50, object_id, m.Blob(b"7"), [], []))
    cluster.wait(1.0)
    assert is_told_to_end(cluster, cluster.a)


def test_deadline_ends_the_node_with_what_is_left(cluster):
    cluster.create(b"x" * 16)
    cluster.actor_up(cluster.a, b"x" * 16, 50)
    drain(cluster, cluster.a, deadline_s=5.0)
    cluster.wait(4.0)
    assert not is_told_to_end(cluster, cluster.a)
    cluster.wait(2.0)
    assert is_told_to_end(cluster, cluster.a)


def test_unused_bundles_move_and_used_ones_when_they_are_free(cluster):
    cluster.group(b"g" * 18, [{"CPU": 1}, {"CPU": 1}])
    strategy = {"kind": "PLACEMENT_GROUP", "group_id": b"g" * 18, "bundle": 0}
    cluster.want(1, backlog=1, strategy=strategy)
    [(_, lease)] = cluster.starts()
    cluster.up(cluster.a, lease, 50)
    b = cluster.node("b", cpus=2)
    drain(cluster, cluster.a)
    nodes = [bundle.node.node_id for bundle in cluster.machine.groups.table[b"g" * 18].bundles]
    assert nodes == [cluster.a, b]
    cluster.say(m.LeaseReleased(1, lease))
    cluster.wait(1.0)
    nodes = [bundle.node.node_id for bundle in cluster.machine.groups.table[b"g" * 18].bundles]
    assert nodes == [b, b]
    assert is_told_to_end(cluster, cluster.a)


def test_objects_that_no_other_node_keeps_are_fetched_by_one(cluster):
    b = cluster.node("b", cpus=2)
    ids = [next(cluster.objects()) for _ in range(40)]
    for i in ids:
        cluster.say(m.ObjectStored(cluster.a, i, 1000, [], [m.Hold(i, 1, 1)]))
    cluster.say(m.ObjectStored(b, ids[0], 1000, [], [], is_copy=True))  # it may be evicted
    drain(cluster, cluster.a)
    asked, done = list(cluster.sent), set()
    while asked:
        command = asked.pop()
        if isinstance(command.message, m.KeepObject):
            object_id, node = command.message.object_id, command.node_id
            assert node != cluster.a
            done.add(object_id)
            assert len(cluster.machine.drains.table[cluster.a].fetches) <= 16
            asked += cluster.say(
                m.ObjectStored(node, object_id, 1000, [], [], is_copy=True),
                m.ObjectKept(node, object_id),
            )
    assert done == set(ids)
    cluster.wait(1.0)
    assert is_told_to_end(cluster, cluster.a)


def test_fetch_that_takes_too_long_is_asked_of_another(cluster):
    b, c = cluster.node("b"), cluster.node("c")
    object_id = next(cluster.objects())
    cluster.say(m.ObjectStored(cluster.a, object_id, 1000, [], [m.Hold(object_id, 1, 1)]))
    drain(cluster, cluster.a)
    asked = [s.node_id for s in cluster.sent if isinstance(s.message, m.KeepObject)]
    cluster.wait(15.0)
    asked += [s.node_id for s in cluster.sent if isinstance(s.message, m.KeepObject)]
    assert len(asked) == 2
    assert len({*asked}) == 2, (b, c)


def test_head_and_unknown_nodes_are_not_drained(cluster):
    assert "has the scheduler" in drain(cluster, cluster.head).value
    assert drain(cluster, b"?" * 28).error == "ValueError"


def test_driver_on_the_node_is_waited_for(cluster):
    cluster.process(2, cluster.a)
    assert drain(cluster, cluster.a).value == {"left": ["1 drivers"]}
    cluster.wait(5.0)
    assert not is_told_to_end(cluster, cluster.a)
    cluster.dies(2)
    cluster.wait(1.0)
    assert is_told_to_end(cluster, cluster.a)


def test_labels_and_size_do_not_matter_while_a_node_drains(cluster):
    drain(cluster, cluster.a, deadline_s=100.0)
    cluster.want(1, backlog=1, strategy={"kind": "NODE_AFFINITY", "node_id": cluster.a})
    assert cluster.one(m.LeaseRefused).error == "TaskUnschedulableError"
    assert "being drained" in cluster.one(m.LeaseRefused).detail
    assert cluster.free(cluster.a) == {"CPU": 2}


def test_actor_that_could_run_nowhere_else_is_waited_for(cluster):
    strategy = {"kind": "NODE_AFFINITY", "node_id": cluster.a}
    cluster.create(b"x" * 16, max_restarts=-1, strategy=strategy)
    cluster.actor_up(cluster.a, b"x" * 16, 50)
    cluster.node("b", cpus=2)
    assert drain(cluster, cluster.a).value == {"left": ["1 actors"]}
    assert not cluster.told(m.StopActor)


def test_bundles_that_must_lie_together_move_together(cluster):
    cluster.group(b"g" * 18, [{"CPU": 1}, {"CPU": 1}], strategy="STRICT_PACK")
    strategy = {"kind": "PLACEMENT_GROUP", "group_id": b"g" * 18, "bundle": 0}
    cluster.want(1, backlog=1, strategy=strategy)
    [(_, lease)] = cluster.starts()
    cluster.up(cluster.a, lease, 50)
    b = cluster.node("b", cpus=2)
    drain(cluster, cluster.a)
    assert cluster.machine.groups.table[b"g" * 18].state == "CREATED"
    cluster.say(m.LeaseReleased(1, lease))
    cluster.wait(1.0)
    bundles = cluster.machine.groups.table[b"g" * 18].bundles
    assert [bundle.node.node_id for bundle in bundles] == [b, b]
