"""Actors: creation, names, restarts, ends."""

import pytest
from simulation.cluster import CPU, Cluster

from ract.core import messages as m

A, B = b"A" * 16, b"B" * 16


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=1)
    cluster.process(1, cluster.a)
    return cluster


def state(cluster, actor_id=A):
    return cluster.machine.actors.table[actor_id].state


def test_actor_is_placed_constructed_and_announced_to_watchers(cluster):
    cluster.create(A)
    start = cluster.one(m.StartActor, cluster.a)
    assert start.incarnation == 1
    cluster.actor_up(cluster.a, A, 60)
    changed = cluster.one(m.ActorChanged)
    assert (changed.process, changed.state, changed.executor) == (1, "ALIVE", 60)
    assert changed.address == "/e60"


def test_placement_demand_is_held_until_the_constructor_has_returned(cluster):
    cluster.create(A)
    assert cluster.free(cluster.a)["CPU"] == 0
    cluster.actor_up(cluster.a, A, 60)
    assert cluster.free(cluster.a)["CPU"] == 1


def test_running_demand_is_held_for_life(cluster):
    cluster.create(A, running_demand={"CPU": CPU // 2})
    cluster.actor_up(cluster.a, A, 60)
    assert cluster.free(cluster.a)["CPU"] == 0.5
    cluster.dies(60)
    assert cluster.free(cluster.a)["CPU"] == 1


def test_who_watches_late_is_told_at_once(cluster):
    cluster.create(A)
    cluster.actor_up(cluster.a, A, 60)
    cluster.process(2, cluster.a)
    cluster.say(m.ActorWatched(2, A))
    assert cluster.one(m.ActorChanged).state == "ALIVE"


def test_who_watches_before_creation_is_told_at_creation(cluster):
    cluster.say(m.ActorWatched(1, A))
    assert cluster.sent == []
    cluster.say(m.ActorWanted(1, cluster.spec(A)))
    assert cluster.one(m.ActorChanged).state == "PENDING_CREATION"


def test_who_watches_what_nobody_creates_is_told_that_it_is_dead(cluster):
    cluster.say(m.ActorWatched(1, A))
    cluster.wait(5)
    assert cluster.one(m.ActorChanged).state == "DEAD"


def test_crash_without_restarts_is_death_with_its_cause(cluster):
    cluster.create(A)
    cluster.actor_up(cluster.a, A, 60)
    cause = m.ExitCause("crashed", "segmentation fault", signal=11)
    cluster.say(m.ProcessExited(cluster.a, 60, cause), m.ActorExited(cluster.a, A, 1, cause))
    changed = cluster.one(m.ActorChanged)
    assert (changed.state, changed.cause.signal) == ("DEAD", 11)


def test_crash_with_restarts_is_a_new_incarnation(cluster):
    cluster.create(A, max_restarts=1)
    cluster.actor_up(cluster.a, A, 60)
    cluster.dies(60)
    assert cluster.one(m.ActorChanged).state == "RESTARTING"
    assert cluster.one(m.StartActor).incarnation == 2
    cluster.actor_up(cluster.a, A, 61, incarnation=2)
    cluster.dies(61)
    changed = cluster.one(m.ActorChanged)
    assert changed.state == "DEAD"
    assert "1 of 1 restarts used" in changed.cause.detail


def test_message_of_an_old_incarnation_is_dropped(cluster):
    cluster.create(A, max_restarts=-1)
    cluster.actor_up(cluster.a, A, 60)
    cluster.dies(60)
    cluster.say(m.ActorExited(cluster.a, A, 1, m.ExitCause("crashed")))
    assert cluster.sent == []
    assert cluster.machine.turn.dropped["message of an old incarnation"] == 1


@pytest.mark.parametrize("kind", ["exited", "max_calls"])
def test_intended_exit_is_not_restarted(cluster, kind):
    cluster.create(A, max_restarts=-1)
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.ActorExited(cluster.a, A, 1, m.ExitCause(kind)))
    assert cluster.one(m.ActorChanged).state == "DEAD"


def test_failed_constructor_is_death_with_its_error(cluster):
    cluster.create(A, max_restarts=-1)
    cluster.say(m.ActorInitFailed(cluster.a, A, 1, m.Blob(b"boom", [], True)))
    changed = cluster.one(m.ActorChanged)
    assert (changed.state, changed.error.head) == ("DEAD", b"boom")
    assert changed.cause.kind == "init_failed"
    assert cluster.free(cluster.a)["CPU"] == 1


def test_kill_is_death_at_once_but_resources_wait_for_the_process(cluster):
    cluster.create(A, running_demand={"CPU": CPU})
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.ActorKillWanted(1, A, True))
    assert cluster.one(m.StopActor).graceful is False
    assert cluster.one(m.ActorChanged).cause.kind == "killed"
    assert cluster.free(cluster.a)["CPU"] == 0
    cluster.dies(60, "killed")
    assert cluster.free(cluster.a)["CPU"] == 1
    assert state(cluster) == "DEAD"


def test_kill_that_allows_a_restart_starts_anew_once_the_old_process_is_gone(cluster):
    cluster.node("b", cpus=4)
    cluster.create(A, max_restarts=1)
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.ActorKillWanted(1, A, False))
    assert cluster.one(m.ActorChanged).state == "RESTARTING"
    assert not cluster.told(m.StartActor), "never two incarnations at once"
    cluster.dies(60, "killed")
    assert cluster.one(m.StartActor).incarnation == 2


def test_kill_of_an_actor_without_restarts_is_death(cluster):
    cluster.create(A)
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.ActorKillWanted(1, A, False))
    assert cluster.one(m.ActorChanged).state == "DEAD"


def test_last_handle_ends_the_actor_after_its_calls(cluster):
    cluster.create(A)
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.HoldsChanged(1, [m.Hold(A, 1, -1)]))
    stop = cluster.one(m.StopActor)
    assert (stop.graceful, stop.cause.kind) == (True, "out_of_scope")
    cluster.say(m.ActorExited(cluster.a, A, 1, m.ExitCause("exited")))
    assert cluster.one(m.ActorChanged).cause.kind == "out_of_scope"


def test_handle_that_goes_before_the_actor_is_placed_ends_it(cluster):
    cluster.create(A, placement_demand={"CPU": 9 * CPU})
    cluster.say(m.HoldsChanged(1, [m.Hold(A, 1, -1)]))
    assert cluster.one(m.ActorChanged).state == "DEAD"


def test_handle_in_an_object_keeps_the_actor(cluster):
    cluster.create(A)
    cluster.actor_up(cluster.a, A, 60)
    box = next(cluster.objects())
    hold = [m.Hold(box, 1, 1)]
    cluster.say(m.ObjectPublished(1, box, m.Blob(b""), [m.Contained(A)], hold))
    cluster.say(m.HoldsChanged(1, [m.Hold(A, 1, -1)]))
    assert not cluster.told(m.StopActor)
    cluster.say(m.HoldsChanged(1, [m.Hold(box, 1, -1)]))
    assert cluster.told(m.StopActor)


def test_detached_actor_outlives_handles_and_driver(cluster):
    cluster.create(A, detached=True, name="d")
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.HoldsChanged(1, [m.Hold(A, 1, -1)]))
    cluster.dies(1, "exited")
    assert not cluster.told(m.StopActor)
    assert state(cluster) == "ALIVE"


def test_owners_death_is_the_actors(cluster):
    cluster.process(2, cluster.a)
    cluster.create(A, owner=2)
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.ActorWatched(1, A))
    cluster.dies(2)
    assert cluster.one(m.ActorChanged).cause.kind == "owner_died"


def test_actors_of_a_lost_node_restart_elsewhere(cluster):
    b = cluster.node("b", cpus=1)
    strategy = {"kind": "NODE_AFFINITY", "node_id": b, "soft": True}
    cluster.create(A, max_restarts=1, strategy=strategy)
    cluster.actor_up(b, A, 60)
    cluster.lose(b)
    assert cluster.one(m.StartActor, cluster.a).incarnation == 2


def test_actor_bound_to_a_dead_node_is_unschedulable(cluster):
    strategy = {"kind": "NODE_AFFINITY", "node_id": b"z" * 28, "soft": False}
    cluster.create(A, strategy=strategy)
    assert cluster.told(m.ActorChanged)[-1].cause.kind == "unschedulable"


def test_name_is_found_by_others_of_the_namespace_and_free_after_death(cluster):
    cluster.process(2, cluster.a, namespace="n")
    cluster.process(3, cluster.a, namespace="n")
    assert cluster.ask_create(2, cluster.spec(A, 2, name="x")).value["created"]
    assert cluster.ask(3, "get_actor", name="x").value["actor_id"] == A
    missing = cluster.ask(1, "get_actor", name="x")
    assert missing.error == "ValueError"
    assert missing.value.startswith("Failed to look up actor with name 'x'")
    taken = cluster.ask_create(3, cluster.spec(B, 3, name="x"))
    assert taken.error == "ActorAlreadyExistsError"
    assert "'x'" in taken.value
    assert "'n'" in taken.value
    assert "already taken" in taken.value
    again = cluster.ask_create(3, cluster.spec(B, 3, name="x"), get_if_exists=True)
    assert (again.value["created"], again.value["actor_id"]) == (False, A)
    cluster.say(m.ActorKillWanted(2, A, True))
    assert cluster.ask_create(3, cluster.spec(B, 3, name="x")).value["created"]


def test_named_actors_are_listed_by_namespace(cluster):
    cluster.process(2, cluster.a, namespace="n")
    cluster.ask_create(2, cluster.spec(A, 2, name="x"))
    assert cluster.ask(1, "list_named_actors").value == []
    everywhere = cluster.ask(1, "list_named_actors", all_namespaces=True).value
    assert everywhere == [{"name": "x", "namespace": "n"}]


def test_what_an_actor_was_created_with_is_held_until_it_is_dead(cluster):
    box = next(cluster.objects())
    cluster.say(m.ObjectPublished(1, box, m.Blob(b"v"), [], [m.Hold(box, 1, 1)]))
    cluster.create(A, contains=[m.Contained(box)])
    cluster.say(m.HoldsChanged(1, [m.Hold(box, 1, -1)]))
    assert box in cluster.machine.objects.table
    cluster.say(m.ActorKillWanted(1, A, True))
    assert box not in cluster.machine.objects.table


def test_lease_is_recalled_for_a_waiting_actor(cluster):
    cluster.want(1, backlog=10)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.now = 1.0
    cluster.create(A)
    assert cluster.one(m.LeaseRecalled).lease == lease


# --------------------------------------------------------------------------- durable actors


def test_a_new_incarnation_of_a_durable_actor_is_told_where_it_was_saved(cluster):
    cluster.create(A, durable="call", max_restarts=-1)
    assert cluster.one(m.StartActor).saved_on == ""
    cluster.say(m.ActorExited(cluster.a, A, 1, m.ExitCause("crashed")))
    assert cluster.one(m.StartActor).saved_on == "", "it never came to life"
    cluster.actor_up(cluster.a, A, 60, incarnation=2)
    cluster.say(m.ActorExited(cluster.a, A, 2, m.ExitCause("crashed")))
    assert cluster.a.hex()[:8] in cluster.one(m.StartActor).saved_on
    assert cluster.told(m.RemoveState) == []


def test_the_state_of_a_durable_actor_is_removed_when_its_last_process_is_gone(cluster):
    cluster.create(A, durable="call", durable_path="/there", max_restarts=-1)
    cluster.actor_up(cluster.a, A, 60)
    cluster.say(m.ActorKillWanted(1, A, True))
    assert state(cluster) == "DEAD"
    assert cluster.told(m.RemoveState) == [], "it could save once more"
    cluster.say(m.ActorExited(cluster.a, A, 1, m.ExitCause("killed")))
    assert cluster.one(m.RemoveState, cluster.a) == m.RemoveState(A, "/there")
    cluster.dies(60)
    assert cluster.told(m.RemoveState) == []


def test_the_state_of_a_durable_actor_whose_node_is_lost_is_removed_by_another_one(cluster):
    b = cluster.node("b", cpus=1, there=1)
    cluster.create(A, durable="call", placement_demand={"there": CPU})
    cluster.actor_up(b, A, 60)
    cluster.lose(b)
    assert state(cluster) == "DEAD"
    assert cluster.one(m.RemoveState, cluster.a).actor_id == A
