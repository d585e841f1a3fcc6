"""``node.sock``: the Unix socket where processes of this machine talk to their node.

A frame is a 4-byte little-endian length and a control message (`ract.core.wire`). Only processes
of the same user get in; bytes that are no message end that connection and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from ract.core import wire

logger = logging.getLogger("ract.worker")

_LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (see unix(7), SO_PEERCRED)
HELLO_BYTES_MAX = 2**20
"""Before it has said who it is, a peer may not make us buffer more."""


class ControlServer:
    """Listens, and turns bytes into messages.

    Args:
        path: Where to listen.
        on_message: Called as (connection, message) for each message, in order.
        on_closed: Called once as (connection) after the last message of a connection.
    """

    def __init__(
        self,
        path: str,
        on_message: Callable[[Connection, Any], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self._path = path
        self.on_message = on_message
        self.on_closed = on_closed
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Connection(self), self._path)
        os.chmod(self._path, 0o600)

    def close(self) -> None:
        """Stop listening and drop everybody."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()


class Connection(asyncio.Protocol):
    """One process.

    Attributes:
        process: Its number, 0 until it has said hello.
        pid: Its process id, as the kernel says.
    """

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._inbox = bytearray()
        self._transport: asyncio.Transport | None = None
        self.process = 0
        self.pid = 0

    def send(self, message: Any) -> None:
        """Queue a message; dropped if the connection has ended."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            data = wire.encode(message)
            transport.write(_LENGTH.pack(len(data)) + data)

    def close(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def close_after_send(self) -> None:
        """End the connection when everything queued is written."""
        if self._transport is not None:
            self._transport.close()

    # ------------------------------------------------------------------ asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=2**30)  # messages are small; peers always read
        peer: socket.socket = transport.get_extra_info("socket")
        found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, uid, _ = _CREDENTIALS.unpack(found)
        self._server.connections.add(self)
        if uid != os.getuid():
            logger.warning("refused a process of user %d at %s", uid, self._server._path)
            transport.abort()

    def data_received(self, data: bytes) -> None:
        inbox = self._inbox
        inbox += data
        start = 0
        try:
            while len(inbox) - start >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(inbox, start)
                if size > (wire.FRAME_BYTES_MAX if self.process else HELLO_BYTES_MAX):
                    raise wire.ProtocolError(f"frame of {size} bytes")
                end = start + _LENGTH.size + size
                if len(inbox) < end:
                    break
                message = wire.decode(bytes(inbox[start + _LENGTH.size : end]))
                start = end
                self._server.on_message(self, message)
        except wire.ProtocolError as error:
            logger.warning("process %d (pid %d) was dropped: %s", self.process, self.pid, error)
            self.close()
            return
        del inbox[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.on_closed(self)
