"""The plugin on a real distributed scheduler."""

import asyncio

from distributed import Scheduler, Worker

from ract.core import messages as m
from ract.core import wire

TIMEOUT_S = 20.0
NODE = b"n" * 28


class Peer:
    """A stock worker that speaks as a node."""

    def __init__(self, address):
        self.heard = asyncio.Queue()
        self.worker = Worker(address, nthreads=1, memory_limit=0, dashboard_address=None)
        self.worker.stream_handlers["ract"] = self._hear

    def _hear(self, frames, **_):
        for frame in frames:
            self.heard.put_nowait(wire.decode(frame))

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


def run_with_peers(test, count=1):
    async def run():
        arguments = {"protocol": "tcp://", "port": 0, "dashboard_address": "127.0.0.1:0"}
        async with Scheduler(
            host="127.0.0.1", preload=["ract.scheduler.preload"], **arguments
        ) as scheduler:
            peers = [Peer(scheduler.address) for _ in range(count)]
            try:
                await asyncio.wait_for(test(scheduler, *peers), TIMEOUT_S)
            finally:
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
