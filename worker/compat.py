"""The only place of this package that touches private or semi-public parts of distributed.

Checked against distributed 2026.8.0. What is relied on: ``Worker.stream_handlers`` and ``handlers``
are dicts by op, consulted per message; ``Worker.batched_stream`` keeps what is sent before the
worker is registered; ``BatchedSend.interval`` is read after each batch; ``Worker.rpc.connect``
gives a comm of its own. A stream handler that raises closes the worker, so ours never raise.

To outlive its scheduler (`outlive`, `register_again`) a worker must not run ``handle_scheduler``,
which closes it when the stream ends; nor obey the goodbye of a scheduler that is stopped, nor a
heartbeat that meets the new scheduler before it has registered there. Registering anew needs a new
`BatchedSend`, and a worker without Dask's tasks and data: those are lost with the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from distributed import Worker
from distributed.batched import BatchedSend
from distributed.comm import CommClosedError, connect, get_address_host_port
from distributed.core import Status
from tornado.iostream import IOStream

logger = logging.getLogger("ract.worker")

PROBE_TIMEOUT_S = 5.0
REGISTER_TIMEOUT_S = 5.0

NO_REASONS_TO_CLOSE = frozenset(
    {
        "scheduler-close",
        "worker-handle-scheduler-connection-broken",
        "worker-heartbeat-missing",
    }
)
"""Of a worker that waits for its scheduler to come back."""


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


def outlive(worker: Worker, stays: Callable[[], bool], lost: Callable[[], None]) -> None:
    """Keep a worker open when its scheduler goes; to be called before the worker registers.

    Args:
        worker: Whose ``close`` and ``handle_scheduler`` are replaced.
        stays: Whether the scheduler may come back.
        lost: Called when the stream has ended although it may.
    """
    close = worker.close
    log = logging.getLogger("distributed.worker")

    def is_worth_saying(record: logging.LogRecord) -> bool:
        return not (str(record.msg).startswith("Failed to communicate with sch") and stays())

    async def close_for_reasons(*args: Any, reason: str = "worker-close", **more: Any) -> Any:
        if reason in NO_REASONS_TO_CLOSE and stays():
            return None
        log.removeFilter(is_worth_saying)
        return await close(*args, reason=reason, **more)

    async def handle_scheduler(comm: Any) -> None:
        try:
            await worker.handle_stream(comm)
        except Exception:
            logger.exception("the stream of the scheduler cannot be read")
        if worker.status in (Status.closing, Status.closed):
            return
        if stays():
            lost()
        else:
            await close(reason="worker-handle-scheduler-connection-broken")

    log.addFilter(is_worth_saying)  # what `lost` says is enough
    worker.close = close_for_reasons
    worker.stream_handlers["close"] = close_for_reasons
    worker.handle_scheduler = handle_scheduler


async def register_again(worker: Worker) -> bool:
    """Try once to register with the scheduler at the old address; returns whether it worked."""
    for name in ("heartbeat", "keep-alive"):
        worker.periodic_callbacks[name].stop()
    address = worker.scheduler.address
    try:
        # distributed itself would wait longer and longer between its tries, and for ever.
        host, port = get_address_host_port(address)
        ssl = worker.connection_args.get("ssl_context")
        probe = asyncio.open_connection(host, port, ssl=ssl)
        _, writer = await asyncio.wait_for(probe, PROBE_TIMEOUT_S)
        writer.close()
        _forget_tasks(worker)
        _forget_spans(worker)
        worker.batched_stream.abort()
        worker.batched_stream = BatchedSend(interval="2ms", loop=worker.loop)
        hurry(worker)
        status = worker.status
        # It hangs if the scheduler believes that we are there.
        await asyncio.wait_for(worker._register_with_scheduler(), REGISTER_TIMEOUT_S)
        worker.status = status  # registering has made it running, and paused ones are told so
    except (OSError, ValueError, TimeoutError) as error:
        logger.debug("cannot register at %s yet: %s", address, error)
        return False
    _forget_spans(worker)  # registering has collected some
    return True


def _forget_spans(worker: Worker) -> None:
    """Measurements of tasks that a new scheduler knows nothing of."""
    spans = worker.extensions.get("spans")
    if spans is not None:
        spans.digests_total_since_heartbeat = {}


def _forget_tasks(worker: Worker) -> None:
    """Dask's own tasks and data are lost with its scheduler."""
    old = worker.state
    if not (old.tasks or worker.data):
        return
    worker.data.clear()
    worker.state = type(old)(
        nthreads=old.nthreads,
        address=old.address,
        data=worker.data,
        threads=worker.threads,
        plugins=worker.plugins,
        resources=old.total_resources,
    )
