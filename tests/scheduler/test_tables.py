"""Which rows a question about a table gets, and what is told of tasks that wait, run and are
lost."""

from array import array

import pytest
from simulation.cluster import Cluster

from ract.core import events, ids
from ract.core import messages as m
from ract.scheduler.queries import rows, tables

JOB = b"\0\0\0\1"


@pytest.fixture
def cluster():
    cluster = Cluster(epoch_offset_s=1000.0)
    cluster.a = cluster.node("a", cpus=2)
    cluster.process(1, cluster.a)
    cluster.process(50, cluster.a, "executor")
    return cluster


def run_of(numbers, name="f", parents=(), facts=None):
    times = [t for n in numbers for t in (float(n), n + 0.5)]
    columns = [array("Q", numbers), array("d", times), array("Q", parents)]
    packed = [column.tobytes() for column in columns]
    return [name, f"m.{name}", events.NORMAL_TASK, b"", JOB, *packed, facts or {}]


def event(number, state, attempt=0, name="f", start=5.0, end=0.0, error="", facts=None):
    task = ids.task_id_bytes(number, JOB)
    kind = events.NORMAL_TASK
    return [task, attempt, name, name, kind, state, start, end, 0, b"", error, "", facts or {}]


def queue_of(state, numbers, since=1000.0, name="f", attempt=0):
    columns = array("Q", numbers).tobytes(), array("d", [since] * len(numbers)).tobytes()
    return [state, name, events.NORMAL_TASK, b"", JOB, attempt, *columns, {"demand": {"CPU": 5000}}]


def tasks(cluster, **args):
    return cluster.ask(1, "tasks", **args).value


def states(row):
    return [(each["state"], each["created_ms"]) for each in row["events"]]


# --------------------------------------------------------------------------- questions


def test_pages_of_a_table_make_up_the_whole(cluster):
    cluster.say(m.TaskEvents(50, [event(1, "FAILED", end=6.0)], [run_of(range(2, 12))]))
    cluster.say(m.TaskEvents(50, [], [run_of(range(12, 20), "g")]))
    whole = [row["task_id"] for row in tasks(cluster)["rows"]]
    assert len(set(whole)) == 19
    for size in (1, 4, 7, 19):
        pages = [tasks(cluster, limit=size, offset=at) for at in range(0, 19, size)]
        assert [row["task_id"] for page in pages for row in page["rows"]] == whole
        assert {page["total"] for page in pages} == {19}
    assert tasks(cluster, offset=19)["rows"] == []


def test_filters_look_into_runs(cluster):
    cluster.say(m.TaskEvents(50, [], [run_of(range(2, 12)), run_of(range(12, 20), "g")]))
    assert tasks(cluster, filters=[["name", "=", "G"]], limit=3)["total"] == 8
    assert tasks(cluster, filters=[["name", "=", "g"], ["state", "!=", "FINISHED"]])["total"] == 0
    task_id = ids.task_id_bytes(13, JOB).hex()
    found = tasks(cluster, filters=[["task_id", "=", task_id]])
    assert [row["name"] for row in found["rows"]] == ["g"]
    assert tasks(cluster, filters=[["task_id", "!=", task_id]])["total"] == 17
    # A column that is only known when a row is made, and one that there is not.
    assert tasks(cluster, filters=[["language", "=", "python"]])["total"] == 18
    assert tasks(cluster, filters=[["language", "!=", "python"]])["total"] == 0
    assert tasks(cluster, filters=[["colour", "=", "red"]])["total"] == 0
    assert tasks(cluster, filters=[["colour", "!=", "red"]])["total"] == 18


@pytest.mark.parametrize("sort", ["start_time_ms", "-start_time_ms", "name", "-name", "language"])
def test_tables_are_sorted_where_they_are(cluster, sort):
    cluster.say(m.TaskEvents(50, [event(1, "RUNNING", name="h")], [run_of([9, 3, 7], "g")]))
    cluster.say(m.TasksWaiting(1, [queue_of(events.PLACE, [20])]))
    found = tasks(cluster, sort=sort, limit=2)
    assert found["total"] == 5
    key = sort.lstrip("-")
    everything = [row for row in tasks(cluster)["rows"] if row[key] is not None]
    wanted = sorted(everything, key=lambda row: row[key], reverse=sort.startswith("-"))
    assert [row[key] for row in found["rows"]] == [row[key] for row in wanted[:2]]
    last = tasks(cluster, sort=sort, offset=4)["rows"]
    assert (last[0][key] is None) == (key == "start_time_ms")


@pytest.mark.parametrize(
    "args",
    [
        {"limit": 0},
        {"limit": 10_001},
        {"limit": "many"},
        {"offset": -1},
        {"filters": ["state"]},
        {"filters": [["state", "<", "DEAD"]]},
        {"filters": [["state", "="]]},
    ],
    ids=str,
)
def test_malformed_questions_are_refused(cluster, args):
    reply = cluster.ask(1, "actors", **args)
    assert reply.error == "ValueError"


def test_call_that_waits_in_get_is_counted_and_found_as_that(cluster):
    def counts():
        return cluster.ask(1, "summary_tasks").value["summary"]["f"]["state_counts"]

    in_get = event(1, events.IN_GET, facts={"since": 7.0})
    cluster.say(m.TaskEvents(50, [event(1, events.RUNNING), event(2, events.RUNNING)]))
    cluster.say(m.TaskEvents(50, [in_get]))
    assert counts() == {"RUNNING": 1, "RUNNING_IN_RAY_GET": 1}
    (row,) = tasks(cluster, filters=[["state", "=", "RUNNING_IN_RAY_GET"]])["rows"]
    assert states(row) == [("RUNNING", 5000), ("RUNNING_IN_RAY_GET", 7000)]
    assert tasks(cluster, filters=[["state", "=", "RUNNING"]])["total"] == 1
    cluster.say(m.TaskEvents(50, [event(1, events.RUNNING)]))
    assert counts() == {"RUNNING": 2}
    cluster.say(m.TaskEvents(50, [in_get]))
    cluster.say(m.ProcessExited(cluster.a, 50, m.ExitCause("crashed")))
    assert counts() == {"FAILED": 2}


def test_columns_read_off_a_record_are_those_of_its_row(cluster):
    cluster.say(m.TaskEvents(50, [event(1, "RUNNING"), event(2, "FAILED", end=6.0, error="E")]))
    cluster.say(m.TaskEvents(50, [], [run_of([5, 6], parents=[1, 1])]))
    cluster.say(m.TasksWaiting(1, [queue_of(events.ARGS, [20])]))
    cluster.create(b"A" * 16, class_name="C", name="n")
    cluster.say(m.ObjectPublished(1, b"o" * 28, m.Blob(b"1"), [], [m.Hold(b"o" * 28, 1, 1)]))
    machine = cluster.machine
    looked_at = 0
    for table in tables.TABLES.values():
        for block in table.records(machine):
            for record in block.tasks() if hasattr(block, "tasks") else [block]:
                row = table.row(machine, record)
                for name, read in table.columns.items():
                    assert read(record) == row[name], name
                    looked_at += 1
        if table.count is not None:
            total = tables.select(machine.cluster, table, {"filters": [["no", "!=", "such"]]})[
                "total"
            ]
            assert table.count(machine.cluster) == total
    assert looked_at > 50


def test_a_million_tasks_are_asked_for_without_making_a_million_rows():
    cluster = Cluster(tasks_max=2_000_000)
    node = cluster.node("a", cpus=2)
    cluster.process(1, node)
    for first in range(1, 1_000_001, 20_000):
        name = "f" if first % 40_000 == 1 else "g"
        cluster.say(m.TaskEvents(1, [], [run_of(range(first, first + 20_000), name)]))
    made = []
    table = tables.TABLES["tasks"]
    counting = tables.Table(
        table.records, lambda *of: made.append(1) or rows.task(*of), table.columns, table.count
    )
    everything = tables.select(cluster.machine.cluster, counting, {"limit": 5})
    named = tables.select(
        cluster.machine.cluster, counting, {"limit": 5, "filters": [["name", "=", "g"]]}
    )
    assert (everything["total"], named["total"]) == (1_000_000, 500_000)
    last = tables.select(cluster.machine.cluster, counting, {"limit": 5, "offset": 999_998})
    assert [row["start_time_ms"] for row in last["rows"]] == [999_999_000, 1_000_000_000]
    assert len(made) == 12
    assert cluster.ask(1, "summary_tasks").value["total"] == 1_000_000


# --------------------------------------------------------------------------- tasks that wait


def test_a_task_is_seen_in_every_state_with_its_time(cluster):
    cluster.say(m.TasksWaiting(1, [queue_of(events.ARGS, [7], 1000.5)]))
    (row,) = tasks(cluster)["rows"]
    assert (row["state"], row["start_time_ms"], row["worker_id"]) == (events.ARGS, None, None)
    assert row["required_resources"] == {"CPU": 0.5}
    cluster.now = 3.0
    cluster.say(m.TasksWaiting(1, [queue_of(events.PLACE, [7], 1000.5)]))
    cluster.now = 4.0
    cluster.say(m.TasksWaiting(1, [queue_of(events.SUBMITTED, [7], 1000.5)]))
    assert cluster.ask(1, "summary_tasks").value["summary"]["f"]["state_counts"] == {
        events.SUBMITTED: 1
    }
    cluster.say(m.TaskEvents(50, [event(7, "RUNNING", start=1005.0)]))
    (row,) = tasks(cluster)["rows"]  # though who submitted it still says that it waits
    assert row["state"] == "RUNNING"
    cluster.say(m.TasksWaiting(1, [queue_of(events.SUBMITTED, [7], 1000.5)]))
    cluster.say(m.TaskEvents(50, [event(7, "FINISHED", start=1005.0, end=1006.0)]))
    (row,) = tasks(cluster)["rows"]
    assert states(row) == [
        (events.ARGS, 1000500),
        (events.PLACE, 1003000),
        (events.SUBMITTED, 1004000),
        ("RUNNING", 1005000),
        ("FINISHED", 1006000),
    ]
    assert row["creation_time_ms"] == 1000500
    cluster.machine.check()


def test_a_task_that_waited_and_then_was_quick_keeps_its_story(cluster):
    cluster.say(m.TasksWaiting(1, [queue_of(events.PLACE, [7, 8])]))
    cluster.say(m.TaskEvents(50, [], [run_of([6, 7, 9])]))
    found = {row["task_id"]: row for row in tasks(cluster)["rows"]}
    assert len(found) == 4
    waited = found[ids.task_id_bytes(7, JOB).hex()]
    assert [state for state, _ in states(waited)] == [events.PLACE, "RUNNING", "FINISHED"]
    assert cluster.ask(1, "summary_tasks").value["summary"]["f"]["state_counts"] == {
        "FINISHED": 3,
        events.PLACE: 1,
    }


def test_what_is_only_counted_is_told(cluster):
    cluster.say(m.TasksWaiting(1, [queue_of(events.PLACE, [7])], 41))
    assert "41 more tasks wait" in tasks(cluster)["note"]
    assert cluster.ask(1, "summary_tasks").value["left_out"] == 41
    cluster.say(m.TasksWaiting(1, []))
    assert tasks(cluster)["note"] == ""


def test_what_a_process_had_waiting_goes_with_it(cluster):
    cluster.process(60, cluster.a, "executor")
    cluster.say(m.TasksWaiting(60, [queue_of(events.PLACE, [7])]))
    assert tasks(cluster)["total"] == 1
    cluster.dies(60)
    assert tasks(cluster)["total"] == 0


@pytest.mark.parametrize(
    "queue",
    [
        None,
        [],
        ["x"] * 9,
        [*queue_of(events.PLACE, [1])[:7], b"short", {}],
        ["RUNNING", *queue_of(events.PLACE, [1])[1:]],
        [*queue_of(events.PLACE, [1])[:8], {"unknown": 1}],
        [*queue_of(events.PLACE, [1])[:8], {"demand": "much"}],
    ],
    ids=range(7),
)
def test_malformed_queues_are_dropped(cluster, queue):
    cluster.say(m.TasksWaiting(1, [queue, queue_of(events.PLACE, [2])]))
    assert tasks(cluster)["total"] == 1


# --------------------------------------------------------------------------- attempts


@pytest.mark.parametrize(
    ("cause", "error_type"),
    [
        ("crashed", "WORKER_DIED"),
        ("out_of_memory", "OUT_OF_MEMORY"),
        ("node_died", "NODE_DIED"),
        ("killed", "TASK_CANCELLED"),
    ],
)
def test_task_that_ran_when_its_process_ended_says_why_that_was(cluster, cause, error_type):
    cluster.say(m.TaskEvents(50, [event(1, events.RUNNING)]))
    cluster.say(m.ProcessExited(cluster.a, 50, m.ExitCause(cause)))
    (row,) = tasks(cluster)["rows"]
    assert (row["state"], row["error_type"]) == ("FAILED", error_type)


def test_each_attempt_has_a_row_and_lost_ones_name_who_ran_them(cluster):
    where = {"executor": 50, "pid": 77, "node_id": cluster.a}
    lost = event(7, "FAILED", start=-1.0, end=8.0, error="WORKER_DIED", facts=where)
    cluster.say(m.TaskEvents(1, [lost]))
    cluster.say(m.TaskEvents(50, [event(7, "FINISHED", attempt=1, end=9.0)]))
    first, second = tasks(cluster, sort="attempt_number")["rows"]
    assert (first["attempt_number"], first["error_type"]) == (0, "WORKER_DIED")
    assert (first["worker_pid"], first["node_id"]) == (77, cluster.a.hex())
    assert first["start_time_ms"] is None
    assert states(first) == [("FAILED", 8000)]
    assert (second["attempt_number"], second["state"]) == (1, "FINISHED")


def test_when_a_lost_attempt_began_is_kept_if_it_was_seen(cluster):
    cluster.say(m.TaskEvents(50, [event(7, "RUNNING", start=5.0)]))
    cluster.say(m.TaskEvents(1, [event(7, "FAILED", start=-1.0, end=8.0)]))
    (row,) = tasks(cluster)["rows"]
    assert states(row) == [("RUNNING", 5000), ("FAILED", 8000)]


def test_parents_are_told_in_full(cluster):
    actor = b"a" * 12 + JOB
    cluster.say(m.TaskEvents(50, [], [run_of([7], parents=[3], facts={"parent_actor": actor})]))
    cluster.say(m.TaskEvents(50, [], [run_of([8], "g")]))
    of_actor, of_driver = (row["parent_task_id"] for row in tasks(cluster)["rows"])
    assert of_actor == ids.task_id_bytes(3, JOB, actor).hex()
    assert of_driver == ids.TaskID.for_driver_task(ids.JobID(JOB)).hex()


def test_tasks_explain_themselves(cluster):
    cluster.want(1, backlog=1, key=3, GPU=1)
    number = 1 << ids.COUNTER_BITS | 9
    want = next(iter(cluster.machine.leases.wants.values()))
    cluster.say(m.TasksWaiting(1, [queue_of(events.PLACE, [number], name=want.names[0])]))
    told = cluster.ask(1, "explain", id=ids.task_id_bytes(number, JOB).hex()).value
    assert (told["kind"], told["state"]) == ("task", events.PLACE)
    assert "GPU: 1 asked, 0 there" in told["text"]
    told = cluster.ask(1, "explain", id=cluster.a.hex()).value
    assert (told["kind"], told["state"]) == ("node", "ALIVE")
    assert cluster.ask(1, "explain", id="00" * 24).value["state"] == "UNKNOWN"
    assert cluster.ask(1, "explain", id="zz").error == "ValueError"


# --------------------------------------------------------------------------- events


def kinds(cluster):
    return [row["event_type"] for row in cluster.ask(1, "cluster_events").value["rows"]]


def test_what_happens_is_kept_for_people(cluster):
    assert kinds(cluster) == ["NODE_JOINED", "JOB_STARTED"]
    cluster.want(1, backlog=1, key=3, GPU=1)
    cluster.create(b"A" * 16, class_name="C")
    cluster.dies(50)
    b = cluster.node("b")
    cluster.say(m.NodeStats(b, {"store_spilled": 10}))
    cluster.say(m.NodeStats(b, {"store_spilled": 20}))
    cluster.lose(b)
    found = kinds(cluster)[2:]
    assert found == ["INFEASIBLE", "WORKER_DIED", "NODE_JOINED", "SPILLING", "NODE_DIED"]
    alerts = cluster.ask(1, "cluster_events", filters=[["severity", "=", "ERROR"]]).value
    assert [row["event_type"] for row in alerts["rows"]] == ["WORKER_DIED", "NODE_DIED"]


def test_routine_does_not_push_out_alerts():
    cluster = Cluster(events_max=5)
    a = cluster.node("a")
    cluster.process(1, a)
    cluster.process(50, a, "executor")
    cluster.dies(50)
    for number in range(20):
        cluster.node(f"n{number}")
    found = kinds(cluster)
    assert found == ["WORKER_DIED"] + ["NODE_JOINED"] * 5
    chronicle = cluster.machine.turn.chronicle
    assert [event.number for event in chronicle] == sorted(event.number for event in chronicle)
    newest = [event.number for event in chronicle.since(chronicle.end - 2)]
    assert newest == [chronicle.end - 2, chronicle.end - 1]
