"""What a node does when its store is full (the pure machine)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ract.core import messages as m
from ract.worker.node import events as ev
from ract.worker.node.machine import Config, NodeMachine
from ract.worker.node.objects import ROOM_S
from ract.worker.node.segments import BACKGROUND_BYTES_MIN

MIB = 2**20
HERE, THERE = b"h" * 28, b"t" * 28


class Node:
    """A node with two drivers and a store of 64 MiB."""

    def __init__(self, *, spills: bool = False) -> None:
        config = Config(HERE, "/s", "/s/m", 0, 64 * MIB, spills=spills)
        self.machine = NodeMachine(config, random.Random(0))
        self.now = 0.0
        for process in (1, 2):
            self.do(ev.Connected(process, m.Hello(kind="driver", pid=process)))
        self.answers: dict[int, Any] = {}

    def do(self, event: Any) -> list[Any]:
        """What follows from an event."""
        commands = self.machine.handle(event, self.now)
        self.machine.check()
        for command in commands:
            message = getattr(command, "message", None) or getattr(command, "then", None)
            if isinstance(message, m.SegmentGranted | m.SegmentRefused):
                self.answers[message.request] = message
            if isinstance(command, ev.CreateSegment) and command.in_background:
                commands += self.do(ev.SegmentCreated(command.segment))
        return commands

    def want(self, request: int, megabytes: int, process: int = 1) -> None:
        self.do(ev.FromProcess(process, m.SegmentWanted(process, request, megabytes * MIB)))

    def put(self, request: int, megabytes: int) -> bytes:
        """Store an object; returns its id."""
        self.want(request, megabytes)
        segment, object_id = self.answers[request].segment, bytes([request]) * 28
        sealed = m.ObjectSealed(1, object_id, segment, 0, megabytes * MIB, [], [], False)
        self.do(ev.FromProcess(1, sealed))
        self.do(ev.FromProcess(1, m.SegmentClosed(1, segment)))
        return object_id

    def granted(self, request: int) -> bool:
        return isinstance(self.answers.get(request), m.SegmentGranted)


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_request_waits_for_what_is_being_released(node):
    full = node.put(1, 48)
    node.want(2, 32)
    assert 2 not in node.answers
    node.do(m.FreeObject(full))
    assert node.granted(2)


def test_a_request_is_refused_after_a_while_with_the_sizes(node):
    node.put(1, 48)
    node.want(2, 32)
    assert node.machine.next_deadline() == ROOM_S
    node.now = ROOM_S
    node.do(ev.Tick())
    assert node.answers[2].error == "ObjectStoreFullError"
    assert f"{32 * MIB} bytes do not fit: {48 * MIB} of {64 * MIB}" in node.answers[2].detail
    assert node.machine.next_deadline() is None


def test_what_an_empty_store_could_not_take_is_refused_at_once(node):
    node.want(1, 65)
    assert node.answers[1].error == "ObjectStoreFullError"


def test_room_goes_to_the_one_who_has_waited_longest_if_it_is_enough(node):
    first, second = node.put(1, 24), node.put(2, 32)
    node.want(3, 40)
    node.want(4, 16, process=2)
    node.do(m.FreeObject(first))
    assert (3 in node.answers, node.granted(4)) == (False, True)
    node.do(m.FreeObject(second))
    assert node.granted(3)


def test_a_process_that_is_gone_waits_no_more(node):
    full = node.put(1, 48)
    node.want(2, 32, process=2)
    node.do(ev.Disconnected(2))
    node.do(m.FreeObject(full))
    assert 2 not in node.answers
    assert node.machine.next_deadline() is None


def test_an_object_of_another_node_is_fetched_when_there_is_room(node):
    full = node.put(1, 48)
    wanted = b"w" * 28
    located = m.ObjectLocated(wanted, None, [THERE], ["tls://t:1"], 32 * MIB, False)
    node.do(ev.FromProcess(1, m.ObjectWanted(1, wanted)))
    unsought = m.ObjectUnsought(HERE, wanted)  # the source may serve others until there is room
    assert node.do(located) == [ev.ToScheduler(unsought)]
    assert node.do(ev.FromProcess(2, m.ObjectWanted(2, wanted))) == []  # it is on its way
    pulls = [
        each.then for each in node.do(m.FreeObject(full)) if isinstance(each, ev.CreateSegment)
    ]
    assert [each.object_id for each in pulls] == [wanted]


def test_a_fetch_that_nobody_waits_for_gives_up(node):
    full = node.put(1, 48)
    wanted = b"w" * 28
    node.do(ev.FromProcess(1, m.ObjectWanted(1, wanted)))
    node.do(m.ObjectLocated(wanted, None, [THERE], ["tls://t:1"], 32 * MIB, False))
    node.do(ev.FromProcess(1, m.ObjectUnwanted(1, wanted)))
    assert node.do(m.FreeObject(full)) == []


def test_who_waits_for_a_fetch_without_room_gets_an_error(node):
    node.put(1, 48)
    wanted = b"w" * 28
    node.do(ev.FromProcess(1, m.ObjectWanted(1, wanted)))
    node.do(m.ObjectLocated(wanted, None, [THERE], ["tls://t:1"], 32 * MIB, False))
    node.now = ROOM_S
    (told,) = node.do(ev.Tick())
    assert told.message.blob.is_error
    assert b"do not fit" in told.message.blob.head


# --------------------------------------------------------------------------- spilling


def sealed(node, process, request, object_id):
    """Write an object into the segment that was granted."""
    granted = node.answers[request]
    node.do(
        ev.FromProcess(
            process,
            m.ObjectSealed(process, object_id, granted.segment, 0, granted.size, [], []),
        )
    )
    node.do(ev.FromProcess(process, m.SegmentClosed(process, granted.segment)))
    return granted.segment


def spills_of_sealing(node, process, request):
    """Write an object as `sealed`; returns the segments that are to be spilled early."""
    granted, object_id = node.answers[request], bytes([request]) * 28
    message = m.ObjectSealed(process, object_id, granted.segment, 0, granted.size, [], [])
    return spills(node.do(ev.FromProcess(process, message)))


def spills(commands):
    return [command.segment for command in commands if isinstance(command, ev.Spill)]


def filled(node):
    """Three objects of 16 MiB; returns their segments."""
    found = []
    for request in (1, 2, 3):
        want(node, 1, request, 16 * MIB)
        found.append(sealed(node, 1, request, bytes([request]) * 28))
    return found


def want(node, process, request, size):
    return node.do(ev.FromProcess(process, m.SegmentWanted(process, request, size)))


def test_oldest_object_makes_room_for_who_waits():
    node = Node(spills=True)
    first, _, _ = filled(node)
    assert spills(want(node, 2, 9, 32 * MIB)) == [first, first + 1]
    assert not node.answers.get(9)
    done = node.do(ev.SpillDone(first))
    moved = [c.message for c in done if isinstance(getattr(c, "message", None), m.SegmentsMoved)]
    assert [(told.process, told.paths) for told in moved] == [(1, ["/s/m1"]), (2, ["/s/m1"])]
    node.do(ev.SpillDone(first + 1))
    assert node.answers[9].size >= 32 * MIB


def test_object_that_was_read_stays_in_memory_longer():
    node = Node(spills=True)
    first, second, _ = filled(node)
    node.do(ev.FromProcess(2, m.ObjectWanted(2, bytes([1]) * 28)))
    assert spills(want(node, 2, 9, 20 * MIB))[0] == second != first


def test_object_that_is_freed_while_it_is_copied_is_removed():
    node = Node(spills=True)
    first, *_ = filled(node)
    want(node, 2, 9, 20 * MIB)
    node.do(m.FreeObject(bytes([1]) * 28))
    assert ev.RemoveSegment(first) in node.do(ev.SpillDone(first))


def test_spilled_object_that_is_freed_is_removed():
    node = Node(spills=True)
    first, *_ = filled(node)
    want(node, 2, 9, 20 * MIB)
    node.do(ev.SpillDone(first))
    assert ev.RemoveSegment(first) in node.do(m.FreeObject(bytes([1]) * 28))


def test_full_disk_is_an_error_and_the_object_stays():
    node = Node(spills=True)
    first, second, third = filled(node)
    node.now += 1.0
    for segment in spills(want(node, 2, 9, 40 * MIB)):
        node.do(ev.SpillFailed(segment, "the disk is full"))
    assert node.answers[9].error == "OutOfDiskError"
    assert "the disk is full" in node.answers[9].detail
    assert {o.segment for o in node.machine.objects.store.objects.values()} == {
        first,
        second,
        third,
    }


def test_what_found_the_disk_full_before_is_tried_again_for_who_asks_next():
    node = Node(spills=True)
    filled(node)
    want(node, 1, 4, 16 * MIB)
    (early,) = spills_of_sealing(node, 1, 4)
    node.do(ev.SpillFailed(early, "the disk is full"))
    assert spills(want(node, 2, 9, 16 * MIB))  # it may have room by now
    assert 9 not in node.answers


def test_a_fetch_that_found_the_disk_full_says_so_and_the_next_one_is_tried():
    node = Node(spills=True)
    filled(node)
    for wanted in (b"v" * 28, b"w" * 28):
        node.do(ev.FromProcess(1, m.ObjectWanted(1, wanted)))
        located = m.ObjectLocated(wanted, None, [THERE], ["tls://t:1"], 32 * MIB, False)
        tried = spills(node.do(located))
        assert tried
        for segment in tried:
            told = node.do(ev.SpillFailed(segment, "the disk is full"))
        (refused,) = [each.message for each in told if isinstance(each, ev.ToProcess)]
        assert b"the disk is full" in refused.blob.head


def test_what_is_larger_than_the_store_is_written_to_disk():
    node = Node(spills=True)
    [create] = [c for c in want(node, 1, 1, 100 * MIB) if isinstance(c, ev.CreateSegment)]
    assert create.on_disk


# --------------------------------------------------------------------------- files made slowly


def test_a_segment_whose_file_is_not_there_yet_is_not_used_again():
    node = Node()
    size = BACKGROUND_BYTES_MIN
    ask = m.SegmentWanted(1, 1, size)
    [create] = node.machine.handle(ev.FromProcess(1, ask), node.now)
    assert create.in_background
    node.machine.handle(ev.Disconnected(1), node.now)  # who asked is gone before it is there
    node.machine.check()
    [other] = node.machine.handle(ev.FromProcess(2, m.SegmentWanted(2, 2, size)), node.now)
    assert isinstance(other, ev.CreateSegment), "the first one may be removed only when it is there"
    node.do(ev.SegmentCreated(create.segment))
    assert create.segment in node.machine.objects.store.pool
