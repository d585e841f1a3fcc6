"""The errors of calls whose actor is dead, or may have lost them."""

from __future__ import annotations

from ract.client.actors.info import HandleInfo
from ract.client.actors.line import Line
from ract.core import errors, serialization
from ract.core.messages import Blob, ExitCause


def death(
    line: Line, actor_id: bytes, info: HandleInfo | None, creation_error: Blob | None
) -> errors.RactError:
    """The error of every call to a dead actor.

    Args:
        line: Of the actor.
        actor_id: Of the actor.
        info: What is known of its class.
        creation_error: What its constructor raised, if it did: to read it may run code of users.
    """
    class_name = info.class_name if info is not None else ""
    cause = line.cause or ExitCause("crashed")
    restarts = max(0, line.incarnation - 1)
    if creation_error is not None:
        raised = serialization.unpack(creation_error.head, creation_error.buffers)
        error = _of_creation(raised)
        errors.add_facts(error, cause, restarts)
        return error
    return errors.error_from_exit(
        cause,
        what="",
        actor_id=actor_id,
        class_name=class_name,
        name=info.name if info is not None else "",
        namespace=info.namespace if info is not None else "",
        restarts=restarts,
    )


def unavailable(line: Line, actor_id: bytes) -> errors.RactError:
    """The error of a call that an actor may have lost, and that has no retries."""
    cause = line.cause
    if cause is None:  # nobody says that its process has ended
        return errors.ActorUnavailableError(
            "The connection to the actor's process broke for good. "
            "The call may or may not have run.",
            actor_id,
        )
    error = errors.ActorUnavailableError(
        f"The actor is restarting: {errors.reason_text(cause)}. The call may or may not have run.",
        actor_id,
    )
    errors.add_facts(error, cause, max(0, line.incarnation))
    return error


def _of_creation(error: BaseException) -> errors.ActorDiedError:
    """The error of calls to an actor whose constructor raised."""
    if isinstance(error, errors.ActorDiedError):
        return error
    made = errors.ActorDiedError(error if isinstance(error, errors.RactTaskError) else None)
    made.actor_init_failed = True
    return made
