"""What can still be read when a cluster has ended, in good order or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ract.commands.main import main

RACT = Path(sys.executable).with_name("ract")
TIMEOUT_S = 60

PROGRAM = """
import os, ract
from ract.testing import wait_for_condition
from ract.util import state
context = ract.init(num_cpus=2, include_dashboard=False)
@ract.remote
def work(n):
    print("worked on", n)
@ract.remote(max_retries=0)
def fail():
    raise ValueError("on purpose")
@ract.remote(num_cpus=0)
class Dies:
    def die(self):
        print("dying", flush=True)
        os._exit(7)
ract.get([work.remote(n) for n in range(20)])
for call in (fail.remote(), Dies.remote().die.remote()):
    try:
        ract.get(call)
    except Exception as error:
        print(type(error).__name__)
wait_for_condition(lambda: len(state.list_tasks(filters=[("name", "=", "work")])) == 20)
wait_for_condition(lambda: len(state.list_tasks(filters=[("name", "=", "fail")])) == 1)
print("ready", flush=True)
if {kill}:
    import psutil
    from ract.core import history
    session = history.find("current")
    from ract.scheduler.durable import history as kept
    failed = {{"filters": [["name", "=", "fail"]]}}
    wait_for_condition(lambda: kept.read(session, "tasks", {{}})["total"] >= 22)
    wait_for_condition(lambda: kept.read(session, "tasks", failed)["total"] == 1)
    wait_for_condition(lambda: kept.read(session, "actors", {{}})["total"] == 1)
    for process in psutil.Process().children(recursive=True):
        if "ract.client.start.head" in " ".join(process.cmdline()):
            process.kill()
    os._exit(0)
"""


@pytest.fixture(scope="module", params=["in good order", "by kill -9"])
def env(request, tmp_path_factory):
    """Folders in which a cluster has ended."""
    root = Path(os.environ["RACT_TMPDIR"]).parent / tmp_path_factory.mktemp("s").name
    env = {**os.environ, "RACT_TMPDIR": str(root / "s"), "RACT_HOME": str(root / "h")}
    (root / "h").mkdir(parents=True)
    code = PROGRAM.format(kill=request.param == "by kill -9")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert "ready" in done.stdout, done.stdout + done.stderr
    return env


def run(*arguments, env):
    done = CliRunner().invoke(main, [*map(str, arguments)], env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def listed(env, resource, *more):
    how = ["--session", "last", "--format", "json", "--detail"]
    return json.loads(run("list", resource, *how, *more, env=env))


def test_sessions_are_listed(env):
    done = subprocess.run(
        [RACT, "list", "sessions", "--format", "json"],
        env=env,
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    (session,) = json.loads(done.stdout)
    assert session["state"] == "ENDED"
    assert Path(session["path"]).is_dir()


def test_tasks_actors_jobs_nodes_and_events_are_still_there(env):
    works = listed(env, "tasks", "--filter", "name=work")
    assert len({row["task_id"] for row in works}) == 20
    (failed,) = listed(env, "tasks", "--filter", "name=fail")
    assert "on purpose" in failed["error_message"]
    (actor,) = listed(env, "actors")
    assert (actor["class_name"], actor["state"]) == ("Dies", "DEAD")
    assert actor["death_cause"]["exit_code"] == 7
    assert len(listed(env, "nodes")) == len(listed(env, "jobs")) == 1
    kinds = {row["event_type"] for row in listed(env, "cluster-events")}
    assert {"NODE_JOINED", "JOB_STARTED", "ACTOR_DIED", "WORKER_DIED"} <= kinds


def test_what_ended_with_the_driver_is_no_error(env, request):
    if request.node.callspec.params["env"] == "by kill -9":
        return  # nobody was left to tell
    (gone,) = listed(env, "cluster-events", "--filter", "event_type=NODE_LEFT")
    assert gone["severity"] == "INFO"
    (node,) = listed(env, "nodes")
    assert (node["state"], node["state_message"]) == ("DEAD", "node_left: it was stopped")
    (job,) = listed(env, "jobs")
    assert job["status"] == "SUCCEEDED"
    errors = listed(env, "cluster-events", "--filter", "severity=ERROR")
    assert {row["event_type"] for row in errors} == {"WORKER_DIED", "ACTOR_DIED"}


def test_logs_of_processes_are_still_there(env):
    (task,) = listed(env, "tasks", "--filter", "name=work", "--limit", "1")
    said = run("logs", "task", "--id", task["task_id"], "--session", "last", env=env)
    assert said.startswith("worked on")
    assert said.count("\n") == 1
    (actor,) = listed(env, "actors")
    said = run("logs", "actor", "--id", actor["actor_id"], "--session", "last", env=env)
    assert said == "dying\n"
    assert f"-{actor['pid']}.out" in run("logs", "--session", "last", env=env)
    assert run("logs", f"*-{actor['pid']}.out", "--session", "last", env=env) == "dying\n"


def test_the_timeline_is_still_there(env, tmp_path):
    run("timeline", tmp_path / "trace.json", "--session", "last", env=env)
    names = [event["name"] for event in json.loads((tmp_path / "trace.json").read_text())]
    assert names.count("work") == 20


def test_without_a_history_nothing_is_left(tmp_path_factory):
    root = Path(os.environ["RACT_TMPDIR"]).parent / tmp_path_factory.mktemp("n").name
    env = {**os.environ, "RACT_TMPDIR": str(root / "s"), "RACT_HOME": str(root / "h")}
    env["RACT_history_max_bytes"] = "0"
    (root / "h").mkdir(parents=True)
    code = PROGRAM.format(kill=False)
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=TIMEOUT_S)
    assert "No sessions are remembered" in run("list", "sessions", env=env)
    assert not (root / "s" / "history").exists()
