"""Every interleaving of threads that join a cluster, use one, and leave it."""

import types

import frontrun
import pytest

from ract.client.process import current
from ract.client.start.membership import Membership


class World:
    """A process in no cluster. Nodes and connections are counted instead of made."""

    def __init__(self):
        current.install(None)
        self.membership = Membership()
        self.nodes = 0
        self.connections = 0
        self.errors = []
        self.found = []

    def _connect(self):
        self.nodes += 1
        self.membership.started = types.SimpleNamespace(stop=self._stop)
        self.connections += 1
        runtime = types.SimpleNamespace(closed=False, home=None, start=lambda: None)

        def close():
            runtime.closed = True
            self.connections -= 1

        runtime.close = close
        return runtime, runtime

    def _stop(self):
        self.nodes -= 1

    def use(self):
        try:
            found = self.membership.joined(self._init)
            self.found.append(found)
        except RuntimeError as error:
            self.errors.append(error)

    def _init(self):
        self.membership.join(self._connect, again=False)

    def join(self):
        self.found.append(self.membership.join(self._connect, again=True))

    def leave(self):
        self.membership.leave()

    def is_one_cluster_or_none(self):
        is_in = self.membership.runtime() is not None
        return not self.errors and self.nodes == self.connections == int(is_in)

    def all_have_found_one(self):
        return self.is_one_cluster_or_none() and len(set(map(id, self.found))) == 1


@pytest.fixture(autouse=True)
def _no_runtime_stays():
    yield
    current.install(None)


USE, JOIN, LEAVE = World.use, World.join, World.leave


@pytest.mark.parametrize(
    ("workers", "invariant"),
    [
        ([USE, USE], World.all_have_found_one),
        ([USE, JOIN], World.all_have_found_one),
        ([JOIN, JOIN], World.all_have_found_one),
        ([USE, LEAVE], World.is_one_cluster_or_none),
        ([JOIN, LEAVE], World.is_one_cluster_or_none),
        ([LEAVE, LEAVE], World.is_one_cluster_or_none),
        ([USE, LEAVE, LEAVE], World.is_one_cluster_or_none),
        ([JOIN, LEAVE, LEAVE], World.is_one_cluster_or_none),
    ],
)
def test_threads_join_use_and_leave(workers, invariant):
    frontrun.explore(setup=World, workers=workers, invariant=invariant).assert_holds()
