"""Queues in which a higher priority goes first, and equal ones in order of arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def insert(
    queue: deque[T], item: T, priority_of: Callable[[T], int], *, first: bool = False
) -> None:
    """Put an item at its place in a queue that is in order; ``first`` before its equals.

    The place is sought from the end where few others are: the front for what is urgent.
    """
    priority = priority_of(item)
    if priority > 0 or first:
        least = priority if first else priority - 1
        behind = (at for at, other in enumerate(queue) if priority_of(other) <= least)
        queue.insert(next(behind, len(queue)), item)
    else:
        ahead = (at for at, other in enumerate(reversed(queue)) if priority_of(other) >= priority)
        queue.insert(len(queue) - next(ahead, len(queue)), item)
