"""What a function returned, as the number of returns that the caller wants."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any


def exactly(value: Any, n: int) -> Iterator[Any]:
    """The ``n`` values of a task with several returns, one by one if it is a generator.

    Raises:
        ValueError: there are more or fewer, or it is no iterable.
    """
    try:
        values = iter(value)
    except TypeError:
        raise ValueError(
            f"Task returned a {type(value).__name__}, which is not iterable, but num_returns={n}"
        ) from None
    if hasattr(value, "__len__") and len(value) != n:
        raise ValueError(f"Task returned {len(value)} objects, but num_returns={n}")
    found = 0
    for each in values:
        found += 1
        if found > n:
            raise ValueError(f"Task yielded more than {n} objects, but num_returns={n}")
        yield each
    if found < n:
        raise ValueError(f"Task yielded {found} objects, but num_returns={n}")


def generator_of(value: Any, num_returns: str) -> Any:
    """The generator that a function returned. Raises ValueError."""
    if not inspect.isgenerator(value):
        raise ValueError(
            f'Functions with num_returns="{num_returns}" must return a generator, '
            f"not a {type(value).__name__}"
        )
    return value
