"""The only place of this package that touches private or semi-public parts of distributed.

Checked against distributed 2026.8.0. What is relied on: ``Scheduler.stream_handlers`` and
``handlers`` are dicts by op, consulted per message; ``Scheduler.stream_comms`` maps a worker's
address to its `BatchedSend`; ``BatchedSend.interval`` is read after each batch. A stream handler
that raises closes and removes the worker, so ours never raise. ``distributed.deploy.Adaptive`` asks
the remote calls ``adaptive_target`` and ``workers_to_close``, and retires what the latter names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.comm import CommClosedError


def add_stream_handler(scheduler: Scheduler, op: str, handler: Callable[..., None]) -> None:
    """Call ``handler(worker=address, **message)`` for each ``{"op": op, …}`` of workers."""
    scheduler.stream_handlers[op] = handler


def add_rpc(scheduler: Scheduler, op: str, handler: Callable[..., Any]) -> None:
    """Answer the remote call ``op`` with what ``handler`` returns."""
    scheduler.handlers[op] = handler


def rpc(scheduler: Scheduler, op: str) -> Callable[..., Any]:
    """What answers the remote call ``op`` now."""
    return scheduler.handlers[op]


def name_of(scheduler: Scheduler, worker: str) -> Any:
    """The name under which a deployer knows a worker."""
    return scheduler.workers[worker].name


def is_idle(scheduler: Scheduler, worker: str) -> bool:
    """Whether a worker has neither tasks nor data of Dask's own."""
    state = scheduler.workers.get(worker)
    return state is None or not (state.processing or state.has_what)


def hurry(scheduler: Scheduler, worker: str) -> None:
    """Do not hold back messages to a worker to make larger batches (5 ms by default)."""
    stream = scheduler.stream_comms.get(worker)
    if stream is not None:
        stream.interval = 0


def send(scheduler: Scheduler, worker: str, message: dict[str, Any]) -> bool:
    """Put a message on a worker's stream; False if the stream is closed or gone."""
    stream = scheduler.stream_comms.get(worker)
    if stream is None:
        return False
    try:
        stream.send(message)
    except CommClosedError:
        return False
    return True
