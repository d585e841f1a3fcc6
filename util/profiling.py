"""Spans of your own in the timeline: ``ract.timeline()`` shows them with the tasks that ran."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from ract.client.process import context
from ract.client.runtime import current_runtime
from ract.core.ids import creation_task_id, driver_task_id, task_id_bytes
from ract.core.messages import UserSpans
from ract.core.session import setting

TEXT_MAX = 500


def profile(event_type: str, extra_data: dict[str, Any] | None = None) -> Span:
    """A context manager whose time is a span in the timeline.

    Nothing is recorded unless ``RACT_PROFILING=1`` is set where the cluster is started (in the
    environment, or as ``PROFILING`` in ``_system_config``).

    Args:
        event_type: The category of the span, and its name if ``extra_data`` has none.
        extra_data: What is shown of the span, by name; ``name`` and ``cname`` (a colour of the
            trace viewer) are used as such. Values are shown as text.
    """
    return Span(str(event_type), {str(k): str(v) for k, v in (extra_data or {}).items()})


class Span:
    """See `profile`."""

    def __init__(self, kind: str, extra: dict[str, str]) -> None:
        self._kind = kind
        self._extra = extra
        self._started = 0.0

    def set_attribute(self, key: str, value: Any) -> None:
        """Say something more of the span, while it runs."""
        self._extra[str(key)] = str(value)

    def __enter__(self) -> Span:
        self._started = time.time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if setting("PROFILING") != "1":
            return
        if error is not None:
            self._extra["error"] = f"{type(error).__name__}: {error}"
        runtime = current_runtime()
        if runtime is None or runtime.closed:
            return
        extra = {key: value[:TEXT_MAX] for key, value in self._extra.items()}
        times = self._started, time.time()
        span = [self._kind[:TEXT_MAX], *times, _task_id(runtime.job_id), extra]
        runtime.tell(UserSpans(runtime.process, [span]))


def _task_id(job_id: bytes) -> bytes:
    """The task that runs here."""
    running, actor = context.running(), context.process.actor_spec
    if running is None:
        return driver_task_id(job_id)
    if actor is not None and not running.number:
        return creation_task_id(actor.actor_id)
    return task_id_bytes(running.number, job_id, actor.actor_id if actor is not None else b"")
