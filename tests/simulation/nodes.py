"""A simulated node: the real `NodeMachine` behind an adapter that performs its commands.

Theory of operation
-------------------
`SimNode` stands for what surrounds the machine on a real node: the zygote, the sockets of the
processes, /dev/shm, the transfers between nodes. As there, each of them has an order of its own and
none with the others: an executor may say hello before the zygote reports its fork, and its exit may
be known before what it said last.

Shared memory is kept as "which object was written where", and who looks at what. So a segment that
is given out again under a living view, or an answer that leads to the wrong bytes, is seen at once.
"""

from __future__ import annotations

import random
import signal
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from simulation.executors import Executor
from simulation.peers import SimProcess

from ract.core import errors
from ract.core import messages as m
from ract.core.reliable import Link
from ract.core.wire import decode, encode
from ract.worker.node import events as ev
from ract.worker.node.executors import ENDING, IDLE
from ract.worker.node.machine import Config, NodeMachine

if TYPE_CHECKING:
    from simulation.simulator import World

CPU = 10_000
CAPACITY = 24 * 2**20  # of objects of up to 4 MiB: copies are evicted, puts refused

Place = tuple[int, int, int]  #: segment, offset, size


class SimNode:
    """A daemon and its machine's surroundings."""

    def __init__(self, world: World, number: int, is_head: bool) -> None:
        self.world = world
        self.node_id = number.to_bytes(2, "big") * 14
        self.is_head = is_head
        self.is_alive = True
        self.is_reported = False  #: the scheduler has been told of its death
        self.is_cut = False  #: it is dead, and from here on nothing it said arrives
        self.wants_drivers = 0
        cpus = world.rng.choice((2, 3, 4))
        self.total = {"CPU": cpus * CPU, "disk": 2 * CPU, "slot": 50 * CPU}
        prestart = world.rng.random() < 0.5
        config = Config(self.node_id, "/s", f"/shm/{number}-", cpus, CAPACITY, prestart=prestart)
        self.machine = NodeMachine(config, random.Random(world.seed * 1000 + number))
        self.link = Link()
        self.processes: dict[int, SimProcess] = {}  #: the living ones, by number
        #: The memory: what lies where, by segment (object, its pickle); and who looks at what.
        self.files: dict[int, dict[tuple[int, int], tuple[bytes, bytes]]] = {}
        #: What came of unfinished pulls, by segment: object, edition, bytes from the front.
        self.half: dict[int, tuple[bytes, int, int]] = {}
        self.views: dict[tuple[int, bytes], Place] = {}
        self._tick_at: float | None = None

    def join(self) -> None:
        address = f"sim://{self.node_id[:2].hex()}"
        joined = m.NodeJoined(self.node_id, address, "127.0.0.1", 1, self.total, {}, "/x", "h")
        self.world.to_scheduler(self, joined)

    def receive(self, message: Any) -> None:
        """The scheduler says something."""
        if isinstance(message, m.EndLease) and not message.kill:
            for program in self.executors():
                is_busy = program.lease == message.lease and program.running is not None
                assert not is_busy, "a lease was ended while its task runs"
        self.feed(message)
        # Of drivers that came once all are told to stop, nobody would tell them.
        if isinstance(message, m.NodeAccepted) and not self.world.is_stopping:
            for _ in range(self.wants_drivers):
                self.start_driver()

    def feed(self, event: Any) -> None:
        """One turn of the machine."""
        if not self.is_alive:
            return
        self.world.tell(self.node_id[:2].hex(), event)
        for command in self.machine.handle(event, self.world.now):
            self.world.tell("   ->", command)
            self._perform(command)
        if self.world.check:
            self.machine.check()
        at = self.machine.next_deadline()
        if at is not None and (self._tick_at is None or at < self._tick_at):
            self._tick_at = at
            self.world.after(max(0.0, at - self.world.now), lambda: self._tick(at))

    def _tick(self, at: float) -> None:
        if self._tick_at == at:
            self._tick_at = None
            self.feed(ev.Tick())

    def crash(self) -> None:
        """The machine of the node is gone, with all that runs there."""
        self.is_alive = False
        for process in list(self.processes.values()):
            process.vanish()
        self.processes.clear()
        self.files.clear()
        self.views.clear()

    # ------------------------------------------------------------------ commands

    def _perform(self, command: Any) -> None:
        world = self.world
        if isinstance(command, ev.ToScheduler):
            world.to_scheduler(self, command.message)
        elif isinstance(command, ev.ToProcess):
            process = self.processes.get(command.process)
            if process is not None:
                frame = encode(command.message)
                world.travel(("down", process.number), lambda: process.receive(decode(frame)))
        elif isinstance(command, ev.Fork):
            world.travel(("zygote", self.node_id), lambda: self._fork(command.process))
        elif isinstance(command, ev.Signal):
            assert command.number == signal.SIGKILL
            world.travel(("zygote", self.node_id), lambda: self._kill(command))
        elif isinstance(command, ev.CreateSegment):
            self._create_segment(command)
        elif isinstance(command, ev.RemoveSegment):
            del self.files[command.segment]
            self.half.pop(command.segment, None)
            # Who looks at it keeps its pages; no segment gets this number again.
            self.views = {k: v for k, v in self.views.items() if v[0] != command.segment}
        elif isinstance(command, ev.Spill):
            fails = world.happens("a segment cannot be spilled", 0.05, is_harmless=False)
            spilt = (
                ev.SpillFailed(command.segment, "full") if fails else ev.SpillDone(command.segment)
            )
            world.after(world.rng.random() * 0.05, lambda: self.feed(spilt))
        elif isinstance(command, ev.Pull):
            link = ("pull", command.source, self.node_id)
            world.travel(link, lambda: self._pulled(command))
        elif not isinstance(command, ev.Warn):
            assert isinstance(command, ev.Shutdown), command
            world.after(0.0, lambda: world.end_node(self))

    # ------------------------------------------------------------------ processes

    def start_driver(self) -> SimProcess | None:
        """A driver connects; later, if the node has no numbers yet."""
        number = self.machine.new_process()
        if number is None:
            self.world.after(0.1, self.start_driver)
            return None
        process = self._new_process(number, "driver")
        process.connect()
        return process

    def _new_process(self, number: int, kind: str) -> SimProcess:
        assert number not in self.world.processes, "process number given twice"
        process = SimProcess(self.world, self, number, kind)
        self.processes[number] = self.world.processes[number] = process
        return process

    def _fork(self, number: int) -> None:
        world = self.world
        if not self.is_alive:
            return
        if world.happens("an executor cannot be forked", 0.01, is_harmless=False):
            exited = ev.ExecutorExited(number, 0, -1)
            world.travel(("reaped", self.node_id), lambda: self.feed(exited))
            return
        process = self._new_process(number, "executor")
        forked = ev.ExecutorForked(number, process.pid)
        world.travel(("reaped", self.node_id), lambda: self.feed(forked))
        if world.happens("an executor dies while it starts", 0.02, is_harmless=False):
            world.after(world.rng.random() * 0.02, lambda: process.die(1 << 8))
        if world.happens("memory is short", 0.02, is_harmless=False):
            world.after(world.rng.random() * 0.5, self._run_short)
        world.after(world.rng.random() * 0.03, process.connect)

    def _run_short(self) -> None:
        """Memory is short; what each process holds is a matter of chance."""
        if self.world.is_stopping:
            return
        at = self.world.now - self.world.rng.random() * 0.01
        held = {p.pid: self.world.rng.randrange(10) for p in self.processes.values()}
        self.feed(ev.MemoryHigh(at, 100, 100, 0.95, held, {}))

    def executors(self) -> Iterator[Executor]:
        """The programs of those that are up."""
        for process in self.processes.values():
            if process.is_welcome and isinstance(process.program, Executor):
                yield process.program

    def _kill(self, command: ev.Signal) -> None:
        process = self.processes.get(command.process)
        if process is not None and process.pid == command.pid:
            process.die(command.number)

    def ended(self, process: SimProcess, status: int) -> None:
        """A process of this node is gone."""
        number = process.number
        del self.processes[number]
        self.views = {k: v for k, v in self.views.items() if k[0] != number}
        if process.has_connected:
            self.world.travel(("up", number), lambda: self.feed(ev.Disconnected(number)))
        if process.kind == "executor":
            exited = ev.ExecutorExited(number, process.pid, status, task=process.progress)
            self.world.travel(("reaped", self.node_id), lambda: self.feed(exited))

    # ------------------------------------------------------------------ memory

    def _create_segment(self, command: ev.CreateSegment) -> None:
        if self.world.happens("a segment cannot be made", 0.01):
            failed = ev.SegmentFailed(command.segment, command.process, command.request, "full")
            self.world.after(0.0, lambda: self.feed(failed))
            return
        assert command.segment not in self.files, "a number was given to two segments"
        if command.in_background:
            self.world.after(self.world.rng.random() * 0.02, lambda: self._created(command))
        else:
            self._created(command)

    def _created(self, command: ev.CreateSegment) -> None:
        if not self.is_alive:
            return
        self.files[command.segment] = {}
        if command.in_background:
            self.feed(ev.SegmentCreated(command.segment))
        if isinstance(command.then, ev.Pull):
            self._perform(command.then)
        else:
            self._perform(ev.ToProcess(command.process, command.then))

    def write(self, object_id: bytes, place: Place, content: bytes) -> None:
        """Somebody writes an object into shared memory."""
        segment, offset, size = place
        for (_, other), (seen, start, length) in self.views.items():
            overlaps = seen == segment and start < offset + size and offset < start + length
            is_own = other == object_id or other in self.world.freed
            assert is_own or not overlaps, f"{other.hex()} is overwritten under a view"
        file = self.files[segment]
        for start, length in list(file):
            if start < offset + size and offset < start + length:
                del file[start, length]
        file[offset, size] = (object_id, content)

    def see(self, process: int, ref: Any, place: Place) -> bytes:
        """A process looks at an object, and may do so for as long as its ref lives."""
        segment, offset, size = place
        object_id = ref.binary()
        found = self.files[segment].get((offset, size))
        if object_id in self.world.freed and (found is None or found[0] != object_id):
            raise errors.ObjectFreedError(object_id.hex())
        assert found is not None, f"{object_id.hex()} is not where the node said"
        assert found[0] == object_id, f"{object_id.hex()} is not where the node said"
        key = (process, object_id)
        self.views[key] = place
        weakref.finalize(ref, self._unseen, key, place)
        return found[1]

    def _unseen(self, key: tuple[int, bytes], place: Place) -> None:
        if self.views.get(key) == place:
            del self.views[key]

    def _pulled(self, command: ev.Pull) -> None:
        if not self.is_alive:
            return
        peer = self.world.nodes[command.source]
        object_id, arrived, edition = command.object_id, command.arrived, command.edition
        if arrived:
            assert self.half[command.segment] == (object_id, edition, arrived)
        rng = self.world.rng
        is_cut = self.world.happens("a pull is cut", 0.05, is_harmless=False)
        stored = peer.machine.objects.store.find(object_id) if peer.is_alive else None
        if stored is None or is_cut:
            is_gone = stored is None and peer.is_alive
            if stored is not None and stored.size == command.size:
                begin = arrived if edition == stored.edition else 0
                arrived, edition = rng.randint(begin, command.size), stored.edition
                self.half[command.segment] = (object_id, edition, arrived)
            how = "cut", is_gone, arrived, edition
            self.feed(ev.PullFailed(object_id, command.source, *how))
            return
        assert stored.size == command.size
        written, content = peer.files[stored.segment][stored.offset, stored.size]
        assert written == object_id
        self.half.pop(command.segment, None)
        self.write(object_id, (command.segment, 0, command.size), content)
        self.feed(ev.PullDone(object_id, stored.edition))

    # ------------------------------------------------------------------ truth

    def check_cpus(self) -> None:
        """CPUs that tasks use, forced ones aside, are at most those there are."""
        used = sum(program.cpus_in_use for program in self.executors())
        assert used <= self.total["CPU"], f"{used} CPUs in use on {self.node_id[:2].hex()}"

    def assert_rest(self) -> None:
        """Nothing is in use; what machine and world know of processes and files is the same."""
        self.machine.check()
        objects = self.machine.objects
        assert not objects.store.objects, "objects are left in a store"
        assert not objects.waiting, "somebody still waits for an object"
        assert not objects._fetches.table, "somebody still fetches an object"
        files = {*objects.store.segments, *objects.store.pool}
        assert files == set(self.files), "files and segments differ"
        executors = self.machine.executors
        here = {p.number for p in self.processes.values() if p.kind == "executor"}
        assert here == set(executors), f"processes are {here}, executors {set(executors)}"
        for executor in executors.values():
            assert executor.state == IDLE, f"executor {executor} is not idle"
            assert executor.state != ENDING
        drivers = {p.number for p in self.processes.values() if p.kind == "driver"}
        assert drivers == set(self.machine.drivers)
        open_ = [s for s in objects.store.segments.values() if s.writer not in (here | drivers)]
        assert not open_, f"segments of nobody: {open_}"
        assert len(executors) <= self.total["CPU"] // CPU, "idle executors beyond the CPUs"
