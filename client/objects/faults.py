"""Stored errors as exceptions to raise."""

from __future__ import annotations

import linecache
import pickle
import re
from typing import Any

from ract.core import errors, serialization


def as_raised(error: Any) -> BaseException:
    """What ``get`` raises for a stored error: user errors as both RactTaskError and their type."""
    if isinstance(error, errors.RactTaskError):
        error.traceback_str = with_source(error.traceback_str)
        return error.as_instanceof_cause()
    assert isinstance(error, BaseException)
    return error


_FRAME = re.compile(r'^( *)File "([^"]+)", line (\d+), in .*$')


def with_source(traceback_str: str) -> str:
    """Add the lines of code that are missing in a traceback, if this process knows them.

    An executor has no source of a notebook's cells; the process whose cells they are has.
    """
    lines = traceback_str.split("\n")
    found = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        found.append(line)
        frame = _FRAME.match(line)
        if frame is None:
            continue
        indent, filename, number = frame.groups()
        if following.startswith(indent + "  ") and following.strip():
            continue
        source = linecache.getline(filename, int(number)).strip()
        if source:
            found.append(f"{indent}  {source}")
    return "\n".join(found)


def of_argument(name: str, error: BaseException) -> BaseException:
    """The error of a call that never ran because an argument has none but this error."""
    if not isinstance(error, errors.RactTaskError):
        return error
    text = (
        f"At least one of the input arguments for this task could not be computed:\n"
        f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    )
    return errors.RactTaskError(name, text, error, actor_id=error.actor_id)


def pack(error: BaseException) -> serialization.Packed:
    """An error as it is stored: of any class, since others may read it."""
    try:
        return serialization.pack(error)
    except Exception as problem:  # the user's exception class may do anything when pickled
        described = f"{type(error).__name__}: {error}\nIt isn't serializable: {problem}"
        return serialization.pack(errors.RactSystemError(described))


_REASONS: dict[bytes, type[errors.ObjectLostError]] = {
    b"lost": errors.ObjectLostError,
    b"freed": errors.ObjectFreedError,
    b"owner_died": errors.OwnerDiedError,
    b"fetch_timed_out": errors.ObjectFetchTimedOutError,
}


_UNRECOVERABLE: dict[bytes, type[errors.ObjectReconstructionFailedError]] = {
    b"unrecoverable": errors.ObjectReconstructionFailedError,
    b"attempts": errors.ObjectReconstructionFailedMaxAttemptsExceededError,
    b"evicted": errors.ObjectReconstructionFailedLineageEvictedError,
}


def directory_error(head: bytes, ref: Any) -> bytes:
    """The pickled error for a blob of the object directory.

    The directory never pickles: it answers ``kind:reason`` for objects that are gone, and passes
    on what a process pickled otherwise.
    """
    kind, _, reason = bytes(head).partition(b":")
    text = reason.decode(errors="replace")
    if kind == b"full":
        return pickle.dumps(errors.ObjectStoreFullError(text), 5)
    if kind in _UNRECOVERABLE:
        said = f"it cannot be reconstructed: {text}"
        return pickle.dumps(_UNRECOVERABLE[kind](ref.hex(), kind.decode(), said), 5)
    error_type = _REASONS.get(kind)
    if error_type is None:
        return head
    return pickle.dumps(error_type(ref.hex(), "", text), 5)
