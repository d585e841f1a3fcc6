"""The directory: values, holders, containers, seekers, loss."""

import pytest
from simulation.cluster import Cluster

from ract.core import messages as m
from ract.core.ids import COUNTER_BITS
from ract.scheduler.books.turn import AllBack, Restarted


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a, cluster.b = cluster.node("a"), cluster.node("b")
    cluster.process(1, cluster.a)
    cluster.process(2, cluster.b)
    cluster.x, cluster.y = (id_ for id_, _ in zip(cluster.objects(), range(2), strict=False))
    return cluster


def publish(cluster, object_id, value=b"v", contains=(), holders=(1,)):
    blob = None if value is None else m.Blob(value)
    holds = [m.Hold(object_id, process, 1) for process in holders]
    inner = [m.Contained(each) for each in contains]
    cluster.say(m.ObjectPublished(1, object_id, blob, inner, holds))


def store(cluster, node, object_id, holders=(1,), is_copy=False):
    holds = [m.Hold(object_id, process, 1) for process in holders]
    cluster.say(m.ObjectStored(node, object_id, 100, [], holds, is_copy))


def drop(cluster, object_id, process=1):
    cluster.say(m.HoldsChanged(process, [m.Hold(object_id, process, -1)]))


def known(cluster):
    return set(cluster.machine.objects.table)


def test_inline_value_is_sent_to_who_seeks_it(cluster):
    publish(cluster, cluster.x, b"hello")
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    located = cluster.one(m.ObjectLocated, cluster.b)
    assert (located.blob.head, located.is_error) == (b"hello", False)


def test_seeker_is_answered_when_the_value_comes(cluster):
    publish(cluster, cluster.x, None)
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    cluster.wait(60)
    assert cluster.sent == []
    publish(cluster, cluster.x, b"late", holders=())
    assert cluster.one(m.ObjectLocated, cluster.b).blob.head == b"late"


def test_stored_value_is_located_by_the_addresses_of_its_nodes(cluster):
    store(cluster, cluster.a, cluster.x)
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    located = cluster.one(m.ObjectLocated)
    assert (located.addresses, located.size) == (["tls://a:1"], 100)


def test_last_release_frees_every_copy(cluster):
    store(cluster, cluster.a, cluster.x)
    store(cluster, cluster.b, cluster.x, holders=(), is_copy=True)
    drop(cluster, cluster.x)
    assert len(cluster.told(m.FreeObject)) == 2
    assert known(cluster) == set()


def test_release_that_overtakes_its_hold_does_no_harm(cluster):
    publish(cluster, cluster.x)
    drop(cluster, cluster.x, process=2)  # 1 adds it below
    drop(cluster, cluster.x)
    assert known(cluster) == {cluster.x}, "a negative count waits for its hold"
    cluster.say(m.HoldsChanged(1, [m.Hold(cluster.x, 2, 1)]))
    assert known(cluster) == set()


def test_count_that_stays_negative_after_the_loss_of_a_node_is_dropped(cluster):
    lost_hold_s = cluster.machine.turn.settings.lost_hold_s
    cluster.lose(cluster.node("c"))  # with the hold of a result whose reply had arrived
    store(cluster, cluster.a, cluster.x)  # it was made again
    cluster.say(m.HoldsChanged(1, [m.Hold(cluster.x, 1, -2)]))
    cluster.wait(lost_hold_s)
    assert known(cluster) == {cluster.x}, "the hold may be on its way"
    cluster.wait(lost_hold_s)
    assert known(cluster) == set()
    assert cluster.told(m.FreeObject)
    assert cluster.machine.next_deadline() is None


def test_count_that_was_negative_for_a_while_counts_on(cluster):
    lost_hold_s = cluster.machine.turn.settings.lost_hold_s
    cluster.lose(cluster.node("c"))
    publish(cluster, cluster.x)
    drop(cluster, cluster.x, process=2)
    cluster.wait(lost_hold_s)
    cluster.say(m.HoldsChanged(1, [m.Hold(cluster.x, 2, 2)]))
    cluster.wait(3 * lost_hold_s)
    assert cluster.machine.holds.by_id[cluster.x] == {1: 1, 2: 1}


def test_without_the_loss_of_a_node_a_negative_count_waits_for_its_hold(cluster):
    publish(cluster, cluster.x)
    drop(cluster, cluster.x, process=2)
    cluster.wait(1000)
    assert cluster.machine.holds.by_id[cluster.x] == {1: 1, 2: -1}


def test_negative_count_waits_anew_when_messages_were_late(cluster):
    lost_hold_s = cluster.machine.turn.settings.lost_hold_s
    cluster.lose(cluster.node("c"))
    publish(cluster, cluster.x)
    drop(cluster, cluster.x, process=2)
    cluster.wait(lost_hold_s)
    cluster.say(Restarted(0.0))
    cluster.wait(1000)
    cluster.say(AllBack())
    cluster.wait(lost_hold_s / 2)
    assert cluster.machine.holds.by_id[cluster.x] == {1: 1, 2: -1}
    cluster.wait(2 * lost_hold_s)
    assert cluster.machine.holds.by_id[cluster.x] == {1: 1}


def test_holds_of_unknown_ids_are_kept_for_their_publication(cluster):
    cluster.say(m.HoldsChanged(2, [m.Hold(cluster.x, 2, 1)]))
    publish(cluster, cluster.x, holders=())
    assert known(cluster) == {cluster.x}


def test_object_outlives_its_creator_while_somebody_holds_it(cluster):
    publish(cluster, cluster.x, holders=(1, 2))
    cluster.dies(1)
    assert known(cluster) == {cluster.x}
    cluster.dies(2)
    assert known(cluster) == set()


def test_hold_for_a_dead_process_is_ignored(cluster):
    publish(cluster, cluster.x)
    cluster.dies(2)
    cluster.say(m.HoldsChanged(1, [m.Hold(cluster.x, 2, 1)]))
    drop(cluster, cluster.x)
    assert known(cluster) == set()


def test_container_keeps_what_it_contains(cluster):
    publish(cluster, cluster.x)
    publish(cluster, cluster.y, contains=[cluster.x])
    drop(cluster, cluster.x)
    assert known(cluster) == {cluster.x, cluster.y}
    drop(cluster, cluster.y)
    assert known(cluster) == set()


def test_freed_container_lets_go_of_what_it_contained(cluster):
    publish(cluster, cluster.x)
    publish(cluster, cluster.y, contains=[cluster.x])
    drop(cluster, cluster.x)
    cluster.say(m.ObjectsFreed(1, [cluster.y]))
    assert known(cluster) == {cluster.y}


def test_freed_value_is_gone_for_seekers_though_refs_remain(cluster):
    store(cluster, cluster.a, cluster.x)
    cluster.say(m.ObjectsFreed(1, [cluster.x]))
    assert cluster.one(m.FreeObject, cluster.a).object_id == cluster.x
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    located = cluster.one(m.ObjectLocated)
    assert located.is_error
    assert located.blob.head.startswith(b"freed:")


def test_second_publication_does_not_replace_the_value(cluster):
    publish(cluster, cluster.x, b"first")
    publish(cluster, cluster.x, b"second", holders=())
    publish(cluster, cluster.x, None, holders=())
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    assert cluster.one(m.ObjectLocated).blob.head == b"first"


def test_unknown_object_is_waited_for_and_then_lost(cluster):
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    cluster.wait(1)
    assert cluster.sent == []
    cluster.wait(2)
    located = cluster.one(m.ObjectLocated)
    assert (located.blob.head, located.is_error) == (b"lost:unknown object", True)
    assert known(cluster) == set()


def test_publication_that_was_overtaken_answers_the_seeker(cluster):
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    publish(cluster, cluster.x)
    assert cluster.one(m.ObjectLocated).is_error is False
    assert cluster.machine.next_deadline() is None


def test_promise_of_a_dead_process_is_lost(cluster):
    publish(cluster, cluster.x, None, holders=(1, 2))
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    cluster.dies(1)
    assert cluster.one(m.ObjectLocated).blob.head.startswith(b"owner_died:")


def test_copy_elsewhere_survives_its_node_and_the_last_one_is_lost(cluster):
    store(cluster, cluster.a, cluster.x, holders=(2,))
    store(cluster, cluster.b, cluster.x, holders=(), is_copy=True)
    cluster.lose(cluster.a)
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    assert cluster.one(m.ObjectLocated).node_ids == [cluster.b]


def test_object_whose_last_copy_died_is_lost_until_it_is_made_again(cluster):
    store(cluster, cluster.a, cluster.x, holders=(2,))
    cluster.lose(cluster.a)
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    assert cluster.one(m.ObjectLocated).blob.head.startswith(b"lost:node")
    cluster.say(m.ObjectPublished(2, cluster.x, None, [], []))
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    assert cluster.sent == []
    store(cluster, cluster.b, cluster.x, holders=())
    assert cluster.one(m.ObjectLocated).node_ids == [cluster.b]


def test_copy_whose_source_died_before_it_was_reported_revives_the_object(cluster):
    store(cluster, cluster.a, cluster.x, holders=(2,))
    cluster.lose(cluster.a)
    store(cluster, cluster.b, cluster.x, holders=(), is_copy=True)
    cluster.say(m.ObjectSought(cluster.b, cluster.x))
    assert cluster.one(m.ObjectLocated).node_ids == [cluster.b]


def test_missing_copy_leads_to_another_one_or_to_loss(cluster):
    c = cluster.node("c")
    store(cluster, cluster.a, cluster.x)
    store(cluster, cluster.b, cluster.x, holders=(), is_copy=True)
    cluster.say(m.ObjectMissing(c, cluster.x, cluster.a))
    assert cluster.one(m.ObjectLocated, c).node_ids == [cluster.b]
    cluster.say(m.ObjectMissing(c, cluster.x, cluster.b))
    assert cluster.one(m.ObjectLocated, c).blob.head.startswith(b"lost:")


def test_copy_of_an_object_that_is_gone_is_freed(cluster):
    store(cluster, cluster.b, cluster.x, holders=(), is_copy=True)
    assert cluster.one(m.FreeObject, cluster.b).object_id == cluster.x


# --------------------------------------------------------------------------- making it again


def made_by(process, n=1):
    return (process << COUNTER_BITS | n).to_bytes(8, "big") + bytes(20)


def test_who_made_a_lost_object_is_asked_to_make_it_again(cluster):
    object_id = made_by(2)
    store(cluster, cluster.a, object_id, holders=(2,))
    cluster.say(m.ObjectSought(cluster.b, object_id))
    cluster.lose(cluster.a)
    asked = cluster.one(m.ObjectLost, cluster.b)
    assert (asked.process, asked.object_id) == (2, object_id)
    assert "died" in asked.reason
    cluster.say(m.ObjectSought(cluster.b, object_id))
    cluster.wait(600)
    assert cluster.told(m.ObjectLocated) == []  # it is on its way
    store(cluster, cluster.b, object_id, holders=())
    assert cluster.one(m.ObjectLocated, cluster.b).node_ids == [cluster.b]


def say_where(cluster, object_id, node, process=2):
    """Its caller has read in the reply which node stores it, and holds it once more."""
    cluster.say(m.ObjectPublished(process, object_id, None, [], [], seen_on=node))


@pytest.mark.parametrize("dies_first", [True, False])
def test_promised_value_that_its_node_could_not_tell_of_is_made_again(cluster, dies_first):
    object_id = made_by(2)
    cluster.say(m.ObjectPublished(2, object_id, None, [], [m.Hold(object_id, 2, 1)]))
    cluster.say(m.ObjectSought(cluster.b, object_id))
    if dies_first:
        cluster.lose(cluster.a)
        say_where(cluster, object_id, cluster.a)
    else:
        say_where(cluster, object_id, cluster.a)
        assert cluster.sent == []
        cluster.lose(cluster.a)
    asked = cluster.one(m.ObjectLost, cluster.b)
    assert (asked.process, asked.object_id, asked.is_held) == (2, object_id, True)
    store(cluster, cluster.b, object_id, holders=(2,))
    assert cluster.one(m.ObjectLocated, cluster.b).node_ids == [cluster.b]
    for _ in range(3):  # as often as it was given: the node could not tell of the second
        drop(cluster, object_id, 2)
    assert known(cluster) == set()
    assert not cluster.machine.holds.by_id


@pytest.mark.parametrize("told_first", [True, False])
def test_what_the_node_has_told_is_not_made_again_for_what_its_caller_says(cluster, told_first):
    object_id = made_by(2)
    cluster.say(m.ObjectPublished(2, object_id, None, [], [m.Hold(object_id, 2, 1)]))
    if told_first:
        store(cluster, cluster.a, object_id, holders=(2,))
        say_where(cluster, object_id, cluster.a)
    else:
        say_where(cluster, object_id, cluster.a)
        store(cluster, cluster.a, object_id, holders=(2,))
    store(cluster, cluster.b, object_id, holders=(), is_copy=True)
    cluster.lose(cluster.a)
    assert not cluster.told(m.ObjectLost)
    for _ in range(2):
        drop(cluster, object_id, 2)
    assert known(cluster) == set()
    assert not cluster.machine.holds.by_id


def test_value_made_again_that_its_node_could_not_tell_of_is_made_once_more(cluster):
    object_id = made_by(2)
    cluster.process(3, cluster.b)
    cluster.c = cluster.node("c")
    store(cluster, cluster.a, object_id, holders=(3,))
    cluster.lose(cluster.a)
    assert cluster.one(m.ObjectLost, cluster.b).is_held is False
    say_where(cluster, object_id, cluster.c)
    cluster.lose(cluster.c)
    assert cluster.one(m.ObjectLost, cluster.b).is_held is True  # by the reply of the second run


def test_object_that_nobody_is_known_to_hold_is_waited_for_while_it_is_made_again(cluster):
    object_id = made_by(2)
    cluster.lose(cluster.a)
    cluster.say(m.ObjectSought(cluster.b, object_id, seen_on=cluster.a))
    assert cluster.one(m.ObjectLost, cluster.b).is_held is False
    assert cluster.wait(600) == []
    store(cluster, cluster.b, object_id, holders=(2,))
    assert cluster.one(m.ObjectLocated, cluster.b).node_ids == [cluster.b]


def test_object_that_cannot_be_made_again_is_lost_with_the_reason(cluster):
    object_id = made_by(2)
    store(cluster, cluster.a, object_id, holders=(2,))
    cluster.lose(cluster.a)
    cluster.say(m.ObjectUnrecoverable(2, object_id, "attempts", "it has been run 4 times"))
    cluster.say(m.ObjectSought(cluster.b, object_id))
    located = cluster.one(m.ObjectLocated, cluster.b)
    assert (located.blob.head, located.is_error) == (b"attempts:it has been run 4 times", True)


def test_unknown_kinds_of_reasons_are_not_believed(cluster):
    object_id = made_by(2)
    store(cluster, cluster.a, object_id, holders=(2,))
    cluster.lose(cluster.a)
    cluster.say(m.ObjectUnrecoverable(2, object_id, "\x80", "pickle"))
    cluster.say(m.ObjectUnrecoverable(2, cluster.x, "attempts", "never heard of"))
    assert cluster.machine.objects.table[object_id].state == "REBUILDING"


def test_object_is_lost_when_who_could_make_it_again_dies(cluster):
    object_id = made_by(2)
    cluster.process(3, cluster.b)
    store(cluster, cluster.a, object_id, holders=(3,))
    cluster.lose(cluster.a)
    cluster.say(m.ProcessExited(cluster.b, 2, m.ExitCause("crashed", "boom")))
    cluster.say(m.ObjectSought(cluster.b, object_id))
    assert cluster.one(m.ObjectLocated, cluster.b).blob.head.startswith(b"owner_died:")


def test_copy_that_is_found_meanwhile_ends_the_wait(cluster):
    object_id = made_by(2)
    store(cluster, cluster.a, object_id, holders=(2,))
    cluster.lose(cluster.a)
    store(cluster, cluster.b, object_id, holders=(), is_copy=True)
    cluster.say(m.ObjectSought(cluster.b, object_id))
    assert cluster.one(m.ObjectLocated, cluster.b).node_ids == [cluster.b]


def test_object_that_nobody_holds_is_not_made_again(cluster):
    object_id = made_by(2)
    store(cluster, cluster.a, object_id, holders=(2,))
    drop(cluster, object_id, 2)
    cluster.lose(cluster.a)
    assert cluster.told(m.ObjectLost) == []


def test_who_keeps_lineage_hears_when_nobody_needs_it(cluster):
    object_id, other = made_by(2), made_by(2, 2)
    store(cluster, cluster.a, object_id, holders=(1, 2))
    drop(cluster, object_id, 2)
    cluster.say(m.LineageKept(2, [object_id, other]))
    assert cluster.one(m.LineageOver, cluster.b).object_ids == [other]  # never heard of
    drop(cluster, object_id, 1)
    assert cluster.told(m.LineageOver)[-1].object_ids == [object_id]


def test_node_that_died_before_it_could_tell_of_an_object(cluster):
    object_id = made_by(2)
    cluster.say(m.ObjectSought(cluster.b, object_id, seen_on=cluster.a))
    cluster.wait(10)
    assert cluster.told(m.ObjectLocated) == []  # it may be slow
    cluster.lose(cluster.a)
    asked = cluster.one(m.ObjectLost, cluster.b)
    assert (asked.object_id, asked.is_held) == (object_id, False)
    store(cluster, cluster.b, object_id, holders=(2,))
    assert cluster.one(m.ObjectLocated, cluster.b).node_ids == [cluster.b]


def test_asked_for_after_the_death_of_its_node_it_is_made_again_at_once(cluster):
    object_id = made_by(2)
    cluster.lose(cluster.a)
    cluster.say(m.ObjectSought(cluster.b, object_id, seen_on=cluster.a))
    assert cluster.one(m.ObjectLost, cluster.b).object_id == object_id


def test_who_made_an_object_is_asked_what_became_of_it_before_it_counts_as_lost(cluster):
    object_id = made_by(2)
    cluster.say(m.ObjectSought(cluster.b, object_id))
    assert [sent.message for sent in cluster.wait(3)] == [m.ObjectUntold(2, object_id)]
    [located] = [sent.message for sent in cluster.wait(3)]
    assert located.blob.head == b"lost:unknown object"


def test_second_run_that_made_another_value_does_not_replace_the_first(cluster):
    store(cluster, cluster.a, cluster.x)
    cluster.say(m.ObjectStored(cluster.b, cluster.x, 77, [], [], False))
    assert cluster.one(m.FreeObject, cluster.b).object_id == cluster.x
    assert cluster.machine.objects.bytes_on == {cluster.a: 100}
