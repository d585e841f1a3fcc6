"""Nodes, processes, jobs, and answers to requests."""

import uuid
from array import array

import pytest
from simulation.cluster import CPU, Cluster

from ract.core import events, ids
from ract.core import messages as m
from ract.scheduler.books.turn import NodeLost


@pytest.fixture
def cluster():
    cluster = Cluster(epoch_offset_s=1000.0)
    cluster.a = cluster.node("a", cpus=2)
    cluster.process(1, cluster.a)
    return cluster


def event(task, state, attempt=0, name="f", end=0.0):
    values = [task, attempt, name, f"m.{name}", events.NORMAL_TASK, state, 5.0, end, 0, b""]
    values += ["", "", {}]
    assert len(values) == len(events.FIELDS)
    return values


def test_node_gets_process_numbers_that_nobody_else_has():
    cluster = Cluster()
    blocks = []
    for name in "ab":
        node = cluster.node(name)
        accepted = cluster.one(m.NodeAccepted)
        blocks.append(accepted.first_process)
        cluster.say(m.ProcessBlockWanted(node))
        blocks.append(cluster.one(m.ProcessBlock).first_process)
    assert blocks == [1, 4097, 8193, 12289]


def test_every_node_learns_of_every_node(cluster):
    b = cluster.node("b")
    assert len(cluster.told(m.NodesChanged)) == 2
    assert cluster.one(m.NodesChanged, b).addresses == {
        cluster.a.hex(): "tls://a:1",
        b.hex(): "tls://b:1",
    }
    cluster.lose(b)
    assert cluster.one(m.NodesChanged).addresses == {cluster.a.hex(): "tls://a:1"}


def test_node_that_was_declared_dead_is_told_to_end_when_it_speaks_again(cluster):
    b = cluster.node("b")
    cluster.lose(b)
    cluster.node("b")
    assert cluster.one(m.EndNode, b).cause.kind == "node_died"
    assert not cluster.told(m.NodeAccepted)


def test_node_that_said_that_it_leaves_has_left_in_order(cluster):
    b = cluster.node("b")
    cluster.say(m.NodeLeaving(b, m.ExitCause("node_left", "it was stopped")))
    assert cluster.machine.nodes.get(b) is not None, "it is there as long as its stream is"
    cluster.lose(b)
    (row,) = cluster.ask(1, "cluster_events", filters=[["event_type", "=", "NODE_LEFT"]]).value[
        "rows"
    ]
    assert (row["severity"], row["custom_fields"]) == ("INFO", {"node_id": b.hex()})
    assert row["message"].endswith("has left: node_left: it was stopped")
    assert cluster.machine.nodes.table[b].cause.kind == "node_left"


def test_node_may_say_that_it_does_not_end_in_order(cluster):
    b = cluster.node("b")
    cluster.say(m.NodeLeaving(b, m.ExitCause("node_died", "its zygote died")))
    cluster.lose(b)
    (row,) = cluster.ask(1, "cluster_events", filters=[["event_type", "=", "NODE_DIED"]]).value[
        "rows"
    ]
    assert (row["severity"], "its zygote died" in row["message"]) == ("ERROR", True)


def test_words_of_a_lost_node_are_dropped(cluster):
    b = cluster.node("b")
    cluster.lose(b)
    cluster.say(m.ProcessJoined(b, 9, "driver", 1), NodeLost(b, m.ExitCause("node_died")))
    assert cluster.sent == []


def test_drivers_get_jobs_and_namespaces_and_tools_do_not():
    cluster = Cluster()
    node = cluster.node()
    cluster.process(1, node)
    first = cluster.one(m.ProcessAccepted)
    cluster.process(2, node, namespace="mine")
    second = cluster.one(m.ProcessAccepted)
    cluster.process(3, node, kind="tool")
    third = cluster.one(m.ProcessAccepted)
    assert (first.job_id, second.job_id, third.job_id) == (b"\0\0\0\1", b"\0\0\0\2", b"")
    assert second.namespace == "mine"
    assert uuid.UUID(first.namespace)


def test_end_of_a_driver_ends_its_job_everywhere(cluster):
    b = cluster.node("b")
    cluster.dies(1, "exited")
    assert cluster.one(m.JobFinished, b).job_id == b"\0\0\0\1"
    cluster.process(2, cluster.a)
    [first, second] = cluster.ask(2, "jobs").value["rows"]
    assert (first["status"], second["status"]) == ("SUCCEEDED", "RUNNING")


def test_executor_learns_of_a_job_what_its_driver_said_of_itself():
    cluster = Cluster()
    node = cluster.node()
    metadata = {"sys_path": "[]", "k": "v"}
    cluster.say(m.ProcessJoined(node, 1, "driver", 9, "mine", "x.py", '{"a":1}', metadata))
    cluster.process(50, node, "executor")
    told = {"metadata": metadata, "namespace": "mine", "runtime_env": '{"a":1}'}
    assert cluster.ask(50, "job", job_id=b"\0\0\0\1").value == told
    cluster.dies(1)  # a detached actor of the job may be started again
    assert cluster.ask(50, "job", job_id=b"\0\0\0\1").value == told
    refused = cluster.ask(50, "job", job_id=b"\0\0\0\2")
    assert (refused.error, refused.value) == ("ValueError", "there is no job 00000002 (any more)")


def test_unknown_request_is_answered_with_an_error(cluster):
    assert cluster.ask(1, "make_coffee").error == "ValueError"


def test_malformed_request_is_answered_with_an_error(cluster):
    assert cluster.ask(1, "get_actor").error == "ValueError"
    assert cluster.ask(1, "create_actor", spec=b"junk", get_if_exists=False).error == "ValueError"
    assert cluster.ask(1, "actors", limit=10**9).error == "ValueError"
    assert cluster.ask(1, "job", job_id=[]).error == "ValueError"
    assert cluster.ask(1, "explain", id=7).error == "ValueError"
    assert cluster.ask(1, "explain", shape_key="x").error == "ValueError"


def test_resources_are_counted_in_units(cluster):
    cluster.node("b", cpus=4, GPU=1)
    cluster.want(1, backlog=1, cpus=0.5)
    assert cluster.ask(1, "cluster_resources").value == {"CPU": 6.0, "GPU": 1.0}
    assert cluster.ask(1, "available_resources").value == {"CPU": 5.5, "GPU": 1.0}


def test_dead_nodes_stay_listed_without_resources(cluster):
    b = cluster.node("b")
    cluster.lose(b)
    alive, dead = cluster.ask(1, "nodes").value
    assert (alive["Alive"], alive["Resources"]) == (True, {"CPU": 2.0})
    assert (dead["NodeID"], dead["Alive"], dead["Resources"]) == (b.hex(), False, {})
    assert "gone" in dead["DeathReasonMessage"]


def test_tables_are_filtered_and_limited(cluster):
    for number in range(3):
        cluster.create(bytes([65 + number]) * 16, class_name=f"C{number}")
    found = cluster.ask(1, "actors", filters=[["class_name", "!=", "c1"]], limit=1).value
    assert found["total"] == 2
    assert [row["class_name"] for row in found["rows"]] == ["C0"]
    assert found["rows"][0]["state"] == "PENDING_CREATION"


def test_tasks_are_listed_with_their_newest_state_and_counted(cluster):
    cluster.process(50, cluster.a, "executor")
    running = [event(b"1" * 24, "RUNNING"), event(b"2" * 24, "RUNNING", name="g")]
    cluster.say(m.TaskEvents(50, running))
    cluster.say(m.TaskEvents(50, [event(b"1" * 24, "FINISHED", end=7.0), "junk"]))
    rows = cluster.ask(1, "tasks", filters=[["name", "=", "f"]]).value["rows"]
    assert [(row["state"], row["end_time_ms"]) for row in rows] == [("FINISHED", 7000)]
    cluster.dies(50)
    summary = cluster.ask(1, "summary_tasks").value["summary"]
    assert summary["f"]["state_counts"] == {"FINISHED": 1}
    assert summary["g"]["state_counts"] == {"FAILED": 1}


def test_table_of_tasks_is_bounded_and_counts_are_not():
    cluster = Cluster(tasks_max=10)
    node = cluster.node()
    cluster.process(1, node)
    for number in range(100):
        one = event(number.to_bytes(24, "big"), "FINISHED", end=6.0)
        cluster.say(m.TaskEvents(1, [one]))
    assert cluster.ask(1, "tasks").value["total"] <= 10
    assert cluster.ask(1, "summary_tasks").value["total"] == 100


def run_of(numbers, name="f"):
    times = [t for n in numbers for t in (float(n), n + 0.5)]
    columns = array("Q", numbers).tobytes(), array("d", times).tobytes()
    return [name, f"module.{name}", "NORMAL_TASK", b"", b"jobj", *columns, b"", {}]


def test_calls_that_finished_are_reported_in_columns(cluster):
    cluster.process(50, cluster.a, "executor")
    cluster.say(m.TaskEvents(50, [], [run_of([7, 8, 9]), run_of([10], "g")]))
    cluster.say(m.TaskEvents(50, [event(b"1" * 24, "FAILED", end=7.0)], [run_of([11])]))
    rows = cluster.ask(1, "tasks", filters=[["name", "=", "f"], ["state", "=", "FINISHED"]]).value
    assert [row["start_time_ms"] for row in rows["rows"]] == [7000, 8000, 9000, 11000]
    assert [row["end_time_ms"] for row in rows["rows"]] == [7500, 8500, 9500, 11500]
    assert rows["rows"][0]["task_id"] == ids.task_id_bytes(7, b"jobj").hex()
    summary = cluster.ask(1, "summary_tasks").value["summary"]
    assert summary["f"]["state_counts"] == {"FINISHED": 4, "FAILED": 1}
    assert summary["g"]["state_counts"] == {"FINISHED": 1}


def test_finished_calls_are_forgotten_oldest_first_and_stay_counted():
    cluster = Cluster(tasks_max=10)
    node = cluster.node()
    cluster.process(1, node)
    for first in range(0, 60, 4):
        cluster.say(m.TaskEvents(1, [], [run_of(range(first, first + 4))]))
        starts = [row["start_time_ms"] // 1000 for row in cluster.ask(1, "tasks").value["rows"]]
        assert starts == list(range(first + 4 - len(starts), first + 4))
        assert min(first + 4, 5) <= len(starts) <= 10
    cluster.say(m.TaskEvents(1, [], [run_of(range(1000))]))
    assert cluster.ask(1, "tasks").value["total"] <= 10
    assert cluster.ask(1, "summary_tasks").value["total"] == 1060


@pytest.mark.parametrize(
    "run",
    [
        None,
        [],
        ["f"] * 7,
        [*run_of([1])[:6], b"short", b"", {}],
        [*run_of([1])[:6], b"12345678", b"", {}],
        [*run_of([1])[:5], b"1", *run_of([1])[6:]],
        [1, *run_of([1])[1:]],
    ],
    ids=range(7),
)
def test_malformed_runs_are_dropped(cluster, run):
    cluster.say(m.TaskEvents(1, [], [run, run_of([1])]))
    assert cluster.ask(1, "summary_tasks").value["total"] == 1


def test_reference_counts_tell_mine_from_others(cluster):
    cluster.process(2, cluster.a)
    box = next(cluster.objects())
    holds = [m.Hold(box, 1, 1), m.Hold(box, 2, 2)]
    cluster.say(m.ObjectPublished(1, box, m.Blob(b""), [], holds))
    counts = cluster.ask(1, "reference_counts").value
    assert counts == {box.hex(): {"local": 1, "submitted": 2}}


def test_explain_says_what_each_node_lacks(cluster):
    cluster.want(1, backlog=1, key=3, GPU=1)
    told = cluster.ask(1, "explain", shape_key=3).value
    assert told["state"] == "INFEASIBLE"
    assert "GPU: 1 asked, 0 there" in told["text"]
    assert told["reasons"][0]["node_id"] == cluster.a.hex()


def test_explain_says_who_is_ahead(cluster):
    cluster.process(2, cluster.a)
    cluster.want(1, backlog=9, cpus=2)
    cluster.want(2, backlog=9, cpus=2)
    told = cluster.ask(1, "explain", shape_key=1).value  # it has a lease, the other one has none
    assert told["state"] == "PENDING"
    assert "busy" in told["text"]
    assert "1 other processes are ahead" in told["text"]


def test_explain_follows_an_object_to_the_task_that_waits(cluster):
    box = next(cluster.objects())
    cluster.want(1, backlog=1, cpus=9)
    holds = [m.Hold(box, 1, 1)]
    cluster.say(m.ObjectPublished(1, box, None, [], holds, "f"))
    told = cluster.ask(1, "explain", id=box).value
    assert told["state"] == "PENDING"
    assert "CPU: 9 asked, 2 there" in told["text"]


def test_explain_of_a_dead_actor_gives_the_cause(cluster):
    cluster.create(b"A" * 16)
    cluster.say(m.ActorKillWanted(1, b"A" * 16, True))
    told = cluster.ask(1, "explain", id=b"A" * 16).value
    assert told["state"] == "DEAD"
    assert "killed" in told["text"]


def test_status_shows_use_and_what_waits(cluster):
    cluster.want(1, backlog=5)
    told = cluster.ask(1, "status").value
    assert told["resources"]["CPU"] == {"used": 2.0, "total": 2.0}
    [demand] = told["pending_demands"]
    assert (demand["count"], demand["names"], demand["demand"]) == (3, ["f"], {"CPU": 1.0})


def test_node_can_be_ended_by_request(cluster):
    b = cluster.node("b")
    assert cluster.ask(1, "kill_node", node_id=b.hex()).value is True
    assert cluster.told(m.EndNode, b)
    assert cluster.ask(1, "kill_node", node_id=b"z" * 28).value is False


def test_key_values(cluster):
    assert cluster.ask(1, "kv_put", key="k", value=b"1").value is True
    assert cluster.ask(1, "kv_put", key="k", value=b"2", overwrite=False).value is False
    assert cluster.ask(1, "kv_get", key=b"k").value == b"1"
    assert cluster.ask(1, "kv_get", key=b"k", namespace="other").value is None
    assert cluster.ask(1, "kv_list", prefix="").value == [b"k"]
    assert cluster.ask(1, "kv_exists", key="k").value is True
    assert cluster.ask(1, "kv_del", key="k").value == 1
    assert cluster.ask(1, "kv_exists", key="k").value is False


def test_log_lines_go_to_the_driver_of_the_job(cluster):
    cluster.say(m.LogLines(cluster.a, 50, b"\0\0\0\1", 4, "f", False, ["hi"]))
    pushed = cluster.one(m.Pushed)
    assert (pushed.process, pushed.kind, pushed.data["lines"]) == (1, "log", ["hi"])


def test_cancel_goes_to_the_node_of_the_executor(cluster):
    b = cluster.node("b")
    cluster.process(50, b, "executor")
    cluster.say(m.CancelWanted(1, 50, 77, False, True))
    assert cluster.one(m.CancelWanted, b) == m.CancelWanted(1, 50, 77, False, True)


def test_store_counts_bytes_per_node(cluster):
    box = next(cluster.objects())
    cluster.say(m.ObjectStored(cluster.a, box, 123, [], [m.Hold(box, 1, 1)]))
    cluster.say(m.NodeStats(cluster.a, {"store_bytes": 500}))
    told = cluster.ask(1, "store").value[cluster.a.hex()]
    assert (told["object_bytes"], told["store_bytes"], told["objects"]) == (123, 500, 1)
    assert CPU


def test_explain_says_who_holds_what_is_lacking(cluster):
    cluster.want(1, backlog=1, cpus=1)
    cluster.create(b"x" * 16, running_demand={"CPU": 10_000}, class_name="Hog", name="ann")
    cluster.want(1, backlog=1, key=2, cpus=2)
    told = cluster.ask(1, "explain", shape_key=2).value
    assert "held by task f of process 1, actor Hog 'ann'" in told["text"]
    [node] = [reason for reason in told["reasons"] if reason["what"] == "node"]
    assert len(node["holders"]) == 2


def test_explain_looks_into_the_placement_group_that_is_named(cluster):
    cluster.group(b"g" * 18, [{"CPU": 1}], name="mine")
    strategy = {"kind": "PLACEMENT_GROUP", "group_id": b"g" * 18}
    cluster.want(1, backlog=2, strategy=strategy)
    told = cluster.ask(1, "explain", shape_key=1).value
    assert "Bundle 0 of placement group mine" in told["text"]
    assert "is busy (CPU: 1 asked, 0 there); held by task f of process 1" in told["text"]
    cluster.group(b"h" * 18, [{"CPU": 9}], name="large")
    strategy = {"kind": "PLACEMENT_GROUP", "group_id": b"h" * 18}
    cluster.want(1, backlog=2, key=5, strategy=strategy)
    told = cluster.ask(1, "explain", shape_key=5).value
    assert "can never hold" in told["text"]
