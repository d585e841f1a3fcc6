"""What lies below the client of a simulated process: sockets, the IO thread, memory, the clock.

Theory of operation
-------------------
A simulated process runs the production client, `ract.client.runtime.Runtime`, with all its parts.
Only what touches the operating system is replaced, here and nowhere else: sockets (`Socket`,
`NodeSocket`), the reactor's thread (`Reactor`), shared memory (`Store`), and the clock, which is
that of the world. `hosted` puts these in place for as long as a world runs.

The client of a process runs in *turns*: what arrives, a tick, a step of its program. Turns of one
process do not overlap, as if one lock were around them; what threads can do to each other inside a
turn is the matter of `tests/interleavings`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from ract.client import runtime as client
from ract.client.calls import channels
from ract.client.calls.connection import ExecutorGone
from ract.client.objects.store import Location
from ract.client.process import node_link, user_code
from ract.core import calls
from ract.core.errors import ObjectStoreFullError
from ract.core.messages import ObjectSealed, SegmentClosed, SegmentWanted
from ract.core.serialization import Packed
from ract.core.wire import decode, encode

if TYPE_CHECKING:
    from simulation.peers import SimProcess
    from simulation.simulator import World

TICK_S = 0.002
TICKS_IDLE_MAX = 3
READABLE, ENDED = "readable", "ended"
FIRST_FD = 1_000_000  #: far above any real descriptor: to use one by mistake fails at once
OWN_SEGMENT_BYTES_MIN = 2**20

here: SimProcess | None = None
"""The process whose turn it is."""


def this_process() -> SimProcess:
    """The process whose turn it is."""
    assert here is not None
    return here


@contextlib.contextmanager
def hosted(world: World) -> Iterator[None]:
    """Put the world below every client that is made or runs meanwhile."""
    sockets = types.SimpleNamespace(**vars(socket))
    sockets.socket = lambda *args: NodeSocket(this_process())
    patches = (
        mock.patch.dict(os.environ, RACT_IGNORE_UNHANDLED_ERRORS="1"),
        mock.patch.object(logging.getLogger("ract"), "handlers", [_Fatal()]),
        mock.patch.object(time, "monotonic", world.clock),
        mock.patch.object(time, "time", world.epoch_clock),
        mock.patch.object(node_link, "socket", sockets),
        mock.patch.object(user_code, "run", lambda job: this_process().later(0.0, job)),
        mock.patch.object(client, "Reactor", Reactor),
        mock.patch.object(client, "StoreClient", Store),
        mock.patch.object(channels, "dial", dial),
    )
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


class _Fatal(logging.Handler):
    """What the client only logs, because a program must not die of it, is a failure here."""

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno < logging.ERROR, self.format(record)


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Have cycles of objects go when the world says so, and not when Python has made enough."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


# --------------------------------------------------------------------------- sockets


class Pipe:
    """A connection between two processes: two sockets, and what is on its way between them."""

    def __init__(self, world: World, caller: SimProcess, executor: SimProcess) -> None:
        self.world = world
        self.is_broken = False
        self.ends = (Socket(self, caller), Socket(self, executor))
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]

    @property
    def is_up(self) -> bool:
        """Whether both ends use it."""
        return not self.is_broken and all(end.is_open and not end.is_over for end in self.ends)

    def break_(self) -> None:
        """What is on its way is lost, and both ends hear that it is over, each in its time."""
        self.is_broken = True
        for end in self.ends:
            self.world.after(self.world.rng.expovariate(1 / 0.01), end.end)


class Socket:
    """One end of a `Pipe`. It never waits: what it does not take now it takes later."""

    def __init__(self, pipe: Pipe, process: SimProcess) -> None:
        self.pipe = pipe
        self.process = process
        self.other = self
        self.is_open = True
        self.is_over = False  #: nothing more will come
        self.on_readable: Callable[[], None] = lambda: None
        self._fd = pipe.world.next_fd()
        self._arrived = bytearray()
        self._full_until = 0.0

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, flag: bool) -> None: ...
    def setsockopt(self, *args: Any) -> None: ...

    def getsockopt(self, *args: Any) -> bytes:
        """No credentials: as of a process whose end cannot be seen from here."""
        return bytes(12)

    def send(self, data: Any, flags: int = 0) -> int:
        world = self.pipe.world
        if not self.is_open or self.is_over:
            raise BrokenPipeError
        if world.now < self._full_until:
            raise BlockingIOError
        part = bytes(data)
        if len(part) > 1 and world.happens("a socket takes only a part", 0.002):
            part = part[: world.rng.randrange(1, len(part))]
            self._full_until = world.now + world.rng.expovariate(1 / 0.005)
        world.travel(self, lambda: self.other.arrive(part))
        return len(part)

    def arrive(self, data: bytes) -> None:
        """The other end has sent something."""
        if self.is_open and not self.pipe.is_broken:
            self._arrived += data
            self.process.turn(self.on_readable)

    def recv_into(self, buffer: memoryview, n: int = 0, flags: int = 0) -> int:
        if not self.is_open:
            raise OSError("it is closed")
        if not self._arrived:
            if self.is_over:
                return 0
            raise BlockingIOError
        n = min(len(self._arrived), len(buffer))
        buffer[:n] = self._arrived[:n]
        del self._arrived[:n]
        return n

    @property
    def is_readable(self) -> bool:
        """Whether a read would not block."""
        return self.is_open and (bool(self._arrived) or self.is_over)

    def end(self) -> None:
        """The other end is gone."""
        self.is_over = True
        if self.is_open:
            self.process.turn(self.on_readable)

    def shutdown(self, how: int) -> None:
        """Both ends hear that it is over; what was sent before arrives first."""
        if not self.is_over:
            self.is_over = True
            self.pipe.world.travel(self, self.other.end)

    def close(self) -> None:
        if self.is_open:
            self.shutdown(socket.SHUT_RDWR)
            self.is_open = False


def dial(address: str, node_id: bytes, my_node_id: bytes, session_dir: str) -> Socket:
    """Stands for `ract.client.calls.channels.dial`. Raises OSError."""
    caller = this_process()
    world = caller.world
    executor = world.processes[int(address.rpartition("/e")[2].removesuffix(".sock"))]
    if world.happens("too many open files", 0.02, is_harmless=False):
        raise OSError(24, "too many open files")
    if not executor.is_alive and node_id == my_node_id:
        raise ExecutorGone("nobody listens there any more")
    pipe = Pipe(world, caller, executor)
    world.pipes.append(pipe)
    mine, its = pipe.ends
    caller.sockets[mine.fileno()] = mine

    def arrive() -> None:
        if executor.is_alive:
            executor.accept(its)
            return
        if executor.node.is_alive:  # so says the tunnel
            mine.arrive(calls.frame((0.0, [(calls.RESUMED, calls.GONE)], 0)))
        mine.end()

    world.travel(mine, arrive)
    return mine


class NodeSocket:
    """The connection of a process to its node, which has said welcome when it is made."""

    def __init__(self, process: SimProcess) -> None:
        self.process = process
        process.node_socket = self
        self._fd = process.world.next_fd()
        self._arrived = deque([process.welcome])

    def fileno(self) -> int:
        return self._fd

    def connect(self, path: str) -> None: ...
    def settimeout(self, timeout: float | None) -> None: ...
    def gettimeout(self) -> None: ...
    def shutdown(self, how: int) -> None: ...
    def close(self) -> None: ...

    def sendall(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            size = int.from_bytes(data[start : start + 4], "little")
            self.process.say(decode(data[start + 4 : start + 4 + size]))
            start += 4 + size

    def send(self, data: Any, flags: int = 0) -> int:
        self.sendall(bytes(data))
        return len(data)

    def arrive(self, message: Any) -> None:
        """The node says something."""
        self._arrived.append(message)

    def recv(self, n: int) -> bytes:
        frame = encode(self._arrived.popleft())
        return len(frame).to_bytes(4, "little") + frame


# --------------------------------------------------------------------------- the IO thread


class Reactor:
    """Stands for `ract.client.process.reactor.Reactor`: the same promises, without a thread."""

    def __init__(self, tick: Callable[[], bool]) -> None:
        self._process = this_process()
        self._tick = tick
        self._idle = 0
        self._armed: dict[int, str] = {}  #: what each descriptor is watched for, once
        self._handlers: dict[int, Callable[[], None]] = {}
        self._tick_at: float | None = None
        self.is_asleep = True
        self.is_dormant = True
        self.nap_s: float | None = None

    def start(self) -> None: ...
    def close(self) -> None: ...

    def post(self, function: Callable[[], None]) -> None:
        self._process.later(0.0, function)

    def wake(self) -> None:
        self.is_dormant = False
        if self.is_asleep:
            self.is_asleep = False
            self._idle = 0
            self._tick_in(TICK_S)

    def _tick_in(self, seconds: float) -> None:
        """Ticks are late now and then: the process has other things to do."""
        world = self._process.world
        delay = seconds + world.rng.expovariate(1 / TICK_S)
        if world.happens("the IO thread is late", 0.01):
            delay += world.rng.expovariate(1 / 0.05)
        at = self._tick_at = world.now + delay
        self._process.later(delay, lambda: self._tick_now() if self._tick_at == at else None)

    def _tick_now(self) -> None:
        self._tick_at = None
        self._idle = 0 if self._tick() else self._idle + 1
        if self._idle < TICKS_IDLE_MAX:
            self.is_asleep = self.is_dormant = False
            self._tick_in(TICK_S)
        else:
            self.is_asleep, self.is_dormant = True, self.nap_s is None
            if self.nap_s is not None:
                self._tick_in(self.nap_s)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler

    def watch_once(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        sock = self._process.sockets[fd]
        sock.on_readable = lambda: self._readable(sock)

    def arm(self, fd: int, handler: Callable[[], None]) -> None:
        self._arm(fd, handler, READABLE)

    def arm_for_end(self, fd: int, handler: Callable[[], None]) -> None:
        self._arm(fd, handler, ENDED)

    def _arm(self, fd: int, handler: Callable[[], None], what: str) -> None:
        if self._handlers.get(fd) == handler:
            self._armed[fd] = what
            sock = self._process.sockets[fd]
            if sock.is_readable:
                self.post(lambda: self._readable(sock))

    def _readable(self, sock: Socket) -> None:
        fd = sock.fileno()
        what = self._armed.get(fd)
        if sock.is_over if what == ENDED else what == READABLE and sock.is_readable:
            del self._armed[fd]
            self._handlers[fd]()

    def forget(self, fd: int, handler: Callable[[], None] | None = None) -> None:
        if handler is None or self._handlers.get(fd) == handler:
            self._handlers.pop(fd, None)
            self._armed.pop(fd, None)
            self._process.sockets.pop(fd, None)


# --------------------------------------------------------------------------- memory


class Store:
    """Stands for `ract.client.objects.store.StoreClient`.

    A simulated process cannot wait for a segment as a thread can. So its program gets room first
    (`with_room`), and `write` takes what was granted. Programs get it one after the other.
    """

    def __init__(self, link: Any) -> None:
        self._link = link
        self._process = this_process()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._room: tuple[Any, int] | None = None  #: (segment, offset) of what is written now
        self._segment: Any = None  #: the one that several small objects share
        self._used = 0

    def with_room(self, size: int, then: Callable[[], None]) -> None:
        """Call ``then()`` with room for one object; if that is refused, its `write` raises."""
        self._waiting.append((size, then))
        if len(self._waiting) == 1:
            self._next()

    def _next(self) -> None:
        size, _ = self._waiting[0]
        if size < OWN_SEGMENT_BYTES_MIN and self._segment is not None:
            if self._used + size <= self._segment.size:
                self._granted(self._segment)
                return
            self._close(self._segment)
            self._segment = None
        number = self._link.next_request()
        self._process.asked[number] = self._granted
        self._link.send(SegmentWanted(self._link.process, number, size))

    def _granted(self, segment: Any) -> None:
        size, then = self._waiting[0]
        if segment is not None and size < OWN_SEGMENT_BYTES_MIN:
            if segment is not self._segment:
                self._segment, self._used = segment, 0
            self._room = (segment, self._used)
            self._used += size
        elif segment is not None:
            self._room = (segment, 0)
        then()
        if self._room is not None and segment is not self._segment:
            self._close(segment)  # it was not written after all
        self._room = None
        self._waiting.popleft()
        if self._waiting:
            self._process.later(0.0, self._next)

    def _close(self, segment: Any) -> None:
        self._link.send(SegmentClosed(self._link.process, segment.segment))

    def write(
        self,
        object_id: bytes,
        packed: Packed,
        contains: list[Any],
        holds: list[Any],
        is_error: bool = False,
        call_site: str = "",
    ) -> Location:
        if self._room is None:
            raise ObjectStoreFullError("there was no room")
        (segment, offset), self._room = self._room, None
        size, me = packed.size, self._link.process
        place = (segment.segment, offset, size)
        self._process.node.write(object_id, place, bytes(packed.head))
        sealed = (object_id, *place, contains, holds, is_error, call_site)
        self._link.send(ObjectSealed(me, *sealed))
        if segment is not self._segment:
            self._close(segment)
        return Location(segment.path, offset, size, is_error)

    def has(self, location: Location) -> bool:
        """Whether something lies there: copies may be evicted before they are read."""
        return segment_of(location.path) in self._process.node.files

    def read(self, location: Location, pin: Any) -> tuple[Any, list[Any]]:
        place = (segment_of(location.path), location.offset, location.size)
        return self._process.node.see(self._process.number, pin, place), [ZEROS]

    def forget(self, paths: list[str]) -> None: ...


ZEROS = memoryview(bytes(4 * 2**20)).toreadonly()


def segment_of(path: str) -> int:
    """The number of a segment, by its path."""
    return int(path.rpartition("-")[2])
