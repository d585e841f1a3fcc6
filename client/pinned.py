"""Views of shared memory that keep something alive."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


class _Pinned(np.ndarray):
    """An array that has an attribute."""

    pin: Any


def pinned_view(mapping: mmap.mmap, offset: int, size: int, pin: Any) -> memoryview:
    """A view of ``size`` bytes; it, and every view and array made of it, keeps ``pin`` alive."""
    flat = np.frombuffer(mapping, np.uint8, size, offset).view(_Pinned)
    flat.pin = pin
    return memoryview(flat)  # type: ignore[arg-type]
