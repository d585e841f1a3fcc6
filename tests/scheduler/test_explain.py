"""What waits says for whom: each state of an object, task, actor, lease, group and process."""

import pytest
from simulation.cluster import Cluster

from ract.core import events, ids
from ract.core import messages as m

JOB = b"\0\0\0\1"
ACTOR = b"\0" * 4 + (1 << ids.COUNTER_BITS | 3).to_bytes(8, "big") + JOB


@pytest.fixture
def cluster():
    cluster = Cluster()
    cluster.a = cluster.node("a", cpus=2)
    cluster.process(1, cluster.a)
    return cluster


def told(cluster, id_=None, **args):
    if id_ is not None:
        args["id"] = id_
    return cluster.ask(1, "explain", **args).value


def call_of(process, counter=9, actor=b""):
    """The task and the object of a call."""
    task_id = ids.task_id_bytes(process << ids.COUNTER_BITS | counter, JOB, actor)
    return task_id, ids.object_id_bytes(task_id, 0)


def runs(cluster, executor, task_id, name="f", state=events.RUNNING, actor=b""):
    kind = events.ACTOR_TASK if actor else events.NORMAL_TASK
    event = [task_id, 0, name, name, kind, state, 1.0, 0.0, 0, actor, "", "", {}]
    cluster.say(m.TaskEvents(executor, [event]))


def promise(cluster, process, object_id, holder, name="inner"):
    holds = [m.Hold(object_id, holder, 1)]
    cluster.say(m.ObjectPublished(process, object_id, None, [], holds, name))


def executor(cluster, number=50):
    """An executor of process 1 on node a."""
    cluster.want(1, backlog=1)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, number)
    return number


# --------------------------------------------------------------------------- objects


def test_promised_object_names_its_process_and_the_call_that_makes_it(cluster):
    submitter = executor(cluster)
    task_id, object_id = call_of(submitter)
    promise(cluster, submitter, object_id, holder=1)
    found = told(cluster, object_id)
    assert found["state"] == "PENDING"
    assert "process 50 (executor, pid 1050, node 10.0.0.a(61616161)) will bring it" in found["text"]
    assert "No executor has told of the call yet" in found["text"]
    runner = cluster.process(51, cluster.a, "executor")
    runs(cluster, runner, task_id, "inner")
    found = told(cluster, object_id)
    assert "Task inner is RUNNING on node 10.0.0.a(61616161), pid 1051" in found["text"]
    assert "waits for its reply" in found["text"]


def test_object_of_a_call_whose_actor_restarts_names_the_actor(cluster):
    cluster.create(ACTOR, max_restarts=1)
    cluster.actor_up(cluster.a, ACTOR, 50)
    cluster.say(m.ActorExited(cluster.a, ACTOR, 1, m.ExitCause("crashed")))
    _, object_id = call_of(1, actor=ACTOR)
    cluster.process(2, cluster.a)
    promise(cluster, 1, object_id, holder=2)
    found = told(cluster, object_id)
    assert "process 1 (driver" in found["text"]
    assert (
        "is being constructed on node 10.0.0.a(61616161) (ActorStarted is awaited" in found["text"]
    )


def test_object_whose_executor_is_starting_names_the_node(cluster):
    cluster.want(1, backlog=1)
    _, object_id = call_of(1)
    cluster.process(2, cluster.a)
    promise(cluster, 1, object_id, holder=2, name="f")
    assert (
        "Node 10.0.0.a(61616161) starts an executor (LeaseStarted is awaited)"
        in (told(cluster, object_id)["text"])
    )


def test_object_that_nobody_published_names_who_made_it(cluster):
    _, object_id = call_of(1)
    cluster.say(m.ObjectSought(cluster.a, object_id))
    found = told(cluster, object_id)
    assert found["state"] == "UNKNOWN"
    assert "It was made by process 1 (driver" in found["text"]
    assert "Who waits for it: node 10.0.0.a(61616161)." in found["text"]
    cluster.wait(3.0)
    assert "was asked what became of it (ObjectUntold)" in told(cluster, object_id)["text"]


def test_object_of_a_node_that_has_yet_to_tell_names_the_node(cluster):
    b = cluster.node("b")
    _, object_id = call_of(1)
    cluster.say(m.ObjectSought(cluster.a, object_id, b))
    assert (
        "Node 10.0.0.b(62626262) stores it, and has yet to tell" in told(cluster, object_id)["text"]
    )


def test_object_that_is_copied_names_who_copies_from_whom(cluster):
    nodes = [cluster.node(name) for name in "bcd"]
    _, object_id = call_of(1)
    cluster.say(m.ObjectStored(cluster.a, object_id, 2**30, [], [m.Hold(object_id, 1, 1)]))
    cluster.say(*(m.ObjectSought(node, object_id) for node in nodes))
    found = told(cluster, object_id)
    assert found["state"] == "READY"
    assert "Node 10.0.0.b(62626262) copies it from node 10.0.0.a(61616161)" in found["text"]
    assert "Others wait until a copy is free" in found["text"]
    assert "Who waits for it: node 10.0.0.d(64646464)." in found["text"]


def test_object_that_is_made_again_names_who_was_asked(cluster):
    b = cluster.node("b")
    _, object_id = call_of(1)
    cluster.say(m.ObjectStored(b, object_id, 2**20, [], [m.Hold(object_id, 1, 1)]))
    cluster.lose(b)
    found = told(cluster, object_id)
    assert found["state"] == "REBUILDING"
    assert "process 1 (driver" in found["text"]
    assert "was asked to make it again (ObjectLost)" in found["text"]


def test_object_that_is_local_names_its_process(cluster):
    _, object_id = call_of(1)
    found = told(cluster, object_id)
    assert found["state"] == "UNKNOWN"
    assert "It would be made by process 1 (driver" in found["text"]


# --------------------------------------------------------------------------- calls


def test_call_behind_others_of_its_actor_says_what_the_actor_does(cluster):
    cluster.create(ACTOR)
    cluster.actor_up(cluster.a, ACTOR, 50)
    ahead, _ = call_of(1, 8, ACTOR)
    runs(cluster, 50, ahead, "Counter.slow", events.IN_GET, ACTOR)
    cluster.say(m.CallsWaiting(1, {ACTOR: 2}))
    _, behind = call_of(1, 9, ACTOR)
    cluster.process(2, cluster.a)
    promise(cluster, 1, behind, holder=2, name="Counter.add")
    found = told(cluster, behind)
    assert "It is in Counter.slow, which is RUNNING_IN_RAY_GET" in found["text"]
    assert "2 calls to it have had no answer yet" in found["text"]


def test_running_call_names_what_its_process_has_promised(cluster):
    runner = executor(cluster)
    task_id, _ = call_of(1)
    runs(cluster, runner, task_id, "outer", events.IN_GET)
    _, inner = call_of(runner)
    promise(cluster, runner, inner, holder=1)
    found = told(cluster, task_id)
    assert found["state"] == events.IN_GET
    assert f"It has yet to bring the value of task inner {inner.hex()}" in found["text"]


# --------------------------------------------------------------------------- actors


def test_actor_without_handles_says_what_its_process_has_yet_to_bring(cluster):
    cluster.create(ACTOR)
    cluster.actor_up(cluster.a, ACTOR, 50)
    _, object_id = call_of(50)
    promise(cluster, 50, object_id, holder=1)
    cluster.say(m.HoldsChanged(1, [m.Hold(ACTOR, 1, -1)]))
    stop = cluster.one(m.StopActor)
    assert (stop.graceful, stop.cause.kind) == (True, "out_of_scope")
    cluster.wait(600.0)
    assert not cluster.told(m.StopActor)
    found = told(cluster, ACTOR)
    assert found["state"] == "ALIVE"
    assert "was asked to end (out_of_scope: all handles to it are gone)" in found["text"]
    assert f"yet to bring the value of task inner {object_id.hex()}" in found["text"]
    cluster.say(m.ObjectPublished(50, object_id, m.Blob(b"7"), [], []))
    assert "yet to bring" not in told(cluster, ACTOR)["text"]


def test_kill_ends_an_actor_that_waits_for_what_it_owes_at_once(cluster):
    cluster.create(ACTOR, max_restarts=5)
    cluster.actor_up(cluster.a, ACTOR, 50)
    _, object_id = call_of(50)
    promise(cluster, 50, object_id, holder=1)
    cluster.say(m.HoldsChanged(1, [m.Hold(ACTOR, 1, -1)]))
    cluster.say(m.ActorKillWanted(1, ACTOR, False))
    stop = cluster.one(m.StopActor)
    assert (stop.graceful, stop.cause.kind) == (False, "killed")
    found = told(cluster, ACTOR)
    assert found["state"] == "DEAD"
    assert "has yet to say that its process has ended" in found["text"]
    cluster.dies(50, "killed")
    assert "has yet to say" not in told(cluster, ACTOR)["text"]


def test_actor_that_restarts_waits_for_the_end_of_its_old_process(cluster):
    cluster.create(ACTOR, max_restarts=1)
    cluster.actor_up(cluster.a, ACTOR, 50)
    cluster.say(m.ActorKillWanted(1, ACTOR, False))
    found = told(cluster, ACTOR)
    assert found["state"] == "RESTARTING"
    assert (
        "old process on node 10.0.0.a(61616161) has ended (ActorExited is awaited)" in found["text"]
    )


def test_actor_that_nobody_created_names_who_asks(cluster):
    cluster.say(m.ActorWatched(1, ACTOR))
    found = told(cluster, ACTOR)
    assert (found["kind"], found["state"]) == ("actor", "UNKNOWN")
    assert "ActorWanted is awaited" in found["text"]
    assert "process 1 (driver" in found["text"]


def test_actor_without_room_names_the_lease_that_was_recalled_for_it(cluster):
    cluster.want(1, backlog=9, cpus=2)
    [(node, lease)] = cluster.starts()
    cluster.up(node, lease, 50)
    cluster.wait(1.0)
    cluster.create(ACTOR)
    found = told(cluster, ACTOR)
    assert "process 1 (driver" in found["text"]
    assert "was asked to give back an executor on node 10.0.0.a(61616161)" in found["text"]
    assert "(LeaseReleased is awaited)" in found["text"]


# --------------------------------------------------------------------------- the rest


def test_group_and_lease_name_what_they_wait_for(cluster):
    cluster.want(1, backlog=2, cpus=2)
    cluster.group(b"g" * 18, [{"CPU": 2}])
    found = told(cluster, b"g" * 18)
    assert found["state"] == "PENDING"
    assert "held by task f of process 1" in found["text"]
    found = told(cluster, shape_key=1)
    assert found["state"] == "PENDING"
    assert "starts an executor (LeaseStarted is awaited)" in found["text"]


def test_process_that_stays_for_what_it_owes_says_so(cluster):
    runner = executor(cluster)
    _, object_id = call_of(runner)
    promise(cluster, runner, object_id, holder=1)
    cluster.say(m.ProcessLeaving(runner, m.ExitCause("max_calls")))
    found = told(cluster, ids.worker_id_bytes(runner))
    assert (found["kind"], found["state"]) == ("process", "LEAVING")
    assert "runs nothing else any more (max_calls) and ends when nobody waits" in found["text"]
    assert "yet to bring the value of task inner" in found["text"]
    assert "runs nothing else any more" in told(cluster, object_id)["text"]


def test_process_says_what_it_owes(cluster):
    runner = executor(cluster)
    _, object_id = call_of(runner)
    promise(cluster, runner, object_id, holder=1)
    found = told(cluster, ids.worker_id_bytes(runner))
    assert (found["kind"], found["state"]) == ("process", "ALIVE")
    assert "yet to bring the value of task inner" in found["text"]


def test_scheduler_that_waits_for_nodes_says_so(cluster):
    cluster.machine.turn.is_patient = True
    assert "nodes that have yet to come back" in told(cluster, b"x" * 24)["text"]
