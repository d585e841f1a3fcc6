"""``ray._private.internal_api``."""

from __future__ import annotations

from collections.abc import Sequence

from ract.client.refs import ObjectRef
from ract.util import testing
from ract.util.testing import memory_summary

__all__ = ["free", "global_gc", "memory_summary"]


def free(object_refs: ObjectRef | Sequence[ObjectRef], local_only: bool = False) -> None:
    """Drop the values of objects although refs remain."""
    testing.free(object_refs)


def global_gc() -> None:
    """Collect garbage in this process, and soon in all executors."""
    testing.collect_garbage()
