"""What messages of several parties are made of."""

from __future__ import annotations

from dataclasses import field

from ract.core.wire import message


@message
class Blob:
    """A serialized user value: a pickle and its out-of-band buffers, never opened on the way."""

    head: bytes
    buffers: list[bytes] = field(default_factory=list)
    is_error: bool = False  #: the value is an exception that ``get`` raises


@message
class Contained:
    """An object that is kept alive because a value contains a ref to it."""

    object_id: bytes
    count: int = 1


@message
class Hold:
    """A difference to the holds of ``process`` on an object or an actor."""

    id: bytes
    process: int
    change: int


@message
class ExitCause:
    """Why a process, an actor or a node ended; carried into the error that the user sees.

    ``kind`` is one of ``crashed`` (exit code or signal not asked for), ``exited`` (asked for by
    the program itself: ``exit_actor``, ``sys.exit(0)``), ``killed`` (``ract.kill``, forced cancel),
    ``out_of_scope``, ``owner_died``, ``node_died``, ``job_finished``, ``init_failed``,
    ``out_of_memory``, ``idle``, ``max_calls``, ``unschedulable``, ``group_removed``, ``drained``,
    ``node_left`` (in order), ``shutdown``.
    """

    kind: str
    detail: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    node_id: bytes = b""
    pid: int = 0
    at: float = 0.0  #: seconds since the epoch
    task: int = 0  #: of an executor: the number of the last call that it started, 0 if unknown
    host: str = ""
    is_final: bool = False  #: what ran is not to run again, whatever retries it has left
