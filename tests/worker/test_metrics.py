"""A node sums up what its processes count (the pure machine)."""

import random

import pytest

from ract.core import ids
from ract.core import messages as m
from ract.core.metrics import COUNTER, GAUGE, WORKER
from ract.worker.node import events as ev
from ract.worker.node.machine import Config, NodeMachine

HERE, CLUSTER = b"h" * 28, b"c" * 16
JOB = b"\0\0\0\7"


class Node:
    """A node with two drivers."""

    def __init__(self):
        config = Config(HERE, "/s", "/s/m", 0, 2**26, prestart=False)
        self.machine = NodeMachine(config, random.Random(0))
        self.do(m.NodeAccepted(HERE, CLUSTER, 1, 4096))
        for process in (1, 2):
            self.do(ev.Connected(process, m.Hello(kind="driver", pid=process)))

    def do(self, event):
        """What is said to the scheduler because of an event."""
        commands = self.machine.handle(event, 0.0)
        self.machine.check()
        return [each.message for each in commands if isinstance(each, ev.ToScheduler)]

    def report(self, process, *metrics, by=None, refused=0):
        message = m.MetricsReported(process, JOB, list(metrics), refused)
        return self.do(ev.FromProcess(by or process, message))


@pytest.fixture
def node():
    return Node()


def counter(value):
    return ["ract_c", COUNTER, "", [], [[["a", "x"], value]]]


def test_processes_are_summed_up_and_told_of_when_it_is_time(node):
    assert node.report(1, counter(1)) == node.report(2, counter(2)) == []
    [told] = node.do(ev.ReportDue())
    labels = ["a", "x", "JobId", JOB.hex(), "NodeId", HERE.hex()]
    assert told == m.NodeMetrics(HERE, [["ract_c", COUNTER, "", [], [[labels, 3]]]], 0)
    assert node.do(ev.ReportDue()) == []


def test_gauges_are_their_processes_own(node):
    for process in (1, 2):
        node.report(process, ["ract_g", GAUGE, "", [], [[[], process]]])
    [told] = node.do(ev.ReportDue())
    [[_, _, _, _, points]] = told.metrics
    workers = [ids.worker_id_bytes(process).hex() for process in (1, 2)]
    assert [(labels[-2:], value) for labels, value in points] == [
        ([WORKER, workers[0]], 1),
        ([WORKER, workers[1]], 2),
    ]


def test_what_a_process_has_counted_is_told_before_its_end(node):
    node.report(1, counter(1))
    kinds = [type(message) for message in node.do(ev.Disconnected(1))]
    assert kinds == [m.NodeMetrics, m.ProcessExited]
    assert [type(message) for message in node.do(ev.Disconnected(2))] == [m.ProcessExited]


def test_nobody_counts_for_somebody_else(node):
    node.report(1, counter(1), by=2)
    assert node.do(ev.ReportDue()) == []


def test_what_was_refused_is_told_once(node):
    node.report(1, None, counter(1), refused=4)
    assert [told.refused for told in node.do(ev.ReportDue())] == [5]
    node.report(1, counter(1))
    assert [told.refused for told in node.do(ev.ReportDue())] == [5]
    node.report(1, refused=-3)
    assert node.do(ev.ReportDue()) == []
