"""Threads for code of users that the runtime calls: callbacks, unpickling, printing, logging.

Theory of operation
-------------------
Code of users may wait for anything, raise anything, and take as long as it likes. So it never runs
on the IO thread, on a thread that reads replies, or under a lock of the runtime: those hand it to
`run`.

Jobs run one after the other, in the order in which they were given, on the *runner*. While jobs
wait behind a running one there is a second thread, in reserve. When the running job has taken
longer than `GRACE_S`, it probably waits for something, perhaps for what a later job does. Then the
thread in reserve becomes the runner, and goes on with the next job. So a job that waits delays the
others for a moment only, and each job that waits for long keeps one thread. Threads are started
when they are needed and end when nothing was to do for `IDLE_S`.

What a job raises is logged, and ends nothing: `SystemExit` neither.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

GRACE_S = 0.05
"""A job that takes longer than this does not hold up the others any more."""

IDLE_S = 10.0
"""A thread ends after so many seconds without work."""

FLUSH_TIMEOUT_S = 5.0
"""So long is waited for what was given to `run` before this process leaves the cluster."""

logger = logging.getLogger(__name__)


class UserThreads:
    """Runs jobs in order, each on a thread that may wait."""

    def __init__(self) -> None:
        # Held for a moment only, and never while a job runs. In no order with other locks: nothing
        # is called under it but the start of a thread. Reentrant, because the garbage collector may
        # call a finalizer meanwhile, and that may give a job to `run`.
        self._changed = threading.Condition(threading.RLock())
        self._jobs: deque[Callable[[], Any]] = deque()
        self._runner: threading.Thread | None = None  # who has the newest job that has begun
        self._began = 0.0  # when that was, on the monotonic clock
        self._idle = 0  # threads that wait for work, or were started and do not work yet

    def run(self, job: Callable[[], Any]) -> None:
        """Call ``job()`` soon, on another thread."""
        with self._changed:
            self._jobs.append(job)
            self._have_reserve()

    def flush(self, timeout: float = FLUSH_TIMEOUT_S) -> bool:
        """Wait until what was given to `run` has begun, and has ended if it does not wait.

        Args:
            timeout: Seconds.

        Returns:
            Whether that is so; False after the timeout.
        """
        if self._runner is None and not self._jobs:
            return True
        passed = threading.Event()
        self.run(passed.set)
        return passed.wait(timeout)

    def _have_reserve(self) -> None:
        """See to it that a thread takes the next job; the caller holds the lock."""
        if self._idle:
            self._changed.notify()
            return
        self._idle += 1
        try:
            threading.Thread(target=self._work, name="ract-user-code", daemon=True).start()
        except RuntimeError:  # no more threads: those that there are will see to it
            self._idle -= 1

    def _work(self) -> None:
        me = threading.current_thread()
        while (job := self._take(me)) is not None:
            _call(job)
            job = None  # what the job keeps alive goes here, not when the next one comes
            with self._changed:
                self._idle += 1
                if self._runner is me:
                    self._runner = None

    def _take(self, me: threading.Thread) -> Callable[[], Any] | None:
        """The next job, when it is the turn of this thread; None when there was none for long."""
        with self._changed:
            while True:
                left_s = IDLE_S
                if self._jobs:
                    now = time.monotonic()
                    left_s = 0.0 if self._runner is None else self._began + GRACE_S - now
                    if left_s <= 0:
                        self._idle -= 1
                        self._runner, self._began = me, now
                        job = self._jobs.popleft()
                        if self._jobs:
                            self._have_reserve()
                        return job
                if not self._changed.wait(left_s) and not self._jobs:
                    self._idle -= 1
                    return None


def _call(job: Callable[[], Any]) -> None:
    try:
        job()
    except BaseException:  # SystemExit too: the thread goes on with the next job
        with contextlib.suppress(BaseException):  # the handlers are code of users as well
            logger.exception("ract: code that ract called for the program failed")


_threads = UserThreads()
run = _threads.run
flush = _threads.flush


def log(logger: logging.Logger, level: int, text: str, *args: Any, exc_info: bool = False) -> None:
    """Log something where handlers may wait: whoever holds a lock, or is the IO thread, logs so.

    Args:
        logger: Of the module that logs.
        level: As for `logging.Logger.log`.
        text: With places for ``args``.
        exc_info: Whether to log the exception that is handled.
    """
    found = sys.exc_info() if exc_info else None
    run(partial(logger.log, level, text, *args, exc_info=found))


def _start_anew() -> None:
    """In the child of a fork there are no threads, and the lock may be held by one of them."""
    global _threads, run, flush
    _threads = UserThreads()
    run, flush = _threads.run, _threads.flush


os.register_at_fork(after_in_child=_start_anew)
