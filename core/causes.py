"""Why something ended, in one line."""

from __future__ import annotations

from ract.core import events
from ract.core.messages import ExitCause

_ERROR_TYPES = {
    "out_of_memory": "OUT_OF_MEMORY",
    "node_died": "NODE_DIED",
    "node_left": "NODE_DIED",
}


def text_of(cause: ExitCause | None) -> str:
    """The kind of an end and its detail, exit code or signal; "" if there was none."""
    if cause is None:
        return ""
    how = cause.detail
    if not how and cause.exit_code is not None:
        how = f"exit code {cause.exit_code}"
    if not how and cause.signal is not None:
        how = f"signal {cause.signal}"
    return f"{cause.kind}: {how}" if how else cause.kind


def error_type_of(cause: ExitCause | None, task_type: str) -> str:
    """What a call that ended with its process has for an error type, see `ract.core.events`."""
    kind = "" if cause is None else cause.kind
    if kind == "killed" and task_type == events.NORMAL_TASK:
        return "TASK_CANCELLED"  # with force: nothing else kills executors of tasks
    return _ERROR_TYPES.get(kind, "WORKER_DIED")
