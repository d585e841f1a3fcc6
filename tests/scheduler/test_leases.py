"""Leases: who gets executors, where, and when they are over."""

import pytest
from simulation.cluster import CPU, Cluster

from ract.core import messages as m


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=2)
    cluster.process(1, cluster.a)
    return cluster


def test_lease_is_granted_once_its_executor_is_up(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    assert node == cluster.a
    assert not cluster.told(m.LeaseGranted)
    cluster.up(node, lease, 50)
    granted = cluster.one(m.LeaseGranted, cluster.a)
    assert (granted.process, granted.shape_key, granted.executor) == (1, 1, 50)
    assert granted.address == "/e50"


def test_no_more_leases_than_backlog(cluster):
    cluster.want(1, backlog=1)
    assert len(cluster.starts()) == 1
    cluster.want(1, backlog=1)  # stated again before the answer: still one task
    assert cluster.starts() == []


def test_lease_on_its_way_counts_for_a_backlog_that_was_stated_before_it_came(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)  # granted, but not heard of when the next is sent
    shape = m.Shape({"CPU": CPU}, b"\0\0\0\1", "", {}, {})
    cluster.say(m.LeasesWanted(1, 1, shape, 2, ["f"], held=0))
    assert len(cluster.starts()) == 1
    cluster.want(1, backlog=2)  # it has come, and two more wait
    assert len(cluster.starts()) == 0, "there are but two CPUs"
    cluster.node("b", cpus=2)
    assert len(cluster.starts()) == 1


def test_no_more_leases_than_resources(cluster):
    cluster.want(1, backlog=100)
    assert len(cluster.starts()) == 2
    assert cluster.free(cluster.a)["CPU"] == 0


def test_released_lease_is_over_and_the_next_waiting_one_starts(cluster):
    cluster.want(1, backlog=3)
    first, second = [lease for _, lease in cluster.starts()]
    cluster.up(cluster.a, first, 50)
    cluster.up(cluster.a, second, 51)
    cluster.say(m.LeaseReleased(1, first))
    ended = cluster.one(m.EndLease)
    assert (ended.lease, ended.kill) == (first, False)
    assert len(cluster.starts()) == 1


def test_lease_that_nobody_wants_any_more_ends_when_it_is_up(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.want(1, backlog=0)
    assert not cluster.told(m.EndLease), "it is not withdrawn while its node starts it"
    cluster.up(node, lease, 50)
    assert not cluster.told(m.LeaseGranted)
    assert cluster.one(m.EndLease).kill is False
    assert cluster.free(cluster.a)["CPU"] == 2


def test_lease_for_a_dead_requester_ends_when_it_is_up(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.dies(1)
    cluster.up(node, lease, 50)
    assert cluster.one(m.EndLease).lease == lease
    assert cluster.free(cluster.a)["CPU"] == 2


def test_death_of_the_requester_kills_its_executors_and_frees_cpus_when_they_are_gone(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.dies(1)
    assert cluster.one(m.EndLease).kill is True
    assert cluster.free(cluster.a)["CPU"] == 1
    cluster.dies(50, "killed")
    assert cluster.free(cluster.a)["CPU"] == 2


def test_death_of_an_executor_loses_its_lease_and_gives_its_resources_back(cluster):
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.say(m.ProcessExited(node, 50, m.ExitCause("crashed", signal=11)))
    lost = cluster.one(m.LeaseLost)
    assert (lost.process, lost.lease, lost.cause.signal) == (1, lease, 11)
    assert cluster.free(cluster.a)["CPU"] == 2


def test_failed_executor_start_refuses_the_shape(cluster):
    cluster.want(1, backlog=5)
    (node, lease), _ = cluster.starts()
    cluster.say(m.LeaseFailed(node, lease, "RuntimeEnvSetupError", "no such package"))
    refused = cluster.one(m.LeaseRefused)
    assert (refused.error, refused.detail) == ("RuntimeEnvSetupError", "no such package")
    assert cluster.starts() == []


def test_processes_take_turns(cluster):
    cluster.process(2, cluster.a)
    for process in (1, 2):
        cluster.want(process, backlog=50, cpus=2)
    order = []
    lease = 1
    for executor in range(50, 54):
        cluster.up(cluster.a, lease, executor)
        order.append(cluster.one(m.LeaseGranted).process)
        cluster.say(m.LeaseReleased(order[-1], lease))
        [(_, lease)] = cluster.starts()
    assert order == [1, 1, 2, 1]  # the first one came alone


def test_blocked_executor_lends_its_cpus_and_nothing_else():
    cluster = Cluster()
    node = cluster.node("a", cpus=1, GPU=1)
    cluster.process(1, node)
    cluster.want(1, backlog=1, GPU=1)
    [(_, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.say(m.Blocked(50))
    assert cluster.free(node) == {"CPU": 1, "GPU": 0}
    cluster.want(50, backlog=1)
    assert len(cluster.starts()) == 1
    cluster.say(m.Unblocked(50))
    assert cluster.free(node)["CPU"] == -1


def test_executor_that_resumes_on_a_full_node_gets_no_further_tasks():
    cluster = Cluster()
    node = cluster.node("a", cpus=1)
    cluster.process(1, node)
    cluster.want(1, backlog=1)
    [(_, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.say(m.Blocked(50))
    cluster.want(50, backlog=1)
    cluster.say(m.Unblocked(50))
    assert cluster.one(m.LeaseRecalled).lease == lease


def test_lease_is_recalled_for_a_process_that_has_none(cluster):
    cluster.want(1, backlog=10)
    for executor, (node, lease) in enumerate(cluster.starts(), 50):
        cluster.up(node, lease, executor)
    cluster.process(2, cluster.a)
    cluster.now = 1.0
    cluster.want(2, backlog=1, key=7)
    recalled = cluster.one(m.LeaseRecalled)
    assert recalled.process == 1
    cluster.wait(1.0)
    assert not cluster.told(m.LeaseRecalled), "one at a time"
    cluster.say(m.LeaseReleased(1, recalled.lease))
    assert cluster.one(m.StartLease).requester == 2


def test_young_lease_is_recalled_only_after_its_quantum(cluster):
    cluster.want(1, backlog=10)
    for executor, (node, lease) in enumerate(cluster.starts(), 50):
        cluster.up(node, lease, executor)
    cluster.process(2, cluster.a)
    cluster.want(2, backlog=1)
    assert not cluster.told(m.LeaseRecalled)
    cluster.wait(0.2)
    assert cluster.one(m.LeaseRecalled).process == 1


def test_infeasible_demand_waits_and_is_reported_once_until_a_node_joins(cluster):
    cluster.want(1, backlog=1, GPU=2)
    pushed = cluster.one(m.Pushed)
    assert pushed.kind == "error"
    assert pushed.data["type"] == "infeasible"
    assert "GPU: 2 asked, 0 there" in pushed.data["message"]
    cluster.want(1, backlog=2, GPU=2)
    assert not cluster.told(m.Pushed)
    cluster.node("g", cpus=2, GPU=4)
    starts = cluster.told(m.StartLease)
    assert [start.assigned for start in starts] == [{"GPU": [0, 1]}, {"GPU": [2, 3]}]


def test_hard_affinity_to_an_unknown_node_is_refused(cluster):
    strategy = {"kind": "NODE_AFFINITY", "node_id": (b"z" * 28).hex(), "soft": False}
    cluster.want(1, backlog=1, strategy=strategy)
    assert cluster.one(m.LeaseRefused).error == "TaskUnschedulableError"


def test_hard_affinity_is_refused_when_its_node_dies(cluster):
    b = cluster.node("b", cpus=1)
    strategy = {"kind": "NODE_AFFINITY", "node_id": b.hex(), "soft": False}
    cluster.want(1, backlog=2, strategy=strategy)
    assert [node for node, _ in cluster.starts()] == [b]
    cluster.lose(b)
    assert cluster.one(m.LeaseRefused).error == "TaskUnschedulableError"


def test_unknown_strategy_is_refused(cluster):
    cluster.want(1, backlog=1, strategy={"kind": "ASTROLOGY"})
    assert cluster.one(m.LeaseRefused).error == "ValueError"


def test_lost_node_loses_its_leases_and_starting_ones_start_elsewhere(cluster):
    b = cluster.node("b", cpus=2)
    cluster.want(1, backlog=4)
    on_b = [lease for node, lease in cluster.starts() if node == b]
    cluster.up(b, on_b[0], 50)
    cluster.lose(b)
    assert cluster.one(m.LeaseLost).lease == on_b[0]
    assert cluster.starts() == []
    c = cluster.node("c", cpus=4)
    assert [node for node, _ in cluster.starts()] == [c]


def test_late_answers_are_dropped_and_counted(cluster):
    cluster.process(50, cluster.a, "executor")
    cluster.say(m.LeaseStarted(cluster.a, 99, 50, "/e", 1), m.LeaseReleased(1, 99))
    assert cluster.sent == []
    assert sum(cluster.machine.turn.dropped.values()) == 2


def test_demand_without_cpus_does_not_fork_without_limit(cluster):
    cluster.want(1, backlog=1000, cpus=0)
    assert len(cluster.starts()) == 4
    _, lease = cluster.starts()[0]
    cluster.up(cluster.a, lease, 50)
    assert len(cluster.starts()) == 1


def test_quantities_are_exact():
    cluster = Cluster()
    node = cluster.node("a", cpus=1)
    cluster.process(1, node)
    cluster.want(1, backlog=20, cpus=0.1)
    assert len(cluster.starts()) == 10
    assert cluster.machine.nodes.table[node].ledger.free["CPU"] == 0
    assert CPU == 10_000


@pytest.mark.parametrize(("was_killed", "most"), [(False, 5), (True, 100)])
def test_executor_that_dies_while_it_starts_is_replaced_but_not_for_ever(cluster, was_killed, most):
    cluster.want(1, backlog=1)
    for _ in range(most - 1):
        [(node, lease)] = cluster.starts()
        cluster.say(m.LeaseFailed(node, lease, "WorkerCrashedError", "killed", was_killed))
        assert not cluster.told(m.LeaseRefused)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.say(m.LeaseReleased(1, lease))
    cluster.want(1, backlog=1)
    for _ in range(most):
        [(node, lease)] = cluster.starts()
        cluster.say(m.LeaseFailed(node, lease, "WorkerCrashedError", "killed", was_killed))
    assert cluster.one(m.LeaseRefused).detail == "killed"
