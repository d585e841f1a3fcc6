"""The commands that people type: rscheduler, rworker, ract; and a plain Dask cluster with preloads.

Each command is a process of its own with its own folders, as on a machine of its own.
"""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

import ract
from ract.exceptions import ActorDiedError
from ract.testing import wait_for_condition

BIN = Path(sys.executable).parent
TIMEOUT_S = 60


class Daemon:
    """A command that runs until it is stopped; ``said`` is what it printed so far."""

    def __init__(self, *command, env, until):
        self.process = subprocess.Popen(
            [*map(str, command)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if until in line:
                return
        raise AssertionError(f"{command} ended before it said {until!r}:\n{self.said}")

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=TIMEOUT_S)
        self.said += rest
        return self.process.returncode


@pytest.fixture
def env(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    # Below the folder of this test run, whose end checks that nothing is left in it.
    root = Path(os.environ["RACT_TMPDIR"]).parent / folder.name
    env = {**os.environ, "RACT_TMPDIR": str(root / "s"), "RACT_HOME": str(root / "h")}
    (root / "h").mkdir(parents=True)
    return env


@pytest.fixture
def daemons():
    running = []

    def start(*command, env, until):
        daemon = Daemon(*command, env=env, until=until)
        running.append(daemon)
        return daemon

    yield start
    for daemon in reversed(running):
        daemon.stop()


def run(*command, env, check=True):
    done = subprocess.run(
        [*map(str, command)], env=env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def address_of(scheduler):
    return re.search(r"tls://127\.0\.0\.1:\d+", scheduler.said)[0]


def three_daemons(start, env):
    scheduler = start(BIN / "rscheduler", "--port", "0", env=env, until="dashboard")
    address = address_of(scheduler)
    labels = Path(env["RACT_HOME"], "labels.yaml")
    labels.write_text("zone: a\nmy.org/tier: gpu\n")
    nodes = [
        start(BIN / "rworker", address, "--num-cpus", "2", *more, env=env, until="joined")
        for more in (
            ["--resources", '{"Custom": 1}'],
            ["--num-gpus", "1", "--labels", "zone=b", "--memory", "1000", "--labels-file", labels],
        )
    ]
    return scheduler, address, nodes


def leftovers(env):
    """Processes, sockets and shared memory of nodes below the folder."""
    root = Path(env["RACT_TMPDIR"])
    mark = os.fsencode(root)
    found = [path for path in root.rglob("*") if path.is_socket()]
    for process in psutil.process_iter():
        try:
            environ = Path("/proc", str(process.pid), "environ").read_bytes()
        except OSError:
            continue
        if mark in environ and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


SCRIPT = """
import numpy as np, os, ract
context = ract.init({address})
@ract.remote
def square(x):
    return x * x
@ract.remote(num_cpus=0)
class Where:
    def node(self):
        return ract.get_runtime_context().get_node_id()
    def make(self, n):
        return np.ones(n)
assert ract.get([square.remote(i) for i in range(20)]) == [i * i for i in range(20)]
custom = Where.options(resources={{"Custom": 1}}).remote()
gpu = Where.options(num_gpus=1).remote()
nodes = {{n["NodeID"]: n for n in ract.nodes()}}
assert nodes[ract.get(custom.node.remote())]["Resources"]["Custom"] == 1
with_gpu = nodes[ract.get(gpu.node.remote())]
assert with_gpu["Resources"]["GPU"] == 1
assert with_gpu["Resources"]["memory"] == 1000
assert with_gpu["Labels"]["zone"] == "b"  # the command line wins over the file
assert with_gpu["Labels"]["my.org/tier"] == "gpu"
assert with_gpu["Labels"]["ray.io/node-id"] == with_gpu["NodeID"]
assert ract.get(gpu.make.remote(1_000_000)).sum() == 1_000_000
print("nodes", len(nodes))
"""


def script(address=""):
    return textwrap.dedent(SCRIPT.format(address=repr(address) if address else ""))


def test_three_daemons_run_a_script_and_end_without_a_trace(env, daemons):
    scheduler, address, nodes = three_daemons(daemons, env)
    token = Path(env["RACT_HOME"], "token")
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text().strip() in scheduler.said
    assert "nodes 2" in run(sys.executable, "-c", script(address), env=env).stdout
    by_name = run(sys.executable, "-c", script(), env={**env, "RACT_ADDRESS": address})
    assert "nodes 2" in by_name.stdout

    said = run(BIN / "ract", "status", env=env).stdout
    assert "2 nodes" in said
    assert "Custom" in said
    found = json.loads(run(BIN / "ract", "status", "--json", "--address", address, env=env).stdout)
    assert found["resources"]["CPU"] == {"used": 0, "total": 4}

    assert nodes[0].stop(signal.SIGINT) == 0
    wait_for_condition(lambda: "1 node," in run(BIN / "ract", "status", env=env).stdout)
    assert nodes[1].stop(signal.SIGTERM) == 0
    assert scheduler.stop(signal.SIGINT) == 0
    wait_for_condition(lambda: not leftovers(env))
    assert "Traceback" not in "".join(d.said for d in (scheduler, *nodes))


def test_status_shows_demands_that_wait(env, daemons):
    _, address, _ = three_daemons(daemons, env)
    code = f"""
import ract, sys
ract.init({address!r})
@ract.remote(resources={{"Custom": 5}})
def never(): pass
ref = never.remote()
print("submitted", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"submitted\n"
    wait_for_condition(
        lambda: (
            "1 × never: needs {CPU: 1, Custom: 5}" in run(BIN / "ract", "status", env=env).stdout
        )
    )
    process.communicate(timeout=TIMEOUT_S)
    wait_for_condition(lambda: "never" not in run(BIN / "ract", "status", env=env).stdout)


def test_a_driver_elsewhere_brings_a_node_of_its_own(env, daemons):
    _, address, _ = three_daemons(daemons, env)
    token = Path(env["RACT_HOME"], "token").read_text().strip()
    other = {**env, "RACT_TMPDIR": env["RACT_TMPDIR"] + "2", "RACT_HOME": env["RACT_HOME"] + "2"}
    done = run(sys.executable, "-c", script(address), env=other, check=False)
    assert "TokenError" in done.stderr
    assert "no join token" in done.stderr
    done = run(sys.executable, "-c", script(address), env={**other, "RACT_TOKEN": token})
    assert "nodes 3" in done.stdout
    wait_for_condition(lambda: "2 nodes" in run(BIN / "ract", "status", env=env).stdout)
    wait_for_condition(lambda: not leftovers(other))


def test_stop_ends_what_this_user_started(env, daemons):
    scheduler, _, nodes = three_daemons(daemons, env)
    code = "import ract, sys; ract.init(); print('ready', flush=True); sys.stdin.read()"
    driver = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert driver.stdout.readline() == b"ready\n"
    said = run(BIN / "ract", "stop", env=env).stdout
    assert said.count("stopped") == 4, said
    for daemon in (scheduler, *nodes):
        daemon.process.wait(TIMEOUT_S)
    driver.communicate(timeout=TIMEOUT_S)
    wait_for_condition(lambda: not leftovers(env))
    assert run(BIN / "ract", "stop", env=env).stdout == "nothing to stop\n"
    assert "no running cluster" in run(BIN / "ract", "status", env=env, check=False).stderr


def test_killed_scheduler_and_nodes_leave_nothing(env, daemons):
    scheduler, address, nodes = three_daemons(daemons, env)
    run(sys.executable, "-c", script(address), env=env)
    scheduler.stop(signal.SIGKILL)
    nodes[0].stop(signal.SIGKILL)
    nodes[1].stop(signal.SIGTERM)
    wait_for_condition(lambda: not leftovers(env))
    three_daemons(daemons, env)  # the next start removes what the crash left
    folder = Path(env["RACT_TMPDIR"])
    assert len(list(folder.glob("*/lock"))) == 2
    assert not (folder / f"scheduler-{scheduler.process.pid}.json").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["rworker", "tls://127.0.0.1"], "tls://host:port is needed"),
        (["rworker", "http://127.0.0.1:80"], "tls://host:port is needed"),
        (["rworker", "127.0.0.1:1", "--resources", "{"], "not JSON"),
        (["rworker", "127.0.0.1:1", "--resources", '{"CPU": 1}'], "use 'num_cpus'"),
        (["rworker", "127.0.0.1:1", "--resources", '{"X": -1}'], "negative"),
        (["rworker", "127.0.0.1:1", "--labels", "zone"], "not k=v"),
        (["rworker", "127.0.0.1:1", "--labels", "ray.io/x=y"], "'ray.io/'"),
        (["rworker", "127.0.0.1:1", "--labels-file", "nowhere.yaml"], "nowhere.yaml"),
        (["rworker", "127.0.0.1:1", "--labels-file", __file__], "test_commands.py"),
        (["rworker", "127.0.0.1:1", "--num-gpus", "1.5"], "whole"),
        (["rworker", "127.0.0.1:1", "--num-gpus", "3"], "CUDA_VISIBLE_DEVICES"),
        (["rworker", "127.0.0.1:1"], "no join token"),
        (["rscheduler", "--token-file", "/"], "is a directory"),
        (["ract", "status"], "no running cluster"),
        (["ract", "status", "--address", "nowhere"], "tls://host:port is needed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_input_of_commands(env, arguments, what):
    env = {**env, "CUDA_VISIBLE_DEVICES": "0,1"}
    done = run(BIN / arguments[0], *arguments[1:], env=env, check=False)
    assert done.returncode != 0
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_dask_processes_host_ract_by_the_preloads_alone(env, daemons):
    """`dask scheduler` and `dask worker`, configured by nothing but the preload."""
    plain = {
        **env,
        "DASK_DISTRIBUTED__SCHEDULER__PRELOAD": "ract.scheduler.preload",
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "ract.worker.preload",
    }
    dask = BIN / "dask"
    scheduler = daemons(
        dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address",
        "127.0.0.1:0", env=plain, until="Scheduler at",
    )  # fmt: skip
    address = re.search(r"tcp://127\.0\.0\.1:\d+", scheduler.said)[0]
    worker = daemons(
        dask, "worker", address, "--host", "127.0.0.1", "--nthreads", "1",
        "--local-directory", env["RACT_TMPDIR"], env=plain, until="Starting established connection",
    )  # fmt: skip
    code = f"""
import ract
ract.init({address!r})
@ract.remote
def f(x): return x + 1
@ract.remote
class Counter:
    def __init__(self): self.n = 0
    def add(self, k=1): self.n += k; return self.n
c = Counter.remote()
print(ract.get([f.remote(41), c.add.remote(), c.add.remote(5)]), len(ract.nodes()))
from distributed import Client
client = Client({address!r})
print("and dask:", client.submit(sum, [1, 2]).result())
"""
    done = run(sys.executable, "-c", code, env=env)
    assert "[42, 1, 6] 1" in done.stdout
    assert "and dask: 3" in done.stdout
    assert worker.stop() == 0
    assert scheduler.stop() == 0
    wait_for_condition(lambda: not leftovers(env))


def test_actors_are_ended_by_name(ract_start):
    @ract.remote(num_cpus=0, max_restarts=1)
    class Named:
        def ping(self):
            return os.getpid()

    def kill(*arguments):
        return run(BIN / "ract", "kill-actor", *arguments, env=os.environ, check=False)

    one, two, other = (Named.options(name="n", namespace=s).remote() for s in ("a", "b", "c"))
    first = ract.get([actor.ping.remote() for actor in (one, two, other)])[0]
    ambiguous = kill("--name", "n")
    assert ambiguous.returncode == 1
    assert "['a', 'b', 'c']" in ambiguous.stderr
    assert kill("--name", "n", "--namespace", "a", "--force").returncode == 0
    wait_for_condition(lambda: ract.get(one.ping.options(max_task_retries=-1).remote()) != first)
    assert kill("--name", "n", "--namespace", "a", "--force", "--no-restart").returncode == 0
    assert kill("--name", "n", "--namespace", "b").returncode == 0
    last = kill("--name", "n")
    assert "ended Actor(Named" in last.stdout, last.stderr
    for actor in (one, two, other):
        with pytest.raises(ActorDiedError):
            ract.get(actor.ping.remote(), timeout=30)
    assert kill("--name", "n").returncode == 1


def test_the_command_is_there_without_its_script(env):
    said = run(sys.executable, "-P", "-m", "ract", "version", env=env).stdout
    assert said == run(BIN / "ract", "version", env=env).stdout
    assert said.startswith("ract ")
