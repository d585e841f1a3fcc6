"""When a KeyboardInterrupt may be raised: never in the middle of a step of the runtime.

Theory of operation
-------------------
A handler of signals runs in the main thread between any two of its instructions. If it raised
there while the runtime has taken a call from a queue, and has not sent it yet, that call would be
lost, and the executor that it was for would count as busy for ever. So the handlers made here look
at the frame that was interrupted. In code of the program they raise at once. In code of the client
they *put the interrupt off* (`_pending`).

An interrupt that was put off is raised by the first of two. Who waits in the client calls `check`
again and again, in places where nothing is half done. And a thread repeats the signal until it
finds the main thread in code of the program. The thread takes no lock: `_thread` starts it,
since the handler may have interrupted who holds the locks of `threading`.

`signal.default_int_handler` is replaced in a driver's main thread (`install`); a handler of the
program's own is left alone.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

REPEAT_S = 0.002
"""An interrupt that was put off is tried again after this time."""

Interrupt = Callable[[FrameType | None], None]
"""Raises KeyboardInterrupt, or does nothing if nobody is to be interrupted any more."""

_OURS = "ract.client."
_OPEN = ("ract.client.start.", "ract.client.local.", "ract.client.process.tracing")
"""They call code of the program, or wait for other processes, and nothing is lost in them."""

_BETWEEN = frozenset((*sys.stdlib_module_names, "cloudpickle", "ract"))
"""Code of these belongs to whoever called it."""

#: What was put off. Written by the main thread alone, but for the repeating thread's giving up.
_pending: Interrupt | None = None
_is_repeat = False  # the next signal is one that the repeating thread has sent


def handler(interrupt: Interrupt) -> Callable[[int, FrameType | None], None]:
    """A handler of signals that calls ``interrupt(frame)`` where nothing is half done."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        global _pending, _is_repeat
        was_repeat, _is_repeat = _is_repeat, False
        if was_repeat and _pending is None:  # `check` was faster
            return
        if not _is_in_client(frame):
            _pending = None
            interrupt(frame)
        elif _pending is None:
            _pending = interrupt
            _thread.start_new_thread(_repeat, (number, on_signal))

    return on_signal


def check() -> None:
    """Raise what was put off. Only where nothing is half done; other threads pass.

    Raises:
        KeyboardInterrupt: the main thread was interrupted while it ran code of the client.
    """
    global _pending
    interrupt = _pending
    if interrupt is not None and threading.current_thread() is threading.main_thread():
        _pending = None
        interrupt(sys._getframe(1))


def _repeat(number: Any, handler: Any) -> None:
    global _pending, _is_repeat
    while True:
        time.sleep(REPEAT_S)
        if signal.getsignal(number) is not handler:  # the program has set its own
            _pending = None
        if _pending is None:
            return
        _is_repeat = True
        _thread.interrupt_main(number)


def _is_in_client(frame: FrameType | None) -> bool:
    is_in_program = False
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module.startswith(_OURS):
            return not is_in_program and not module.startswith(_OPEN)
        if module.startswith("importlib."):
            is_in_program = False  # who imports is interrupted, or not, with what it imports
        elif module.partition(".")[0] not in _BETWEEN:
            is_in_program = True
        frame = frame.f_back
    return False


# --------------------------------------------------------------------------- drivers


def _interrupt_driver(frame: FrameType | None) -> None:
    if not _cancels_main_task(frame):
        raise KeyboardInterrupt


def _cancels_main_task(frame: FrameType | None) -> bool:
    """Do what asyncio's own handler does; it stands only where Python's default one stood.

    In ``asyncio.run`` the first interrupt cancels the main task, the next one raises.
    """
    runners = sys.modules.get("asyncio.runners")
    while runners is not None and frame is not None:
        if frame.f_code is runners.Runner.run.__code__:
            runner, task = frame.f_locals.get("self"), frame.f_locals.get("task")
            on_sigint = getattr(runner, "_on_sigint", None)
            if on_sigint is None or task is None:
                return False
            on_sigint(signal.SIGINT, frame, task)  # raises the second time
            return True
        frame = frame.f_back
    return False


_on_sigint = handler(_interrupt_driver)


def install(*_: Any) -> None:
    """Take Ctrl-C, in a main thread in which Python's own handler has it."""
    with contextlib.suppress(ValueError):  # not the main thread: another will have to do it
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _on_sigint)


def install_in_notebook() -> None:
    """`install` before each cell, too: Jupyter gives Python its handler back for each of them."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        with contextlib.suppress(ValueError):  # it is not there yet
            shell.events.unregister("pre_run_cell", install)
        shell.events.register("pre_run_cell", install)


def uninstall() -> None:
    """Give Python its handler back."""
    with contextlib.suppress(ValueError):
        if signal.getsignal(signal.SIGINT) is _on_sigint:
            signal.signal(signal.SIGINT, signal.default_int_handler)
