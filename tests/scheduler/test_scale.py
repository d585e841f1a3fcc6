"""Large clusters: everything is placed, and a decision costs the same however large they are."""

import sys

import pytest

from ract.benchmarks.scheduling import Bench
from ract.core import messages as m
from ract.core.resources import UNIT


def test_100_000_tasks_and_10_000_actors_are_placed_on_1_000_nodes():
    bench = Bench(1000)  # of four CPUs
    starting = []

    def say(event):
        starting.extend(c for c in bench.say(event) if isinstance(c.message, m.StartLease))

    placed = 0
    for _ in range(10_000):
        sent = bench.say(m.ActorWanted(1, bench.actor({"CPU": UNIT // 5})))
        placed += sum(isinstance(c.message, m.StartActor) for c in sent)
    assert placed == 10_000
    shape = m.Shape({"CPU": UNIT}, b"job0")
    backlog = 100_000
    say(m.LeasesWanted(1, 1, shape, backlog, ["f"]))
    assert len(starting) == 2_000, "two CPUs per node are left"
    done = 0
    while starting:
        command = starting.pop()
        executor = bench.number()
        say(m.ProcessJoined(command.node_id, executor, "executor", executor))
        say(m.LeaseStarted(command.node_id, command.message.lease, executor, "address", executor))
        done += 1
        # The task is over: what is granted instead runs the next one.
        say(m.LeaseReleased(1, command.message.lease))
        say(m.ProcessExited(command.node_id, executor, m.ExitCause("idle")))
        if done == backlog // 2:
            bench.machine.check()
    assert done == backlog
    nodes = bench.machine.nodes.alive
    assert all(node.ledger.free["CPU"] == 2 * UNIT for node in nodes)
    bench.machine.check()


def calls_of(do):
    """How many function calls it takes: a cost that does not depend on the machine's mood."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        do()
    finally:
        sys.setprofile(None)
    return count


def one_lease(bench, strategy):
    shape = m.Shape({"CPU": UNIT}, b"job0", "", strategy)
    sent = bench.say(m.LeasesWanted(1, 1, shape, 1, ["f"]))
    [start] = [c for c in sent if isinstance(c.message, m.StartLease)]
    executor = bench.number()
    bench.say(m.ProcessJoined(start.node_id, executor, "executor", executor))
    bench.say(m.LeaseStarted(start.node_id, start.message.lease, executor, "address", executor))
    bench.say(m.LeaseReleased(1, start.message.lease))
    bench.say(m.ProcessExited(start.node_id, executor, m.ExitCause("idle")))


def one_group(bench, strategy):
    group_id = bench.number().to_bytes(18, "big")
    spec = m.GroupSpec(group_id, b"job0", 1, [{"CPU": UNIT}] * 4, strategy)
    bench.say(m.GroupWanted(1, spec))
    bench.say(m.GroupRemoveWanted(1, group_id))


def average(bench, do, *args):
    do(bench, *args)  # the first of a kind looks at all nodes
    return calls_of(lambda: [do(bench, *args) for _ in range(50)]) / 50


@pytest.mark.parametrize(
    ("do", "how"),
    [
        (one_lease, {}),
        (one_lease, {"kind": "SPREAD"}),
        (one_lease, {"kind": "NODE_AFFINITY", "node_id": (3).to_bytes(28, "big")}),
        (one_group, "PACK"),
        (one_group, "SPREAD"),
        (one_group, "STRICT_SPREAD"),
        (one_group, "STRICT_PACK"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_decision_costs_the_same_on_10_and_on_1_000_nodes(do, how):
    few, many = (average(Bench(n), do, how) for n in (10, 1000))
    assert many < 2 * few


def test_decision_costs_the_same_however_much_waits():
    costs = []
    for pending in (1_000, 100_000):
        bench = Bench(10)
        bench.wait_for_more(pending)
        costs.append(average(bench, one_lease, {}))
    assert costs[1] < 2 * costs[0]
