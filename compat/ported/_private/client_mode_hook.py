"""``ray._private.client_mode_hook``: whether calls go through a client server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["client_mode_should_convert", "disable_client_hook", "is_client_mode_enabled"]

is_client_mode_enabled = False


def client_mode_should_convert() -> bool:
    """False."""
    return False


@contextlib.contextmanager
def disable_client_hook() -> Iterator[None]:
    """Nothing: there is no hook."""
    yield
