"""Every interleaving of asking for a value, the answer, and what else befalls the ref meanwhile."""

import itertools
from collections import Counter

import frontrun
import pytest
from small_process import JOB, Process

from ract.client.objects import refs
from ract.client.process import current
from ract.core import ids, messages, serialization
from ract.core.messages import ObjectWanted

NUMBER = 16 << 36 | 5
ID = ids.object_id_bytes(ids.task_id_bytes(NUMBER, JOB, b""), 1)
FAR = (b"f" * 28, "/path", 0, 1, False)
EXECUTIONS_MAX = 3000
VALUE = serialization.pack([42])
BLOB = messages.Blob(VALUE.head, [], False)
INLINE = (VALUE.head, [], [])


class World(Process):
    """A process with a ref that another process has made; only its id is known.

    Attributes:
        called: How often each callback was called.
        remade: Stands for a return of a call that was run again.
        refused: Who was told that it cannot wait.
    """

    refused = ()

    def __init__(self):
        super().__init__()
        self.called = Counter()
        self.ref = self.table.adopt(ID, 1)
        self.remade = refs.new_ref(NUMBER, None, 1, None)
        self.remade._complete(refs.INLINE, INLINE)
        self.remade._make_id()

    # ------------------------------------------------------------------ what threads do

    def seek(self):
        self.values.seek(self.ref)

    def seek_too(self):
        self.values.seek_all([self.ref])

    def here(self):
        """The node answers what it was asked until then."""
        self.values.here(messages.ObjectHere(1, ID, BLOB))

    def here_too(self):
        self.here()

    def callback(self):
        self.ref._when_here(lambda ref: self.called.update(["callback"]))

    def other_callback(self):
        self.ref._when_here(lambda ref: self.called.update(["other_callback"]))

    def localize(self):
        self.values.localize(self.ref, lambda: self.called.update(["localize"]))

    def escape(self):
        self.table.escape(self.ref)

    def untold(self):
        self.values.untold(ID)

    def free(self):
        if self.ref._state >= refs.READY:
            self.values.forget_value(self.ref, ValueError("freed"))

    def renew(self):
        self.values.renew(ID, self.remade, is_wanted=True)

    def lose_node(self):
        self.session.lost_reason = "it died"
        self.values.end_asking()

    def leave(self):
        with self.table.lock:
            self.session.closed = True
        self.values.end_waiting([])

    # ------------------------------------------------------------------ what is right

    def is_right(self, names):
        is_over = {"lose_node", "leave"} & set(names)
        if not is_over and any(isinstance(m, ObjectWanted) for m in self.link.sent):
            self.here()  # the node answers what it was asked
        waits = [n for n in names if n.endswith("callback") or n == "localize"]
        for name in waits:
            assert self.called[name] == 1 or (is_over and name in self.refused)
        assert not self.values.localizing
        if {"callback", "seek", "seek_too"} & set(names) and not self.refused:
            assert self.ref._state >= refs.READY
        assert self.table.holds.records[ID].count == 1
        return True


class LeavingWorld(World):
    """Whoever begins to wait after the process has left is refused."""

    def __init__(self):
        super().__init__()
        self.refused = []

    def callback(self):
        try:
            super().callback()
        except ValueError:
            self.refused.append("callback")


class FarWorld(World):
    """The value of the ref lies on another node."""

    def __init__(self):
        super().__init__()
        self.ref._complete(refs.STORED, FAR)


@pytest.fixture(autouse=True)
def _no_runtime_stays():
    yield
    current.install(None)


def holds_always(names, world):
    result = frontrun.explore(
        setup=world,
        workers=[getattr(world, name) for name in names],
        invariant=lambda state: state.is_right(names),
        preemption_bound=None,
        max_executions=EXECUTIONS_MAX,
    )
    result.assert_holds()
    assert result.num_explored < EXECUTIONS_MAX, "not all were seen"


DONE = ["seek", "here", "callback", "escape", "untold", "free", "renew", "localize"]
PAIRS = [*itertools.combinations(DONE, 2), ("callback", "other_callback"), ("seek", "seek_too")]
PAIRS += [("here", "here_too")]


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
@pytest.mark.parametrize("world", [World, FarWorld])
def test_two_things_happen_to_a_value_that_is_elsewhere(world, names):
    holds_always(names, world)


@pytest.mark.parametrize(
    "names",
    [("seek", "here", "callback"), ("callback", "here", "renew"), ("localize", "here", "free")],
    ids="-".join,
)
@pytest.mark.parametrize("world", [World, FarWorld])
def test_three_things_happen_to_a_value_that_is_elsewhere(world, names):
    holds_always(names, world)


@pytest.mark.parametrize(
    ("name", "world"), [("seek", World), ("callback", FarWorld), ("localize", FarWorld)]
)
def test_who_asks_while_the_node_goes_hears_of_it(name, world):
    holds_always((name, "lose_node"), world)


@pytest.mark.parametrize("name", ["callback", "here"])
def test_who_waits_while_the_process_leaves_hears_of_it(name):
    holds_always((name, "leave"), LeavingWorld)
