"""The older place of `ract.util.queue`."""

from ract.util.queue import Empty, Full, Queue

__all__ = ["Empty", "Full", "Queue"]
