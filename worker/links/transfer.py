"""Objects from node to node: straight from one shared memory into the other.

The request and the header are ordinary messages of a comm of distributed, with its mutual TLS; the
bytes follow on the comm's own stream, unframed, so that neither side holds a second copy. They move
in chunks, between which the loop serves others.

Whoever was interrupted asks for the rest. It names the edition of what it has
(`ract.worker.node.fetches`), and gets everything if the source has another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ract.worker import compat
from ract.worker.files import shm
from ract.worker.node.segments import Stored

CHUNK_BYTES = 4 * 2**20
STALL_S = 10.0
"""A transfer of which nothing comes for so long has failed; there may be another copy."""

SERVE_STALL_S = 60.0
"""The same for the side that sends. Longer: it learns of it when the other side hangs up."""


class PullError(Exception):
    """The object could not be copied; the text says why.

    Attributes:
        is_gone: The other node does not have it.
    """

    def __init__(self, text: str, is_gone: bool = False) -> None:
        super().__init__(text)
        self.is_gone = is_gone


@dataclass(slots=True)
class Progress:
    """How much of an object is in its segment; kept up to date while it is pulled."""

    arrived: int = 0  #: bytes from the front
    edition: int = 0  #: of these bytes
    received: int = 0  #: bytes that came from elsewhere, ever


async def serve_pull(comm: Any, path: str, stored: Stored, arrived: int, edition: int) -> None:
    """Send an object of this node's store.

    Args:
        comm: To the node that asked.
        path: The file of the object's segment.
        stored: Where it lies in there.
        arrived: So many bytes from the front the other node has already,
        edition: if they are of this edition.
    """
    start, size = await _announce(comm, stored, arrived, edition), stored.size
    if start == size:
        return
    _, view = shm.map_for_read(path, stored.offset, size)
    for at in range(start, size, CHUNK_BYTES):
        await _write_chunk(comm, view[at : at + CHUNK_BYTES])


async def serve_away(
    comm: Any, read: Callable[[int, int], bytes], stored: Stored, arrived: int, edition: int
) -> None:
    """As `serve_pull`, of an object that is not in this node's memory.

    Args:
        comm, stored, arrived, edition: As for `serve_pull`.
        read: Reads bytes of the object's segment, from one position to another; takes its time.

    Raises:
        OSError: it cannot be read.
    """
    start, size = await _announce(comm, stored, arrived, edition), stored.size
    for at in range(start, size, CHUNK_BYTES):
        end = min(size, at + CHUNK_BYTES)
        chunk = await asyncio.to_thread(read, stored.offset + at, stored.offset + end)
        await _write_chunk(comm, memoryview(chunk))


async def _announce(comm: Any, stored: Stored, arrived: int, edition: int) -> int:
    """Tell what follows; returns from which byte on."""
    start = arrived if edition == stored.edition and arrived <= stored.size else 0
    header = {"status": "OK", "size": stored.size, "start": start, "edition": stored.edition}
    await comm.write(header)
    return start


async def _write_chunk(comm: Any, chunk: memoryview) -> None:
    stream = compat.stream_of(comm)
    await _while_it_moves(stream.write(chunk), lambda: compat.bytes_sent(stream), SERVE_STALL_S)


async def pull(
    address: str,
    connect: Callable[[str], Awaitable[Any]],
    object_id: bytes,
    path: str,
    size: int,
    progress: Progress,
    stall_s: float = STALL_S,
) -> None:
    """Copy an object from the node at ``address`` into a segment of this one.

    Args:
        address: The other node's address in distributed.
        connect: Opens a comm to an address.
        object_id: The object.
        path: The segment's file; the object goes to its front.
        size: Of the object, in bytes.
        progress: What is there already; up to date when this returns or raises.
        stall_s: How long nothing may come, in seconds.

    Raises:
        PullError: the other node does not have it (any more), or has another size.
        TimeoutError: nothing came for too long.
        OSError: the connection failed.
    """
    async with asyncio.timeout(stall_s):
        comm = await connect(address)
    try:
        async with asyncio.timeout(stall_s):
            await comm.write(
                {
                    "op": "ract_pull",
                    "object_id": object_id,
                    "arrived": progress.arrived,
                    "edition": progress.edition,
                    "reply": True,
                }
            )
            answer = await comm.read()
        if answer.get("status") != "OK":
            raise PullError(f"the node at {address} does not have it", is_gone=True)
        if answer["size"] != size:
            raise PullError(f"{answer['size']} bytes at {address} instead of {size}")
        progress.arrived, progress.edition = answer["start"], answer["edition"]
        if progress.arrived == size:
            return
        _, view = shm.map_for_write(path, 0, size)
        stream = compat.stream_of(comm)
        while progress.arrived < size:
            await _read_chunk(stream, view, progress, stall_s)
    finally:
        comm.abort()


async def _read_chunk(stream: Any, view: memoryview, progress: Progress, stall_s: float) -> None:
    start = progress.arrived
    chunk = view[start : start + CHUNK_BYTES]
    came = 0
    try:
        filled = stream.read_into(chunk)
        await _while_it_moves(filled, lambda: compat.bytes_read_into(stream), stall_s)
        came = len(chunk)
    except BaseException:
        came = compat.bytes_read_into(stream)
        raise
    finally:
        progress.arrived += came
        progress.received += came


async def _while_it_moves(
    moving: asyncio.Future[Any], moved: Callable[[], int], stall_s: float
) -> None:
    """Wait for a future as long as ``moved`` changes at least every ``stall_s`` seconds."""
    before = moved()
    while not moving.done():
        await asyncio.wait({moving}, timeout=stall_s)
        now = moved()
        if now == before and not moving.done():
            raise TimeoutError(f"nothing came for {stall_s:g} s")
        before = now
    moving.result()
