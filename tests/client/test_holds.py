"""How a process counts its holds."""

from collections import deque

import pytest

from ract.client.objects.holds import MET_S, Holds

ME, OTHER = 1, 2


@pytest.fixture
def changes():
    return deque()


@pytest.fixture
def holds(changes):
    return Holds(ME, changes)


def test_a_hold_that_is_taken_is_told_and_given_back(holds, changes):
    record = holds.taken(b"a")
    assert holds.dropped(record)
    assert list(changes) == [(b"a", ME, 1), (b"a", ME, -1)]
    assert not holds.records


def test_holds_that_others_announced_are_only_given_back(holds, changes):
    record = holds.announced(b"a", 2)
    holds.more(b"a", 3)
    holds.dropped(record)
    assert list(changes) == [(b"a", ME, -5)]


def test_a_ref_that_is_gone_leaves_the_holds_of_a_newer_one(holds, changes):
    old = holds.announced(b"a", 2)
    holds.taken(b"a")
    assert not holds.dropped(old)
    assert holds.records[b"a"].count == 1
    assert list(changes) == [(b"a", ME, 1), (b"a", ME, -2)]


def test_a_lost_hold_is_not_given_back(holds, changes):
    record = holds.announced(b"a", 2)
    holds.lost(b"a")
    holds.dropped(record)
    assert list(changes) == [(b"a", ME, -1)]


def test_what_is_handed_over_is_held_by_the_other(holds, changes):
    holds.handed([(b"a", 1), (b"b", 2)], OTHER)
    assert list(changes) == [(b"a", OTHER, 1), (b"b", OTHER, 2)]
    assert not holds.records


def test_what_was_met_is_due_after_a_while_in_order(holds):
    holds.met([b"b", b"a"], now=10.0)
    holds.met([b"c"], now=11.0)
    assert holds.due(10.0 + MET_S / 2) == []
    assert holds.due(10.0 + MET_S) == [b"b", b"a"]
    assert holds.is_waiting
    assert holds.due(12.0) == [b"c"]
    assert not holds.is_waiting
