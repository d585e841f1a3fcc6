"""Every interleaving of what threads do to one ref, on the real ref and the real table.

Each world is one process with one ref. What the process tells its node is recorded, and summed up
as the directory of the cluster would.
"""

import itertools
import pickle
import types
from collections import Counter, deque

import frontrun
import pytest

from ract.client.objects import held, refs
from ract.client.objects.held import RefTable
from ract.client.process import current
from ract.core import ids, serialization
from ract.core.messages import Hold, HoldsChanged, ObjectPublished

ME = 1
NUMBER = 16 << 36 | 5
ID = ids.object_id_bytes(ids.task_id_bytes(NUMBER, b"\0\0\0\1", b""), 1)
ANCHOR_ID = ids.object_id_bytes(ids.task_id_bytes(NUMBER + 1, b"\0\0\0\1", b""), 1)
EXECUTIONS_MAX = 3000
ERROR = (pickle.dumps(ValueError("no"), 5), [], [])


class Link:
    """Records what is told, after the changes of holds, as `NodeLink.send` sends it."""

    def __init__(self):
        self.sent = []
        self.hold_changes = deque()

    def tell(self, *messages):
        self.flush_holds()
        self.sent += messages

    def flush_holds(self):
        while self.hold_changes:
            self.sent.append(HoldsChanged(ME, [Hold(*self.hold_changes.popleft())]))


class World:
    """One process with one ref of a task that has not ended.

    Attributes:
        called: How often each callback was called.
        loaded: What reading the ref gave.
    """

    def __init__(self):
        self.link = Link()
        self.called = Counter()
        self.loaded = []
        self.runtime = types.SimpleNamespace(
            process=ME,
            job_id=b"\0\0\0\1",
            closed=False,
            unhandled=deque(),
            tell=self.link.tell,
            link=self.link,
            reactor=types.SimpleNamespace(wake=lambda: None),
            lineage=types.SimpleNamespace(dropped=lambda gone: None),
            expedite=lambda ref: None,
            load=lambda ref: ref._outcome(),
        )
        self.runtime.table = self.table = RefTable(self.runtime)
        current.install(self.runtime)
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
        self.ref._complete(refs.STORED, (b"node", "/path", 0, 1, False))

    def callback(self):
        self.ref._when_done(lambda ref: self.called.update(["callback"]))

    def other_callback(self):
        self.ref._when_done(lambda ref: self.called.update(["other_callback"]))

    def get(self):
        if self.ref._state >= refs.READY:
            self.loaded.append(self.ref._load())

    def free(self):
        with self.table.lock:
            if self.ref._state >= refs.READY:
                self.ref._replace(refs.ERROR, ERROR)

    def find(self):
        """Somebody makes a ref of the id, which the ref has told."""
        assert refs.ObjectRef(self.ref.binary()) is self.ref

    # ------------------------------------------------------------------ what is right

    def holds(self):
        """The holds of this process that the directory counts, by id."""
        self.link.flush_holds()
        found = Counter(self.brought)
        for message in self.link.sent:
            for hold in message.holds:
                found[hold.id] += hold.change
        return found

    def told(self):
        return [m for m in self.link.sent if isinstance(m, ObjectPublished)]

    def is_right(self, names):
        """What must be true after some of the above, in any order."""
        state, ref = self.ref._state, self.ref
        told = self.told()
        if ref._holds:
            assert self.table.find(ref.binary()) is ref
            assert self.holds() == {ref.binary(): self.table.held[ref.binary()].count}
            with_value = [m for m in told if m.blob is not None]
            if state in (refs.PLAIN, refs.ERROR) and not {"free", "stored"} & set(names):
                assert len(with_value) == 1, "the value is told once"
            assert len(with_value) <= 1
            assert not told or told[0].holds or "stored" in names, "the hold comes before the value"
            assert type(ref) is refs.ObjectRef
        else:
            assert not told
            assert not self.holds()
        if {"reply", "late_reply"} <= set(names):
            assert sorted(self.results) == [False, True]
        if {"reply", "error", "stored", "late_reply"} & set(names):
            assert state >= refs.READY
            assert all(self.called[n] == 1 for n in names if n.endswith("callback"))
        else:
            assert not self.called
        right = [42, 43, (refs.ERROR, ERROR), (refs.STORED, (b"node", "/path", 0, 1, False))]
        assert all(value in right for value in self.loaded)
        return True

    def end(self):
        """The program drops the ref: nothing may be held any more."""
        self.ref = None
        self.table.sort_out()
        assert not any(self.holds().values())
        assert not self.table.held
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
            self.table.met_since.append((0.0, refs.reading.met))
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
        self.table.met_since.append((0.0, refs.reading.met))

    def read_in_vain(self):
        refs.reading.met = []
        self.table.anchored(ID, self.anchor)
        self.table.met_since.append((0.0, refs.reading.met))

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
        entry = self.table.held.get(ID)
        alive = entry is not None and entry() is not None
        mine = sum(
            hold.change
            for message in (self.link.flush_holds(), *self.link.sent)
            if message is not None
            for hold in message.holds
            if hold.process == ME and hold.id == ID
        )
        assert mine + self.brought.count(ID) == (entry.count if alive else 0)
        theirs = [h for m in self.link.sent for h in m.holds if h.process == 2]
        assert len(theirs) == names.count("hand_over")
        assert not self.told()
        return True

    def end(self):
        self.drop()
        self.anchor = None
        refs.reading.met = []
        self.table.sort_out()
        self.table.sort_out()
        counted = Counter(self.brought)
        self.link.flush_holds()
        for message in self.link.sent:
            for hold in message.holds:
                if hold.process == ME:
                    counted[hold.id] += hold.change
        assert not any(counted.values())
        assert not self.table.held
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
    monkeypatch.setattr(held, "MET_S", -1.0)  # what was met is old at once
    holds_always(names, world)


@pytest.mark.parametrize(
    "names",
    [("drop", "borrow", "sort_out"), ("drop", "read", "sort_out"), ("use", "adopt", "drop")],
    ids="-".join,
)
@pytest.mark.parametrize("world", [MetWorld, HeldWorld])
def test_three_threads_use_the_table_of_holds(monkeypatch, world, names):
    monkeypatch.setattr(held, "MET_S", -1.0)
    holds_always(names, world)
