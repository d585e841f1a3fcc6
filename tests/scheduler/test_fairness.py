"""Who is next: fair between jobs, by priority within one, and nobody waits for ever."""

import pytest
from simulation.cluster import CPU, Cluster

from ract.core import messages as m

JOB_1, JOB_2 = b"\0\0\0\1", b"\0\0\0\2"


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=4)
    cluster.process(1, cluster.a)
    cluster.executors = iter(range(100, 10_000))
    return cluster


def want(cluster, process, backlog, key=1, job=JOB_1, priority=0, near=b"", **demand):
    demand = {name: int(n * CPU) for name, n in (demand or {"CPU": 1}).items()}
    shape = m.Shape(demand, job)
    held = cluster.held(process, key)
    cluster.say(m.LeasesWanted(process, key, shape, backlog, ["f"], priority, near, held))


def start_all(cluster):
    """Bring up what the newest commands start; returns (process, lease) of the grants."""
    granted = []
    for node, lease in cluster.starts():
        cluster.up(node, lease, next(cluster.executors))
        granted += [(told.process, told.lease) for told in cluster.told(m.LeaseGranted)]
    return granted


def test_job_with_many_processes_gets_no_more_than_one_with_one(cluster):
    for process in range(2, 6):
        cluster.process(process, cluster.a, "executor")
    held = []

    def state(process):
        job, key = (JOB_2, 9) if process == 5 else (JOB_1, 1)
        want(cluster, process, 10, key=key, job=job)
        held.extend(start_all(cluster))

    for process in (2, 3, 4, 5):
        state(process)
    counts = {JOB_1: 0, JOB_2: 0}
    for _ in range(60):
        process, lease = held.pop(0)
        counts[JOB_2 if process == 5 else JOB_1] += 1
        cluster.say(m.LeaseReleased(process, lease))
        held.extend(start_all(cluster))
        state(process)
    assert abs(counts[JOB_1] - counts[JOB_2]) <= 6, counts


def test_within_a_job_the_higher_priority_is_first(cluster):
    for process in (2, 3, 4):
        cluster.process(process, cluster.a, "executor")
    want(cluster, 1, 4)
    held = start_all(cluster)
    want(cluster, 2, 1, priority=1)
    want(cluster, 3, 1, priority=5)
    want(cluster, 4, 1, priority=-1)
    order = []
    for process, lease in held[:3]:
        cluster.say(m.LeaseReleased(process, lease))
        order += [process for process, _ in start_all(cluster)]
    assert order == [3, 2, 4]


def test_priority_may_change_while_it_waits(cluster):
    for process in (2, 3):
        cluster.process(process, cluster.a, "executor")
    want(cluster, 1, 4)
    [(process, lease), *_] = start_all(cluster)
    want(cluster, 2, 1, priority=1)
    want(cluster, 3, 1)
    want(cluster, 3, 1, priority=2)
    cluster.say(m.LeaseReleased(process, lease))
    assert [process for process, _ in start_all(cluster)] == [3]


def test_task_goes_where_its_data_is_while_there_is_room(cluster):
    b = cluster.node("b", cpus=2)
    want(cluster, 1, 3, near=b)
    assert [node for node, _ in cluster.starts()] == [b, b, cluster.a]


def test_large_demand_is_placed_among_small_ones(cluster):
    cluster.process(2, cluster.a)
    want(cluster, 2, 1, key=2, job=JOB_2, CPU=4)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, next(cluster.executors))
    want(cluster, 1, 1000)
    cluster.say(m.LeaseReleased(2, lease))
    held = start_all(cluster)
    assert len(held) == 4
    want(cluster, 2, 1, key=2, job=JOB_2, CPU=4)
    assert not cluster.starts()
    waited = 0.0
    while not any(process == 2 for process, _ in held):
        assert waited < 10, "a small task would starve the large one for ever"
        cluster.wait(0.05)
        waited += 0.05
        process, lease = held.pop(0)
        cluster.say(m.LeaseReleased(process, lease))
        held += start_all(cluster)
        want(cluster, 1, 1000)
        held += start_all(cluster)
    assert waited >= cluster.machine.turn.settings.starve_s


def test_large_actor_is_placed_among_small_tasks(cluster):
    want(cluster, 1, 1000)
    held = start_all(cluster)
    cluster.create(b"x" * 16, placement_demand={"CPU": 4 * CPU})
    for _ in range(200):
        if cluster.machine.actors.table[b"x" * 16].body is not None:
            break
        cluster.wait(0.05)
        if held:
            process, lease = held.pop(0)
            cluster.say(m.LeaseReleased(process, lease))
            held += start_all(cluster)
            want(cluster, 1, 1000)
            held += start_all(cluster)
    assert cluster.machine.actors.table[b"x" * 16].body is not None


def test_claim_keeps_one_node_and_only_what_is_needed(cluster):
    b = cluster.node("b", cpus=4)
    cluster.process(2, cluster.a)
    want(cluster, 1, 1000)
    start_all(cluster)
    want(cluster, 2, 1, key=2, CPU=4)
    cluster.wait(3.0)
    claimed = [node.node_id for node in cluster.machine.nodes.alive if node.claim is not None]
    assert len(claimed) == 1
    recalled = {told.lease for told in cluster.told(m.LeaseRecalled)}
    leases = cluster.machine.leases.table
    assert {leases[each].node.node_id for each in recalled} <= set(claimed)
    want(cluster, 2, 9, key=3, slots=0)
    assert {node for node, _ in cluster.starts()} <= {cluster.a, b}
    assert cluster.starts(), "who needs no CPU is not held up"


def test_claim_ends_and_pauses_if_nothing_comes_of_it(cluster):
    cluster.process(2, cluster.a)
    want(cluster, 1, 1000)
    start_all(cluster)
    want(cluster, 2, 1, key=2, CPU=4)
    settings = cluster.machine.turn.settings
    cluster.wait(settings.starve_s + 0.1)
    assert cluster.machine.ageing.claims
    cluster.wait(settings.claim_s)
    assert not cluster.machine.ageing.claims
    cluster.wait(settings.claim_s + 0.2)
    assert cluster.machine.ageing.claims


def test_what_actors_hold_is_not_claimed(cluster):
    cluster.create(b"x" * 16, running_demand={"CPU": CPU})
    want(cluster, 1, 1000)
    start_all(cluster)
    cluster.process(2, cluster.a)
    want(cluster, 2, 1, key=2, CPU=4)
    cluster.wait(10.0)
    assert not cluster.machine.ageing.claims


def test_claim_ends_with_who_waited(cluster):
    cluster.process(2, cluster.a)
    want(cluster, 1, 1000)
    start_all(cluster)
    want(cluster, 2, 1, key=2, CPU=4)
    cluster.wait(3.0)
    assert cluster.machine.ageing.claims
    want(cluster, 2, 0, key=2, CPU=4)
    assert not cluster.machine.ageing.claims
