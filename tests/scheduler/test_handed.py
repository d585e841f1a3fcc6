"""Holds that came with results which never arrived are taken back."""

import pytest
from simulation.cluster import Cluster

from ract.core import messages as m
from ract.core.ids import COUNTER_BITS, object_id_bytes, task_id_bytes
from ract.scheduler.objects.handed import ENTRIES_MAX

JOB = b"\0\0\0\1"
DRIVER, EXECUTOR = 1, 2


def result(call, index=1):
    return object_id_bytes(task_id_bytes(call, JOB, b""), index)


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a")
    cluster.process(DRIVER, cluster.a)
    cluster.process(EXECUTOR, cluster.a, "executor")
    return cluster


def store(cluster, object_id, maker=EXECUTOR):
    holds = [m.Hold(object_id, DRIVER, 1)]
    cluster.say(m.ObjectStored(cluster.a, object_id, 100, [], holds, maker=maker))


def dies(cluster):
    cluster.say(m.ProcessExited(cluster.a, EXECUTOR, m.ExitCause("crashed")))


def known(cluster):
    return set(cluster.machine.objects.table)


CALL = DRIVER << COUNTER_BITS | 7


def test_result_of_a_lost_call_goes(cluster):
    store(cluster, result(CALL))
    store(cluster, result(CALL + 1))
    dies(cluster)
    assert known(cluster) == {result(CALL), result(CALL + 1)}  # the replies may have arrived
    cluster.say(m.CallsLost(DRIVER, EXECUTOR, [[CALL, 0]]))
    assert known(cluster) == {result(CALL + 1)}
    cluster.say(m.CallsLost(DRIVER, EXECUTOR, [[CALL, 0]]))  # once
    assert known(cluster) == {result(CALL + 1)}
    assert DRIVER not in cluster.machine.holds.by_id.get(result(CALL), {})


def test_refs_in_a_result_of_a_lost_call_are_let_go(cluster):
    inner = result(CALL + 5)
    cluster.say(m.ObjectPublished(DRIVER, inner, m.Blob(b"v"), [], [m.Hold(inner, DRIVER, 1)]))
    cluster.say(m.HoldsChanged(EXECUTOR, [m.Hold(inner, DRIVER, 1)], CALL, 1))
    dies(cluster)
    cluster.say(m.CallsLost(DRIVER, EXECUTOR, [[CALL, 0]]))
    assert cluster.machine.holds.by_id[inner] == {DRIVER: 1}


def test_items_that_have_arrived_stay(cluster):
    items = [result(CALL, index) for index in range(2, 6)]
    for item in items:
        store(cluster, item)
    dies(cluster)
    cluster.say(m.CallsLost(DRIVER, EXECUTOR, [[CALL, 4]]))
    assert known(cluster) == set(items[:2])


def test_the_next_attempt_keeps_what_it_has_made(cluster):
    cluster.process(3, cluster.a, "executor")
    store(cluster, result(CALL))
    dies(cluster)
    store(cluster, result(CALL), maker=3)
    cluster.say(m.CallsLost(DRIVER, EXECUTOR, [[CALL, 0]]))
    assert cluster.machine.holds.by_id[result(CALL)] == {DRIVER: 1}


def test_what_others_were_given_is_theirs(cluster):
    cluster.process(4, cluster.a)
    store(cluster, result(CALL))
    cluster.say(m.CallsLost(4, EXECUTOR, [[CALL, 0]]))
    assert known(cluster) == {result(CALL)}


def test_what_is_remembered_is_bounded(cluster):
    for n in range(ENTRIES_MAX + 10):
        store(cluster, result(CALL + n))
    [entries] = cluster.machine.handed.by_giver.values()
    assert len(entries) == ENTRIES_MAX
