"""Names of Ray's test helpers for what ract does not have.

Test files import many helpers at their top and use each in one test. These names can be imported,
so that the other tests run, and raise ImportError when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def absent(name: str, what: str) -> Callable[..., NoReturn]:
    """A function that raises ImportError: ``name`` is about ``what``, which ract does not have."""

    def missing(*_: Any, **__: Any) -> NoReturn:
        raise ImportError(f"ract, which stands in for Ray here, has no {name}(): it has no {what}")

    missing.__name__ = missing.__qualname__ = name
    return missing
