"""Progress where no bar can move: as lines in a log, and as HTML in a notebook without widgets.

Both are screens as `ract.util.bars` describes them.
"""

from __future__ import annotations

import contextlib
import html
import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

Key = Any

LINES_EVERY_S = 10.0
"""A bar writes a line this often, if it has moved; and one at its end."""

HTML_DRAWN_PER_S = 4


class Bar:
    """How far something is, and how fast.

    Args:
        desc, total, unit: As shown.
        clock: In seconds.
    """

    def __init__(
        self, desc: str, total: float | None, unit: str, clock: Callable[[], float]
    ) -> None:
        self.desc = desc
        self.total = total
        self.unit = unit
        self.n: float = 0
        self.note = ""
        self.drawn_at = clock()
        self._clock = clock
        self._began_at = self.drawn_at

    def set(self, desc: str, n: float, total: float | None, note: str) -> None:
        """It moves."""
        self.desc, self.n, self.total, self.note = desc, n, total, note

    @property
    def part(self) -> float | None:
        """How much of it is done, 0 to 1; None if that is not known."""
        return min(1.0, self.n / self.total) if self.total else None

    def text(self) -> str:
        """In words: ``desc: 40/100 it, 2 failed, 8.3 it/s, 0:07 left``."""
        done = f"{self.n:g}" if self.total is None else f"{self.n:g}/{self.total:g}"
        words = [f"{done} {self.unit}"]
        if self.note:
            words.append(self.note)
        elapsed = self._clock() - self._began_at
        if self.n and elapsed > 0:
            rate = self.n / elapsed
            words.append(f"{rate:.3g} {self.unit}/s")
            if self.total is not None and self.n < self.total:
                words.append(f"{_duration((self.total - self.n) / rate)} left")
            else:
                words.append(f"in {_duration(elapsed)}")
        text = ", ".join(words)
        return f"{self.desc}: {text}" if self.desc else text


class _Drawn:
    """What both screens have in common: bars by key, drawn now and then and at their end."""

    every_s = 0.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._bars: dict[Key, Bar] = {}
        self._keys = itertools.count(1)
        self._is_hidden = False

    def open(self, desc: str, total: float | None, unit: str) -> Key:
        """Show a new bar."""
        with self._lock:
            key = next(self._keys)
            self._bars[key] = Bar(desc, total, unit or "it", self._clock)
            return key

    def set(self, key: Key, desc: str, n: float, total: float | None, note: str = "") -> None:
        """Move a bar."""
        with self._lock:
            bar = self._bars.get(key)
            if bar is None:
                return
            has_moved = n != bar.n
            bar.set(desc, n, total, note)
            now = self._clock()
            if has_moved and not self._is_hidden and now - bar.drawn_at >= self.every_s:
                bar.drawn_at = now
                self._draw(key, bar)

    def close(self, key: Key) -> None:
        """Let a bar stay as it is."""
        with self._lock:
            bar = self._bars.pop(key, None)
            if bar is not None:
                self._draw(key, bar)

    def above(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing is in the way of what the process writes."""
        return contextlib.nullcontext()

    def hide(self) -> None:
        """Draw nothing until `show`."""
        self._is_hidden = True

    def show(self) -> None:
        """Draw again."""
        self._is_hidden = False

    def _draw(self, key: Key, bar: Bar) -> None:
        raise NotImplementedError


class LineScreen(_Drawn):
    """Writes a line now and then: where stderr is a file or a pipe, a bar would only make a mess.

    Args:
        file: Default: stderr.
        clock: In seconds.
    """

    every_s = LINES_EVERY_S

    def __init__(
        self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._file = file

    def _draw(self, key: Key, bar: Bar) -> None:
        file = self._file or sys.stderr
        file.write(f"{bar.text()}\n")  # one write: other threads print, too
        file.flush()


class HtmlScreen(_Drawn):
    """Draws below the cell of a notebook, and needs neither tqdm nor ipywidgets.

    Args:
        display: Shows HTML and returns what changes it; default: IPython's.
        clock: In seconds.
    """

    every_s = 1 / HTML_DRAWN_PER_S

    def __init__(
        self,
        display: Callable[[str], Callable[[str], None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._display = display or _ipython_display
        self._handles: dict[Key, Callable[[str], None]] = {}

    def open(self, desc: str, total: float | None, unit: str) -> Key:
        """Show a new bar."""
        with self._lock:
            key = super().open(desc, total, unit)
            self._handles[key] = self._display(_html(self._bars[key]))
            return key

    def close(self, key: Key) -> None:
        """Let a bar stay as it is."""
        with self._lock:
            super().close(key)
            self._handles.pop(key, None)

    def _draw(self, key: Key, bar: Bar) -> None:
        self._handles[key](_html(bar))


def _ipython_display(text: str) -> Callable[[str], None]:
    from IPython.display import HTML, display

    handle = display(HTML(text), display_id=True)
    return lambda text: handle.update(HTML(text))


def _html(bar: Bar) -> str:
    value = "" if bar.part is None else f' value="{bar.part:.4f}"'
    label = html.escape(bar.text())
    return f'<div><progress max="1"{value} style="width: 20em"></progress> {label}</div>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
