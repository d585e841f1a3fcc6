"""Processes that serve nobody any more and stay for what they have promised."""

import pytest
from simulation.cluster import Cluster

from ract.core import messages as m
from ract.core.messages import Contained, ExitCause, Hold
from ract.scheduler.queries import rows


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=1)
    cluster.process(1, cluster.a)
    cluster.want(1, backlog=1)
    [(_, lease)] = cluster.starts()
    cluster.up(cluster.a, lease, 50)
    cluster.lease = lease
    return cluster


def promised(cluster, holder=1):
    """Executor 50 promises a value; somebody else holds the ref, or nobody."""
    object_id = next(cluster.objects())
    cluster.say(m.ObjectPublished(50, object_id, None, [], [Hold(object_id, 50, 1)]))
    if holder:
        cluster.say(m.HoldsChanged(50, [Hold(object_id, holder, 1)]))
    return object_id


def leave(cluster):
    cluster.say(m.ProcessLeaving(50, ExitCause("max_calls")))


def test_what_its_lease_had_in_use_is_free_at_once(cluster):
    assert cluster.free(cluster.a)["CPU"] == 0
    leave(cluster)
    assert cluster.free(cluster.a)["CPU"] == 1
    lost = cluster.one(m.LeaseLost)
    assert (lost.process, lost.lease, lost.cause.kind) == (1, cluster.lease, "max_calls")


def test_its_promises_stand_until_it_is_gone(cluster):
    object_id = promised(cluster)
    leave(cluster)
    assert cluster.machine.objects.table[object_id].state == "PENDING"
    cluster.dies(50, "max_calls")
    assert cluster.machine.objects.table[object_id].state == "LOST"


def test_it_hears_which_promises_others_wait_for(cluster):
    wanted, dropped = promised(cluster), promised(cluster, holder=0)
    assert cluster.ask(50, "owed").value == [wanted]
    cluster.say(m.HoldsChanged(1, [Hold(wanted, 1, -1)]))
    assert cluster.ask(50, "owed").value == []
    assert dropped in cluster.machine.objects.table


def test_a_promise_inside_another_object_is_waited_for(cluster):
    inner, outer = promised(cluster, holder=0), next(cluster.objects())
    inside = [Contained(inner)]
    cluster.say(m.ObjectPublished(50, outer, m.Blob(b"x"), inside, [Hold(outer, 1, 1)]))
    assert cluster.ask(50, "owed").value == [inner]


def test_a_node_is_not_drained_while_a_process_owes(cluster):
    head = cluster.node("h", cpus=0)
    cluster.process(2, head)
    object_id = promised(cluster, holder=2)
    leave(cluster)
    cluster.dies(1)
    reply = cluster.ask(2, "drain_node", node_id=cluster.a.hex())
    assert reply.value == {"left": ["1 processes that others wait for"]}
    cluster.wait(5.0)
    assert not cluster.told(m.EndNode)
    cluster.say(m.ObjectPublished(50, object_id, m.Blob(b"value"), [], []))
    cluster.wait(1.0)
    assert cluster.told(m.EndNode, cluster.a)


def test_people_see_why_it_stays(cluster):
    object_id = promised(cluster)
    leave(cluster)
    row = rows.worker(cluster.machine.cluster, cluster.machine.processes.alive[50])
    assert row["is_alive"]
    assert "leaving" in row["exit_detail"]
    told = cluster.ask(1, "explain", id=object_id.hex()).value
    assert "runs nothing else any more" in told["text"]
