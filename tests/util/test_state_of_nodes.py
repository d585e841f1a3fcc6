"""Logs, stacks and objects of several nodes, of one that is gone too."""

import os

import numpy as np
import pytest
from click.testing import CliRunner

import ract
from ract.commands.main import main
from ract.compat.ported.cluster_utils import Cluster
from ract.testing import wait_for_condition
from ract.util import state


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.other = cluster.add_node(num_cpus=1, resources={"other": 1})
    ract.init(address=cluster.address)
    yield cluster
    ract.shutdown()
    cluster.shutdown()


@ract.remote(num_cpus=0, resources={"other": 0.1})
class There:
    def say(self, text):
        print(text)
        return os.getpid()

    def make(self, n):
        return np.ones(n)


def test_what_another_node_has_is_shown_and_stays_when_it_is_gone(cluster):
    actor = There.remote()
    pid = ract.get(actor.say.remote("from there"))
    box = actor.make.remote(1_000_000)
    ract.wait([box], fetch_local=False)
    id_ = actor._actor_id.hex()
    there = state.get_actor(id_).node_id
    assert there != ract.get_runtime_context().get_node_id()

    assert "".join(state.get_log(actor_id=id_)) == "from there\n"
    names = [f"worker_{suffix}" for suffix in ("err", "out")]
    assert sorted(state.list_logs(node_id=there, glob_filter=f"*-{pid}.*")) == names
    said = CliRunner().invoke(main, ["stack", "--node-id", there[:8]]).stdout
    assert f"pid {pid} (ACTOR) on node {there[:8]}" in said
    wait_for_condition(lambda: len(state.get_objects(box.hex())) >= 1)
    said = CliRunner().invoke(main, ["memory"]).stdout
    (line,) = [line for line in said.splitlines() if box.hex() in line]
    assert f"{there[:8]} in memory, pinned" in line

    cluster.remove_node(cluster.other, allow_graceful=False)
    wait_for_condition(lambda: state.get_node(there).state == "DEAD")
    wait_for_condition(lambda: state.get_actor(id_).state == "DEAD")
    assert "".join(state.get_log(actor_id=id_)) == "from there\n"
    assert "".join(state.get_log(pid=pid, node_id=there)) == "from there\n"
    died = state.list_cluster_events(filters=[("event_type", "=", "NODE_DIED")])
    assert [event.custom_fields["node_id"] for event in died] == [there]


def test_node_that_is_stopped_has_left_in_order(cluster):
    actor = There.remote()
    ract.get(actor.say.remote("hello"))
    id_ = actor._actor_id.hex()
    there = state.get_actor(id_).node_id
    cluster.remove_node(cluster.other)
    wait_for_condition(lambda: state.get_node(there).state == "DEAD")
    assert state.get_node(there).state_message == "node_left: it was stopped"
    events = state.list_cluster_events(filters=[("event_type", "=", "NODE_LEFT")])
    assert [(e.severity, e.custom_fields["node_id"]) for e in events] == [("INFO", there)]
    wait_for_condition(lambda: state.get_actor(id_).state == "DEAD")
    assert state.get_actor(id_).death_cause["kind"] == "node_left"
