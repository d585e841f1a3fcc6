"""What drivers are told without having asked, apart from what can never be placed."""

import pytest
from simulation.cluster import Cluster

from ract.core import messages as m

A = b"A" * 16


@pytest.fixture
def cluster():
    made = Cluster()
    made.a = made.node("a")
    made.process(1, made.a)
    return made


def news(cluster):
    return [(p.process, p.data["type"]) for p in cluster.told(m.Pushed) if p.kind == "error"]


def test_a_driver_hears_that_an_executor_crashed_at_its_work(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.dies(50)
    pushed = cluster.one(m.Pushed)
    assert (pushed.process, pushed.data["type"]) == (1, "worker_died")
    assert "has died while it ran a task" in pushed.data["message"]


def test_a_driver_hears_once_that_an_actor_crashed(cluster):
    cluster.create(A)
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.ActorExited(cluster.a, A, 1, m.ExitCause("crashed")))
    assert news(cluster) == [(1, "worker_died")]
    cluster.dies(60)
    assert news(cluster) == []


@pytest.mark.parametrize("kind", ["killed", "exited", "idle", "out_of_memory"])
def test_other_ends_of_executors_are_no_crash(cluster, kind):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.dies(50, kind)
    assert news(cluster) == []


def test_every_driver_hears_that_a_node_is_lost(cluster):
    b = cluster.node("b")
    cluster.process(2, cluster.a)
    cluster.process(3, b)
    cluster.lose(b)
    assert news(cluster) == [(1, "node_removed"), (2, "node_removed")]


def test_a_warning_of_an_executor_reaches_the_driver_of_its_job(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.say(m.Warned(50, "pickling_large_object", "f is large"))
    pushed = cluster.one(m.Pushed)
    assert pushed.data == {"type": "pickling_large_object", "message": "f is large"}
    assert pushed.process == 1
