"""Progress bars on the screen of this process, whatever that is.

In a terminal tqdm draws them if it is installed, else rich; in a notebook tqdm if there are
widgets, else they are HTML; anywhere else they are lines of text (`ract.util.plain_bars`).

Theory of operation
-------------------
A process has one `Screen`, because bars share the last lines of the terminal. A bar is a key:
`Screen.open` shows it, `Screen.set` moves it, `Screen.close` leaves it as it is. When no bar is
open, nothing is redirected and no thread runs. Bars go to stderr, so that what a program prints
stays what it prints. All methods may be called from any thread.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from ract.util.plain_bars import HtmlScreen, LineScreen

Key = Any
DRAWN_PER_S = 10


class Screen(Protocol):
    """Draws bars."""

    def open(self, desc: str, total: float | None, unit: str) -> Key:
        """Show a new bar; ``total`` None if it is not known."""

    def set(self, key: Key, desc: str, n: float, total: float | None, note: str = "") -> None:
        """Move a bar; ``note`` is more to be said of it."""

    def close(self, key: Key) -> None:
        """Let a bar stay as it is."""

    def above(self) -> contextlib.AbstractContextManager[Any]:
        """While it is entered, the process may write to the terminal."""

    def hide(self) -> None:
        """Draw nothing until `show`."""

    def show(self) -> None:
        """Draw again."""


@functools.cache
def screen() -> Screen:
    """The screen of this process."""
    return choose(is_in_notebook(), sys.stderr.isatty(), _can_import)


def choose(is_notebook: bool, is_terminal: bool, has: Callable[[str], bool]) -> Screen:
    """The screen for a process.

    Args:
        is_notebook: It runs cells of a notebook.
        is_terminal: A person sees its stderr.
        has: Whether a module can be imported.
    """
    if not (is_notebook or is_terminal):
        return LineScreen()
    if has("tqdm.auto") and (has("ipywidgets") or not is_notebook):
        # By name, and in notebooks the widget.
        return TqdmScreen(importlib.import_module("tqdm.auto").tqdm)
    return HtmlScreen() if is_notebook else RichScreen()


def is_in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


class RichScreen:
    """Draws with rich."""

    def __init__(self, console: Any = None) -> None:
        self._console = console
        self._lock = threading.RLock()
        #: What draws, while any bar is open.
        self._progress: Any = None
        self._open: set[Key] = set()

    def open(self, desc: str, total: float | None, unit: str) -> Key:
        with self._lock:
            if self._progress is None:
                self._start()
            key = self._progress.add_task(
                desc, total=total, unit=unit, done=_done(0, total), note=""
            )
            self._open.add(key)
            return key

    def set(self, key: Key, desc: str, n: float, total: float | None, note: str = "") -> None:
        with self._lock:
            if key in self._open:
                self._progress.update(
                    key,
                    description=desc,
                    completed=n,
                    total=total,
                    done=_done(n, total),
                    note=f", {note}" if note else "",
                )

    def close(self, key: Key) -> None:
        with self._lock:
            if key not in self._open:
                return
            self._open.remove(key)
            self._progress.stop_task(key)
            if not self._open:
                self._stop()

    def above(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()  # rich has put itself in the place of stdout and stderr

    def hide(self) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.stop()

    def show(self) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Any) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:.3g} {task.fields['unit']}/s" if speed else "")

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[done]} {task.fields[unit]}{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            Rate(),
            TimeRemainingColumn(compact=True),
            console=self._console or Console(stderr=True),
            refresh_per_second=DRAWN_PER_S,
            # What goes to a file must not end up in the terminal.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._progress.start()
        atexit.register(self._stop)

    def _stop(self) -> None:
        """Draw for the last time, and give back the cursor."""
        with self._lock:
            progress, self._progress = self._progress, None
            self._open.clear()
            if progress is not None:
                atexit.unregister(self._stop)
                progress.stop()


class TqdmScreen:
    """Draws with tqdm.

    Args:
        bar_class: ``tqdm.auto.tqdm``.
    """

    def __init__(self, bar_class: Any) -> None:
        self._bar_class = bar_class
        self._lock = threading.RLock()
        self._open: dict[Key, Any] = {}

    def open(self, desc: str, total: float | None, unit: str) -> Key:
        with self._lock:
            # Where the bar goes is left to tqdm, which knows of bars that the program made.
            bar = self._bar_class(
                desc=desc, total=total, unit=unit or "it", mininterval=1 / DRAWN_PER_S
            )
            self._open[id(bar)] = bar
            return id(bar)

    def set(self, key: Key, desc: str, n: float, total: float | None, note: str = "") -> None:
        with self._lock:
            bar = self._open.get(key)
            if bar is None:
                return
            bar.total = total
            if note:
                bar.set_postfix_str(note, refresh=False)
            if desc != bar.desc.removesuffix(": "):
                bar.set_description(desc, refresh=False)
            bar.update(n - bar.n)

    def close(self, key: Key) -> None:
        with self._lock:
            bar = self._open.pop(key, None)
            if bar is not None:
                bar.refresh()
                bar.close()

    def above(self) -> contextlib.AbstractContextManager[Any]:
        return self._bar_class.external_write_mode()

    def hide(self) -> None:
        with self._lock:
            for bar in self._open.values():
                bar.clear()

    def show(self) -> None:
        with self._lock:
            for bar in self._open.values():
                bar.refresh()


def _done(n: float, total: float | None) -> str:
    return f"{n:g}" if total is None else f"{n:g}/{total:g}"
