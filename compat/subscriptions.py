"""What Ray's tests subscribe to: errors, and lines that tasks and actors print."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ract.util.testing import error_messages, log_messages

TIMEOUT_S = 20.0
POLL_S = 0.05


class _Messages:
    """A subscription: what came since it was made."""

    def __init__(self, read: Callable[[], list[dict[str, Any]]]) -> None:
        self._read = read
        self._seen = len(read())

    def take(self) -> list[dict[str, Any]]:
        found = self._read()
        new, self._seen = found[self._seen :], len(found)
        return new

    def close(self) -> None:
        """Nothing to end."""


def init_error_pubsub() -> _Messages:
    """Listen for errors that the cluster pushes to this driver."""
    return _Messages(error_messages)


def init_log_pubsub() -> _Messages:
    """Listen for lines that tasks and actors print."""
    return _Messages(log_messages)


def get_error_message(
    subscriber: _Messages,
    num: float = 1e6,
    error_type: str | None = None,
    timeout: float = TIMEOUT_S,
) -> list[Any]:
    """Up to ``num`` errors (of a type) that came, waiting for them until the timeout."""
    deadline = time.monotonic() + timeout
    found: list[Any] = []
    while len(found) < num and time.monotonic() < deadline:
        for message in subscriber.take():
            if error_type is None or message.get("type") == error_type:
                found.append({**message, "error_message": message.get("message", "")})
        time.sleep(POLL_S)
    return found


def get_log_data(
    subscriber: _Messages,
    num: float = 1e6,
    timeout: float = TIMEOUT_S,
    job_id: str | None = None,
    matcher: Callable[[dict[str, Any]], bool] | None = None,
) -> list[dict[str, Any]]:
    """Up to ``num`` messages of printed lines, with who printed them."""
    if job_id is not None:
        raise ValueError("lines are those of this driver's own job: job_id cannot be given")
    deadline = time.monotonic() + timeout
    found: list[dict[str, Any]] = []
    while len(found) < num and time.monotonic() < deadline:
        found += [each for each in subscriber.take() if matcher is None or matcher(each)]
        time.sleep(POLL_S)
    return found


def get_log_batch(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """As `get_log_data`."""
    return get_log_data(*args, **kwargs)


def get_log_message(*args: Any, **kwargs: Any) -> list[list[str]]:
    """As `get_log_data`, only the lines."""
    return [each["lines"] for each in get_log_data(*args, **kwargs)]


def get_log_sources(*args: Any, **kwargs: Any) -> set[int]:
    """As `get_log_data`, only the processes."""
    return {each["pid"] for each in get_log_data(*args, **kwargs)}
