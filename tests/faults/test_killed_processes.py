"""Killed drivers, heads and zygotes: nothing of them stays, and nobody waits for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

WAIT_S = 20.0

DRIVER = """
import json, os, sys, time
import numpy as np
import ract

ract.init(num_cpus=2)

@ract.remote
def sleep():
    time.sleep(1000)

@ract.remote
class Actor:
    def pid(self):
        import subprocess
        child = subprocess.Popen(["sleep", "1000"])
        return os.getpid(), child.pid

actor = Actor.remote()
pids = list(ract.get(actor.pid.remote()))
kept = ract.put(np.ones(500_000))
running = [sleep.remote()]
ract.wait(running, timeout=0.2)
print(json.dumps({"pids": pids, "session": ract.init(ignore_reinit_error=True)["session_dir"]}),
      flush=True)
try:
    ract.get(running)
except BaseException as error:
    print(type(error).__name__, error, flush=True)
"""


class Run:
    """A driver in a process of its own, with all the processes that belong to it."""

    def __init__(self, folder):
        self.root = folder / "s"
        env = {**os.environ, "RACT_TMPDIR": str(self.root)}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", DRIVER], env=env, stdout=subprocess.PIPE, text=True
        )
        found = json.loads(self.popen.stdout.readline())
        self.session = Path(found["session"])
        children = psutil.Process(self.popen.pid).children(recursive=True)
        self.processes = {child.pid: child for child in children}
        self.grandchild = found["pids"][1]
        for pid in found["pids"]:
            self.processes.setdefault(pid, psutil.Process(pid))
        self.head = next(p for p in children if "ract.client.start.head" in " ".join(p.cmdline()))
        self.zygote = next(p for p in children if "ract::zygote" in " ".join(p.cmdline()))
        assert self.shm(), "the object lies in shared memory"

    def shm(self):
        return list(Path("/dev/shm").glob(f"ract-{os.getuid()}-{self.session.name}-*"))

    def left(self):
        """What is still there."""
        alive = [p for p in self.processes.values() if _lives(p)]
        files = [self.session] if self.session.exists() else []
        return [*alive, *self.shm(), *files]

    def end(self):
        for process in [*self.processes.values()]:
            if _lives(process):
                process.kill()
        self.popen.kill()
        self.popen.wait()
        self.popen.stdout.close()


def _lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually_empty(look):
    deadline = time.monotonic() + WAIT_S
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.fixture
def run(tmp_path_factory):
    import tempfile

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        made = Run(Path(folder))
        yield made
        made.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_driver(run, number):
    run.popen.send_signal(number)
    run.popen.wait(WAIT_S)
    assert eventually_empty(run.left) == []


def test_the_driver_hears_that_its_head_was_killed(run):
    run.head.kill()
    out, _ = run.popen.communicate(timeout=WAIT_S)
    assert "died" in out
    assert eventually_empty(run.left) == []


def test_a_killed_zygote_takes_the_node_with_it(run):
    run.zygote.kill()
    out, _ = run.popen.communicate(timeout=WAIT_S)
    assert "Error" in out
    assert eventually_empty(run.left) == []


def test_head_and_zygote_killed_at_once_are_cleaned_up_by_the_next_start(run):
    run.processes.pop(run.grandchild).kill()  # nobody is left who knows of it
    run.head.suspend()
    run.zygote.kill()
    run.head.kill()
    run.popen.kill()
    run.popen.wait()
    assert eventually_empty(lambda: [p for p in run.processes.values() if _lives(p)]) == []
    assert run.shm(), "nobody was left to remove it"
    code = "import ract; ract.init(num_cpus=1); ract.shutdown()"
    env = {**os.environ, "RACT_TMPDIR": str(run.root)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
    assert run.left() == []


STARTS_A_NODE = """
import socket
from ract.client.start.node_processes import NodeProcess

listener = socket.create_server(("127.0.0.1", 0))  # nobody who answers
port = listener.getsockname()[1]
node = NodeProcess({"node": {"num-cpus": 1}, "scheduler": f"tls://127.0.0.1:{port}"})
listener.accept()  # it looks for its scheduler
print(node.process.pid, flush=True)
node.process.wait()
"""


@pytest.mark.parametrize("how", ["driver", "sigterm"])
def test_a_node_that_still_looks_for_its_cluster_ends_when_it_is_to(how, tmp_path):
    env = {**os.environ, "RACT_TMPDIR": str(tmp_path / "s")}
    driver = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_NODE],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    node = psutil.Process(int(driver.stdout.readline()))
    if how == "driver":
        driver.kill()
    else:
        node.terminate()
    node.wait(WAIT_S)
    driver.kill()
    driver.wait()
