"""What the cluster pushes to a driver: printed lines of tasks and actors, errors, warnings.

``sys.stdout`` may be anything that a program or a notebook has put there. So lines are printed on a
thread for code of users (`ract.client.process.user_code`), and the IO thread only hands them over.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from typing import Any

from ract.client.people import colors
from ract.client.people.log_lines import LineFilter, Settings
from ract.client.process import user_code
from ract.core import naming
from ract.core.messages import Pushed
from ract.core.seams import seam

BAR_MARK = "__ract_tqdm__:"
"""In lines that move a progress bar; what they mean is `ract.util.tqdm`'s, if there are any."""

LOOK_S = 0.25
"""How often is looked whether the time of repeated lines is over."""

RECORD_MARK = '{"asctime": "'
"""How a record in JSON begins; a program that reads it wants nothing before it."""


class DriverOutput:
    """Prints pushed messages in the driver.

    Args:
        to_driver: Whether printed lines of tasks and actors are shown.
        host: The address of this node; lines of others name theirs.
        has_records: Whether tasks and actors log JSON: such lines say themselves whose they are.
    """

    def __init__(self, to_driver: bool, host: str = "", has_records: bool = False) -> None:
        self._to_driver = to_driver
        self._host = host
        self._has_records = has_records
        self._filter = LineFilter(Settings.from_environment())
        # For the filter alone, and never held while something is printed: when printing waits for
        # long, another thread goes on with what comes next.
        self._lock = threading.Lock()

    def receive(self, message: Any) -> None:
        """Take one message that the runtime does not handle itself (on the IO thread)."""
        if isinstance(message, Pushed):
            user_code.run(partial(self._show, message))

    def _show(self, message: Pushed) -> None:
        if message.kind == "log":
            self._log(message.data)
        else:
            kind = message.data.get("type", "error")
            print(f"({naming.program} {kind}) {message.data.get('message', '')}", file=sys.stderr)

    def tick(self) -> float | None:
        """Show repeated lines whose time is over; returns in how many seconds to look again."""
        if not self._filter.is_waiting:
            return None
        user_code.run(self._show_due)
        return LOOK_S

    def _show_due(self) -> None:
        with self._lock:
            lines = self._filter.due(time.monotonic())
        _print(lines)

    def close(self) -> None:
        """Show what is still held back."""
        if self._to_driver:
            with self._lock:
                lines = self._filter.rest()
            _print(lines)
        if (bars := sys.modules.get("ract.util.tqdm")) is not None:
            bars.instance().close_all()

    def _log(self, data: dict[str, Any]) -> None:
        if not self._to_driver:
            return
        name, pid, host = data.get("name") or naming.program, data.get("pid"), data.get("ip")
        place = f", ip={host}" if host and host != self._host else ""
        source, is_err = f"{host} {pid}", bool(data.get("is_err"))
        prefix = colors.prefix(f"({name} pid={pid}{place})", pid, is_err)
        now = time.monotonic()
        for line in data.get("lines", ()):
            if BAR_MARK in line and seam("bars.handle_line")(line):
                continue
            if self._has_records and line.startswith(RECORD_MARK):
                _print([(is_err, line)])
                continue
            with self._lock:
                lines = self._filter.line(now, source, prefix, line, is_err)
            _print(lines)


def _print(lines: list[tuple[bool, str]]) -> None:
    for is_err, line in lines:
        print(line, file=sys.stderr if is_err else sys.stdout)
    if lines:
        sys.stdout.flush()
        sys.stderr.flush()
