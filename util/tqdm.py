"""Progress bars of tasks and actors, shown by their driver (Ray's ``tqdm_ray``).

Theory of operation
-------------------
A bar is a state: what it is called, how far it is. In a driver it is drawn at once. A task or actor
prints its state as a line of JSON after `MARK`, at most every ``flush_interval_s``; the line
reaches the driver like everything that is printed, and there `handle_line` takes it out and draws
the bar. So a bar is drawn once, wherever it moves. A bar is closed by its last state; the bars
of a process that was killed stay until `BarManager.close_all`.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ract.client.process import context
from ract.core.session import setting
from ract.util import bars

MARK = "__ract_tqdm__:"
FLUSH_INTERVAL_S = 0.5

_print = builtins.print


@dataclass
class BarState:
    """What is known of a bar.

    Attributes:
        id: Unique in the cluster.
        owner: Where it moves, like ``work pid=7``; "" for this process.
    """

    id: str
    owner: str
    desc: str
    n: float
    total: float | None
    unit: str
    is_closed: bool
    note: str = ""


class tqdm:
    """A progress bar that works in tasks, actors and drivers.

    Args:
        iterable: What iterating over the bar yields. It closes the bar at its end.
        desc: Shown before the bar.
        total: How much there is to do; by default the length of ``iterable``, if it has one.
        unit: What is counted.
        position: Accepted for compatibility: bars are shown in the order in which they start.
        flush_interval_s: Least time between two messages to the driver, in seconds.

    Attributes:
        n: How much is done.
        total: As given.
        note: More to be said of it, like "2 failed". After changing one of these, call `refresh`.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: float | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        if total is None and iterable is not None:
            with contextlib.suppress(TypeError):
                total = len(iterable)  # type: ignore[arg-type]
        self.n: float = 0
        self.total = total
        self.note = ""
        self._iterable = iterable
        self._desc = desc or ""
        self._unit = unit or "it"
        self._interval_s = FLUSH_INTERVAL_S if flush_interval_s is None else flush_interval_s
        self._id = secrets.token_hex(8)
        self._sent_at = 0.0
        self._is_closed = False
        self.refresh()

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise ValueError("this progress bar was made without an iterable")
        try:
            for item in self._iterable:
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> tqdm:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and not getattr(self, "_is_closed", True):
            self.close()

    def set_description(self, desc: str) -> None:
        """Change what is shown before the bar."""
        self._desc = desc
        self._refresh_if_due()

    def update(self, n: float = 1) -> None:
        """``n`` more are done."""
        self.n += n
        self._refresh_if_due()

    def refresh(self) -> None:
        """Show the bar as it is now."""
        if self._is_closed:
            return
        self._sent_at = time.monotonic()
        self._send()

    def close(self) -> None:
        """The bar moves no more. Closing it again does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._send()

    def _refresh_if_due(self) -> None:
        if time.monotonic() - self._sent_at >= self._interval_s:
            self.refresh()

    def _send(self) -> None:
        state = BarState(
            id=self._id,
            owner="",
            desc=self._desc,
            n=self.n,
            total=self.total,
            unit=self._unit,
            is_closed=self._is_closed,
            note=self.note,
        )
        if context.process.is_executor:
            running = context.running()
            name = running.function_name if running is not None else "ract"
            state.owner = f"{name.rpartition('.')[2]} pid={os.getpid()}"
            # One write: other threads print, too.
            sys.stdout.write(f"{MARK}{json.dumps(asdict(state))}\n")
        else:
            instance().handle(state)


class BarManager:
    """All bars that this process shows.

    Args:
        screen: What draws them.
    """

    def __init__(self, screen: bars.Screen) -> None:
        self._screen = screen
        self._lock = threading.RLock()
        self._keys: dict[str, bars.Key] = {}
        self._hidden = 0

    def handle(self, state: BarState) -> None:
        """Show a bar in its newest state."""
        desc = f"({state.owner}) {state.desc}" if state.owner else state.desc
        with self._lock:
            key = self._keys.get(state.id)
            if key is None:
                key = self._keys[state.id] = self._screen.open(desc, state.total, state.unit)
                self._patch_print()
            self._screen.set(key, desc, state.n, state.total, state.note)
            if state.is_closed:
                self._close(state.id)

    def is_empty(self) -> bool:
        """Whether no bar is open."""
        return not self._keys

    def close_all(self) -> None:
        """Close the bars that are left: nothing moves them any more."""
        with self._lock:
            for id in list(self._keys):
                self._close(id)

    def hide_bars(self) -> None:
        """Draw no bars until `unhide_bars` was called as often as this."""
        with self._lock:
            self._hidden += 1
            if self._hidden == 1:
                self._screen.hide()

    def unhide_bars(self) -> None:
        """Undo one `hide_bars`."""
        with self._lock:
            if self._hidden > 0:
                self._hidden -= 1
                if self._hidden == 0:
                    self._screen.show()

    def above(self) -> contextlib.AbstractContextManager[Any]:
        """While it is entered, the process may write to the terminal."""
        return self._screen.above() if self._keys else contextlib.nullcontext()

    def _close(self, id: str) -> None:
        self._screen.close(self._keys.pop(id))
        if not self._keys and builtins.print is safe_print:
            builtins.print = _print

    def _patch_print(self) -> None:
        """``$RACT_TQDM_PATCH_PRINT`` is "0": leave ``print`` alone, though it may tear the bars."""
        if builtins.print is _print and setting("TQDM_PATCH_PRINT", "1") != "0":
            builtins.print = safe_print


_instance: BarManager | None = None
_instance_lock = threading.Lock()


def instance() -> BarManager:
    """The bars of this process."""
    global _instance
    with _instance_lock:
        if _instance is None:
            _instance = BarManager(bars.screen())
        return _instance


def safe_print(*args: Any, **kwargs: Any) -> None:
    """``print`` above the bars. While bars are shown, it takes the place of ``print``."""
    with contextlib.nullcontext() if _instance is None else _instance.above():
        _print(*args, **kwargs)


def handle_line(text: str) -> bool:
    """Take a line that a task or actor printed, if it is the state of a bar.

    Returns:
        Whether it was one; then it need not be shown.
    """
    before, mark, message = text.partition(MARK)
    if not mark:
        return False
    try:
        state = BarState(**json.loads(message))
        if not all(isinstance(x, (int, float)) for x in (state.n, state.total or 0)):
            return False
        if not isinstance(state.note, str):
            return False
    except (ValueError, TypeError):  # somebody printed the mark
        return False
    if before:  # a line that was begun when the bar moved
        safe_print(before)
    instance().handle(state)
    return True
