"""Processes: how they come, what they ask, how they end."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ract.core.messages.values import ExitCause
from ract.core.wire import message

# --------------------------------------------------------------------------- process <-> its node


@message
class Hello:
    """First message of a process on its node's socket."""

    kind: str  #: "driver" | "executor" | "tool" (status, tests: no job)
    pid: int
    process: int = 0  #: executors know their number; 0 asks for one
    namespace: str = ""
    token_fingerprint: str = ""  #: drivers that were given a token prove that it is this cluster's
    ract_version: str = ""
    python_version: str = ""
    entrypoint: str = ""
    runtime_env: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@message
class Welcome:
    """Answer to `Hello`: who you are here."""

    process: int
    node_id: bytes
    job_id: bytes
    cluster_id: bytes
    namespace: str
    session_dir: str
    scheduler_address: str
    config: dict[str, Any] = field(default_factory=dict)


@message
class Refused:
    """Answer to `Hello`: not here, and why. ``error`` names an exception class of `core.errors`."""

    error: str
    detail: str


@message
class Waiting:
    """Not yet an answer to `Hello`: the scheduler is away, and waited for so many ``seconds``."""

    detail: str
    seconds: float


@message
class EndProcess:
    """Both ways between a node and an executor: it ends when it has finished what it accepted.

    node -> executor: do so (a request; one that is only ``idle`` may answer `StillOwes`).
    executor -> node: it does, and takes no new work; it may yet stay for what it owes
    (`ProcessLeaving`).

    ``gone``: the process that the executor worked for, which has ended: it fetches no replies.
    """

    process: int
    cause: ExitCause
    gone: int = 0


@message
class StillOwes:
    """executor -> node: calls that it has made are not over, so it is not to end for idleness."""

    process: int


@message
class ProcessLeaving:
    """executor -> node -> scheduler: it serves nobody any more, and stays for what it owes.

    Its lease is over, or the actor that it was; so what these had in use is free. Others wait for
    values that it has promised; it ends when these are there.
    """

    process: int
    cause: ExitCause  #: why it serves nobody any more


@message
class ReopenLogs:
    """node -> executor: your log files were renamed; write to new ones."""

    process: int


@message
class DumpStacks:
    """node -> executor: say what your threads do. Answered by `StacksDumped`."""

    process: int


@message
class CollectGarbage:
    """node -> executor: free what only cycles of objects keep alive."""

    process: int


# --------------------------------------------------------------------------- process <-> scheduler


@message
class Request:
    """A question with one answer. ``op`` is documented where the scheduler machine answers it."""

    process: int
    request: int
    op: str
    args: dict[str, Any] = field(default_factory=dict)


@message
class Reply:
    """Answer to `Request`; ``error`` names an exception class of `core.errors`, "" if none."""

    process: int
    request: int
    value: Any = None
    error: str = ""


# --------------------------------------------------------------------------- node -> scheduler


@message
class ProcessJoined:
    """A driver or executor of the node said hello."""

    node_id: bytes
    process: int
    kind: str
    pid: int
    namespace: str = ""
    entrypoint: str = ""
    runtime_env: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@message
class ProcessExited:
    """A driver or executor of the node is gone; whatever it held or ran is over."""

    node_id: bytes
    process: int
    cause: ExitCause


@message
class StacksDumped:
    """process -> its node: what its threads do (answer to `DumpStacks`)."""

    process: int
    text: str


# --------------------------------------------------------------------------- scheduler -> node


@message
class ProcessBlock:
    """A further block of process numbers (asked for by ``ProcessBlockWanted``)."""

    first_process: int
    process_count: int


@message
class ProcessBlockWanted:
    """node -> scheduler: the block of process numbers is nearly used up."""

    node_id: bytes


@message
class ProcessAccepted:
    """The scheduler knows the process; drivers get their job. The node sends `Welcome`."""

    process: int
    job_id: bytes
    namespace: str


@message
class JobFinished:
    """End the job's executors."""

    job_id: bytes
    cause: ExitCause
