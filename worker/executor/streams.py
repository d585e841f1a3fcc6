"""What an executor prints, with the name of the task or actor that printed it.

The streams write to log files that the node follows (`ract.worker.files.logs`). Before a line of
another call than the last one, a line goes out that starts with a mark and names who writes, and
the number of its task (`ract.core.logs`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable

from ract.core import logs

MARK = logs.MARK.decode()
NUMBER = logs.NUMBER.decode()


def log_path(session_dir: str, process: int, suffix: str) -> str:
    """Where this process writes: ``suffix`` is "out" or "err"."""
    return os.path.join(session_dir, "logs", logs.log_name(process, os.getpid(), suffix))


def open_log(path: str, fd: int) -> None:
    """Have a descriptor of this process lead to the end of a log file."""
    opened = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(opened, fd)
    os.close(opened)


class NamedStream(io.TextIOWrapper):
    """A line-buffered text stream onto a descriptor.

    Args:
        fd: The descriptor; it stays open when the stream is closed.
        who: Returns the name of who prints now, and the number of the task (0 for none).
    """

    def __init__(self, fd: int, who: Callable[[], tuple[str, int]]) -> None:
        raw = io.FileIO(fd, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
        self._who = who
        self._named: tuple[str, int] = ("", 0)
        self._is_line_open = False

    def write(self, text: str) -> int:
        """Write text; first, at the start of a line, who prints it, if it is somebody else."""
        if not text:
            return 0
        if not self._is_line_open and (who := self._who()) != self._named:
            self._named = who
            name, number = who
            line = " ".join(name.splitlines())  # what an actor's __repr__ says may have several
            super().write(f"{MARK}{line}{NUMBER}{number:x}\n")
        self._is_line_open = not text.endswith("\n")
        return super().write(text)

    def name_again(self) -> None:
        """The file is a new one: its first line is to say who prints."""
        self._named = ("", -1)
