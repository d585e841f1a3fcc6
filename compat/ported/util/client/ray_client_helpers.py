"""``ray.util.client.ray_client_helpers``: a driver here is a client of any cluster as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["connect_to_client_or_not"]


@contextlib.contextmanager
def connect_to_client_or_not(connect_to_client: bool) -> Iterator[None]:
    """Nothing: there is no other way to connect."""
    yield
