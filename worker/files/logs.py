"""Following the log files that a node's executors write, and turning them over when they are large.

Theory of operation
-------------------
An executor's output goes to ``logs/worker-<process>-<pid>.out`` and ``.err``. `LogTail.poll` reads
what was added to the files of those that live (from `begin` to `finish`), in whole lines. A line
that starts with a mark (`ract.core.logs`) names who wrote what follows.

A file that has reached `Rotation.bytes_max` is renamed to ``<name>.1``, older ones to ``.2`` and so
on, and its process is told to open a new one. Until it has, it writes to the renamed file, which is
read to its end before the new one is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from ract.core.logs import MARK, log_name, name_of
from ract.core.session import setting

READ_BYTES_MAX = 2**20
"""At most so much of one file per poll, so that one chatty process does not starve the others."""

TAIL_BYTES = 64 * 1024

CRASH = b"Fatal Python error"
CRASH_LINES_MAX = 40
BEFORE_CRASH_LINES = 10


@dataclass(frozen=True)
class Rotation:
    """How large a log may become, and how many old ones are kept.

    Attributes:
        bytes_max: 0 without limit.
        backups: How many renamed files are kept.
    """

    bytes_max: int = 512 * 2**20
    backups: int = 5

    @classmethod
    def from_environment(cls) -> Rotation:
        """As ``RACT_ROTATION_MAX_BYTES`` and ``RACT_ROTATION_BACKUP_COUNT`` say."""
        most, count = setting("ROTATION_MAX_BYTES"), setting("ROTATION_BACKUP_COUNT")
        return cls(int(most) if most else cls.bytes_max, int(count) if count else cls.backups)


@dataclass(slots=True)
class _File:
    process: int
    pid: int
    is_err: bool
    offset: int = 0
    pending: bytes = b""  #: an unfinished line
    name: str = ""  #: of the task or actor that writes
    is_renamed: bool = False  #: what is read is the file with ".1" at its end


class LogTail:
    """Follows all log files of a folder.

    Args:
        folder: Where they are.
        on_lines: Called as (process, pid, name, is_err, lines).
        rotation: When files are turned over.
        on_renamed: Called as (process): it is to open its files anew.
    """

    def __init__(
        self,
        folder: str,
        on_lines: Callable[[int, int, str, bool, list[str]], None],
        rotation: Rotation | None = None,
        on_renamed: Callable[[int], None] = lambda process: None,
    ) -> None:
        self._folder = folder
        self._on_lines = on_lines
        self._rotation = rotation or Rotation(0, 0)
        self._on_renamed = on_renamed
        self._files: dict[int, dict[str, _File]] = {}  # of living processes, by their number

    def begin(self, process: int, pid: int) -> None:
        """A process has begun; its files are there soon."""
        self._files[process] = {
            log_name(process, pid, suffix): _File(process, pid, suffix == "err")
            for suffix in ("out", "err")
        }

    def poll(self) -> bool:
        """Read what was added since the last time; returns whether there was anything."""
        found = False
        for files in self._files.values():
            for name, file in files.items():
                if self._read(name, file):
                    found = True
                    path = os.path.join(self._folder, name)
                    if 0 < self._rotation.bytes_max <= file.offset and not file.is_renamed:
                        self._turn_over(path, file)
        return found

    def catch_up(self) -> None:
        """Read all that has been written so far."""
        while self.poll():
            pass

    def finish(self, process: int) -> None:
        """A process has ended: report the rest of what it wrote, an unfinished line too."""
        for name, file in self._files.pop(process, {}).items():
            while self._read(name, file):
                pass
            if file.pending:
                self._report(file, [file.pending])

    def _read(self, name: str, file: _File) -> bool:
        """Read a piece of a file; whether there may be more."""
        path = os.path.join(self._folder, name)
        now = path + ".1" if file.is_renamed else path
        try:
            size = os.stat(now).st_size
        except FileNotFoundError:  # it is not there yet, or the quota has taken it
            return False
        if size <= file.offset:
            if not file.is_renamed or not os.path.exists(path):
                return False
            file.is_renamed, file.offset = False, 0
            if not self._rotation.backups:
                os.unlink(now)
            return True
        with open(now, "rb") as opened:
            opened.seek(file.offset)
            data = opened.read(READ_BYTES_MAX)
        file.offset += len(data)
        *lines, file.pending = (file.pending + data).split(b"\n")
        self._report(file, lines)
        return True

    def _turn_over(self, path: str, file: _File) -> None:
        for i in range(max(1, self._rotation.backups) - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}.{i}", f"{path}.{i + 1}")
        os.replace(path, f"{path}.1")
        file.is_renamed = True
        self._on_renamed(file.process)

    def _report(self, file: _File, lines: list[bytes]) -> None:
        text: list[str] = []
        for line in lines:
            if not line.startswith(MARK):
                text.append(line.decode("utf-8", "replace"))
                continue
            self._deliver(file, text)
            text = []
            file.name = name_of(line)
        self._deliver(file, text)

    def _deliver(self, file: _File, text: list[str]) -> None:
        if text:
            self._on_lines(file.process, file.pid, file.name, file.is_err, text)

    def tail(self, process: int, pid: int, is_err: bool = True, lines: int = 20) -> str:
        """The last lines that a process wrote; of a crash report, what matters of it."""
        path = os.path.join(self._folder, log_name(process, pid, "err" if is_err else "out"))
        try:
            with open(path, "rb") as opened:
                opened.seek(0, os.SEEK_END)
                opened.seek(max(0, opened.tell() - TAIL_BYTES))
                written = [line for line in opened if not line.startswith(MARK)]
        except FileNotFoundError:
            return ""
        return b"".join(_crash(written) or written[-lines:]).decode("utf-8", "replace")


def _crash(written: list[bytes]) -> list[bytes]:
    """The newest report of `faulthandler`: what was said before, and the thread that crashed."""
    starts = [i for i, line in enumerate(written) if line.startswith(CRASH)]
    if not starts:
        return []
    said = written[max(0, starts[-1] - BEFORE_CRASH_LINES) : starts[-1] + 1]
    report = written[starts[-1] + 1 :]
    current = next((i for i, line in enumerate(report) if line.startswith(b"Current thread")), 0)
    stack = report[current:]
    end = next((i for i, line in enumerate(stack) if not line.strip()), len(stack))
    return [*said, *stack[: min(end, CRASH_LINES_MAX)]]
