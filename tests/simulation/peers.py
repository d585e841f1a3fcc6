"""A process of the simulation: its life, its turns, and what it says.

Theory of operation
-------------------
`SimProcess` is what the operating system would give: a number, a connection to the node, sockets,
an end. In it run the real client (`ract.client.runtime.Runtime`, see `simulation.wires`) and a
program: a `Driver` that does things at random, or an `Executor` that does what it is told.

A process may be stopped for a while (as by SIGSTOP, a debugger, or a machine that swaps): what
happens to it meanwhile happens when it goes on, in the same order. What it said before is said.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from simulation import wires
from simulation.executors import Executor
from simulation.programs import Driver

from ract.client.process import context, current
from ract.client.process.node_link import NodeLink
from ract.client.runtime import Runtime
from ract.core import messages as m
from ract.core.wire import decode, encode
from ract.worker.node import events as ev

if TYPE_CHECKING:
    from simulation.nodes import SimNode
    from simulation.simulator import World


class SimProcess:
    """A driver or an executor.

    Attributes:
        runtime: Its client; None until its node has welcomed it.
        program: What it does.
        sockets: Its ends of the connections that it has opened, by descriptor.
        asked: What it has asked of its node or the scheduler, and who goes on with the answer.
        progress: The number of the call that it has started last, as the zygote would read it.
    """

    runtime: Runtime
    program: Driver | Executor
    node_socket: wires.NodeSocket

    def __init__(self, world: World, node: SimNode, number: int, kind: str) -> None:
        self.world = world
        self.node = node
        self.number = number
        self.pid = 1000 + number
        self.kind = kind
        self.is_alive = True
        self.has_connected = False
        self.is_welcome = False
        self.welcome: m.Welcome | None = None
        self.sockets: dict[int, wires.Socket] = {}
        self.accepted: list[wires.Socket] = []
        self.asked: dict[int, Callable[[Any], None]] = {}
        self.groups: dict[bytes, str] = {}  #: states of the placement groups that it has made
        self.progress = 0
        self.is_stopped = False
        self._late: deque[Callable[[], None]] = deque()  #: turns that wait for its going on
        self._context = context.ProcessContext()

    # ------------------------------------------------------------------ turns

    def turn(self, call: Callable[[], None]) -> None:
        """Let something happen in this process, now or when it goes on."""
        if not self.is_alive:
            return
        if self.is_stopped or self._late:
            self._late.append(call)
            return
        with self._here():
            call()

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        before = wires.here, current.runtime, context.process
        wires.here, context.process = self, self._context
        current.install(self.runtime if self.is_welcome else None)
        try:
            yield
        finally:
            wires.here, runtime, context.process = before
            current.install(runtime)

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Do something in a turn of this process, after a while."""
        self.world.after(delay, lambda: self.turn(call))

    def stop_for(self, seconds: float) -> None:
        """SIGSTOP, and some time later SIGCONT."""
        self.is_stopped = True
        self.world.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self.is_stopped = False
        late, self._late = self._late, deque()
        for call in late:
            self.turn(call)

    # ------------------------------------------------------------------ life and death

    def connect(self) -> None:
        """Say hello."""
        if self.is_alive:
            self.has_connected = True
            connected = ev.Connected(self.number, m.Hello(self.kind, self.pid, self.number))
            self.world.travel(("up", self.number), lambda: self.node.feed(connected))

    def _begin(self, welcome: m.Welcome) -> None:
        self.welcome = welcome
        link = NodeLink("node.sock", m.Hello(self.kind, self.pid, self.number))
        self.runtime = Runtime(link, is_driver=self.kind == "driver")
        current.install(self.runtime)
        self.is_welcome = True
        self.runtime.start()
        self.runtime.unread.errors = deque(maxlen=0)  # which keep the refs that are in them
        self.program = Driver(self) if self.kind == "driver" else Executor(self)

    def vanish(self) -> None:
        """Die without a word."""
        with self._here():
            for sock in [*self.sockets.values(), *self.accepted]:
                sock.close()
            self.is_alive = False
            if self.is_welcome:
                self.runtime.session.closed = True  # its refs say nothing any more
                self.program.ended()

    def die(self, status: int) -> None:
        """Die; the node notices."""
        if self.is_alive:
            self.vanish()
            self.node.ended(self, status)

    # ------------------------------------------------------------------ messages

    def say(self, message: Any) -> None:
        """Tell the node."""
        if self.is_alive and not isinstance(message, m.Hello):
            frame, number = encode(message), self.number
            said = lambda: self.node.feed(ev.FromProcess(number, decode(frame)))  # noqa: E731
            self.world.travel(("up", number), said)

    def receive(self, message: Any) -> None:
        """The node, or through it the scheduler, says something."""
        if self.is_alive:
            assert message.process == self.number or isinstance(message, m.CancelWanted)
            self.turn(lambda: self._take(message))

    def _take(self, message: Any) -> None:
        if isinstance(message, m.Welcome):
            self._begin(message)
            return
        if isinstance(message, (m.SegmentGranted, m.SegmentRefused, m.Reply)):
            then = self.asked.pop(message.request, None)
            if then is not None:
                then(message if not isinstance(message, m.SegmentRefused) else None)
                return
        if isinstance(message, m.GroupChanged) and message.group_id in self.groups:
            assert self.groups[message.group_id] != "REMOVED", "nothing comes after the end"
            self.groups[message.group_id] = message.state
        self.node_socket.arrive(message)
        self.runtime.link.readable()

    def accept(self, sock: wires.Socket) -> None:
        """Somebody has connected."""
        self.accepted.append(sock)
        self.turn(lambda: self.program.accept(sock) if self.is_welcome else None)
