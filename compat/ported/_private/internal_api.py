"""``ray._private.internal_api``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ract.client.objects.refs import ObjectRef
from ract.util import testing
from ract.util.state.api import ask
from ract.util.testing import memory_summary

__all__ = ["free", "global_gc", "memory_summary", "node_stats", "store_stats"]


def free(object_refs: ObjectRef | Sequence[ObjectRef], local_only: bool = False) -> None:
    """Drop the values of objects although refs remain."""
    testing.free(object_refs)


def store_stats() -> str:
    """What the object stores of all nodes hold, as text."""
    return memory_summary(stats_only=True)


def node_stats() -> dict[str, dict[str, Any]]:
    """What the object store of each node holds, by its id (hex)."""
    return dict(ask(None, "store"))


def global_gc() -> None:
    """Collect garbage in this process, and soon in all executors."""
    testing.collect_garbage()
