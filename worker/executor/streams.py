"""What an executor prints, with the name of the task or actor that printed it.

The streams write to log files that the node follows (`ract.worker.logs`). Before a line of another
task or actor than the last one, a line goes out that starts with `MARK` and names it.
"""

from __future__ import annotations

import io
from collections.abc import Callable

MARK = "\x1e"
"""ASCII "record separator"."""


class NamedStream(io.TextIOWrapper):
    """A line-buffered text stream onto a descriptor.

    Args:
        fd: The descriptor; it stays open when the stream is closed.
        name: Returns the name of who prints now.
    """

    def __init__(self, fd: int, name: Callable[[], str]) -> None:
        raw = io.FileIO(fd, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
        self._name_now = name
        self._named = ""
        self._is_line_open = False

    def write(self, text: str) -> int:
        """Write text; first, at the start of a line, who prints it, if it is somebody else."""
        if not text:
            return 0
        if not self._is_line_open and (name := self._name_now()) != self._named:
            self._named = name
            super().write(f"{MARK}{name}\n")
        self._is_line_open = not text.endswith("\n")
        return super().write(text)
