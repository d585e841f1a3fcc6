"""Leases: wanted, granted, recalled, given back; CPUs that are lent meanwhile."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ract.core.messages.values import ExitCause
from ract.core.wire import message

# --------------------------------------------------------------------------- values in messages


@message
class Shape:
    """What an executor must offer to run a class of tasks; equal shapes share leases."""

    demand: dict[str, int]
    job_id: bytes
    runtime_env: str = ""  #: canonical JSON, empty for none
    strategy: dict[str, Any] = field(default_factory=dict)  #: {"kind": "DEFAULT"|"SPREAD"|...}
    label_selector: dict[str, str] = field(default_factory=dict)
    is_retriable: bool = True  #: its tasks run again when their process has died


# --------------------------------------------------------------------------- process <-> its node


@message
class Blocked:
    """The executor's task waits in get/wait: its CPUs may be lent out."""

    process: int


@message
class Unblocked:
    """The executor's task goes on."""

    process: int


@message
class UseLease:
    """node -> executor: you now run tasks of this shape for ``lease``."""

    process: int
    lease: int
    shape: Shape
    assigned: dict[str, Any] = field(default_factory=dict)


# --------------------------------------------------------------------------- process <-> scheduler


@message
class LeasesWanted:
    """The process has ``backlog`` tasks of ``shape`` waiting; 0 withdraws. The newest counts."""

    process: int
    shape_key: int  #: chosen by the process, names the shape in answers
    shape: Shape
    backlog: int
    names: list[str] = field(default_factory=list)  #: function names, for ``explain`` and status
    priority: int = 0  #: the highest of the waiting tasks
    near: bytes = b""  #: the node that stores most of their large arguments
    held: int = 0  #: leases of this shape that it has; others granted are still on their way to it


@message
class LeaseGranted:
    """scheduler -> process: push tasks to this executor until you release it or it is lost."""

    process: int
    shape_key: int
    lease: int
    executor: int
    node_id: bytes
    address: str  #: Unix socket path on that node


@message
class LeaseRefused:
    """scheduler -> process: can never be granted (typed by ``error``); fail its tasks."""

    process: int
    shape_key: int
    error: str
    detail: str


@message
class LeaseReleased:
    """process -> scheduler: idle; give it to somebody else."""

    process: int
    lease: int


@message
class LeaseRecalled:
    """scheduler -> process: others wait; release when what is running is done."""

    process: int
    lease: int


@message
class LeaseLost:
    """scheduler -> process: the executor is gone."""

    process: int
    lease: int
    cause: ExitCause


# --------------------------------------------------------------------------- node -> scheduler


@message
class LeaseStarted:
    """The executor for the lease is up."""

    node_id: bytes
    lease: int
    executor: int
    address: str
    pid: int


@message
class LeaseFailed:
    """No executor could be made (e.g. its environment failed).

    ``was_killed``: by SIGKILL, so that another one may well come up.
    """

    node_id: bytes
    lease: int
    error: str
    detail: str
    was_killed: bool = False


@message
class LeaseOver:
    """The process that wanted the lease is gone, and its executor has come to rest."""

    node_id: bytes
    lease: int


# --------------------------------------------------------------------------- scheduler -> node


@message
class StartLease:
    """Find or fork an executor for a lease."""

    lease: int
    shape: Shape
    requester: int
    assigned: dict[str, Any] = field(default_factory=dict)


@message
class EndLease:
    """The lease is over: its executor is idle, or ends if ``kill``.

    With ``kill`` and the cause ``owner_died`` the executor may hold what others want: it stops what
    it runs and is asked to end. It goes on as an idle one (`LeaseOver`) if it owes something.
    """

    lease: int
    kill: bool
    cause: ExitCause
