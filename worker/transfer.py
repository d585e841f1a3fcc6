"""Objects from node to node: straight from one shared memory into the other.

The request and the header are ordinary messages of a comm of distributed, with its mutual TLS; the
bytes follow on the comm's own stream, unframed, so that neither side holds a second copy. They move
in chunks, between which the loop serves others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ract.worker import compat, shm

CHUNK_BYTES = 4 * 2**20
STALL_S = 60.0
"""A transfer that gets nothing for so long has failed; there may be another copy."""


class PullError(Exception):
    """The object could not be copied; the text says why."""


async def serve_pull(comm: Any, path: str, offset: int, size: int) -> None:
    """Send an object of this node's store."""
    await comm.write({"status": "OK", "size": size})
    if not size:
        return
    _, view = shm.map_for_read(path, offset, size)
    stream = compat.stream_of(comm)
    for start in range(0, size, CHUNK_BYTES):
        async with asyncio.timeout(STALL_S):
            await stream.write(view[start : start + CHUNK_BYTES])


async def pull(
    address: str,
    connect: Callable[[str], Awaitable[Any]],
    object_id: bytes,
    path: str,
    offset: int,
    size: int,
) -> None:
    """Copy an object from the node at ``address`` into a segment of this one.

    Args:
        address: The other node's address in distributed.
        connect: Opens a comm to an address.
        object_id: The object.
        path: The segment's file; ``offset`` and ``size`` say where the object goes, in bytes.

    Raises:
        PullError: the other node does not have it (any more), or has another size.
        OSError: the connection failed.
    """
    comm = await connect(address)
    try:
        await comm.write({"op": "ract_pull", "object_id": object_id, "reply": True})
        async with asyncio.timeout(STALL_S):
            answer = await comm.read()
        if answer.get("status") != "OK":
            raise PullError(f"the node at {address} does not have it")
        if answer["size"] != size:
            raise PullError(f"{answer['size']} bytes at {address} instead of {size}")
        if not size:
            return
        _, view = shm.map_for_write(path, offset, size)
        stream = compat.stream_of(comm)
        for start in range(0, size, CHUNK_BYTES):
            async with asyncio.timeout(STALL_S):
                await stream.read_into(view[start : start + CHUNK_BYTES])  # type: ignore[arg-type]
    finally:
        comm.abort()
