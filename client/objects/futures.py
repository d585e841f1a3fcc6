"""Futures of refs.

Theory of operation
-------------------
Whoever completes a ref may be the IO thread. So it only gives a number to the threads for code of
users (`ract.client.process.user_code`), which unpickle the value and call the callbacks. The number
stands for the ref and its future: the IO thread never has a reference to the future, and cannot be
the one that drops the last reference to a value of the program, whose ``__del__`` may wait.

The ref is kept until its future is complete, although the program may have dropped it.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from ract.client.process import user_code

logger = logging.getLogger("concurrent.futures")


class RefFuture(concurrent.futures.Future):
    """A future whose callbacks are all called, whatever one of them raises."""

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """As of `concurrent.futures.Future`; SystemExit and the like are logged as well."""
        super().add_done_callback(partial(_called, fn))


def _called(callback: Callable[[Any], Any], future: Any) -> None:
    try:
        callback(future)
    except BaseException:
        logger.exception("exception calling callback for %r", future)


class Futures:
    """Futures of refs that are not ready.

    Attributes:
        open: Refs and their futures, by number.
    """

    def __init__(self) -> None:
        self.open: dict[int, tuple[Any, RefFuture]] = {}
        self._numbers = itertools.count()  # its `next` is one step for all threads

    def make(self, ref: Any, is_here: bool) -> RefFuture:
        """A future of a ref.

        Args:
            ref: The ref.
            is_here: Whether its value can be read without waiting.
        """
        made = RefFuture()
        if is_here:
            made.set_running_or_notify_cancel()
            _settle(ref, made)
            return made
        number = next(self._numbers)
        self.open[number] = (ref, made)
        job = partial(self._complete, number)
        ref._when_here(lambda _: user_code.run(job))
        return made

    def _complete(self, number: int) -> None:
        """The value of a ref is here (on a thread for code of users)."""
        found = self.open.pop(number, None)  # one step: two threads cannot both have it
        if found is not None and found[1].set_running_or_notify_cancel():  # not cancelled
            _settle(*found)

    def fail_all(self, error: BaseException) -> None:
        """Complete those that are left with an error."""
        for number in list(self.open):
            user_code.run(partial(self._fail, number, error))

    def _fail(self, number: int, error: BaseException) -> None:
        found = self.open.pop(number, None)
        if found is not None and found[1].set_running_or_notify_cancel():
            found[1].set_exception(error)


def _settle(ref: Any, future: RefFuture) -> None:
    try:
        value = ref._load()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
