"""How a node copies an object from others, among failures (the pure machine)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ract.core import messages as m
from ract.worker.node import events as ev
from ract.worker.node.machine import Config, NodeMachine

MIB = 2**20
SIZE = 32 * MIB
HERE, A, B = b"h" * 28, b"a" * 28, b"b" * 28
X = b"x" * 28
TIMEOUT_S = 60.0


class Node:
    """A node with one driver and a store of 64 MiB."""

    def __init__(self) -> None:
        config = Config(HERE, "/s", "/s/m", 0, 64 * MIB, fetch_timeout_s=TIMEOUT_S)
        self.machine = NodeMachine(config, random.Random(0))
        self.now = 0.0
        self.do(ev.Connected(1, m.Hello(kind="driver", pid=1)))

    def do(self, event: Any) -> list[Any]:
        """What follows from an event."""
        commands = self.machine.handle(event, self.now)
        self.machine.check()
        return [getattr(each, "message", each) for each in commands]

    def want(self) -> list[Any]:
        return self.do(ev.FromProcess(1, m.ObjectWanted(1, X)))

    def unwant(self) -> list[Any]:
        return self.do(ev.FromProcess(1, m.ObjectUnwanted(1, X)))

    def located(self, source: bytes, size: int = SIZE) -> ev.Pull:
        """The scheduler names a source; returns the attempt that follows."""
        address = f"tls://{source.decode()[0]}:1"
        [command] = self.do(m.ObjectLocated(X, None, [source], [address], size))
        return command.then if isinstance(command, ev.CreateSegment) else command

    def failed(self, arrived: int = 0, edition: int = 0, *, is_gone: bool = False) -> list[Any]:
        return self.do(ev.PullFailed(X, A, "the line is dead", is_gone, arrived, edition))

    @property
    def open_segments(self) -> list[int]:
        return [s.id for s in self.machine.objects.store.segments.values() if s.is_open]


@pytest.fixture
def node() -> Node:
    node = Node()
    node.want()
    return node


def missing(*, is_gone: bool, is_wanted: bool = True) -> m.ObjectMissing:
    return m.ObjectMissing(HERE, X, A, is_gone, is_wanted)


def test_an_attempt_goes_on_where_the_one_before_ended(node):
    first = node.located(A)
    assert (first.arrived, first.edition) == (0, 0)
    assert node.failed(5 * MIB, 77) == [missing(is_gone=False)]
    second = node.located(B)
    assert (second.source, second.segment) == (B, first.segment)
    assert (second.arrived, second.edition) == (5 * MIB, 77)
    stored, here = node.do(ev.PullDone(X, 77))
    assert (stored.object_id, stored.is_copy) == (X, True)
    assert here.path.endswith(str(first.segment))
    assert node.machine.objects.store.objects[X].edition == 77
    assert node.open_segments == []


def test_a_source_that_does_not_have_it_is_told_apart_from_one_that_does_not_answer(node):
    node.located(A)
    assert node.failed(is_gone=True) == [missing(is_gone=True)]


def test_what_has_arrived_is_of_no_use_for_a_value_of_another_size(node):
    node.located(A)
    node.failed(5 * MIB, 77)
    again = node.located(B, SIZE // 2)
    assert (again.arrived, again.size) == (0, SIZE // 2)
    assert node.open_segments == [again.segment]


def test_an_object_of_which_nothing_comes_for_long_is_given_up_with_the_reason(node):
    node.located(A)
    node.now = TIMEOUT_S - 1
    node.failed(5 * MIB, 77)  # that was something: the time begins anew
    node.located(B)
    node.now += TIMEOUT_S - 1
    node.failed(5 * MIB, 77)
    assert node.machine.next_deadline() == node.now + 1
    node.now += 1
    unsought, here = node.do(ev.Tick())
    assert unsought == m.ObjectUnsought(HERE, X)
    assert here.blob.is_error
    kind, _, detail = here.blob.head.decode().partition(":")
    assert kind == "fetch_timed_out"
    assert "nothing came for 60 s" in detail
    assert "the line is dead" in detail
    assert node.open_segments == []
    assert node.machine.next_deadline() is None


def test_an_attempt_that_lasts_beyond_the_time_is_given_up_when_it_fails(node):
    node.located(A)
    node.now = 2 * TIMEOUT_S
    assert node.do(ev.Tick()) == []
    said = node.failed()
    assert [type(each) for each in said] == [m.ObjectMissing, m.ObjectUnsought, m.ObjectHere]


def test_nobody_waits_any_more_so_half_a_copy_is_dropped(node):
    node.located(A)
    node.failed(5 * MIB, 77)
    assert node.unwant() == [m.ObjectUnsought(HERE, X)]
    assert node.open_segments == []


def test_a_pull_that_fails_when_nobody_waits_any_more_is_not_gone_on_with(node):
    node.located(A)
    node.unwant()
    assert node.failed(5 * MIB, 77) == [missing(is_gone=False, is_wanted=False)]
    assert node.open_segments == []


def test_a_location_that_comes_too_late_is_given_back(node):
    node.unwant()
    assert node.do(m.ObjectLocated(X, None, [A], ["tls://a:1"], SIZE)) == [
        m.ObjectUnsought(HERE, X)
    ]


def test_a_freed_object_is_not_gone_on_with(node):
    node.located(A)
    node.failed(5 * MIB, 77)
    node.do(m.FreeObject(X))
    assert node.open_segments == []
    assert node.located(B).arrived == 0


def test_a_lost_object_ends_its_fetch(node):
    node.located(A)
    node.failed(5 * MIB, 77)
    lost = m.ObjectLocated(X, m.Blob(b"lost:", [], True), [], [], 0, True)
    [here] = node.do(lost)
    assert here.blob.head == b"lost:"
    assert node.open_segments == []


def test_every_writing_of_an_object_is_another_edition(node):
    node.do(ev.FromProcess(1, m.SegmentWanted(1, 1, MIB)))
    [segment] = node.open_segments
    editions = set()
    for _ in range(3):
        node.do(ev.FromProcess(1, m.ObjectSealed(1, X, segment, 0, MIB, [], [])))
        editions.add(node.machine.objects.store.objects[X].edition)
    assert len(editions) == 3
    assert 0 not in editions
