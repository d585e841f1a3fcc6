"""The plugin on a real distributed scheduler."""

import asyncio
import contextlib
import time

import dask
import pytest
from distributed import Scheduler, Worker

from ract.core import messages as m
from ract.core import wire
from ract.scheduler.durable.journal import Journal

TIMEOUT_S = 20.0
NODE = b"n" * 28


class Peer:
    """A stock worker that speaks as a node."""

    def __init__(self, address):
        self.heard = asyncio.Queue()
        self.worker = Worker(address, nthreads=1, memory_limit=0, dashboard_address=None)
        self.worker.stream_handlers["ract"] = self._hear
        self.answers = asyncio.Queue()
        self.worker.stream_handlers["ract_rejoined"] = lambda **m: self.answers.put_nowait(m)
        self.worker.stream_handlers["ract_refused"] = lambda **m: self.answers.put_nowait(m)
        self.received = self.acknowledged = self.sent = 0

    def _hear(self, frames, seq=0, ack=0, **_):
        self.received, self.acknowledged = seq or self.received, ack
        for frame in frames:
            self.heard.put_nowait(wire.decode(frame))

    def say_batch(self, *messages, seq=None):
        """Say it in a batch with a number."""
        self.sent = self.sent + 1 if seq is None else seq
        frames = [wire.encode(each) for each in messages]
        batch = {"op": "ract", "frames": frames, "seq": self.sent, "ack": self.received}
        self.worker.batched_send(batch)

    async def rejoin(self, cluster_id, received, node_id=NODE):
        """What the scheduler answers to a node that comes back."""
        await self.worker
        names = {"node_id": node_id, "cluster_id": cluster_id, "received": received}
        self.worker.batched_send({"op": "ract_rejoin", **names})
        return await asyncio.wait_for(self.answers.get(), TIMEOUT_S)

    def say(self, *messages):
        frames = [wire.encode(each) for each in messages]
        self.worker.batched_send({"op": "ract", "frames": frames})

    async def hear(self, kind):
        """The next message, which must be of that kind."""
        message = await asyncio.wait_for(self.heard.get(), TIMEOUT_S)
        assert isinstance(message, kind), message
        return message

    async def join(self, node_id=NODE):
        await self.worker
        self.say(m.NodeJoined(node_id, self.worker.address, "127.0.0.1", 1, {"CPU": 20000}, {}, ""))
        accepted = await self.hear(m.NodeAccepted)
        await self.hear(m.NodesChanged)
        return accepted


def run_with_peers(test, count=1, *, scheduler_goes_first=False):
    async def run():
        arguments = {"protocol": "tcp://", "port": 0, "dashboard_address": "127.0.0.1:0"}
        async with Scheduler(
            host="127.0.0.1", preload=["ract.scheduler.preload"], **arguments
        ) as scheduler:
            peers = [Peer(scheduler.address) for _ in range(count)]
            try:
                await asyncio.wait_for(test(scheduler, *peers), TIMEOUT_S)
            finally:
                if scheduler_goes_first:
                    await scheduler.close()
                for peer in peers:
                    await peer.worker.close()

    asyncio.run(run())


def test_node_joins_and_is_answered():
    async def test(scheduler, peer):
        accepted = await peer.join()
        assert accepted.cluster_id == scheduler.plugins["ract"].cluster_id
        peer.say(m.ProcessJoined(NODE, 1, "driver", 1))
        assert (await peer.hear(m.ProcessAccepted)).job_id == b"\0\0\0\1"

    run_with_peers(test)


def test_bad_frames_do_not_close_the_stream():
    async def test(scheduler, peer):
        await peer.join()
        peer.say(m.ProcessJoined(NODE, 1, "driver", 1))
        await peer.hear(m.ProcessAccepted)
        peer.worker.batched_send({"op": "ract", "frames": [b"junk", b"", 7]})
        peer.say(m.Request(1, 1, "cluster_resources", {}))
        assert (await peer.hear(m.Reply)).value == {"CPU": 2.0}

    run_with_peers(test)


def test_fault_of_the_machine_does_not_close_the_stream(monkeypatch):
    async def test(scheduler, peer):
        await peer.join()
        machine = scheduler.plugins["ract"].machine

        def fail(event, now):
            raise AssertionError("a bug")

        monkeypatch.setattr(machine, "handle", fail)
        peer.say(m.ProcessJoined(NODE, 1, "driver", 1))
        await asyncio.sleep(0)
        reply = await peer.worker.scheduler.ract_ping()  # after the fault, on another connection
        assert reply["status"] == "OK"
        monkeypatch.undo()
        peer.say(m.ProcessJoined(NODE, 2, "driver", 1))
        while (await peer.hear(m.ProcessAccepted)).process != 2:
            pass

    run_with_peers(test)


def test_node_may_not_speak_for_another():
    async def test(scheduler, peer, other):
        await peer.join()
        await other.worker
        other.say(m.NodeJoined(NODE, "tcp://x:1", "x", 1, {"CPU": 90000}, {}, ""))
        peer.say(m.ProcessJoined(b"x" * 28, 1, "driver", 1))
        peer.say(m.ProcessJoined(NODE, 2, "driver", 1))
        assert (await peer.hear(m.ProcessAccepted)).process == 2
        assert len(scheduler.plugins["ract"].machine.nodes.alive) == 1

    run_with_peers(test, count=2)


def test_loss_of_a_worker_is_the_loss_of_its_node():
    async def test(scheduler, peer, other):
        await peer.join()
        await other.join(b"o" * 28)
        await peer.hear(m.NodesChanged)
        await other.worker.close()
        changed = await peer.hear(m.NodesChanged)
        assert list(changed.addresses) == [NODE.hex()]

    run_with_peers(test, count=2)


def test_deadlines_are_kept():
    async def test(scheduler, peer):
        await peer.join()
        peer.say(m.ObjectSought(NODE, b"o" * 28))
        located = await peer.hear(m.ObjectLocated)
        assert located.blob.head == b"lost:unknown object"

    run_with_peers(test)


def test_ping_tells_versions():
    async def test(scheduler, peer):
        await peer.worker
        told = await peer.worker.scheduler.ract_ping()
        assert told["status"] == "OK"
        assert set(told) >= {"ract", "protocol", "cluster_id", "python", "distributed"}

    run_with_peers(test)


# --------------------------------------------------------------------------- with a journal


def run_with_journal(path, *tests):
    """Each test with a peer of its own, and a scheduler that comes back from the journal."""
    with dask.config.set({"ract.journal": str(path), "distributed.worker.memory.terminate": False}):
        for test in tests:
            run_with_peers(test, scheduler_goes_first=True)


async def join_numbered(peer):
    await peer.worker
    address = peer.worker.address
    peer.say_batch(m.NodeJoined(NODE, address, "127.0.0.1", 1, {"CPU": 20000}, {}, ""))
    accepted = await peer.hear(m.NodeAccepted)
    await peer.hear(m.NodesChanged)
    peer.say_batch(m.ProcessJoined(NODE, 1, "driver", 1))
    await peer.hear(m.ProcessAccepted)
    return accepted


def test_a_node_that_comes_back_gets_what_it_has_missed(tmp_path):
    known = {}

    async def before(scheduler, peer):
        accepted = await join_numbered(peer)
        known["cluster"] = accepted.cluster_id
        assert accepted.reconnect_s == 60.0
        assert (peer.received, peer.acknowledged) == (2, 2)

    async def after(scheduler, peer):
        assert scheduler.plugins["ract"].cluster_id == known["cluster"]
        assert await peer.rejoin(known["cluster"], received=1) == {"received": 2}
        assert (await peer.hear(m.ProcessAccepted)).process == 1
        peer.say_batch(m.Request(1, 1, "kv_get", {"key": b"k"}), seq=3)
        assert (await peer.hear(m.Reply)).value is None

    run_with_journal(tmp_path / "journal", before, after)


def test_a_batch_that_comes_twice_counts_once(tmp_path):
    async def test(scheduler, peer):
        await join_numbered(peer)
        put = m.Request(1, 1, "kv_put", {"key": b"k", "value": b"v"})
        peer.say_batch(put)
        assert (await peer.hear(m.Reply)).value is True
        peer.say_batch(put, seq=3)
        peer.say_batch(m.Request(1, 2, "kv_get", {"key": b"k"}), seq=4)
        assert (await peer.hear(m.Reply)).request == 2

    run_with_journal(tmp_path / "journal", test)


def test_a_batch_is_acknowledged_though_nothing_is_answered(tmp_path):
    async def test(scheduler, peer):
        await join_numbered(peer)
        peer.say_batch(m.HoldsChanged(1, []))
        stats = wire.encode(m.NodeStats(NODE, {}))
        while peer.acknowledged < 3:  # as each second
            peer.worker.batched_send({"op": "ract", "frames": [], "ack": 2, "passing": [stats]})
            await asyncio.sleep(0.01)
        assert scheduler.plugins["ract"].machine.nodes.table[NODE].stats == {}

    run_with_journal(tmp_path / "journal", test)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cluster_id": b"other"}, "another cluster"),
        ({"node_id": b"x" * 28}, "declared dead"),
        ({"received": 7}, "has lost its end"),
    ],
)
def test_a_node_that_may_not_come_back_is_told_why(tmp_path, change, why):
    known = {}

    async def before(scheduler, peer):
        known["cluster_id"] = (await join_numbered(peer)).cluster_id

    async def after(scheduler, peer):
        given = {**known, "received": 2, "node_id": NODE, **change}
        assert why in (await peer.rejoin(**given))["why"]
        is_alive = scheduler.plugins["ract"].machine.nodes.get(NODE) is not None
        assert is_alive == ("received" not in change)  # what it has seen, nobody knows any more

    run_with_journal(tmp_path / "journal", before, after)


def test_a_node_whose_connection_broke_while_the_scheduler_lived_is_lost(tmp_path):
    async def test(scheduler, peer):
        accepted = await join_numbered(peer)
        await peer.worker.close()
        while scheduler.plugins["ract"].machine.nodes.get(NODE) is not None:
            await asyncio.sleep(0.01)
        again = Peer(scheduler.address)
        try:
            assert "declared dead" in (await again.rejoin(accepted.cluster_id, 2))["why"]
        finally:
            await again.worker.close()

    run_with_journal(tmp_path / "journal", test)


def test_nodes_that_do_not_come_back_are_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("RACT_gcs_rpc_server_reconnect_timeout_s", "1")

    async def before(scheduler, peer):
        assert (await join_numbered(peer)).reconnect_s == 1.0

    async def after(scheduler, peer):
        machine = scheduler.plugins["ract"].machine
        assert machine.nodes.get(NODE) is not None
        assert machine.turn.is_patient
        while machine.nodes.get(NODE) is not None:
            await asyncio.sleep(0.01)
        assert "did not come back within 1 s" in machine.nodes.table[NODE].cause.detail
        assert not machine.turn.is_patient

    run_with_journal(tmp_path / "journal", before, after)


def test_nodes_are_not_waited_for_anew_at_each_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("RACT_gcs_rpc_server_reconnect_timeout_s", "100")
    seen = []

    async def before(scheduler, peer):
        await join_numbered(peer)

    async def meanwhile(scheduler, peer):
        plugin = scheduler.plugins["ract"]
        seen.append(plugin._journal.get("awaited")[NODE])
        assert plugin.machine.nodes.get(NODE) is not None

    async def long_after(scheduler, peer):
        machine = scheduler.plugins["ract"].machine
        while machine.nodes.get(NODE) is not None:
            await asyncio.sleep(0.01)
        assert "did not come back within 100 s" in machine.nodes.table[NODE].cause.detail

    journal = tmp_path / "journal"
    run_with_journal(journal, before, meanwhile, meanwhile)
    assert seen[0] == seen[1]
    with contextlib.closing(Journal(journal)) as opened:
        opened.put("awaited", {NODE: time.time() - 1})
    run_with_journal(journal, long_after)


def test_what_cannot_be_written_down_does_not_happen(tmp_path):
    async def test(scheduler, peer):
        await join_numbered(peer)
        scheduler.plugins["ract"]._journal.close()
        peer.say_batch(m.Request(1, 1, "kv_put", {"key": b"k", "value": b"v"}))
        await asyncio.wait_for(scheduler.finished(), TIMEOUT_S)
        assert "cannot write the journal" in scheduler.plugins["ract"].failure
        assert not scheduler.plugins["ract"].machine.cluster.kv.table
        assert peer.heard.empty()

    run_with_journal(tmp_path / "journal", test)


def test_time_goes_on_where_it_stood(tmp_path):
    seen = []

    async def test(scheduler, peer):
        plugin = scheduler.plugins["ract"]
        if seen:
            assert 0 <= plugin._durable.now - seen[-1] < 1.0
        elif not seen:
            await join_numbered(peer)
        seen.append(plugin._durable.now)
        assert abs(plugin.machine.turn.epoch_s - time.time()) < TIMEOUT_S

    run_with_journal(tmp_path / "journal", test, test, test)
