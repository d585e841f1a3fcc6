"""Tells what is pickled, object by object, on the standard error: what is large, what is bad.

Switched on by the environment variable ``RACT_PICKLE_VERBOSE_DEBUG`` (or ``RAY_``): 1 tells of
containers, functions, classes and instances, 2 of everything. It is read when a process starts, and
slows down all that is pickled there.
"""

from __future__ import annotations

import io
import pickle
import reprlib
import sys
import types
from typing import Any

import cloudpickle

from ract.core.session import setting

QUIET, CONTAINERS, EVERYTHING = range(3)

_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, types.EllipsisType)


def _level() -> int:
    given = setting("PICKLE_VERBOSE_DEBUG") or "0"
    return min(EVERYTHING, int(given)) if given.isdigit() else CONTAINERS


level = _level()
"""One of `QUIET`, `CONTAINERS`, `EVERYTHING`."""


def dumps(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    """As ``cloudpickle.dumps`` with protocol 5, telling what it does."""
    file = io.BytesIO()
    print(f"ract pickles {_described(value)}:", file=sys.stderr)
    _Tracing(file, 5, buffer_callback=buffers.append).dump(value)
    print(f"  = {file.tell():,} bytes and {len(buffers)} buffers", file=sys.stderr)
    return file.getvalue()


class _Tracing(cloudpickle.Pickler):
    def persistent_id(self, obj: Any) -> None:
        """Called for each object before it is pickled."""
        if level == EVERYTHING or not isinstance(obj, _ATOMS):
            print(f"  {_described(obj)}", file=sys.stderr)


def _described(value: Any) -> str:
    kind = type(value)
    try:
        text = reprlib.repr(value)
    except Exception as error:  # it is the user's
        text = f"(its repr raises {type(error).__name__})"
    return f"{kind.__module__}.{kind.__qualname__}  {text}"
