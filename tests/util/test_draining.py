"""Nodes that leave without loss, with real processes."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ract
from ract.exceptions import ActorDiedError
from ract.testing import Cluster, wait_for_condition

RACT = Path(sys.executable).parent / "ract"


@pytest.fixture
def cluster():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        cluster.connect()
        yield cluster


def drain(cluster, node, *more):
    command = [RACT, "drain-node", "--address", cluster.address, "--node-id", node.node_id, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@ract.remote
def slow_square(i):
    time.sleep(0.05)
    return i * i


@ract.remote
def make(n):
    return np.full(100_000, n, dtype=np.float64)


@ract.remote(max_restarts=1)
class Echo:
    def where(self):
        return ract.get_runtime_context().get_node_id()

    def echo(self, i):
        time.sleep(0.002)
        return i


@ract.remote(max_restarts=1)
class AsyncEcho:
    async def where(self):
        return ract.get_runtime_context().get_node_id()

    async def echo(self, i):
        return i


def test_work_actors_and_objects_leave_a_node_without_loss(cluster):
    old = cluster.add_node(num_cpus=3)
    objects = [make.remote(i) for i in range(20)]
    ract.wait(objects, num_returns=20, fetch_local=False)
    actors = [Echo.remote(), AsyncEcho.remote()]
    assert ract.get([actor.where.remote() for actor in actors]) == [old.node_id] * 2
    tasks = [slow_square.remote(i) for i in range(60)]
    new = cluster.add_node(num_cpus=3)
    calls = [actor.echo.remote(i) for i in range(100) for actor in actors]  # none may be repeated
    process = drain(cluster, old)
    calls += [actor.echo.remote(i) for i in range(100, 200) for actor in actors]
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "has ended" in said
    assert ract.get(tasks, timeout=60) == [i * i for i in range(60)]
    assert ract.get(calls, timeout=60) == [i for i in range(200) for _ in actors]
    assert ract.get([actor.where.remote() for actor in actors]) == [new.node_id] * 2
    found = [float(array.sum()) for array in ract.get(objects, timeout=60)]
    assert found == [i * 100_000.0 for i in range(20)]
    dead = next(node for node in ract.nodes() if node["NodeID"] == old.node_id)
    assert not dead["Alive"]
    assert "drained" in dead["DeathReasonMessage"]


def test_deadline_ends_what_cannot_move(cluster):
    node = cluster.add_node(num_cpus=1)
    actor = Echo.options(max_restarts=0).remote()
    assert ract.get(actor.where.remote()) == node.node_id
    process = drain(cluster, node, "--deadline-remaining-seconds", "0.5", "--reason", "sold")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "1 actors" in said
    with pytest.raises(ActorDiedError, match="drained: sold"):
        ract.get(actor.echo.remote(1), timeout=30)


def test_pending_work_goes_to_a_node_that_joins_later(cluster):
    node = cluster.add_node(num_cpus=1)
    ract.get(slow_square.remote(1))
    process = drain(cluster, node)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    waiting = [slow_square.remote(i) for i in range(4)]
    wait_for_condition(lambda: "waits" in ract.explain(waiting[0]))
    cluster.add_node(num_cpus=1)
    assert ract.get(waiting, timeout=60) == [0, 1, 4, 9]


def test_what_cannot_be_drained_is_said(cluster):
    for node_id, why in (
        (cluster.head_node.node_id, "has the scheduler"),
        ("zz", "0 living nodes"),
    ):
        command = [RACT, "drain-node", "--address", cluster.address, "--node-id", node_id]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert why in done.stderr


def test_calls_follow_an_actor_though_nobody_reads_their_answers(cluster):
    """All that were not begun come back at once, and nothing is under way on the old channel."""
    old = cluster.add_node(num_cpus=1)
    actor = Echo.remote()
    assert ract.get(actor.where.remote()) == old.node_id
    new = cluster.add_node(num_cpus=1)
    calls = [actor.echo.remote(i) for i in range(500)]
    process = drain(cluster, old)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    wait_for_condition(lambda: ract.get(actor.where.remote(), timeout=30) == new.node_id)
    assert ract.get(calls, timeout=30) == list(range(500))
