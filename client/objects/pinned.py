"""Views of shared memory that keep something alive."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np


class _Pinned(np.ndarray):
    """An array of bytes that has attributes."""

    pin: Any
    path: str  #: of the file that is mapped
    offset: int  #: of the first byte in it

    def private_view(self, part: np.ndarray) -> np.ndarray:
        """A view of the same bytes, which may be written to: nobody else sees that.

        Args:
            part: A view of this one.
        """
        start = self.offset + part.ctypes.data - self.ctypes.data
        skipped = start % mmap.ALLOCATIONGRANULARITY
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mapping = mmap.mmap(
                fd,
                skipped + part.nbytes,
                mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0),
                mmap.PROT_READ | mmap.PROT_WRITE,
                offset=start - skipped,
            )
        finally:
            os.close(fd)
        return _pinned(mapping, skipped, part.nbytes, self.pin, self.path, start)


def _pinned(mapping: mmap.mmap, at: int, size: int, pin: Any, path: str, offset: int) -> _Pinned:
    flat = np.frombuffer(mapping, np.uint8, size, at).view(_Pinned)
    flat.pin, flat.path, flat.offset = pin, path, offset
    return flat


def pinned_view(mapping: mmap.mmap, path: str, offset: int, size: int, pin: Any) -> memoryview:
    """A view of ``size`` bytes; it, and every view and array made of it, keeps ``pin`` alive.

    Args:
        mapping: The whole file at ``path``, mapped.
    """
    return memoryview(_pinned(mapping, offset, size, pin, path, offset))  # type: ignore[arg-type]
