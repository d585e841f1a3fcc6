"""Every interleaving of what threads do to pools of tasks, their table and their leases.

The pools, their machines and the table of pools are the real ones. Channels and the node are lists:
what was sent, and what was told.
"""

import itertools
import types

import frontrun
import pytest

from ract.client.process import current
from ract.client.tasks import pools as pools_module
from ract.client.tasks.pools import Pools
from ract.core.messages import (
    ExitCause,
    LeaseGranted,
    LeaseLost,
    LeaseReleased,
    LeasesWanted,
    Shape,
)

SHAPE = Shape({"CPU": 10_000}, b"\0\0\0\1", "", {"kind": "DEFAULT"}, {}, True)


class Channel:
    """The way to an executor that answers nothing by itself."""

    def __init__(self, executor):
        self.executor = executor
        self.inflight = {}
        self.is_closed = False
        self.owner = None
        self.sent = []

    def say(self, item):
        pass

    def send(self, call):
        if self.is_closed:
            raise ConnectionError("closed")
        call.channel = self
        self.inflight[call.number] = call
        self.sent.append(call.number)

    def abort(self):
        self.is_closed = True


class Call:
    """As much of a call as a pool looks at."""

    extra = None
    waiting = 0
    priority = 0
    cancelled = False
    channel = None
    retries = 0
    name = "f"
    target = "f"
    oom_deaths = 0
    attempt = 0

    def __init__(self, number):
        self.number = number

    def refs_task_id(self):
        return str(self.number)


class World:
    """A process with one pool and one call that has to be run."""

    def __init__(self):
        self.told = []
        self.channels = {}
        self.failed = []
        self.runtime = types.SimpleNamespace(
            process=1,
            node_id=b"n",
            channels=self.channels,
            reactor=types.SimpleNamespace(is_asleep=False, wake=lambda: None),
            ends=types.SimpleNamespace(lost=lambda *what: None, cancelled=lambda *what: None),
            tell=lambda *messages: self.told.extend(messages),
            connect=self.connect,
            give_back_lease=lambda lease: self.told.append(LeaseReleased(1, lease)),
            fail_soon=lambda call, error: self.failed.append(call.number),
            fail_call=lambda call, error: self.failed.append(call.number),
            calls_lost=lambda executor, lost: None,
        )
        self.runtime.pools = self.pools = Pools(self.runtime)
        self.pool = self.pools.find("a", lambda: SHAPE)

    def connect(self, executor, node_id, address):
        return self.channels.setdefault(executor, Channel(executor))

    # what threads do

    def submit(self):
        self.pool.submit(Call(1))

    def submit_another(self):
        self.pool.submit(Call(2))

    def make_another_shape(self):
        self.pools.find("b", lambda: SHAPE)

    def grant(self):
        self.pools.granted(LeaseGranted(1, self.pool.key, 7, 70, b"n", "address"))

    def release_idle(self):
        self.pools.release_idle_leases()

    def recall(self):
        self.pools.recalled(7)

    def lose(self):
        self.pools.lost(LeaseLost(1, 7, ExitCause("crashed")))

    # what must hold

    def sent(self):
        return sorted(n for channel in self.channels.values() for n in channel.sent)

    def released(self):
        return [message.lease for message in self.told if isinstance(message, LeaseReleased)]

    def where(self):
        """Where each call is: sent, waiting, or failed."""
        return sorted([*self.sent(), *(c.number for c in self.pool.waiting), *self.failed])

    def nothing_is_lost(self, numbers=(1,)):
        waits = self.pool.waiting
        is_known = self.pool in self.pools.all and self.pools._by_number[self.pool.key] is self.pool
        told = [message.backlog for message in self.told if isinstance(message, LeasesWanted)]
        return self.where() == list(numbers) and (not waits or (is_known and told))

    def leases_are_given_back_once(self):
        held = list(self.pool._work.leases.leases)
        released = self.released()
        return sorted([*held, *released]) == [7]


@pytest.fixture(autouse=True)
def _few_pools(monkeypatch):
    monkeypatch.setattr(pools_module, "POOLS_MAX", 1)
    monkeypatch.setenv("RACT_CHECK_LOCK_ORDER", "0")  # frontrun finds each deadlock by itself
    yield
    current.runtime = None


def explore(setup, workers, holds, most=1000):
    """Search from each worker as the first one: from one alone, the search leaves some out."""
    for order in itertools.permutations(workers):
        frontrun.explore(
            setup=setup, workers=list(order), invariant=holds, max_executions=most
        ).assert_holds()


def holds(world):
    return world.nothing_is_lost() and world.leases_are_given_back_once()


def test_a_pool_gets_a_call_while_the_table_drops_it():
    explore(World, [World.submit, World.make_another_shape], World.nothing_is_lost)


def test_a_lease_is_granted_while_the_table_drops_its_pool():
    explore(
        World, [World.grant, World.make_another_shape], World.leases_are_given_back_once, most=100
    )


def test_a_call_a_grant_and_the_release_of_what_is_idle_meet():
    explore(World, [World.submit, World.grant, World.release_idle], holds, most=100)


def test_a_lease_is_recalled_while_a_call_comes():
    def granted():
        world = World()
        world.grant()
        return world

    explore(granted, [World.submit, World.recall], holds)


def test_two_threads_look_for_the_same_new_shape():
    found = []

    def look(world):
        found.append(world.pools.find("c", lambda: SHAPE))

    def both_have_it(world):
        return found[-1] is found[-2] is world.pools._table["c"]

    explore(World, [look, look], both_have_it, most=50)
