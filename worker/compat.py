"""The only place of this package that touches private or semi-public parts of distributed.

Checked against distributed 2026.8.0. What is relied on: ``Worker.stream_handlers`` and ``handlers``
are dicts by op, consulted per message; ``Worker.batched_stream`` keeps what is sent before the
worker is registered; ``BatchedSend.interval`` is read after each batch; ``Worker.rpc.connect``
gives a comm of its own. A stream handler that raises closes the worker, so ours never raise.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from distributed import Worker
from distributed.comm import CommClosedError, connect
from distributed.core import Status
from tornado.iostream import IOStream


def add_stream_handler(worker: Worker, op: str, handler: Callable[..., None]) -> None:
    """Call ``handler(**message)`` for each ``{"op": op, …}`` of the scheduler."""
    worker.stream_handlers[op] = handler


def add_rpc(worker: Worker, op: str, handler: Callable[..., Any]) -> None:
    """Answer the remote call ``op`` with what ``await handler(comm, **args)`` returns."""
    worker.handlers[op] = handler


def hurry(worker: Worker) -> None:
    """Do not hold back messages to the scheduler to make larger batches (2 ms by default)."""
    worker.batched_stream.interval = 0


def send(worker: Worker, message: dict[str, Any]) -> bool:
    """Put a message on the stream to the scheduler; False if that is closed."""
    try:
        worker.batched_stream.send(message)
    except CommClosedError:
        return False
    return True


async def open_comm(worker: Worker, address: str) -> Any:
    """A connection to another worker for one use, with this worker's credentials."""
    return await connect(address, **worker.connection_args)


def keep_comm() -> Any:
    """What a handler returns when it has written its own answer."""
    return Status.dont_reply


def forget_memory_limits(worker: Worker) -> None:
    """Shared memory counts as the worker's own: a full store must not pause or end it."""
    manager = worker.memory_manager
    if manager is not None:
        manager.memory_limit = None
        manager.memory_pause_fraction = False
        manager.memory_target_fraction = False
        manager.memory_spill_fraction = False


def pause_dask(worker: Worker) -> None:
    """Take no Dask tasks: they would stall the daemon's loop."""
    worker.status = Status.paused


def stream_of(comm: Any) -> IOStream:
    """The Tornado stream under a TCP or TLS comm, to move bytes without framing.

    The comm reads exactly its messages from it, so nothing is lost between the two ways of use.
    """
    return comm.stream


def bytes_read_into(stream: IOStream) -> int:
    """How much of the buffer given to an unfinished ``read_into`` is filled."""
    return stream._read_buffer_size if stream._user_read_buffer else 0


def bytes_sent(stream: IOStream) -> int:
    """How much of what was written has been taken by the kernel."""
    return stream._total_write_done_index


def take_socket(comm: Any) -> socket.socket:
    """The connected (TLS) socket under a comm, which the event loop leaves alone from here on.

    Only when the other end has nothing to say: what was read in advance would be lost. The comm
    still owns it: ``abort`` closes it.
    """
    stream = comm.stream
    stream.io_loop.remove_handler(stream.socket)
    stream._state = None  # as before its first read
    return stream.socket
