"""Code of the user that ends its own process: what was finished before is answered first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NoReturn


def answer_before_ending(answer: Callable[[], None], *, in_any_thread: bool = False) -> None:
    """Have ``answer()`` called before user code ends the process by ``os._exit`` or a signal.

    Args:
        answer: Writes the replies that are ready.
        in_any_thread: Calls run in other threads than this one, too.
    """
    pid, thread, real_exit, real_kill = os.getpid(), threading.get_ident(), os._exit, os.kill

    def flush() -> None:
        # A process that user code has forked owes nobody an answer; nor does a thread of the user.
        if os.getpid() == pid and (in_any_thread or threading.get_ident() == thread):
            answer()

    def _exit(status: int) -> NoReturn:
        flush()
        real_exit(status)

    def kill(target: int, number: int) -> None:
        if target == pid:
            flush()
        real_kill(target, number)

    os._exit, os.kill = _exit, kill
