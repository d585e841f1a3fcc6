"""A broadcast spreads from the copies, and nobody who waits for one is forgotten."""

from collections import Counter

import pytest
from simulation.cluster import Cluster

from ract.core import messages as m
from ract.scheduler.books.turn import NodeLost
from ract.scheduler.objects.pulls import (
    AVOID_S,
    PULL_BYTES_PER_S,
    PULL_S,
    PULLS_PER_COPY,
    SPREAD_BYTES_MIN,
)

X = b"x" * 28
LARGE = 100 * SPREAD_BYTES_MIN
GONE = m.ExitCause("node_died", "gone")


class Broadcast:
    """One object, stored on the first of many nodes, and wanted by the others."""

    def __init__(self, nodes, size=LARGE, **config):
        self.cluster = Cluster(**config)
        self.machine = self.cluster.machine
        self.size = size
        self.nodes = [number.to_bytes(2, "big") * 14 for number in range(1, nodes + 1)]
        for node in self.nodes:
            self.feed(m.NodeJoined(node, f"tls://{node[:2].hex()}", "h", 1, {}, {}, "/s"))
        self.feed(m.ProcessJoined(self.nodes[0], 1, "driver", 1))
        self.feed(m.ObjectStored(self.nodes[0], X, size, [], [m.Hold(X, 1, 1)]))

    def feed(self, event):
        """Returns (who is told, of which source) for all that the machine says."""
        return [
            (each.node_id, located.node_ids)
            for each in self.machine.handle(event, self.cluster.now)
            if isinstance(located := each.message, m.ObjectLocated)
        ]

    def seek(self, node):
        return self.feed(m.ObjectSought(node, X))

    def seek_all(self):
        return [told for node in self.nodes[1:] for told in self.seek(node)]

    def arrived(self, node):
        return self.feed(m.ObjectStored(node, X, self.size, [], [], is_copy=True))

    def failed(self, node, source, **more):
        return self.feed(m.ObjectMissing(node, X, source, **more))

    def wait(self, seconds):
        sent = self.cluster.wait(seconds)
        return [(e.node_id, e.message) for e in sent if isinstance(e.message, m.ObjectLocated)]


def test_a_thousand_nodes_get_a_large_object_in_few_rounds_from_few_at_a_time():
    broadcast = Broadcast(1001)
    told = broadcast.seek_all()
    served, rounds = [], 0
    while told:
        sources = Counter(source for _, [source] in told)
        assert max(sources.values()) <= PULLS_PER_COPY
        served += [node for node, _ in told]
        told = [more for node, _ in told for more in broadcast.arrived(node)]
        rounds += 1
    assert sorted(served) == broadcast.nodes[1:]
    assert rounds == 7  # the copies are threefold after each: 3 ** 6 < 1001 <= 3 ** 7
    broadcast.machine.check()
    assert not broadcast.machine.objects.pulls.table


def test_a_small_object_is_copied_by_all_at_once():
    broadcast = Broadcast(50, size=SPREAD_BYTES_MIN - 1)
    assert len(broadcast.seek_all()) == 49


def test_an_object_that_nothing_holds_is_copied_by_all_at_once():
    broadcast = Broadcast(10)
    assert len(broadcast.seek_all()) == PULLS_PER_COPY
    told = broadcast.feed(m.HoldsChanged(1, [m.Hold(X, 1, -1)]))
    assert len(told) == 9 - PULLS_PER_COPY
    broadcast.machine.check()


@pytest.mark.parametrize(
    "how",
    ["arrived", "unsought", "gone", "unreachable", "asks again", "node lost", "nothing is heard"],
)
def test_whatever_becomes_of_a_pull_the_next_in_line_is_served(how):
    broadcast = Broadcast(5)
    source, first, second, third, fourth = broadcast.nodes
    assert broadcast.seek_all() == [(first, [source]), (second, [source])]
    if how == "arrived":
        told = broadcast.arrived(first)
        assert sorted(node for node, _ in told) == [third, fourth]
        return
    if how == "unsought":
        told = broadcast.feed(m.ObjectUnsought(first, X))
    elif how == "gone":
        told = broadcast.failed(first, source)
        assert {node for node, _ in told} == {first, third, fourth}, "with an error: it is lost"
        return
    elif how == "unreachable":
        told = broadcast.failed(first, source, is_gone=False)
    elif how == "asks again":
        told = broadcast.seek(first)  # its place is at the end of the line
    elif how == "node lost":
        told = broadcast.feed(NodeLost(first, GONE))
    else:
        assert broadcast.wait(PULL_S + LARGE / PULL_BYTES_PER_S - 1) == []
        told = [(node, located.node_ids) for node, located in broadcast.wait(1)]
        assert told == [(third, [source]), (fourth, [source])]
        return
    assert told == [(third, [source])]
    broadcast.machine.check()


def test_a_copy_that_cannot_be_reached_is_kept_and_tried_again_by_and_by():
    broadcast = Broadcast(2)
    source, node = broadcast.nodes
    broadcast.seek(node)
    for _ in range(5):
        assert broadcast.failed(node, source, is_gone=False) == []
        assert broadcast.wait(AVOID_S * 0.9) == []
        [(told, located)] = broadcast.wait(AVOID_S * 0.2)
        assert (told, located.node_ids, located.blob) == (node, [source], None)
    broadcast.machine.check()


def test_who_could_not_reach_one_copy_is_sent_to_another_and_others_prefer_it_too():
    broadcast = Broadcast(6)
    source, other, node, *rest = broadcast.nodes
    broadcast.seek(other)
    broadcast.arrived(other)
    [(_, [tried])] = broadcast.seek(node)
    [(_, [next_])] = broadcast.failed(node, tried, is_gone=False)
    assert {tried, next_} == {source, other}
    assert broadcast.seek(rest[0]) == [(rest[0], [next_])]
    assert broadcast.seek(rest[1]) == [(rest[1], [tried])]  # the good one is busy


def test_who_wants_nothing_any_more_is_not_answered_when_its_pull_fails():
    broadcast = Broadcast(2)
    source, node = broadcast.nodes
    broadcast.seek(node)
    assert broadcast.failed(node, source, is_gone=False, is_wanted=False) == []
    assert broadcast.wait(100) == []
    broadcast.machine.check()


def test_freed_and_lost_objects_leave_nothing_of_their_pulls():
    for event in (m.ObjectsFreed(1, [X]), None):
        broadcast = Broadcast(6)
        broadcast.seek_all()
        told = broadcast.feed(event or NodeLost(broadcast.nodes[0], GONE))
        assert len(told) == 3 or event is None  # the process that held it died with the node
        broadcast.machine.check()
        assert not broadcast.machine.objects.pulls.table
