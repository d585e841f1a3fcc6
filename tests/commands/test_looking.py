"""The commands that look at a cluster, compared with the truth.

Most are called in this process, which is in the cluster; `process` runs one as people do.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import ract
from ract.commands.main import main
from ract.testing import wait_for_condition
from ract.util import state

RACT = Path(sys.executable).with_name("ract")
TIMEOUT_S = 60


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


def run(*arguments, code=0):
    done = CliRunner().invoke(main, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def process(*arguments, code=0, **env):
    done = subprocess.run(
        [RACT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, **env},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@ract.remote(num_cpus=0)
class Seen:
    def say(self, text):
        print(text)
        print("to stderr", file=sys.stderr)
        return os.getpid()

    def sleep_in_python(self, path):
        while not os.path.exists(path):
            time.sleep(0.01)


@ract.remote
def counted(n):
    print("counted", n)


@ract.remote(resources={"nowhere": 3})
def never():
    pass


@pytest.fixture(scope="module")
def actor(cluster):
    actor = Seen.options(name="seen").remote()
    return actor._actor_id.hex(), ract.get(actor.say.remote("hello")), actor


@pytest.fixture(scope="module")
def finished(cluster):
    refs = [counted.remote(n) for n in range(30)]
    ract.get(refs)
    done = [("name", "=", "counted"), ("state", "=", "FINISHED")]
    wait_for_condition(lambda: state.list_tasks(filters=done, limit=1).total == 30)
    return refs


# --------------------------------------------------------------------------- list, get, summary


def test_list_shows_what_is_there_in_every_format(actor):
    id_, pid, _ = actor
    row = state.get_actor(id_)
    listed = ["list", "actors", "--filter", "name=SEEN"]
    table = run(*listed).stdout
    assert "Total: 1" in table
    head, line = table[table.index("ACTOR_ID") :].splitlines()[:2]
    assert head.split()[:3] == ["ACTOR_ID", "CLASS_NAME", "STATE"]
    assert line.split()[1:4] == [id_, "Seen", "ALIVE"]
    (found,) = json.loads(process(*listed, "--format", "json").stdout)
    assert found == {name: row[name] for name in found}
    assert "death_cause" not in found
    (found,) = json.loads(run(*listed, "--format", "json", "--detail").stdout)
    assert found == row.asdict()
    (found,) = yaml.safe_load(run(*listed, "--detail").stdout)
    assert found["actor_id"] == id_
    got = yaml.safe_load(run("get", "actors", id_).stdout)
    assert got["pid"] == pid


def test_list_says_what_it_leaves_out_and_how_to_get_it(finished):
    listed = ["list", "tasks", "-f", "name=counted", "--format", "json"]
    done = run(*listed, "--limit", 20)
    assert len(json.loads(done.stdout)) == 20
    assert "20 of 30 tasks are shown; use --limit" in done.stderr
    rest = run(*listed, "--limit", 20, "--offset", 20)
    assert len(json.loads(rest.stdout)) == 10
    assert rest.stderr == ""
    ids = {row["task_id"] for row in json.loads(done.stdout) + json.loads(rest.stdout)}
    assert ids == {ref.task_id().hex() for ref in finished}
    assert "No resource in the cluster" in run("list", "tasks", "-f", "name=nothing").stdout


def test_list_sorts_where_it_asks(finished):
    listed = ["list", "tasks", "-f", "name=counted", "--format", "json", "--detail"]
    rows = json.loads(run(*listed, "--sort", "-start_time_ms", "--limit", 5).stdout)
    starts = sorted((row.start_time_ms for row in state.list_tasks(
        filters=[("name", "=", "counted")], limit=100)), reverse=True)  # fmt: skip
    assert [row["start_time_ms"] for row in rows] == starts[:5]


def test_list_has_no_order_by_a_column_that_is_not_there(finished):
    said = run("list", "tasks", "--sort", "-colour", "--limit", 2, code=1).stderr
    assert said.startswith("Error: tasks have no column colour to sort by; they have task_id, ")


@pytest.mark.parametrize(
    "resource",
    ["nodes", "workers", "jobs", "objects", "placement-groups", "runtime_envs", "cluster_events"],
)
def test_every_table_can_be_listed(actor, resource):
    listed = ["list", resource, "--format", "json", "--limit", 1000]
    ask = getattr(state, f"list_{resource.replace('-', '_')}")
    key = ask(limit=1)[0].ID if ask(limit=1) else ""
    rows = json.loads(run(*listed).stdout)
    assert [row[key] for row in rows] == [row[key] for row in ask(limit=1000)]


def test_summaries_count(finished, actor):
    found = yaml.safe_load(run("summary", "tasks", "--format", "yaml").stdout)
    assert found["summary"]["counted"]["state_counts"] == {"FINISHED": 30}
    text = run("summary", "tasks").stdout
    assert f"total_tasks: {found['total_tasks']}" in text
    assert "FINISHED: 30" in text
    assert "ALIVE: 1" in run("summary", "actors").stdout
    box = ract.put(b"x" * 3_000_000)
    wait_for_condition(lambda: len(state.get_objects(box.hex())) == 1)
    assert json.loads(run("summary", "objects", "--format", "json").stdout)["total_objects"] >= 1


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["list", "planets"], 2, "'planets' is not one of"),
        (["list", "actors", "--filter", "state<DEAD"], 2, "is not key=value or key!=value"),
        (["list", "actors", "--filter", "state"], 2, "is not key=value or key!=value"),
        (["list", "actors", "--limit", "10001"], 1, "1 to 10000 rows"),
        (["list", "actors", "--session", "zzz"], 1, "no session has a name"),
        (["list", "workers", "--session", "current"], 1, "the history has no workers"),
        (["get", "actors", "00" * 16], 1, "not found in the cluster"),
        (["get", "actors"], 2, "Missing argument"),
        (["logs", "actor"], 2, "by --id or by --pid"),
        (["logs", "actor", "--id", "00" * 16], 1, "there is no actor"),
        (["logs", "task", "--id", "zz"], 1, "not an id in hex digits"),
        (["logs", "nothing*"], 1, "no log files match 'nothing*'"),
        (["explain", "zz"], 1, "not an id in hex digits"),
        (["explain", "00" * 28], 1, ""),
        (["stack", "--pid", "1"], 1, "no executor with pid 1"),
        (["timeline", "/nowhere/trace.json"], 1, "No such file"),
        (["memory", "--units", "TB"], 2, "'TB' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_told_in_words(arguments, code, what):
    assert what in run(*arguments, code=code).stderr


def test_without_a_cluster_there_is_a_message_and_an_exit_code(tmp_path):
    for arguments in (["list", "actors"], ["logs"]):
        done = process(*arguments, code=1, RACT_TMPDIR=str(tmp_path / "empty"))
        assert "no running cluster" in done.stderr, arguments
        assert "--address" in done.stderr


# --------------------------------------------------------------------------- logs


def test_logs_are_listed_shown_and_cut(actor):
    id_, pid, _ = actor
    name = f"-{pid}.out"
    assert name in run("logs").stdout
    assert process("logs", f"*{name}").stdout == "hello\n"
    assert run("logs", "cluster", f"*{name}").stdout == "hello\n"
    assert run("logs", "actor", "--id", id_, "--err").stdout == "to stderr\n"
    assert run("logs", "actor", "--pid", pid, "--tail", 0).stdout == ""
    assert run("logs", "worker", "--pid", pid).stdout == "hello\n"
    several = run("logs", f"*-{pid}.*")
    assert "2 files match" in several.stderr


def test_the_log_of_a_task(finished):
    assert run("logs", "task", "--id", finished[7].task_id().hex()).stdout == "counted 7\n"


def test_a_log_is_followed():
    talker = Seen.remote()
    ract.get(talker.say.remote("one"))
    follower = subprocess.Popen(
        [RACT, "logs", "actor", "--id", talker._actor_id.hex(), "-f"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout.readline() == "one\n"
        for text in ("two", "three"):
            ract.get(talker.say.remote(text))
            assert follower.stdout.readline() == f"{text}\n"
    finally:
        follower.terminate()
        follower.communicate(timeout=TIMEOUT_S)


# --------------------------------------------------------------------------- the rest


def test_explain_says_what_is_lacking_for_a_task():
    ref = never.remote()
    wait_for_condition(lambda: state.get_task(ref) is not None)
    said = process("explain", ref.hex()).stdout
    assert "PENDING_NODE_ASSIGNMENT" in said
    assert "nowhere: 3 asked, 0 there" in said
    found = json.loads(run("explain", "--json", ref.task_id().hex()).stdout)
    assert (found["kind"], found["reasons"][0]["feasible"]) == ("task", False)
    ract.cancel(ref)


@ract.remote(num_cpus=0)
class Native:
    def pid(self):
        return os.getpid()

    def hold_the_gil(self, seconds, begun):
        begun.touch()
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))


@pytest.mark.skipif(shutil.which("py-spy") is None, reason="py-spy is not installed")
def test_stack_of_an_executor_that_holds_the_gil_comes_from_py_spy(tmp_path):
    native = Native.remote()
    pid = ract.get(native.pid.remote())
    held = native.hold_the_gil.remote(5, tmp_path / "begun")
    wait_for_condition((tmp_path / "begun").exists)
    said = run("stack", "--pid", str(pid)).stdout
    assert "native code may hold the GIL" in said
    assert "hold_the_gil" in said or "CAP_SYS_PTRACE" in said
    ract.get(held)


def test_stack_shows_the_line_that_runs(tmp_path):
    sleeper = Seen.remote()
    call = sleeper.sleep_in_python.remote(str(tmp_path / "go"))
    id_ = sleeper._actor_id.hex()
    wait_for_condition(lambda: state.get_actor(id_).state == "ALIVE")
    wait_for_condition(lambda: "in sleep_in_python" in run("stack", "--actor-id", id_).stdout)
    assert "Seen.sleep_in_python has run for" in process("stack").stdout
    (tmp_path / "go").touch()
    ract.get(call)


def test_memory_shows_size_holder_and_place():
    box = ract.put(b"x" * 5_000_000)
    wait_for_condition(lambda: len(state.get_objects(box.hex())) == 1)
    said = process("memory", "--units", "MB").stdout
    (line,) = [line for line in said.splitlines() if box.hex() in line]
    assert "4.77 MB" in line
    assert str(os.getpid()) in line
    assert "in memory, pinned" in line
    assert "--- Aggregate object store stats across all nodes ---" in said
    assert "Summary for stack trace" in run("memory", "--group-by", "STACK_TRACE").stdout
    assert box.hex() not in run("memory", "--stats-only").stdout
    other = ract.put(b"y" * 4_000_000)
    wait_for_condition(lambda: len(state.get_objects(other.hex())) == 1)
    first = run("memory", "-n", 1).stdout
    assert box.hex() in first
    assert other.hex() not in first
    assert "more: -n" in first


def test_timeline_writes_a_trace(finished, tmp_path):
    said = run("timeline", tmp_path / "trace.json").stdout
    events = json.loads((tmp_path / "trace.json").read_text())
    spans = [event for event in events if event["ph"] == "X"]
    assert said.startswith(f"{len(spans)} tasks written to ")
    ids = {span["args"]["task_id"] for span in spans}
    assert {ref.task_id().hex() for ref in finished} <= ids


def test_status_tells_of_nodes_and_alerts():
    ref = never.remote()
    wait_for_condition(lambda: state.get_task(ref) is not None)
    said = process("status", "-v").stdout
    assert "INFEASIBLE" in said
    assert "Usage" in said
    ract.cancel(ref)
