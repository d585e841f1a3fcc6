"""Room in an actor's mailbox (pure: what is answered, and when)."""

from collections import deque

import pytest

from ract.core import calls
from ract.worker.executor.mailbox import Mailbox


class Caller:
    def __init__(self):
        self.out = deque()

    def answers(self):
        found = {number: there_is for op, number, there_is in self.out if op == calls.ROOM}
        self.out.clear()
        return found


@pytest.fixture
def mailbox():
    return Mailbox(2)


def test_room_is_given_while_there_is_some_and_refused_or_waited_for_after_that(mailbox):
    one, two = Caller(), Caller()
    for number, caller in enumerate((one, two, one)):
        mailbox.ask(caller, number, wait=False)
    assert one.answers() == {0: True, 2: False}
    assert two.answers() == {1: True}
    mailbox.ask(one, 3, wait=True)
    assert one.answers() == {}
    mailbox.arrived(two)
    assert one.answers() == {}, "a call that waits has its room still"
    mailbox.started()
    assert one.answers() == {3: True}


def test_a_caller_that_leaves_gives_back_what_it_has_not_used(mailbox):
    gone, other = Caller(), Caller()
    mailbox.ask(gone, 0, wait=True)
    mailbox.ask(gone, 1, wait=True)
    mailbox.arrived(gone)  # one call is here, the other will never come
    mailbox.ask(gone, 2, wait=True)
    mailbox.ask(other, 3, wait=True)
    mailbox.left(gone)
    assert other.answers() == {3: True}
    mailbox.ask(other, 4, wait=False)
    assert other.answers() == {4: False}


def test_a_call_that_is_repeated_counts_though_it_did_not_ask(mailbox):
    caller = Caller()
    mailbox.arrived(caller)
    mailbox.arrived(caller)
    mailbox.arrived(caller)
    mailbox.ask(caller, 0, wait=True)
    mailbox.started()
    assert caller.answers() == {}
    mailbox.started()
    assert caller.answers() == {0: True}
