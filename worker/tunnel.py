"""Direct channels between processes of different nodes, through their daemons.

A process connects to ``tunnel.sock`` of its node and says, in one frame, which executor of which
node it wants. The daemons splice that socket, a TLS stream between them, and the executor's socket.
They never look at what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
from tornado.iostream import StreamClosedError

from ract.worker import compat

logger = logging.getLogger("ract.worker")

_LENGTH = struct.Struct("<I")
REQUEST_BYTES_MAX = 4096
READ_BYTES = 256 * 1024
_EXECUTOR_SOCKET = re.compile(r"e\d+\.sock")


class TunnelServer:
    """Listens at ``tunnel.sock``.

    Args:
        path: Where to listen.
        node_id: This node.
        open_remote: Called as (node_id, address); returns a comm whose other end is the executor
            that listens at ``address`` there.
    """

    def __init__(
        self, path: str, node_id: bytes, open_remote: Callable[[bytes, str], Awaitable[Any]]
    ) -> None:
        self._path = path
        self._node_id = node_id
        self._open_remote = open_remote
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        os.chmod(self._path, 0o600)

    def close(self) -> None:
        """Stop listening. Tunnels end with their daemons' loop."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if size > REQUEST_BYTES_MAX:
                raise ValueError(f"request of {size} bytes")
            node_id, address = msgpack.unpackb(await reader.readexactly(size))
            comm = await self._open_remote(node_id, address)
        except Exception as error:
            # Whatever was wrong, the caller learns it as a closed channel.
            logger.info("no tunnel: %s: %s", type(error).__name__, error)
            writer.close()
            return
        await _splice(reader, writer, comm)


async def serve_tunnel(comm: Any, address: str, session_dir: str) -> None:
    """Connect a comm from another daemon with the executor of this node at ``address``."""
    folder, name = os.path.split(address)
    if folder != session_dir or not _EXECUTOR_SOCKET.fullmatch(name):
        logger.warning("refused a tunnel to %r", address)
        comm.abort()
        return
    try:
        reader, writer = await asyncio.open_unix_connection(address)
    except OSError as error:
        logger.info("no tunnel to %s: %s", name, error)
        comm.abort()
        return
    await _splice(reader, writer, comm)


async def _splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, comm: Any) -> None:
    """Pass bytes both ways until either end closes; then close both."""
    stream = compat.stream_of(comm)

    async def forth() -> None:
        while data := await reader.read(READ_BYTES):
            await stream.write(data)

    async def back() -> None:
        while True:
            writer.write(await stream.read_bytes(READ_BYTES, partial=True))
            await writer.drain()

    ways = [asyncio.ensure_future(forth()), asyncio.ensure_future(back())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        comm.abort()
        writer.close()
        for way in ways:
            way.cancel()
            with contextlib.suppress(asyncio.CancelledError, StreamClosedError, OSError):
                await way
