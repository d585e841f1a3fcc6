"""Tables of a cluster, asked for from inside it."""

import json
import os
import signal
import time
from array import array

import pytest

import ract
from ract.client.api.timeline import trace
from ract.testing import wait_for_condition
from ract.util import placement_group, profiling, remove_placement_group, state
from ract.util.state.common import GetApiOptions, ListApiOptions, StateResource, SummaryApiOptions
from ract.util.state.exception import (
    DataSourceUnavailable,
    RayStateApiException,
    ServerUnavailable,
)


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
class Listed:
    def ping(self):
        return 1


@ract.remote
def seen():
    return 1


def test_actors_are_listed_filtered_and_found_by_id():
    one, two = Listed.options(name="listed").remote(), Listed.remote()
    ract.get([one.ping.remote(), two.ping.remote()])
    (row,) = state.list_actors(filters=[("name", "=", "LISTED"), ("state", "!=", "DEAD")])
    assert row.actor_id == row["actor_id"] == one._actor_id.hex()
    assert (row.class_name, row.state) == ("Listed", "ALIVE")
    assert state.get_actor(two._actor_id.hex()).name == ""
    assert state.get_actor("00" * 16) is None
    assert len(state.list_actors(limit=1)) == 1
    ract.kill(two)
    wait_for_condition(lambda: state.get_actor(two._actor_id.hex()).state == "DEAD")
    counts = state.summarize_actors()["cluster"]["summary"]["Listed"]["state_counts"]
    assert counts == {"ALIVE": 1, "DEAD": 1}


def test_tasks_are_listed_and_found_by_their_refs():
    ref = seen.options(name="noticed").remote()
    ract.get(ref)
    wait_for_condition(lambda: state.get_task(ref) is not None)
    row = state.get_task(ref)
    assert (row.name, row.state, row.type) == ("noticed", "FINISHED", "NORMAL_TASK")
    assert row in state.list_tasks(filters=[("task_id", "=", ref.task_id().hex())])
    assert "noticed" in state.summarize_tasks()["cluster"]["summary"]


def test_nodes_workers_jobs_and_objects_are_listed():
    ref = ract.put(b"x" * 1_000_000)
    (node,) = state.list_nodes()
    assert node.node_id == ract.get_runtime_context().get_node_id()
    assert state.get_node(node.node_id) == node
    me = ract.get_runtime_context().get_worker_id()
    assert me
    assert any(worker.worker_type == "DRIVER" for worker in state.list_workers())
    assert state.get_job(ract.get_runtime_context().get_job_id()).status == "RUNNING"
    wait_for_condition(lambda: len(state.get_objects(ref.hex())) == 1)
    assert state.get_objects(ref.hex())[0].object_size >= 1_000_000


def test_placement_groups_are_listed_with_their_bundles():
    group = placement_group([{"CPU": 1}], name="listed", lifetime="detached")
    assert group.wait(30)
    row = state.get_placement_group(group.id.hex())
    assert (row.name, row.state, row.is_detached) == ("listed", "CREATED", True)
    assert row in state.list_placement_groups(filters=[("name", "=", "listed")])
    (bundle,) = row.bundles
    assert bundle["unit_resources"] == {"CPU": 1.0}
    assert bundle["node_id"] == ract.get_runtime_context().get_node_id()
    remove_placement_group(group)
    wait_for_condition(lambda: state.get_placement_group(group.id.hex()).state == "REMOVED")


def test_rows_behave_as_objects_and_as_dicts():
    (node,) = state.list_nodes()
    assert dict(node) == node.asdict()
    assert "node_id" in node
    assert node.node_id in repr(node)
    with pytest.raises(AttributeError, match="no column 'colour'"):
        _ = node.colour


def test_bad_limits_and_filters_are_refused():
    with pytest.raises(RayStateApiException, match="10000"):
        state.list_actors(limit=10_001)
    with pytest.raises(ValueError, match="'=' or '!='"):
        state.list_actors(filters=[("state", "<", "DEAD")])


# --------------------------------------------------------------------------- tasks


@ract.remote
def hold(path):
    while not os.path.exists(path):
        time.sleep(0.01)


@ract.remote
def after(_):
    return 1


def state_of(ref):
    row = state.get_task(ref)
    return row.state if row is not None else None


def test_tasks_are_seen_while_they_wait_and_run(tmp_path):
    path = str(tmp_path / "go")
    running = [hold.remote(path) for _ in range(2)]  # both CPUs
    queued, dependent = hold.remote(path), after.remote(running[0])
    wait_for_condition(lambda: state_of(running[0]) == state_of(running[1]) == "RUNNING")
    wait_for_condition(lambda: state_of(queued) == "PENDING_NODE_ASSIGNMENT")
    wait_for_condition(lambda: state_of(dependent) == "PENDING_ARGS_AVAIL")
    counts = state.summarize_tasks()["cluster"]["summary"]["hold"]["state_counts"]
    assert counts == {"RUNNING": 2, "PENDING_NODE_ASSIGNMENT": 1}
    assert state.get_task(queued).required_resources == {"CPU": 1.0}
    with open(path, "w"):
        pass
    ract.get([*running, queued, dependent])
    wait_for_condition(lambda: state_of(queued) == state_of(running[0]) == "FINISHED")
    story = state.get_task(queued).events
    assert [each["state"] for each in story] == ["PENDING_NODE_ASSIGNMENT", "RUNNING", "FINISHED"]
    times = [each["created_ms"] for each in story]
    assert times == sorted(times)
    wait_for_condition(lambda: state_of(dependent) == "FINISHED")
    assert state.get_task(dependent).events[0]["state"] == "PENDING_ARGS_AVAIL"


@ract.remote(num_cpus=0)
def wait_for_all(how, refs, path):
    ract.get(refs[0]) if how == "get" else ract.wait(refs)
    while not os.path.exists(path):
        time.sleep(0.01)


@ract.remote(num_cpus=0, max_concurrency=2)
class Waiting:
    def wait_for(self, refs):
        ract.wait(refs, num_returns=len(refs))

    def ping(self):
        return 1


def test_calls_that_wait_in_get_or_wait_are_seen_as_that(tmp_path):
    path, end = str(tmp_path / "go"), str(tmp_path / "end")
    awaited = hold.remote(path)
    actor = Waiting.remote()
    one, two = (wait_for_all.remote(how, [awaited], end) for how in ("get", "wait"))
    three = actor.wait_for.remote([awaited])
    wait_for_condition(lambda: state_of(one) == "RUNNING_IN_RAY_GET")
    wait_for_condition(lambda: state_of(two) == state_of(three) == "RUNNING_IN_RAY_WAIT")
    filters = [("state", "=", "RUNNING_IN_RAY_GET")]
    assert [row.task_id for row in state.list_tasks(filters=filters)] == [one.task_id().hex()]
    story = state.get_task(one).events
    assert [each["state"] for each in story] == ["RUNNING", "RUNNING_IN_RAY_GET"]
    assert story[0]["created_ms"] <= story[1]["created_ms"]
    with open(path, "w"):
        pass
    wait_for_condition(lambda: state_of(one) == state_of(two) == "RUNNING")
    wait_for_condition(lambda: state_of(three) == "FINISHED")
    with open(end, "w"):
        pass
    ract.get([one, two, three])
    wait_for_condition(lambda: state_of(one) == state_of(two) == "FINISHED")
    counts = state.summarize_tasks()["cluster"]["summary"]["wait_for_all"]["state_counts"]
    assert counts == {"FINISHED": 2}


def test_calls_of_an_actor_that_is_not_there_yet_are_seen():
    actor = Listed.options(resources={"nowhere": 1}).remote()
    ref = actor.ping.remote()
    # Nothing else goes on in this process.
    wait_for_condition(lambda: state_of(ref) == "PENDING_NODE_ASSIGNMENT")
    assert state.get_task(ref).actor_id == actor._actor_id.hex()
    ract.kill(actor)
    wait_for_condition(lambda: state_of(ref) is None)


@ract.remote(max_retries=2, retry_exceptions=True)
def third_time(folder):
    made = len(os.listdir(folder))
    with open(os.path.join(folder, str(made)), "w"):
        pass
    if made == 0:
        raise ValueError("not yet")
    if made == 1:
        os._exit(3)
    return made


def test_each_attempt_is_listed(tmp_path):
    ref = third_time.remote(str(tmp_path))
    assert ract.get(ref) == 2
    wait_for_condition(lambda: isinstance(state.get_task(ref), list))
    wait_for_condition(lambda: state.get_task(ref)[-1].state == "FINISHED")
    attempts = {row.attempt_number: row for row in state.get_task(ref)}
    # What a process that ended in the middle had not told yet is lost with it: the first attempt
    # ran there or elsewhere.
    assert {1, 2} <= set(attempts)
    assert (attempts[1].state, attempts[1].error_type) == ("FAILED", "WORKER_DIED")
    assert "exit code 3" in attempts[1].error_message
    assert attempts[2].state == "FINISHED"


@ract.remote(num_cpus=0)
class Parent:
    def child(self):
        return seen.remote()

    def fail(self):
        raise KeyError("no such thing")


def test_tasks_know_their_parents_and_errors_their_tracebacks():
    parent = Parent.remote()
    call = parent.child.remote()
    child = ract.get(call)
    ract.get(child)
    failing = parent.fail.remote()
    with pytest.raises(KeyError):
        ract.get(failing)
    wait_for_condition(lambda: state_of(child) == state_of(call) == "FINISHED")
    assert state.get_task(child).parent_task_id == call.task_id().hex()
    job = ract.get_runtime_context().get_job_id()
    assert state.get_task(call).parent_task_id == "ff" * 20 + job
    wait_for_condition(lambda: state_of(failing) == "FAILED")
    row = state.get_task(failing)
    assert row.error_type == "TASK_EXECUTION_EXCEPTION"
    assert "Traceback" in row.error_message
    assert "in fail" in row.error_message
    creations = [("type", "=", "ACTOR_CREATION_TASK"), ("actor_id", "=", parent._actor_id.hex())]
    wait_for_condition(lambda: len(state.list_tasks(filters=creations)) == 1)
    (made,) = state.list_tasks(filters=creations)
    assert (made.name, made.state) == ("Parent.__init__", "FINISHED")


def test_what_is_cancelled_before_it_begins_is_listed():
    late = ract.remote(num_cpus=0, resources={"nowhere": 1})(lambda: None).options(name="late")
    refs = [late.remote() for _ in range(3)]
    for ref in refs:
        ract.cancel(ref)
        with pytest.raises(ract.exceptions.TaskCancelledError):
            ract.get(ref)
    wait_for_condition(lambda: [*map(state_of, refs)] == ["FAILED"] * 3)
    row = state.get_task(refs[0])
    assert (row.name, row.error_type) == ("late", "TASK_CANCELLED")


def test_constructors_of_restarted_actors_are_attempts():
    actor = Listed.options(max_restarts=1).remote()
    ract.get(actor.ping.remote())
    wanted = [("type", "=", "ACTOR_CREATION_TASK"), ("actor_id", "=", actor._actor_id.hex())]
    wait_for_condition(lambda: len(state.list_tasks(filters=wanted)) == 1)
    os.kill(state.get_actor(actor._actor_id.hex()).pid, signal.SIGKILL)
    wait_for_condition(lambda: len(state.list_tasks(filters=wanted)) == 2, timeout=30)
    rows = state.list_tasks(filters=wanted)
    assert {(row.attempt_number, row.state) for row in rows} == {(0, "FINISHED"), (1, "FINISHED")}


def test_tasks_in_a_placement_group_name_it():
    group = placement_group([{"CPU": 1}])
    assert group.wait(30)
    ref = seen.options(placement_group=group).remote()
    ract.get(ref)
    wait_for_condition(lambda: state_of(ref) == "FINISHED")
    assert state.get_task(ref).placement_group_id == group.id.hex()
    remove_placement_group(group)


def test_call_sites_are_recorded_if_asked_for(monkeypatch):
    from ract.client.process import sites

    monkeypatch.setattr(sites, "of_calls", True)
    monkeypatch.setattr(sites, "of_refs", True)
    ref, actor = seen.remote(), Listed.remote()
    ract.get([ref, actor.ping.remote()])
    box = ract.put(b"x" * 2_000_000)
    wait_for_condition(lambda: state_of(ref) == "FINISHED")
    here = f"{__file__}:"
    assert state.get_task(ref).call_site.startswith(here)
    assert "test_call_sites_are_recorded" in state.get_task(ref).call_site
    assert state.get_actor(actor._actor_id.hex()).call_site.startswith(here)
    wait_for_condition(lambda: len(state.get_objects(box.hex())) == 1)
    assert state.get_objects(box.hex())[0].call_site.startswith(here)
    assert any(s.startswith(here) for s in state.summarize_objects()["cluster"]["summary"])


# --------------------------------------------------------------------------- actors and events


@pytest.mark.parametrize("text", ["Shown(7)", "odd \udce4" + "." * 600])
def test_actors_are_listed_with_what_they_call_themselves(text):
    @ract.remote(num_cpus=0)
    class Shown:
        def __repr__(self):
            return text

    shown, plain = Shown.remote(), Listed.remote()
    ract.get([shown.__ray_ready__.remote(), plain.ping.remote()])
    assert state.get_actor(shown._actor_id.hex()).repr_name == text[:500].replace("\udce4", "?")
    assert state.get_actor(plain._actor_id.hex()).repr_name == ""


def test_the_death_of_an_actor_is_explained_and_noted():
    @ract.remote(num_cpus=0)
    class Victim:
        def die(self):
            import faulthandler
            import sys

            print("last words", file=sys.stderr)
            faulthandler._sigsegv()

        def pid(self):
            return os.getpid()

    victim = Victim.remote()
    pid = ract.get(victim.pid.remote())
    with pytest.raises(ract.exceptions.ActorDiedError):
        ract.get(victim.die.remote())
    id_ = victim._actor_id.hex()
    wait_for_condition(lambda: state.get_actor(id_).state == "DEAD")
    row = state.get_actor(id_)
    cause = row.death_cause
    assert (cause["kind"], cause["signal"], row.pid) == ("crashed", signal.SIGSEGV, pid)
    assert "last words" in cause["stderr_tail"]
    assert "Segmentation fault" in cause["stderr_tail"]
    assert "in die" in cause["stderr_tail"]
    events = state.list_cluster_events(filters=[("event_type", "=", "ACTOR_DIED")], limit=1000)
    assert any(event.custom_fields.get("actor_id") == id_ for event in events)
    assert "".join(state.get_log(actor_id=id_, suffix="err")).startswith("last words\n")


def test_what_a_constructor_wrote_before_it_raised_can_be_read():
    @ract.remote(num_cpus=0)
    class Bad:
        def __init__(self):
            print("so far so good")
            raise ValueError("no further")

        def ping(self):
            pass

    bad = Bad.remote()
    with pytest.raises(ract.exceptions.ActorDiedError):
        ract.get(bad.ping.remote())
    assert "".join(state.get_log(actor_id=bad._actor_id.hex())) == "so far so good\n"
    wanted = [("name", "=", "Bad.__init__")]
    wait_for_condition(lambda: len(state.list_tasks(filters=wanted)) == 1)
    (row,) = state.list_tasks(filters=wanted)
    assert (row.state, row.type) == ("FAILED", "ACTOR_CREATION_TASK")
    assert "no further" in row.error_message


@pytest.mark.parametrize("ends_by_itself", [False, True])
def test_what_a_process_ran_just_before_its_end_is_listed(ends_by_itself):
    @ract.remote(max_calls=0 if ends_by_itself else 3, max_retries=0)
    def brief(end):
        if end:
            os._exit(1)

    name = f"brief-{ends_by_itself}"
    brief = brief.options(name=name)
    for _ in range(3):
        ract.get(brief.remote(False))
    if ends_by_itself:
        with pytest.raises(ract.exceptions.WorkerCrashedError):
            ract.get(brief.remote(True))
    wanted = [("name", "=", name), ("state", "=", "FINISHED")]
    wait_for_condition(lambda: len(state.list_tasks(filters=wanted)) == 3)


def test_runtime_environments_are_listed():
    env = {"env_vars": {"LISTED": "1"}}
    actor = Listed.options(runtime_env=env).remote()
    ract.get(actor.ping.remote())
    (row,) = [row for row in state.list_runtime_envs() if "LISTED" in row.runtime_env]
    assert json.loads(row.runtime_env) == env
    assert row.ref_cnt >= 1


# --------------------------------------------------------------------------- logs


@ract.remote
def talks(n):
    for line in range(3):
        print("task", n, "line", line)


def test_the_log_of_a_task_is_what_it_wrote():
    refs = [talks.remote(n) for n in range(6)]
    ract.get(refs)
    wait_for_condition(lambda: all(state_of(ref) == "FINISHED" for ref in refs))
    for n, ref in enumerate(refs):
        text = "".join(state.get_log(task_id=ref.task_id().hex()))
        assert text == "".join(f"task {n} line {line}\n" for line in range(3))
    last = state.get_log(task_id=refs[3].task_id().hex(), tail=1)
    assert "".join(last) == "task 3 line 2\n"


def test_logs_of_processes_are_listed_and_followed(tmp_path):
    @ract.remote(num_cpus=0)
    class Talker:
        def say(self, text):
            print(text)
            return os.getpid()

    talker = Talker.remote()
    pid = ract.get(talker.say.remote("first"))
    names = [name for names in state.list_logs().values() for name in names]
    mine = [name for name in names if f"-{pid}." in name]
    assert sorted(name.rpartition(".")[2] for name in mine) == ["err", "out"]
    assert state.list_logs(glob_filter=f"*-{pid}.out") == {"worker_out": [f"{mine[0][:-4]}.out"]}
    node = state.list_nodes()[0].node_id
    assert "".join(state.get_log(filename=f"{mine[0][:-4]}.out", node_id=node)) == "first\n"
    pieces = state.get_log(actor_id=talker._actor_id.hex(), follow=True, _interval=0.1)
    assert next(pieces) == "first\n"
    ract.get(talker.say.remote("second"))
    assert next(pieces) == "second\n"
    assert "".join(state.get_log(pid=pid, tail=1)) == "second\n"
    worker = state.get_actor(talker._actor_id.hex()).worker_id
    assert "".join(state.get_log(worker_id=worker)) == "first\nsecond\n"


@pytest.mark.parametrize(
    ("wanted", "error", "what"),
    [
        ({}, ValueError, "name one of"),
        ({"pid": 1, "actor_id": "00"}, ValueError, "name one of"),
        ({"pid": 1, "suffix": "log"}, ValueError, "'out' or 'err'"),
        ({"actor_id": "00" * 16}, RayStateApiException, "no actor"),
        ({"actor_id": "zz"}, RayStateApiException, "hex digits"),
        ({"task_id": "00" * 24}, RayStateApiException, "no task"),
        ({"worker_id": "7f" * 4}, RayStateApiException, "no process"),
        ({"pid": 1}, RayStateApiException, "0 nodes have or had a process 1"),
        ({"filename": "nothing.log"}, DataSourceUnavailable, "no log file nothing.log"),
        ({"filename": "../node.json"}, DataSourceUnavailable, "not the name of a file"),
        ({"filename": "x", "node_id": "zz"}, RayStateApiException, "no node zz"),
        ({"submission_id": "raysubmit_1"}, RayStateApiException, "submitted jobs"),
    ],
    ids=str,
)
def test_logs_that_are_not_there(wanted, error, what):
    with pytest.raises(error, match=what):
        list(state.get_log(**wanted))


# --------------------------------------------------------------------------- the client, and limits


def test_the_client_answers_as_the_functions_do():
    client = state.StateApiClient()
    nodes = client.list(StateResource.NODES, ListApiOptions(limit=5))
    assert nodes == state.list_nodes()
    assert nodes.total == 1
    assert client.get(StateResource.NODES, nodes[0].node_id, GetApiOptions()) == nodes[0]
    summary = client.summary(StateResource.ACTORS, options=SummaryApiOptions())
    assert (
        summary["cluster"]["summary"].keys()
        == state.summarize_actors()["cluster"]["summary"].keys()
    )
    with pytest.raises(ValueError, match="no summary of nodes"):
        client.summary(StateResource.NODES, options=SummaryApiOptions())


def test_what_is_cut_is_said(caplog):
    ract.get([seen.options(name="many").remote() for _ in range(150)])
    many = [("name", "=", "many")]
    wait_for_condition(lambda: state.list_tasks(filters=many, limit=1).total == 150)
    caplog.clear()
    found = state.list_tasks(filters=many)
    assert (len(found), found.total) == (100, 150)
    assert "100 of 150 rows" in caplog.text
    assert len(state.list_tasks(filters=many, limit=1000)) == 150
    caplog.clear()
    assert state.list_tasks(filters=[("colour", "=", "red")]) == []
    assert "tasks have no column colour" in caplog.text
    state.list_nodes(filters=[("colour", "!=", "red")])
    assert "nodes have no column colour" in caplog.text
    caplog.clear()
    assert state.list_tasks(filters=[("language", "=", "COBOL")]) == []
    assert caplog.text == ""


def test_a_cluster_that_is_not_there_is_unavailable():
    with pytest.raises(ServerUnavailable):
        state.list_nodes(address="tls://127.0.0.1:9")
    with pytest.raises(ServerUnavailable, match="no session has a name that begins with 'zzz'"):
        state.list_actors(session="zzz")
    with pytest.raises(RayStateApiException, match="the history has no workers; it has actors"):
        state.list_workers(session="last")


def test_marked_spans_are_in_the_timeline(monkeypatch):
    @ract.remote
    def loads():
        with profiling.profile("load", extra_data={"name": "a file", "size": 7}) as span:
            span.set_attribute("lines", 3)
        return ract.get_runtime_context().get_task_id()

    pool = loads.options(runtime_env={"env_vars": {"RACT_PROFILING": "1"}})
    task_id = ract.get(pool.remote())
    ract.get(loads.remote())  # nothing is recorded
    with pytest.raises(KeyError), profiling.profile("off"):
        raise KeyError("not seen")
    monkeypatch.setenv("RACT_PROFILING", "1")
    with pytest.raises(KeyError), profiling.profile("main"):
        raise KeyError("seen")

    def marked():
        return [event for event in ract.timeline() if event.get("cat") in ("load", "off", "main")]

    wait_for_condition(lambda: len(marked()) == 2)
    by_kind = {event["cat"]: event for event in marked()}
    assert by_kind["load"]["name"] == "a file"
    assert by_kind["load"]["args"] == {"task_id": task_id, "size": "7", "lines": "3"}
    assert by_kind["main"]["name"] == "main"
    assert by_kind["main"]["args"]["error"] == "KeyError: 'seen'"
    assert by_kind["load"]["dur"] >= 0


def test_the_timeline_is_a_chrome_trace(tmp_path):
    ref = seen.options(name="timed").remote()
    ract.get(ref)
    wait_for_condition(lambda: state_of(ref) == "FINISHED")
    path = tmp_path / "trace.json"
    assert ract.timeline(str(path)) is None
    events = json.loads(path.read_text())
    spans = [event for event in events if event["ph"] == "X"]
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in spans} <= named
    (span,) = [e for e in spans if e["args"]["task_id"] == ref.task_id().hex()]
    row = state.get_task(ref)
    assert (span["name"], span["cat"]) == ("timed", "task")
    assert round(span["ts"] / 1000) == row.start_time_ms
    assert span["dur"] >= 0
    assert len(ract.timeline()) >= len(events)


def test_spans_of_a_row_of_the_timeline_follow_each_other_or_nest():
    times = array("d", [1, 4, 2, 5, 2, 3, 6, 7]).tobytes()
    numbers = array("Q", range(4)).tobytes()
    node, actor = b"n" * 28, b"a" * 16
    run = ["f", "ACTOR_TASK", node, 77, 3, actor, b"job0", numbers, times]
    events = list(trace({"hosts": {}, "runs": [run], "tasks": [], "marked": []}))
    rows = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    spans = [(e["ts"] / 1e6, e["dur"] / 1e6, rows[e["tid"]]) for e in events if e["ph"] == "X"]
    one, two = "worker (pid 77)", "worker (pid 77), row 2"
    assert spans == [(1, 3, one), (2, 3, two), (2, 1, one), (6, 1, one)]


def test_processes_have_the_ids_that_they_know_themselves():
    mine = ract.get_runtime_context().get_worker_id()
    assert [row.worker_type for row in state.list_workers() if row.worker_id == mine] == ["DRIVER"]
