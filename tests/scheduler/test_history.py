"""What has ended, on disk and read again."""

import os
import time
from array import array

import pytest
from simulation.cluster import Cluster

from ract.core import events, history, ids
from ract.core import messages as m
from ract.scheduler.durable import history as ended
from ract.scheduler.durable.record import Recorder

JOB = b"\0\0\0\1"
CLUSTER_ID = "1a2b" * 8


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RACT_TMPDIR", str(tmp_path))


def run_of(numbers, name="f"):
    times = [t for n in numbers for t in (float(n), n + 0.5)]
    columns = array("Q", numbers).tobytes(), array("d", times).tobytes(), b""
    return [name, f"m.{name}", events.NORMAL_TASK, b"", JOB, *columns, {}]


WHERE = [50, 77, b"n" * 28]


def written(*entries, runs=()):
    """The session that a history with these left."""
    kept = ended.History(CLUSTER_ID)
    kept.start()
    assert kept.is_on
    for entry in entries:
        kept.put([entry])
    for run in runs:
        kept.put_run([*run, *WHERE])
    kept.close()
    return history.find("last")


def read(session, kind, **args):
    return ended.read(session, kind, args)


def test_the_newest_row_of_a_thing_counts():
    session = written(
        ("actors", "a", 1.0, {"actor_id": "a", "state": "ALIVE"}),
        ("actors", "b", 2.0, {"actor_id": "b", "state": "DEAD"}),
        ("actors", "a", 3.0, {"actor_id": "a", "state": "DEAD"}),
    )
    found = read(session, "actors")
    assert [row["actor_id"] for row in found["rows"]] == ["b", "a"]
    assert {row["state"] for row in found["rows"]} == {"DEAD"}
    assert read(session, "actors", filters=[["actor_id", "=", "A"]])["total"] == 1
    assert read(session, "jobs") == {"rows": [], "total": 0, "note": ""}


def test_runs_are_read_as_rows_of_tasks():
    row = {"task_id": "aa", "name": "g", "state": "FAILED", "start_time_ms": None}
    session = written(("tasks", "aa-0", 9.0, row), runs=[run_of(range(1, 8)), run_of([20], "h")])
    found = read(session, "tasks", limit=3, offset=2)
    assert found["total"] == 9
    assert [row["start_time_ms"] for row in found["rows"]] == [2000, 3000, 4000]
    (row,) = read(session, "tasks", filters=[["name", "=", "h"]])["rows"]
    assert row["task_id"] == ids.task_id_bytes(20, JOB).hex()
    assert (row["worker_pid"], row["state"]) == (77, "FINISHED")
    assert read(session, "tasks", filters=[["state", "=", "failed"]])["total"] == 1
    spans = ended.spans(session)
    assert sum(len(run[7]) // 8 for run in spans["runs"]) == 8


def test_a_history_that_is_too_large_loses_its_oldest(monkeypatch):
    monkeypatch.setenv("RACT_history_max_bytes", str(400_000))
    big = {"text": "x" * 2000}
    session = written(*(("actors", f"{n}", float(n), {"n": n, **big}) for n in range(500)))
    kept = [row["n"] for row in read(session, "actors", limit=1000)["rows"]]
    assert 20 < len(kept) < 200
    assert kept == list(range(500 - len(kept), 500))
    assert os.path.getsize(session.path / "state.db") < 300_000


def test_without_a_quota_nothing_is_written(monkeypatch):
    monkeypatch.setenv("RACT_history_max_bytes", "0")
    kept = ended.History(CLUSTER_ID)
    kept.start()
    assert not kept.is_on
    kept.put([("actors", "a", 1.0, {})])
    kept.close()
    assert history.sessions() == []


def test_a_fault_ends_the_history_and_nothing_else(caplog):
    session = history.open_session(CLUSTER_ID)
    (session / "state.db").mkdir()
    kept = ended.History(CLUSTER_ID)
    kept.start()
    kept.put([("actors", "a", 1.0, {})])
    kept.close()
    assert "the history of this cluster ends here" in caplog.text


def test_a_session_without_a_database_is_empty():
    session = history.open_session(CLUSTER_ID)
    assert read(history.find(session.name), "tasks")["total"] == 0


@pytest.mark.parametrize(
    "args", [{"limit": 0}, {"limit": 10**6}, {"filters": [["a", "<", "b"]]}], ids=str
)
def test_malformed_questions_are_refused(args):
    session = written()
    with pytest.raises(ValueError, match=r"limit|filter"):
        read(session, "tasks", **args)


def test_what_a_machine_saw_is_recorded(monkeypatch):
    """A record beside a machine, as the adapter has it, but without an event loop."""
    cluster = Cluster(epoch_offset_s=time.time())
    a = cluster.node("a", cpus=2)
    cluster.process(1, a)
    cluster.process(50, a, "executor")
    record = Recorder(bytes.fromhex(CLUSTER_ID))
    monkeypatch.setattr(record, "_arm", lambda: None)
    record.start(cluster.machine)

    def say(message):
        record.see(message)
        cluster.say(message)

    task = ids.task_id_bytes(7, JOB)
    failed = [task, 1, "g", "g", events.NORMAL_TASK, "FAILED", 5.0, 6.0, 0, b"", "X", "no", {}]
    running = [ids.task_id_bytes(8, JOB), 0, "h", "h", events.NORMAL_TASK, "RUNNING", 5.0, 0.0, 0]
    say(m.TaskEvents(50, [failed, [*running, b"", "", "", {}]], [run_of([3, 4])]))
    cluster.create(b"A" * 12 + JOB, class_name="C")
    cluster.dies(50)
    record.close()
    session = history.find("last")
    assert read(session, "tasks")["total"] == 3  # the one that still ran is not among them
    (row,) = read(session, "tasks", filters=[["name", "=", "g"]])["rows"]
    assert (row["attempt_number"], row["error_message"]) == (1, "no")
    assert [row["class_name"] for row in read(session, "actors")["rows"]] == ["C"]
    assert [row["node_id"] for row in read(session, "list_nodes")["rows"]] == [a.hex()]
    assert [row["status"] for row in read(session, "jobs")["rows"]] == ["RUNNING"]
    kinds = [row["event_type"] for row in read(session, "cluster_events")["rows"]]
    assert kinds == ["NODE_JOINED", "JOB_STARTED", "WORKER_DIED"]
