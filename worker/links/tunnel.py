"""Direct channels between processes of different nodes, through their daemons.

A process connects to ``tunnel.sock`` of its node and says, in one frame, which executor of which
node it wants. If there is none it hears that. Else the daemons splice that socket, a TLS stream
between them, and the executor's socket (`ract.worker.links.relay`). They never look at what passes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from ract.core import calls
from ract.worker import compat
from ract.worker.links.relay import Relay

logger = logging.getLogger("ract.worker")

_LENGTH = struct.Struct("<I")
REQUEST_BYTES_MAX = 4096
BACKLOG = 128
CONNECTED = "connected"
NOBODY = "nobody listens"
_EXECUTOR_SOCKET = re.compile(r"e\d+\.sock")


class Tunnels:
    """The tunnels that begin or end at a node.

    Args:
        session_dir: Of the node: ``tunnel.sock`` and the sockets of its executors are there.
        connect: Called with a node's id; returns a comm to its daemon.
    """

    def __init__(self, session_dir: str, connect: Callable[[bytes], Awaitable[Any]]) -> None:
        self._session_dir = session_dir
        self._connect = connect
        self._relay: Relay | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def start(self) -> None:
        """Listen at ``tunnel.sock``."""
        path = os.path.join(self._session_dir, "tunnel.sock")
        self._listener.bind(path)
        os.chmod(path, 0o600)
        self._listener.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Stop listening, and end all tunnels."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._relay is not None:
            self._relay.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        task = asyncio.ensure_future(self._open(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, sock: socket.socket) -> None:
        """A process of this node wants a tunnel."""
        comm = None
        try:
            (size,) = _LENGTH.unpack(await _receive(sock, _LENGTH.size))
            if size > REQUEST_BYTES_MAX:
                raise ValueError(f"request of {size} bytes")
            node_id, address = msgpack.unpackb(await _receive(sock, size))
            try:
                comm = await self._connect(node_id)
            except LookupError:  # the scheduler says that it is not, or no more, of the cluster
                await _say_gone(sock)
                return
            await comm.write({"op": "ract_tunnel", "address": address, "reply": False})
            # Not before the other daemon's event loop has let go of the stream.
            answer = await comm.read()
            if answer == NOBODY:
                await _say_gone(sock)
            elif answer == CONNECTED:
                await self._join(sock, comm)
            else:
                raise ConnectionRefusedError(answer)
        except Exception as error:
            # Whatever was wrong, the caller learns it as a closed channel.
            logger.info("no tunnel: %s: %s", type(error).__name__, error)
        finally:
            sock.close()
            if comm is not None:
                comm.abort()

    async def serve(self, comm: Any, address: str) -> None:
        """Connect a comm from another daemon with the executor of this node at ``address``."""
        folder, name = os.path.split(address)
        if folder != self._session_dir or not _EXECUTOR_SOCKET.fullmatch(name):
            logger.warning("refused a tunnel to %r", address)
            comm.abort()
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
            await comm.write(CONNECTED)
            await self._join(sock, comm)
        except (FileNotFoundError, ConnectionRefusedError):
            await comm.write(NOBODY)
        except OSError as error:
            logger.info("no tunnel to %s: %s", name, error)
        finally:
            sock.close()
            comm.abort()

    async def _join(self, sock: socket.socket, comm: Any) -> None:
        """Pass bytes both ways until either end closes."""
        if self._relay is None:
            self._relay = Relay()
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        self._relay.join(
            sock, compat.take_socket(comm), lambda: loop.call_soon_threadsafe(over.set)
        )
        await over.wait()


async def _say_gone(sock: socket.socket) -> None:
    """Tell a process that its executor has ended: the only thing that a tunnel says by itself."""
    frame = calls.frame((0.0, [(calls.RESUMED, calls.GONE)], 0))
    await asyncio.get_running_loop().sock_sendall(sock, frame)


async def _receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, and none of what follows."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        more = await loop.sock_recv(sock, size - len(data))
        if not more:
            raise ConnectionError("closed before it said what it wants")
        data += more
    return data
