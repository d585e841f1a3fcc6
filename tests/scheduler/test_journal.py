"""The journal: what a scheduler took, in a file; whoever takes it again is the same scheduler."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import msgpack
import pytest
from simulation.simulator import World

from ract.core import messages as m
from ract.core import wire
from ract.core.errors import JournalError
from ract.core.reliable import GapError
from ract.scheduler.books.turn import AllBack, NodeLost, Restarted, Tick
from ract.scheduler.durable import journal as journals
from ract.scheduler.durable.durable import Durable, Record
from ract.scheduler.durable.journal import Journal

NODE = b"n" * 28
CPU = 10_000
TIMEOUT_S = 60


def joined(node_id=NODE):
    return m.NodeJoined(node_id, "tls://n:1", "10.0.0.1", 7, {"CPU": 2 * CPU}, {}, "/s")


class Scheduler:
    """A durable machine with a journal, and one node of it."""

    def __init__(self, path):
        self.journal = Journal(path)
        self.durable = self.journal.recover({"reconnect_s": 5.0})
        self.seq = 0
        link = self.durable.links.get(NODE)
        if link is not None:
            self.seq = link.received

    def say(self, *messages, now=0.0, ack=0):
        """A batch of the node; returns what it is sent."""
        self.seq += 1
        frames = [wire.encode(each) for each in messages]
        return self.take(Record(now, NODE, self.seq, ack, frames))

    def take(self, record):
        self.journal.append(record, self.durable.checksum)
        sent = self.durable.take(record)
        return [wire.decode(f) for batch in sent.values() for f in batch["frames"]]

    def work(self):
        """A driver, an actor, a group and a key."""
        self.say(joined())
        self.say(m.ProcessJoined(NODE, 1, "driver", 1))
        spec = m.ActorSpec(
            b"a" * 16,
            b"\0\0\0\1",
            1,
            "Counter",
            m.Blob(b"class"),
            [],
            {"CPU": CPU},
            {},
            name="counter",
            namespace="space",
            detached=True,
        )
        group = m.GroupSpec(b"g" * 18, b"\0\0\0\1", 1, [{"CPU": CPU}])
        self.say(m.ActorWanted(1, spec), m.GroupWanted(1, group))
        self.say(m.Request(1, 1, "kv_put", {"key": b"k", "value": b"v"}))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def written(path):
    """A journal with some work in it, closed."""
    scheduler = Scheduler(path)
    scheduler.work()
    scheduler.journal.close()
    return path


# --------------------------------------------------------------------------- coming back


def test_what_was_there_is_there_again(path):
    first = Scheduler(path)
    first.work()
    first.journal.close()
    again = Scheduler(path)
    machine = again.durable.machine
    assert machine.cluster.cluster_id == first.durable.machine.cluster.cluster_id
    assert machine.actors.named("space", "counter").spec.actor_id == b"a" * 16
    assert machine.groups.table[b"g" * 18].state == "CREATED"
    assert machine.cluster.kv.table == {(b"", b"k"): b"v"}
    assert again.durable.checksum == first.durable.checksum
    assert again.journal.replayed[0] == 4
    machine.check()


def test_what_a_node_has_not_got_is_sent_again_and_no_more(path):
    first = Scheduler(path)
    first.work()
    told = first.durable.links[NODE].resume(0)
    first.journal.close()
    again = Scheduler(path)
    assert again.durable.links[NODE].resume(2) == told[2:]


def test_a_snapshot_stands_for_the_log_before_it(path):
    first = Scheduler(path)
    first.work()
    first.journal.snapshot(first.durable)
    first.say(m.Request(1, 2, "kv_get", {"key": b"k"}))
    first.journal.close()
    again = Scheduler(path)
    assert again.journal.replayed[0] == 1
    assert again.durable.checksum == first.durable.checksum
    assert again.durable.links[NODE].resume(0) == first.durable.links[NODE].resume(0)
    again.durable.machine.check()
    [reply] = again.say(m.Request(1, 3, "kv_get", {"key": b"k"}))
    assert reply.value == b"v"


def test_a_snapshot_of_many_parts_is_put_together(path, monkeypatch):
    monkeypatch.setattr(journals, "PART_BYTES", 100)
    first = Scheduler(path)
    first.work()
    first.journal.snapshot(first.durable)
    first.journal.close()
    assert Scheduler(path).durable.checksum == first.durable.checksum


def test_a_snapshot_is_wanted_when_the_log_is_long(path, monkeypatch):
    monkeypatch.setattr(journals, "SNAPSHOT_BYTES_MIN", 3000)
    scheduler = Scheduler(path)
    scheduler.work()
    assert not scheduler.journal.wants_snapshot
    scheduler.say(m.Request(1, 2, "kv_put", {"key": b"k", "value": b"v" * 4000}))
    assert scheduler.journal.wants_snapshot
    scheduler.journal.snapshot(scheduler.durable)
    assert not scheduler.journal.wants_snapshot


def test_a_large_cluster_can_be_kept(path):
    """A pickle follows references: it must not go deeper the more there is."""
    scheduler = Scheduler(path)
    scheduler.work()
    for i in range(2000):
        actor_id, group_id = i.to_bytes(16, "big"), i.to_bytes(18, "big")
        spec = m.ActorSpec(
            *(actor_id, b"\0\0\0\1", 1, "A", m.Blob(b""), [], {"CPU": 10}, {"CPU": 1})
        )
        scheduler.say(
            m.GroupWanted(1, m.GroupSpec(group_id, b"\0\0\0\1", 1, [{"CPU": 1}])),
            m.ActorWanted(1, spec),
            m.LeasesWanted(1, i % 20, m.Shape({"CPU": i % 20 + 1}, b"\0\0\0\1"), 1, ["f"]),
        )
    scheduler.journal.snapshot(scheduler.durable)
    scheduler.journal.close()
    again = Scheduler(path)
    again.durable.machine.check()
    assert len(again.durable.machine.actors.table) == 2001


def test_commits_survive_sigkill(path):
    program = """
        import os, sys
        from ract.scheduler.durable.durable import Record
        from ract.scheduler.durable.journal import Journal
        from ract.scheduler.books.turn import Tick
        journal = Journal(sys.argv[1])
        durable = journal.recover({})
        for i in range(1000):
            journal.append(Record(float(i), event=Tick()), durable.checksum)
            durable.take(Record(float(i), event=Tick()))
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), path], timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == -signal.SIGKILL
    again = Journal(path)
    assert again.recover({}).now == 999.0
    assert again.replayed[0] == 1000
    again.close()


REPLAY = """
    import hashlib, sys
    import msgpack
    from ract.scheduler.durable.journal import Journal
    journal = Journal(sys.argv[1])
    durable = journal.beginning({})
    sent = hashlib.sha256()
    for record, mark in journal.records():
        assert mark is None or mark == durable.checksum
        for node_id, batch in durable.take(record).items():
            sent.update(msgpack.packb([node_id, batch]))
    durable.machine.check()
    print(sent.hexdigest())
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_another_process_sends_the_same_bytes_when_it_takes_the_same_records(path, seed):
    world = World(seed, nodes=4, journal=path, kills_scheduler=False)
    world.play(3.0)
    world.journal.close()
    for hash_seed in ("1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(REPLAY), path],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.stdout.strip() == world.sent.hexdigest(), done.stderr


def test_a_snapshot_at_any_time_changes_nothing_of_what_follows(path):
    world = World(5, nodes=4, journal=path, kills_scheduler=False)
    world.play(2.0)
    world.journal.close()
    journal = Journal(path)
    records = [record for record, _ in journal.records()]
    durable = journal.beginning({})
    sent = hashlib.sha256()
    for i, record in enumerate(records):
        if i % 100 == 99:
            durable = journals.pickle.loads(journals.pickle.dumps(durable))
        for node_id, batch in durable.take(record).items():
            sent.update(msgpack.packb([node_id, batch]))
    journal.close()
    assert sent.hexdigest() == world.sent.hexdigest()


def test_other_commands_than_the_first_time_are_reported(written, caplog):
    db = sqlite3.connect(written)
    rows = db.execute("SELECT n, mark FROM log").fetchall()
    db.execute("UPDATE log SET mark = 7 WHERE n = ?", (rows[-1][0],))
    db.commit()
    db.close()
    journal = Journal(written)
    journal.recover({})
    assert journal.is_different
    assert "other commands than the first time" in caplog.text
    journal.close()


# --------------------------------------------------------------------------- refused files


def test_two_schedulers_cannot_have_one_journal(path):
    journal = Journal(path)
    with pytest.raises(JournalError, match="another scheduler has the journal"):
        Journal(path)
    program = "import sys; from ract.scheduler.durable.journal import Journal; Journal(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "another scheduler has the journal" in done.stderr
    journal.close()
    Journal(path).close()


def test_the_file_is_its_owners_alone(path):
    Journal(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["journal"]
    path.chmod(0o666)
    with pytest.raises(JournalError, match="cannot be trusted"):
        Journal(path)


@pytest.mark.parametrize("name", ["ract", "python", "format"])
def test_another_version_is_refused(written, name):
    journal = Journal(written)
    journal.put(name, "0.0")
    journal.close()
    with pytest.raises(JournalError, match=r"was written by ract .* start the version that wrote"):
        Journal(written)


def test_a_file_of_something_else_is_refused(path):
    path.write_bytes(b"what somebody else wrote" * 1000)
    path.chmod(0o600)
    with pytest.raises(JournalError, match="damaged, or no journal"):
        Journal(path)


def test_an_empty_file_is_no_new_journal(path):
    path.touch(0o600)
    with pytest.raises(JournalError, match="damaged, or no journal"):
        Journal(path)


def test_a_file_that_was_cut_off_is_refused(written):
    size = written.stat().st_size
    with written.open("r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(JournalError, match="damaged"):
        Journal(written).recover({})


@pytest.mark.parametrize(
    "fault",
    [
        "DELETE FROM log WHERE n = 2",
        "UPDATE log SET frames = x'9100' WHERE n = 2",
        "UPDATE log SET now = 7 WHERE n = 2",
        "UPDATE log SET node = x'00' WHERE n = 2",
        "UPDATE log SET frames = 7 WHERE n = 2",
    ],
)
def test_a_log_that_was_changed_is_refused(written, fault):
    db = sqlite3.connect(written)
    db.execute(fault)
    db.commit()
    db.close()
    journal = Journal(written)
    with pytest.raises(JournalError, match="damaged"):
        journal.recover({})
    journal.close()


def test_a_snapshot_that_was_changed_is_refused(path):
    scheduler = Scheduler(path)
    scheduler.work()
    scheduler.journal.snapshot(scheduler.durable)
    scheduler.journal.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE snapshot SET data = x'80'")
    db.commit()
    db.close()
    journal = Journal(path)
    with pytest.raises(JournalError, match="its snapshot is not what was written"):
        journal.recover({})
    journal.close()


def test_a_journal_in_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(JournalError, match="cannot make the journal"):
        Journal(tmp_path / "nowhere" / "journal")


# --------------------------------------------------------------------------- batches and patience


def test_a_batch_that_was_taken_is_no_news(path):
    scheduler = Scheduler(path)
    scheduler.work()
    assert not scheduler.durable.is_news(NODE, scheduler.seq, 0)
    assert scheduler.durable.is_news(NODE, scheduler.seq + 1, 0)
    with pytest.raises(GapError, match="came after"):
        scheduler.durable.is_news(NODE, scheduler.seq + 2, 0)
    scheduler.journal.close()


def test_a_lost_node_has_no_link(path):
    scheduler = Scheduler(path)
    scheduler.work()
    scheduler.take(Record(0.0, event=NodeLost(NODE, m.ExitCause("node_died", "gone"))))
    assert not scheduler.durable.links
    # It does not know yet, and speaks.
    assert not scheduler.durable.is_news(NODE, scheduler.seq + 1, 3)
    scheduler.journal.close()


def test_nothing_is_unknown_while_nodes_have_yet_to_come_back():
    durable = Durable(b"c" * 16, 1, {"unknown_timeout_s": 2.0})
    say = lambda *events, now=0.0: [  # noqa: E731
        wire.decode(frame)
        for event in events
        for batch in durable.take(Record(now, event=event)).values()
        for frame in batch["frames"]
    ]
    say(joined(), m.ProcessJoined(NODE, 1, "driver", 1))
    say(m.ObjectSought(NODE, b"o" * 28), m.ActorWatched(1, b"a" * 16))
    say(Restarted(0.0), now=1.0)
    assert durable.machine.next_deadline() is None
    assert say(Tick(), now=50.0) == []
    say(AllBack(), now=50.0)
    assert say(Tick(), now=51.0) == []
    assert durable.machine.next_deadline() == 52.0
    located, changed = say(Tick(), now=52.0)
    assert located.blob.head == b"lost:unknown object"
    assert changed.state == "DEAD"
