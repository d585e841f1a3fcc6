"""Messages that would repeat: say them once, or once in a while."""

from __future__ import annotations

import time
from collections.abc import Hashable

PERIOD_S = 60.0
"""With `enable_periodic_logging`, a key is due again after this time."""

_last_logged: dict[Hashable, float] = {}
_is_disabled = False
_is_periodic = False


def log_once(key: Hashable) -> bool:
    """Whether to say something now: True the first time that a process asks for the key.

    ::

        if log_once("no-gpu"):
            logger.warning("there is no GPU")
    """
    now = time.monotonic()
    if _is_disabled:
        return False
    last = _last_logged.get(key)
    if last is not None and not (_is_periodic and now - last > PERIOD_S):
        return False
    _last_logged[key] = now
    return True


def disable_log_once_globally() -> None:
    """Make `log_once` return False for every key in this process."""
    global _is_disabled
    _is_disabled = True


def enable_periodic_logging() -> None:
    """Make `log_once` return True again for a key when `PERIOD_S` seconds have passed."""
    global _is_periodic
    _is_periodic = True


def reset_log_once(key: Hashable | None = None) -> None:
    """Forget that a key was asked for; without a key, forget all."""
    if key is None:
        _last_logged.clear()
    else:
        _last_logged.pop(key, None)
