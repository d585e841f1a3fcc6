"""The channels of this process, one to each executor that it calls.

A channel goes over a Unix socket on this node, and through a tunnel of the daemons otherwise.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack

from ract.client.calls.call import Call
from ract.client.calls.channel import Channel
from ract.client.calls.connection import ExecutorGone
from ract.client.objects.held import Held
from ract.client.process import context
from ract.client.process.locks import make_lock
from ract.client.process.node_link import NodeLink
from ract.client.process.reactor import Reactor
from ract.client.process.session import Session
from ract.core import calls

TUNNEL_SOCKET = "tunnel.sock"


class Channels:
    """The channels of one process.

    Args:
        session: Who this process is.
        link: Its connection to the node.
        reactor: Reads channels that nobody waits at.
        held: The refs that the cluster knows.
        apply: Applies a reply that is more than one plain value (`Replies.apply`).
    """

    def __init__(
        self,
        session: Session,
        link: NodeLink,
        reactor: Reactor,
        held: Held,
        apply: Callable[[Channel, Call, tuple[Any, ...]], None],
    ) -> None:
        self.session = session
        self.reactor = reactor
        self.held = held
        self.apply = apply
        self._session_dir = link.welcome.session_dir
        self._lock = make_lock("channels")  # two owners may want the same channel at once
        self._known: dict[int, Channel] = {}

    def to(self, executor: int, node_id: bytes, address: str) -> Channel:
        """The channel to an executor, made if there is none. If it cannot connect now it will.

        Raises:
            ExecutorGone: nobody listens there any more.
        """
        with self._lock:
            channel = self._known.get(executor)
            if channel is not None and not channel.is_closed:
                return channel
            spec, session = context.process.actor_spec, self.session
            actor_id = spec.actor_id if spec is not None else b""
            hello = (calls.HELLO, session.process, session.job_id, session.node_id, actor_id)
            dialled = partial(dial, address, node_id, session.node_id, self._session_dir)
            channel = Channel(self, executor, dialled, hello)
            channel.open()
            self._known[executor] = channel
            return channel

    def get(self, executor: int) -> Channel | None:
        """The channel to an executor, if there is one."""
        return self._known.get(executor)

    def values(self) -> list[Channel]:
        """All of them."""
        return list(self._known.values())  # in one step, for any thread

    def ended(self, channel: Channel) -> None:
        """A channel has ended."""
        with self._lock:
            if self._known.get(channel.executor) is channel:
                del self._known[channel.executor]

    def inflight(self) -> list[Call]:
        """Calls that have gone to an executor and have no answer."""
        return [call for channel in self.values() for call in list(channel.inflight.values())]

    def tick(self) -> bool:
        """Called by the reactor; returns whether anything is to be done."""
        busy = False
        for channel in self.values():
            busy |= channel.tick()
        return busy

    def discard(self) -> None:
        """Close all without telling anybody: the process leaves the cluster."""
        for channel in self.values():
            channel.discard()
        self._known.clear()


def dial(address: str, node_id: bytes, my_node_id: bytes, session_dir: str) -> socket.socket:
    """Connect to the executor that listens at ``address`` on ``node_id``; never waits.

    Raises:
        ExecutorGone: nobody listens there any more. A tunnel cannot tell: it just ends.
        OSError: it is not possible now: there are too many open files, or the queue is full.
    """
    is_here = node_id == my_node_id
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if is_here:
            sock.connect(address)
        else:
            sock.connect(os.path.join(session_dir, TUNNEL_SOCKET))
            target = msgpack.packb([node_id, address])
            sock.sendall(struct.pack("<I", len(target)) + target)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        sock.close()
        if is_here:
            raise ExecutorGone(f"nobody listens at {address}") from error
        raise
    except BaseException:
        sock.close()
        raise
    return sock
