"""The exceptions of ract, all picklable.

Names follow Ray's with ``Ract`` for ``Ray``; the Ray names are aliases, so that ported programs
run: ``RayError is RactError``. `RactTaskError` is in `ract.core.task_error`.
"""

from __future__ import annotations

import builtins
import datetime
import signal
import time
from typing import Any

from ract.core import naming
from ract.core.messages import ExitCause
from ract.core.root_error import RactError
from ract.core.task_error import RactTaskError


class CrossLanguageError(RactError):
    """An error of another language's runtime."""


class TaskCancelledError(RactError):
    """The task was cancelled."""

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        self.task_id = task_id
        which = f"Task {task_id}" if task_id is not None else "This task or its dependency"
        super().__init__(error_message or f"{which} was cancelled")


class LocalRayletDiedError(RactError):
    """The node daemon of this process died."""

    def __init__(self, message: str = "The task's local node daemon died.") -> None:
        super().__init__(message)


class WorkerCrashedError(RactError):
    """The process that ran the task died."""

    def __init__(
        self, message: str = "The worker process died while it executed this task."
    ) -> None:
        super().__init__(message)


class RactActorError(RactError):
    """An actor's process failed.

    Attributes:
        actor_id: Hex id, or None.
        error_msg: What happened.
        actor_init_failed: Whether its constructor raised.
        preempted: Whether its node was taken away on purpose.
    """

    BASE_ERROR_MSG = "The actor experienced an error before finishing this task."

    def __init__(
        self,
        actor_id: Any = None,
        error_msg: str = BASE_ERROR_MSG,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(error_msg)
        self.actor_id = _hex(actor_id)
        self.error_msg = error_msg
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted


class ActorDiedError(RactActorError):
    """The actor is dead and will not come back."""

    def __init__(self, cause: Any = None, actor_id: Any = None) -> None:
        self.cause = cause
        if isinstance(cause, BaseException):
            cause_id = getattr(cause, "actor_id", None)
            text = f"The actor died because of an error raised in its creation task, {cause}"
            super().__init__(actor_id or cause_id, text, actor_init_failed=True)
        elif cause is None:
            super().__init__(actor_id, "The actor died unexpectedly before finishing this task.")
        else:
            super().__init__(actor_id, str(cause))


class ActorUnavailableError(RactActorError):
    """The actor cannot be reached now, but may come back."""

    def __init__(
        self, error_message: str = "The actor is unavailable.", actor_id: Any = None
    ) -> None:
        super().__init__(actor_id, error_message)


class RactSystemError(RactError):
    """Something in ract itself failed."""

    def __init__(self, client_exc: Any = None, traceback_str: str | None = None) -> None:
        self.client_exc = client_exc
        self.traceback_str = traceback_str
        super().__init__(
            f"System error: {client_exc}" + (f"\n{traceback_str}" if traceback_str else "")
        )


class LeftClusterError(RactError, RuntimeError):
    """``ract.shutdown`` was called, so what was asked for or waited for will not come."""


class RactChannelError(RactSystemError):
    """A channel of a compiled graph is broken."""


class RactChannelTimeoutError(RactChannelError, TimeoutError):
    """A channel of a compiled graph was not ready in time."""


class RactCgraphCapacityExceeded(RactSystemError):
    """Too many executions of a compiled graph are in flight."""


class RactDirectTransportError(RactSystemError):
    """A direct transfer between actors failed."""


class StreamingGeneratorReplayInconsistentError(RactSystemError):
    """A generator did not yield the same items when it ran again."""


class UserCodeException(RactError):
    """User code failed where ract called it."""


class ObjectStoreFullError(RactError):
    """The object store has no room."""


class OutOfDiskError(RactError):
    """The disk that objects spill to is full."""


class OutOfMemoryError(RactError):
    """The process was killed because its node ran out of memory."""

    def __init__(self, message: str = "The process was killed for lack of memory.") -> None:
        super().__init__(message)


class NodeDiedError(RactError):
    """The node died."""

    def __init__(self, message: str = "The node died.") -> None:
        super().__init__(message)


class ObjectLostError(RactError):
    """The object is gone and cannot be made again."""

    def __init__(
        self, object_ref_hex: str = "", owner_address: Any = None, call_site: str = ""
    ) -> None:
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site
        super().__init__(self._text())

    def _text(self) -> str:
        why = f": {self.call_site}" if self.call_site else ""
        return f"Failed to retrieve object {self.object_ref_hex}: {self._reason()}{why}."

    def _reason(self) -> str:
        return "all copies of it are lost"


class ObjectFetchTimedOutError(ObjectLostError):
    """The object exists but could not be fetched in time."""

    def _reason(self) -> str:
        return "it could not be fetched in time"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted though somebody held it."""

    def _reason(self) -> str:
        return "it was deleted while it was referenced"


class ObjectFreedError(ObjectLostError):
    """The object was freed by `free`."""

    def _reason(self) -> str:
        return "it was freed explicitly"


class OwnerDiedError(ObjectLostError):
    """The process that was to make the value died."""

    def _reason(self) -> str:
        return "the process that was to provide its value (its owner) has died"


class ObjectReconstructionFailedError(ObjectLostError):
    """The object is lost and its task cannot be run again."""

    def __init__(
        self,
        object_ref_hex: str = "",
        reason: Any = None,
        reason_message: str | None = None,
        owner_address: Any = None,
        call_site: str = "",
    ) -> None:
        self.reason = reason
        self.reason_message = reason_message
        super().__init__(object_ref_hex, owner_address, call_site)

    def _reason(self) -> str:
        return self.reason_message or "it is lost and cannot be reconstructed"


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """Its task has been retried as often as allowed."""


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """What is needed to run its task again was dropped to bound memory."""


class RpcError(RactError):
    """A remote call inside ract failed."""

    def __init__(self, message: str = "", rpc_code: Any = None) -> None:
        self.rpc_code = rpc_code
        super().__init__(message)


class GetTimeoutError(RactError, TimeoutError):
    """A value was not there in time."""


class TaskTimeoutError(RactError, TimeoutError):
    """A call did not finish within its ``timeout=``; it was cancelled."""


class PlasmaObjectNotAvailable(RactError):
    """The object is not in the local store."""


class DurableStateError(RactError):
    """The state of a durable actor could not be saved, or what was saved could not be restored."""


class AsyncioActorExit(RactError):
    """Raised by `exit_actor` in an async actor to end it."""


class RuntimeEnvSetupError(RactError):
    """The runtime environment could not be set up."""

    def __init__(self, error_message: str | None = None) -> None:
        self.error_message = error_message
        super().__init__(
            "Failed to set up runtime environment."
            + (f"\n{error_message}" if error_message else "")
        )


class TaskPlacementGroupRemoved(RactError):
    """The task's placement group was removed."""


class ActorPlacementGroupRemoved(RactError):
    """The actor's placement group was removed."""


class TaskKilledWithPlacementGroup(TaskPlacementGroupRemoved, WorkerCrashedError):
    """The task ran when its placement group was removed."""


class ActorKilledWithPlacementGroup(ActorPlacementGroupRemoved, ActorDiedError):
    """The actor lived, or was to live, in a placement group that was removed."""


class PendingCallsLimitExceeded(RactError):
    """The actor handle has as many unfinished calls as it may have."""


class MailboxFullError(PendingCallsLimitExceeded):
    """An actor's mailbox had no room for the call (``mailbox_size=``)."""


class TaskUnschedulableError(RactError):
    """The task can never be placed."""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(f"The task is not schedulable: {error_message}")


class ActorUnschedulableError(RactError):
    """The actor can never be placed."""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(f"The actor is not schedulable: {error_message}")


class ObjectRefStreamEndOfStreamError(RactError):
    """The stream has no further items."""


class OufOfBandObjectRefSerializationException(RactError):
    """A ref was pickled where that is forbidden."""


class AuthenticationError(RactError):
    """The token is missing or wrong."""


class SchedulerAwayError(RactError, ConnectionError):
    """The scheduler is away, and the node waits for it; the message says since when."""


class JournalError(RactError):
    """The journal of a scheduler cannot be used; the message says why, and what to do."""


class UnserializableException(RactError):
    """A user exception that cannot be pickled."""


class ActorAlreadyExistsError(ValueError, RactError):
    """The name is taken by a living actor."""


class ActorHandleNotFoundError(ValueError, RactError):
    """No such actor."""


class BadDecoratorError(TypeError, AssertionError):
    """``@remote`` on something else than a function or class, or without its arguments.

    Ray raises AssertionError for some of these, and its documentation promises TypeError.
    """


class BadMethodError(ValueError, AssertionError):
    """``@method`` with arguments that it does not take: Ray raises AssertionError for these."""


class ActorClassInheritanceException(TypeError):
    """A class inherits from an actor class."""


# --------------------------------------------------------------------------- from exit causes

_REASONS = {
    "out_of_scope": "all references to the actor were removed",
    "owner_died": "its owner has died",
    "node_died": "its node has died",
    "node_left": "its node has left the cluster",
    "job_finished": "its job has finished",
    "unschedulable": "it can never be placed",
    "out_of_memory": "it was killed because its node ran out of memory",
    "group_removed": "its placement group was removed",
    "drained": "its node was drained",
    "shutdown": "the cluster was shut down",
}


def reason_text(cause: ExitCause) -> str:
    """Why the process ended, in words."""
    if cause.kind == "exited":
        text = f"it exited by an exit request: {cause.detail or 'exit_actor()'}"
    elif cause.kind == "crashed":
        text = "its worker process has died"
    elif cause.kind == "killed":
        text = f"it was killed by `{naming.program}.kill`"
    else:
        text = _REASONS.get(cause.kind, cause.kind.replace("_", " "))
    if cause.signal:
        text += f" (pid {cause.pid}, signal {cause.signal} {_signal_name(cause.signal)})"
    elif cause.exit_code is not None and cause.kind == "crashed":
        text += f" (pid {cause.pid}, exit code {cause.exit_code})"
    if cause.detail and cause.kind != "exited":
        text += f": {cause.detail}"
    if cause.node_id:
        text += f", on node {cause.node_id.hex()[:8]}"
    if cause.at:
        ago = max(0.0, time.time() - cause.at)
        when = datetime.datetime.fromtimestamp(cause.at).isoformat(timespec="seconds")
        text += f", at {when} ({ago:.1f} s before this error)"
    if cause.stderr_tail and cause.kind in ("crashed", "out_of_memory"):
        text += f"\nThe last lines of its stderr:\n{cause.stderr_tail}"
    return text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def error_from_exit(
    cause: ExitCause,
    *,
    what: str,
    actor_id: bytes | None = None,
    class_name: str = "",
    name: str = "",
    namespace: str = "",
    restarts: int = 0,
) -> RactError:
    """The error of a task or actor whose process ended for ``cause``.

    It carries what is known as attributes: ``kind`` (see `ExitCause`), ``exit_code``, ``signal``
    (None where there was none), ``stderr_tail``, ``node_id`` (hex), ``ip``, ``pid``, ``died_at``
    (seconds since the epoch) and ``restarts`` (of an actor, how often it had been restarted).
    """
    error = _error_from_exit(cause, what, actor_id, class_name, name, namespace)
    add_facts(error, cause, restarts)
    return error


def add_facts(error: RactError, cause: ExitCause, restarts: int = 0) -> None:
    """Give an error the attributes that `error_from_exit` promises."""
    error.__dict__.update(
        kind=cause.kind,
        exit_code=cause.exit_code,
        signal=cause.signal,
        stderr_tail=cause.stderr_tail,
        node_id=cause.node_id.hex(),
        ip=cause.host,
        pid=cause.pid,
        died_at=cause.at,
        restarts=restarts,
    )


def _error_from_exit(
    cause: ExitCause,
    what: str,
    actor_id: bytes | None,
    class_name: str,
    name: str,
    namespace: str,
) -> RactError:
    text = reason_text(cause)
    if actor_id is not None:
        actor = f"{class_name or 'Actor'}({actor_id.hex()})"
        if cause.kind == "unschedulable":
            return ActorUnschedulableError(f"{actor}: {cause.detail}")
        facts = {
            "class_name": class_name,
            "actor_id": actor_id.hex(),
            "name": name,
            "namespace": namespace,
            "pid": cause.pid,
            "node_id": cause.node_id.hex(),
            "ip": cause.host,
        }
        lines = "".join(f"\n\t{key}: {value}" for key, value in facts.items() if value)
        is_removed = cause.kind == "group_removed"
        died = ActorKilledWithPlacementGroup if is_removed else ActorDiedError
        return died(f"The actor {actor} died: {text}{lines}", actor_id)
    if cause.kind == "group_removed":
        return TaskKilledWithPlacementGroup(f"{what} failed: {text}")
    if cause.kind == "out_of_memory":
        return OutOfMemoryError(f"{what} failed: {text}")
    if cause.kind == "unschedulable":
        return TaskUnschedulableError(f"{what}: {cause.detail}")
    return WorkerCrashedError(f"{what} failed: {text}")


_BUILTINS = (
    "ValueError",
    "TypeError",
    "RuntimeError",
    "KeyError",
    "TimeoutError",
    "ConnectionError",
)


def error_by_name(name: str, detail: str) -> Exception:
    """The error that a message names; only ract's and a few builtin types are known."""
    kind = globals().get(name)
    own = (RactError, ActorClassInheritanceException, BadDecoratorError, BadMethodError)
    if isinstance(kind, type) and issubclass(kind, own):
        # The first argument of these is an id.
        if issubclass(kind, ObjectLostError):
            return kind(call_site=detail)
        if kind is TaskCancelledError:
            return kind(error_message=detail)
        if kind is RactActorError:
            return kind(error_msg=detail)
        if kind is not RactTaskError:  # nobody has one without its cause
            return kind(detail)
    if name in _BUILTINS:
        return getattr(builtins, name)(detail)
    return RactSystemError(f"{name}: {detail}")


def _hex(id: Any) -> Any:
    return id.hex() if isinstance(id, bytes) else id


# --------------------------------------------------------------------------- Ray's names

RayError = RactError
RayTaskError = RactTaskError
RayActorError = RactActorError
RaySystemError = RactSystemError
RayChannelError = RactChannelError
RayChannelTimeoutError = RactChannelTimeoutError
RayCgraphCapacityExceeded = RactCgraphCapacityExceeded
RayDirectTransportError = RactDirectTransportError

RACT_EXCEPTION_TYPES = list(
    dict.fromkeys(
        kind
        for kind in list(globals().values())
        if isinstance(kind, type) and issubclass(kind, RactError)
    )
)
RAY_EXCEPTION_TYPES = RACT_EXCEPTION_TYPES

__all__ = [
    name
    for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, BaseException)
]
__all__ += ["RACT_EXCEPTION_TYPES", "RAY_EXCEPTION_TYPES"]
