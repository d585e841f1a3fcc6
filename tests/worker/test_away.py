"""A node that spills to where nothing can be read (the pure machine)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ract.core import messages as m
from ract.worker.node import events as ev
from ract.worker.node.machine import Config, NodeMachine
from ract.worker.node.objects import SPILL_S

MIB = 2**20
HERE = b"h" * 28


class Node:
    """A node with a store of 64 MiB; what it commands is done when the test says so."""

    def __init__(self, seed: int = 0) -> None:
        config = Config(HERE, "/s", "/s/m", 0, 64 * MIB, spills_away=True, spill_above=1.0)
        self.machine = NodeMachine(config, random.Random(seed))
        self.store = self.machine.objects.store
        self.now = 0.0
        self.answers: dict[int, Any] = {}
        self.here: list[m.ObjectHere] = []
        self.pending: list[ev.Spill | ev.Restore] = []  #: what threads are at
        self.files: set[int] = set()  #: segments with a file on this machine
        self.away: set[int] = set()  #: segments that were copied to the URL
        self.do(ev.Connected(1, m.Hello(kind="driver", pid=1)))

    def do(self, event: Any) -> list[Any]:
        """What follows from an event."""
        commands = self.machine.handle(event, self.now)
        self.machine.check()
        for command in commands:
            self._perform(command)
        return commands

    def _perform(self, command: Any) -> None:
        message = getattr(command, "message", None) or getattr(command, "then", None)
        if isinstance(message, m.SegmentGranted | m.SegmentRefused):
            self.answers[message.request] = message
        elif isinstance(message, m.ObjectHere):
            if message.blob is None:
                assert int(message.path.rpartition("m")[2]) in self.files, "nobody can read it"
            self.here.append(message)
        if isinstance(command, ev.CreateSegment) and command.in_background:
            self.do(ev.SegmentCreated(command.segment))
        if isinstance(command, ev.CreateSegment):
            self.files.add(command.segment)
        elif isinstance(command, ev.DropSegment):
            assert command.segment in self.away, "it would be lost"
            self.files.discard(command.segment)
        elif isinstance(command, ev.RemoveSegment):
            assert command.segment in self.files | self.away
            self.files.discard(command.segment)
            self.away.discard(command.segment)
        elif isinstance(command, ev.Spill | ev.Restore):
            self.pending.append(command)

    def finish(self, command: ev.Spill | ev.Restore, *, fails: bool = False) -> list[Any]:
        """A thread is done."""
        self.pending.remove(command)
        segment = command.segment
        if isinstance(command, ev.Spill):
            if fails:
                return self.do(ev.SpillFailed(segment, "the line is dead"))
            self.away.add(segment)
            return self.do(ev.SpillDone(segment))
        if fails:
            return self.do(ev.RestoreFailed(segment, "the line is dead"))
        assert segment in self.away
        self.files.add(segment)
        return self.do(ev.RestoreDone(segment))

    def put(self, request: int, megabytes: int = 16) -> bytes | None:
        """Store an object; returns its id, None if there is no room yet."""
        self.do(ev.FromProcess(1, m.SegmentWanted(1, request, megabytes * MIB)))
        return self.write(request, megabytes)

    def write(self, request: int, megabytes: int = 16) -> bytes | None:
        granted = self.answers.get(request)
        if not isinstance(granted, m.SegmentGranted):
            return None
        object_id = request.to_bytes(2, "big") * 14
        self.do(
            ev.FromProcess(
                1, m.ObjectSealed(1, object_id, granted.segment, 0, megabytes * MIB, [], [])
            )
        )
        self.do(ev.FromProcess(1, m.SegmentClosed(1, granted.segment)))
        return object_id

    def want(self, object_id: bytes) -> list[Any]:
        return self.do(ev.FromProcess(1, m.ObjectWanted(1, object_id)))


@pytest.fixture
def node() -> Node:
    """A full store; its first object is away, and a fifth is in its place."""
    node = Node()
    assert all(node.put(number) for number in range(1, 5))
    assert node.put(5) is None
    [spill] = node.pending
    node.finish(spill)
    assert node.write(5)
    return node


FIRST, SECOND, FIFTH = (number.to_bytes(2, "big") * 14 for number in (1, 2, 5))


def test_what_was_copied_away_takes_no_room_and_cannot_be_read(node):
    segment = node.store.objects[FIRST].segment
    assert segment in node.away
    assert segment not in node.files
    assert node.store.spilled_bytes == 16 * MIB


def test_who_wants_it_waits_until_it_is_restored_once_for_all(node):
    node.do(ev.Connected(2, m.Hello(kind="driver", pid=2)))
    node.want(FIRST)
    node.do(ev.FromProcess(2, m.ObjectWanted(2, FIRST)))
    [spill] = node.pending  # to make room
    node.finish(spill)
    [restore] = node.pending
    assert not restore.on_disk
    assert node.here == []
    node.finish(restore)
    assert [each.process for each in node.here] == [1, 2]
    assert not node.store.segments[restore.segment].is_away


def test_what_came_back_is_given_up_at_once_when_room_is_needed(node):
    node.want(FIRST)
    node.finish(node.pending[0])
    node.finish(node.pending[0])
    assert node.put(6), "without waiting for anything"
    assert node.store.segments[node.store.objects[FIRST].segment].is_away


def test_when_nothing_can_make_room_it_comes_to_the_disk(node):
    node.want(FIRST)
    [spill] = node.pending
    node.finish(spill, fails=True)
    node.now = SPILL_S
    node.do(ev.Tick())
    [restore] = node.pending
    assert restore.on_disk
    node.finish(restore)
    assert [each.object_id for each in node.here] == [FIRST]
    assert node.store.segments[restore.segment].is_spilled


def test_who_waits_for_what_cannot_be_restored_is_told_and_may_try_again(node):
    node.want(FIRST)
    node.finish(node.pending[0])
    node.finish(node.pending[0], fails=True)
    [here] = node.here
    assert here.blob.is_error
    assert here.blob.head == b"lost:it cannot be restored: the line is dead"
    node.want(FIRST)
    node.finish(node.pending[0])
    assert [each.blob is None for each in node.here] == [False, True]


def test_what_is_freed_while_it_is_restored_goes_everywhere(node):
    node.want(FIRST)
    node.finish(node.pending[0])
    [restore] = node.pending
    [command] = node.do(m.FreeObject(FIRST))
    assert command.message == m.ObjectSought(HERE, FIRST), "who waits is not forgotten"
    assert restore.segment in node.away
    node.finish(restore)
    assert restore.segment not in node.away | node.files


@pytest.mark.parametrize("is_back", [False, True])
def test_what_is_freed_is_removed_from_behind_the_url(node, is_back):
    segment = node.store.objects[FIRST].segment
    if is_back:
        node.want(FIRST)
        node.finish(node.pending[0])
        node.finish(node.pending[0])
    node.do(m.FreeObject(FIRST))
    assert segment not in node.away | node.files


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_everybody_is_answered_and_nothing_is_left(seed):
    rng, node = random.Random(seed), Node(seed)
    objects: list[bytes] = []
    asked: list[int] = []
    for number in range(1, 120):
        dice = rng.random()
        if dice < 0.3:
            asked.append(number)
            node.do(ev.FromProcess(1, m.SegmentWanted(1, number, rng.choice((2, 8, 16)) * MIB)))
        elif dice < 0.6 and objects:
            node.want(rng.choice(objects))
        elif dice < 0.7 and objects:
            object_id = rng.choice(objects)
            objects.remove(object_id)
            node.do(m.FreeObject(object_id))
            node.do(m.ObjectLocated(object_id, m.Blob(b"freed:", [], True), [], [], 0, True))
        elif dice < 0.95 and node.pending:
            node.finish(rng.choice(node.pending), fails=rng.random() < 0.2)
        else:
            node.now += rng.choice((0.1, 3.0, 61.0))
            node.do(ev.Tick())
        for request in [each for each in asked if each in node.answers]:
            asked.remove(request)
            size = getattr(node.answers[request], "size", 0)
            made = node.write(request, min(2, size // MIB))
            objects += [made] if made else []
    for _ in range(200):
        while node.pending:
            node.finish(rng.choice(node.pending))
        node.now += 61.0
        node.do(ev.Tick())
    assert not node.machine.objects.waiting
    assert node.machine.next_deadline() is None
    for object_id in objects:
        node.do(m.FreeObject(object_id))
    while node.pending:
        node.finish(node.pending[0])
    for request in asked:
        assert request in node.answers
    node.do(ev.FromProcess(1, m.SegmentWanted(1, 999, 60 * MIB)))
    assert node.away == set()
    in_use = {*node.store.segments, *node.store.pool}
    assert node.files == in_use
