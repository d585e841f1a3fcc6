"""Every interleaving of what threads do to an actor's line, its handles and room in its mailbox.

The clients, their lines and the table of clients are the real ones. A channel notes what is sent.
"""

import itertools
import threading
import types
from collections import deque

import frontrun
import pytest

from ract.client.actors.actors import Actors
from ract.client.actors.info import HandleInfo
from ract.client.calls.rooms import Rooms, _Question
from ract.client.process import user_code
from ract.core import calls
from ract.core.messages import ActorChanged, ExitCause

ACTOR = b"a" * 16


class Channel:
    """The way to a process that answers nothing by itself."""

    def __init__(self, executor):
        self.executor = executor
        self.inflight = {}
        self.is_closed = False
        self.owner = None
        self.sent = []
        self.lock = threading.Lock()

    def say(self, item):
        pass

    def acknowledge(self):
        pass

    def unanswered(self):
        return list(self.inflight.values())

    def send(self, call):
        with self.lock:
            if self.is_closed:
                raise ConnectionError("closed")
            call.channel = self
            self.inflight[call.number] = call
            self.sent.append(call.number)

    def abort(self):
        pass  # `closed` comes from another thread

    def breaks(self):
        """As the reader of the channel does when its process has gone."""
        with self.lock:
            self.is_closed = True
            lost, self.inflight = list(self.inflight.values()), {}
        self.owner.closed(self, lost)

    def answer(self):
        """As the reader of the channel does for a reply to each call."""
        for call in list(self.inflight.values()):
            call.is_over = True
            del self.inflight[call.number]
        self.owner.replied(self, None, 1, 0.0)


class Call:
    """As much of a call as the client of an actor looks at."""

    waiting = 0
    cancelled = False
    channel = None
    room = None
    retries = 0
    attempt = 0
    is_over = False
    refs = ()

    def __init__(self, number, retries=0):
        self.number = number
        self.retries = retries

    def more(self):
        return self

    def refs_task_id(self):
        return str(self.number)


class World:
    """A process with one actor that is ALIVE, to which a way is open."""

    def __init__(self):
        self.failed = []
        self.holds = deque()
        self.channels = {}
        self.runtime = types.SimpleNamespace(
            process=1,
            closed=False,
            link=types.SimpleNamespace(hold_changes=self.holds),
            reactor=types.SimpleNamespace(is_asleep=False, wake=lambda: None),
            ends=types.SimpleNamespace(lost=lambda *what: None, cancelled=lambda *what: None),
            tell=lambda *messages: None,
            warn=lambda *what: None,
            connect=lambda executor, *where: self.channels.setdefault(executor, Channel(executor)),
            fail_soon=lambda call, error: self.failed.append(call.number),
            fail_call=lambda call, error: self.failed.append(call.number),
            calls_lost=lambda executor, lost: None,
        )
        self.runtime.actors = self.actors = Actors(self.runtime)
        self.client = self.actors.of(ACTOR)
        self.client.info = HandleInfo("C", {})
        self.client.watch()

    def change(self, state, incarnation, kind=""):
        where = (100 + incarnation, b"n", "address") if state == "ALIVE" else (0, b"", "")
        cause = ExitCause(kind) if kind else None
        self.actors.changed(ActorChanged(1, ACTOR, state, incarnation, *where, cause=cause))

    # what threads do

    def begin(self):
        self.change("ALIVE", 1)
        return self

    def start(self):
        self.change("ALIVE", 1)

    def submit_two(self):
        self.client.submit(Call(1, retries=-1))
        self.client.submit(Call(2, retries=-1))

    def submit_one(self):
        self.client.submit(Call(3))

    def crash(self):
        self.channels[101].breaks()

    def restart(self):
        self.change("RESTARTING", 2, "crashed")
        self.change("ALIVE", 2)

    def die(self):
        self.change("DEAD", 1, "crashed")

    def kill(self):
        self.client.kill(True)

    def answer(self):
        self.channels[101].answer()

    # what must hold

    def order(self):
        """The calls that the newest process got."""
        newest = max(self.channels, default=0)
        return self.channels[newest].sent if newest else []

    def each_call_is_somewhere_once(self, numbers):
        inflight = [n for channel in self.channels.values() for n in channel.inflight]
        waiting = [call.number for call in self.client.waiting]
        self.client.line.check()
        return sorted([*inflight, *waiting, *self.failed]) == numbers


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setenv("RACT_CHECK_LOCK_ORDER", "0")  # frontrun finds each deadlock by itself
    monkeypatch.setattr(user_code, "run", lambda job: job())


def explore(setup, workers, holds, most=150):
    """Search from each worker as the first one: from one alone, the search leaves some out."""
    for order in itertools.permutations(workers):
        frontrun.explore(
            setup=setup, workers=list(order), invariant=holds, max_executions=most
        ).assert_holds()


def alive():
    return World().begin()


def test_calls_keep_their_order_while_the_actor_comes_to_life():
    def holds(world):
        return world.order() == [1, 2] and world.each_call_is_somewhere_once([1, 2])

    explore(World, [World.submit_two, World.start], holds)


def test_calls_keep_their_order_while_the_actor_crashes_and_restarts():
    def holds(world):
        # Both went to the second process, in order, or it has not been said yet what became of
        # the first one: then they wait.
        newest = [n for n in world.order() if n in (1, 2)]
        return newest in ([1, 2], []) and world.each_call_is_somewhere_once([1, 2])

    explore(alive, [World.submit_two, World.crash, World.restart], holds, most=20)


def test_each_call_to_an_actor_that_dies_or_is_killed_has_an_end():
    def begun():
        world = alive()
        world.submit_two()
        return world

    def holds(world):
        inflight = [n for channel in world.channels.values() for n in channel.inflight]
        return world.each_call_is_somewhere_once([1, 2, 3]) and (
            3 in [*world.failed, *inflight, *(call.number for call in world.client.waiting)]
        )

    explore(begun, [World.submit_one, World.die], holds)
    explore(begun, [World.submit_one, World.kill, World.die], holds, most=20)


class Handles(World):
    """One strong handle, and a call that has not been answered."""

    def __init__(self):
        super().__init__()
        self.begin()
        self.handle = self.client.adopt(1)
        self.submit_one()

    def drop(self):
        self.handle = None
        self.actors.settle()

    def let_go(self):
        self.handle = None

    def find_again(self):
        """A name is looked up, or a handle is unpickled: the cluster counts one more hold."""
        self.other = self.client.adopt(1)

    def look_up(self):
        self.actors.say_farewells()

    def told(self):
        return sum(change for _, _, change in self.holds)


def test_the_holds_are_given_back_once_when_the_handle_and_the_call_are_gone():
    def holds(world):
        world.actors.settle()  # as the next tick does, if the finalizer has just appended
        world.actors.tick()
        return world.told() == -1 and world.client.line.holds == 0

    explore(Handles, [Handles.drop, Handles.answer], holds)
    explore(Handles, [Handles.drop, Handles.answer, Handles.look_up], holds, most=20)


def test_a_handle_that_comes_while_the_last_one_goes_keeps_the_actor():
    def holds(world):
        world.actors.settle()
        world.actors.tick()
        # The scheduler counted the adopted holds; what is left of them is known here.
        return 2 + world.told() == world.client.line.holds >= 1

    explore(Handles, [Handles.drop, Handles.find_again, Handles.answer], holds, most=20)


def test_a_handle_is_not_found_alive_while_it_goes():
    def answered():
        world = Handles()
        world.answer()
        return world

    def holds(world):
        world.actors.settle()
        return world.told() == -1 and world.client.line.holds == 0

    explore(answered, [Handles.let_go, Handles.look_up], holds)


class Mailbox:
    """A channel over which a thread has asked for room."""

    def __init__(self):
        self.said = []
        self.rooms = Rooms(self, lambda: None)
        self.question = self.rooms._asked[0] = _Question()

    def say(self, item):
        self.said.append(item)

    def answer(self):
        self.rooms.told(0, True)

    def interrupt(self):
        self.rooms._ask_no_more(0, self.question)


def test_room_that_nobody_waits_for_any_more_goes_back_once():
    def holds(world):
        return world.said == [(calls.VACATE,)] and not world.rooms

    explore(Mailbox, [Mailbox.answer, Mailbox.interrupt], holds)
