"""Strong handles of one process, without a cluster: when their end is told."""

import threading
import types
from collections import deque

from ract.client.actors.actors import Actors

ACTOR = b"a" * 16


class Process:
    """As much of a process as handles need; what is told of holds is recorded."""

    def __init__(self):
        self.process, self.closed = 1, False
        self.holds = deque()
        self.link = types.SimpleNamespace(hold_changes=self.holds)
        self.reactor = types.SimpleNamespace(wake=lambda: None)
        self.actors = Actors(self)

    def told(self):
        return [change for _, _, change in self.holds]


def elsewhere(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_thread_that_looks_while_a_handle_goes_does_not_take_it_for_alive():
    process = Process()
    actors = process.actors
    handle = actors.of(ACTOR).adopt(2)
    # The IO thread looks at the moment at which the handle says that it goes.
    say_gone = actors.drop_handle
    actors.drop_handle = lambda *what: (say_gone(*what), elsewhere(actors.settle))
    del handle
    actors.settle()
    assert process.told() == [-2]


def test_a_handle_that_is_asked_for_while_the_last_one_goes_is_another_one():
    process = Process()
    client = process.actors.of(ACTOR)
    handle = client.adopt(1)
    made = []
    say_gone = process.actors.drop_handle
    process.actors.drop_handle = lambda *what: (
        elsewhere(lambda: made.append(client.adopt(1))),
        say_gone(*what),
    )
    del handle
    process.actors.settle()
    assert process.told() == []  # the new one holds
    process.actors.drop_handle = say_gone
    made.clear()
    process.actors.settle()
    assert process.told() == [-2]
