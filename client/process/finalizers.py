"""What finalizers of users may do when the garbage collector calls them amid the work of ract.

Theory of operation
-------------------
The garbage collector of Python runs wherever memory is asked for, on any thread, and calls the
finalizers (``__del__``) of objects in reference cycles there. So code of users can run at any point
of ract's own code: on the IO thread, under a lock, in the middle of a change. Nothing can prevent
that, and a finalizer that starts a task, or ends an actor, is not unusual.

`watch` has the collector say when a collection begins and ends. A collection is *amid* the work of
ract if the thread is one of ract's own, or if the code that asked for memory is ract's. Ract calls
no foreign code while it holds a lock; so where foreign code is in front, no lock is held. Frames of
the standard library, and of generated code, do not count: ract calls them anywhere.

What a finalizer submits amid is not done there but a moment later, on a thread for code of users
(`later`). What has to wait is refused (`check_may_wait`) if ract would wait for itself. This costs
a collection one more microsecond; a call only looks whether `amid` is empty.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ract.client.process import locks, user_code

amid: set[int] = set()
"""The threads in which a collection runs amid the work of ract; nearly always empty."""

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_NOT_OURS = (_OURS + "tests" + os.sep, _OURS + "benchmarks" + os.sep, _OURS + ".venv" + os.sep)
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_INSTALLED = "-packages" + os.sep  # site-packages, dist-packages: these may lie below the former
_READS_CHANNELS = os.path.join("client", "calls", "channel.py")


def watch() -> None:
    """Be told of collections from here on. Idempotent."""
    if _collects not in gc.callbacks:
        gc.callbacks.append(_collects)


def unwatch() -> None:
    """The process has left its cluster: nothing is amid."""
    if _collects in gc.callbacks:
        gc.callbacks.remove(_collects)
    amid.clear()


def is_amid() -> bool:
    """Whether the caller is a finalizer that was called amid the work of ract."""
    return bool(amid) and threading.get_ident() in amid


def later(job: Callable[[], Any]) -> None:
    """Do something that the caller, who is amid, must not do here."""
    user_code.run(job)


def check_may_wait(what: str, *, also_locks: bool = False) -> None:
    """Raise if the calling thread must not wait, since what it waits for would wait for it.

    Args:
        what: What would wait, for the error.
        also_locks: Whether to look for locks that the thread holds though no collection runs. That
            takes some 50 ns a lock, so it is asked for after a while of waiting only.

    Raises:
        RuntimeError: the thread serves others, holds a lock of ract, or reads replies.
    """
    if locks.serves():
        reason = "on the thread that everybody else waits for"
    elif is_amid() and _reads_replies():
        reason = "while this thread was reading replies"
    elif (also_locks or is_amid()) and locks.holds_any():
        reason = "under a lock of its own"
    else:
        return
    raise RuntimeError(
        f"{what} cannot wait here: the garbage collector called a finalizer (__del__) amid the "
        f"work of ract, {reason}, and ract would wait for itself. Do not wait in __del__: start a "
        "task or send an actor call there, or use a context manager."
    )


def _collects(phase: str, info: dict[str, int]) -> None:
    """The collector begins or ends, in this thread."""
    if phase != "start":
        amid.discard(threading.get_ident())
    elif locks.serves() or _is_ours(sys._getframe().f_back):  # none: Python ends
        amid.add(threading.get_ident())


def _is_ours(frame: FrameType | None) -> bool:
    """Whether the innermost frame that counts is one of ract."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_OURS) and not name.startswith(_NOT_OURS):
            return True
        # Generated code, such as that of dataclasses, has names like "<string>".
        is_neutral = name.startswith("<") or (name.startswith(_STANDARD) and _INSTALLED not in name)
        if not is_neutral:
            return False
        frame = frame.f_back
    return False


def _reads_replies() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.endswith(_READS_CHANNELS):
            return True
        frame = frame.f_back
    return False
