"""Every interleaving of what threads do to one ref, on the real ref and the real table.

Each world is one process with one ref. What the process tells its node is recorded, and summed up
as the directory of the cluster would.
"""

import itertools
import pickle
from collections import Counter

import frontrun
import pytest
from small_process import JOB, NODE, Process

from ract.client.objects import holds, refs
from ract.client.process import current
from ract.core import ids, serialization

NUMBER = 16 << 36 | 5
ID = ids.object_id_bytes(ids.task_id_bytes(NUMBER, JOB, b""), 1)
ANCHOR_ID = ids.object_id_bytes(ids.task_id_bytes(NUMBER + 1, JOB, b""), 1)
EXECUTIONS_MAX = 3000
FREED = ValueError("no")
ERROR = (pickle.dumps(FREED, 5), [], [])


class World(Process):
    """One process with one ref of a task that has not ended.

    Attributes:
        called: How often each callback was called.
        loaded: What reading the ref gave.
    """

    def __init__(self):
        super().__init__()
        self.called = Counter()
        self.loaded = []
        self.ref = refs.new_ref(NUMBER, None, 1, None)
        self.results = []
        self.brought = []

    # ------------------------------------------------------------------ what threads do

    def escape(self):
        self.table.escape(self.ref)

    def pickle(self):
        serialization.pack([self.ref])

    def reply(self):
        self.results.append(self.ref._complete(refs.PLAIN, 42))

    def late_reply(self):
        self.results.append(self.ref._complete(refs.PLAIN, 43))

    def error(self):
        self.ref._fail(ERROR)

    def stored(self):
        """A reply that says where the value lies: it comes with a hold."""
        self.brought.append(ID)  # the executor has announced it
        self.table.become_held(self.ref, 1)
        self.ref._complete(refs.STORED, (NODE, "/path", 0, 1, False))

    def callback(self):
        self.ref._when_done(lambda ref: self.called.update(["callback"]))

    def other_callback(self):
        self.ref._when_done(lambda ref: self.called.update(["other_callback"]))

    def get(self):
        if self.ref._state >= refs.READY:
            try:
                self.loaded.append(self.ref._load())
            except ValueError as error:
                self.loaded.append(str(error))

    def free(self):
        if self.ref._state >= refs.READY:
            self.values.forget_value(self.ref, FREED)

    def find(self):
        """Somebody makes a ref of the id, which the ref has told."""
        assert refs.ObjectRef(self.ref.binary()) is self.ref

    # ------------------------------------------------------------------ what is right

    def all_holds(self):
        """The holds of this process that the directory counts, by id."""
        found = self.holds()
        found.update(self.brought)
        return found

    def is_right(self, names):
        """What must be true after some of the above, in any order."""
        state, ref = self.ref._state, self.ref
        told = self.published
        if ref._holds:
            assert self.table.find(ref.binary()) is ref
            count = self.table.holds.records[ID].count
            assert self.all_holds() == {ID: count}
            with_value = [m for m in told if m.blob is not None]
            if state in (refs.PLAIN, refs.ERROR) and not {"free", "stored"} & set(names):
                assert len(with_value) == 1, "the value is told once"
            assert len(with_value) <= 1
            assert not told or told[0].holds or "stored" in names, "the hold comes before the value"
            assert type(ref) is refs.ObjectRef
        else:
            assert not told
            assert not self.all_holds()
        if {"reply", "late_reply"} <= set(names):
            assert sorted(self.results) == [False, True]
        if {"reply", "error", "stored", "late_reply"} & set(names):
            assert state >= refs.READY
            assert all(self.called[n] == 1 for n in names if n.endswith("callback"))
        else:
            assert not self.called
        assert all(value in (42, 43, "no", "stored") for value in self.loaded)
        return True

    def end(self):
        """The program drops the ref: nothing may be held any more."""
        self.ref = None
        self.table.sort_out()
        assert not any(self.all_holds().values())
        assert not self.table.refs
        assert not self.table.holds.records
        return True


@pytest.fixture(autouse=True)
def _no_runtime_stays():
    yield
    current.install(None)


def holds_always(names, world=World):
    """Explore all interleavings of some methods of the world."""

    def invariant(state):
        return state.is_right(names) and state.end()

    result = frontrun.explore(
        setup=world,
        workers=[getattr(world, name) for name in names],
        invariant=invariant,
        preemption_bound=None,
        max_executions=EXECUTIONS_MAX,
    )
    result.assert_holds()
    assert result.num_explored < EXECUTIONS_MAX, "not all were seen"


DONE = ["escape", "pickle", "reply", "error", "stored", "callback", "get", "free", "find"]
PAIRS = [*itertools.combinations(DONE, 2)]
PAIRS += [("reply", "late_reply"), ("callback", "other_callback"), ("escape", "escape")]
PAIRS += [("find", "find"), ("stored", "stored")]


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_two_things_happen_to_a_ref(names):
    holds_always(names)


@pytest.mark.parametrize(
    "names",
    [
        ("escape", "reply", "callback"),
        ("escape", "reply", "error"),
        ("escape", "pickle", "reply"),
        ("callback", "other_callback", "reply"),
        ("find", "escape", "reply"),
        ("get", "reply", "free"),
        ("escape", "stored", "callback"),
    ],
    ids="-".join,
)
def test_three_things_happen_to_a_ref(names):
    holds_always(names)


class TableWorld(World):
    """One process that may have a ref to an object that another process has made.

    Attributes:
        kept: What each thread got.
        anchor: The object out of which the ref was read; it has a hold of its own.
    """

    met = held = False

    def __init__(self):
        super().__init__()
        self.kept = []
        self.anchor = self.table.adopt(ANCHOR_ID, 1)
        self.brought.append(ANCHOR_ID)
        refs.reading.met = []
        if self.met:
            self.kept.append(self.table.anchored(ID, self.anchor))
            self.table.have_read(refs.reading.met)
        if self.held:
            self.kept.append(self.table.borrow(ID))
        self.ref = self.kept[0] if self.kept else None

    def adopt(self):
        self.brought.append(ID)
        self.kept.append(self.table.adopt(ID, 1))

    def borrow(self):
        self.kept.append(self.table.borrow(ID))

    def read(self):
        refs.reading.met = []
        self.kept.append(self.table.anchored(ID, self.anchor))
        self.table.have_read(refs.reading.met)

    def read_in_vain(self):
        refs.reading.met = []
        self.table.anchored(ID, self.anchor)
        self.table.have_read(refs.reading.met)

    def use(self):
        for ref in self.kept[:1]:
            self.table.hold_anchored(ref)

    def escape(self):
        for ref in self.kept[:1]:
            self.table.escape(ref)

    def drop(self):
        self.ref = None
        self.kept.clear()

    def sort_out(self):
        self.table.sort_out()

    def lose_hold(self):
        """The node died with the hold that had come with the value."""
        if ID in self.brought or self.held:
            self.table.lost_hold(ID)

    def hand_over(self):
        self.table.hand_over([(ID, 1)], 2)

    def is_right(self, names):
        assert len(set(map(id, self.kept))) <= 1, "there is one ref to an object"
        self.table.sort_out()
        record = self.table.holds.records.get(ID)
        assert self.all_holds()[ID] == (record.count if record is not None else 0)
        assert self.holds(2)[ID] == names.count("hand_over")
        assert not self.published
        return True

    def end(self):
        self.drop()
        self.anchor = None
        refs.reading.met = []
        self.table.sort_out()
        self.table.sort_out()
        assert not any(self.all_holds().values())
        assert not self.table.refs
        assert not self.table.holds.records
        assert not self.table.met
        return True


class MetWorld(TableWorld):
    """The ref was read out of another object."""

    met = True


class HeldWorld(TableWorld):
    """The ref is held."""

    held = True


USES = ["adopt", "borrow", "read", "read_in_vain", "use", "escape", "drop", "sort_out", "hand_over"]


@pytest.mark.parametrize("names", [*itertools.combinations(USES, 2)], ids="-".join)
@pytest.mark.parametrize("world", [TableWorld, MetWorld, HeldWorld])
def test_two_threads_use_the_table_of_holds(monkeypatch, world, names):
    monkeypatch.setattr(holds, "MET_S", -1.0)  # what was met is old at once
    holds_always(names, world)


@pytest.mark.parametrize(
    "names",
    [("drop", "borrow", "sort_out"), ("drop", "read", "sort_out"), ("use", "adopt", "drop")],
    ids="-".join,
)
@pytest.mark.parametrize("world", [MetWorld, HeldWorld])
def test_three_threads_use_the_table_of_holds(monkeypatch, world, names):
    monkeypatch.setattr(holds, "MET_S", -1.0)
    holds_always(names, world)
