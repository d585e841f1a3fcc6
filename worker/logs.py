"""Following the log files that a node's executors write.

An executor's output goes to ``logs/worker-<process>-<pid>.out`` and ``.err``. `LogTail.poll` reads
what was added, in whole lines. A line that starts with `MARK` names who wrote what follows (see
`ract.worker.executor.streams`).
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

READ_BYTES_MAX = 2**20
"""At most so much of one file per poll, so that one chatty process does not starve the others."""

TAIL_BYTES = 16 * 1024
MARK = b"\x1e"

_NAME = re.compile(r"worker-(\d+)-(\d+)\.(out|err)")


@dataclass(slots=True)
class _File:
    process: int
    pid: int
    is_err: bool
    offset: int = 0
    pending: bytes = b""  #: an unfinished line
    name: str = ""  #: of the task or actor that writes
    is_over: bool = False  #: its process has ended and all of it was reported


class LogTail:
    """Follows all log files of a folder.

    Args:
        folder: Where they are.
        on_lines: Called as (process, pid, name, is_err, lines).
    """

    def __init__(
        self, folder: str, on_lines: Callable[[int, int, str, bool, list[str]], None]
    ) -> None:
        self._folder = folder
        self._on_lines = on_lines
        self._files: dict[str, _File] = {}

    def poll(self) -> None:
        """Read what was added since the last time."""
        self._find()
        for name, file in self._files.items():
            if not file.is_over:
                self._read(name, file)

    def _find(self) -> None:
        for name in os.listdir(self._folder):
            if name not in self._files and (found := _NAME.fullmatch(name)):
                process, pid, kind = found.groups()
                self._files[name] = _File(int(process), int(pid), kind == "err")

    def finish(self, process: int) -> None:
        """A process has ended: report the rest of what it wrote, an unfinished line too."""
        self._find()
        for name, file in self._files.items():
            if file.process == process and not file.is_over:
                while self._read(name, file):
                    pass
                if file.pending:
                    self._report(file, [file.pending])
                file.is_over = True

    def _read(self, name: str, file: _File) -> bool:
        path = os.path.join(self._folder, name)
        if os.stat(path).st_size <= file.offset:
            return False
        with open(path, "rb") as opened:
            opened.seek(file.offset)
            data = opened.read(READ_BYTES_MAX)
        file.offset += len(data)
        *lines, file.pending = (file.pending + data).split(b"\n")
        self._report(file, lines)
        return True

    def _report(self, file: _File, lines: list[bytes]) -> None:
        text: list[str] = []
        for line in lines:
            if not line.startswith(MARK):
                text.append(line.decode("utf-8", "replace"))
                continue
            self._deliver(file, text)
            text = []
            file.name = line[len(MARK) :].decode("utf-8", "replace")
        self._deliver(file, text)

    def _deliver(self, file: _File, text: list[str]) -> None:
        if text:
            self._on_lines(file.process, file.pid, file.name, file.is_err, text)

    def tail(self, process: int, is_err: bool = True, lines: int = 20) -> str:
        """The last lines that a process wrote."""
        kind = "err" if is_err else "out"
        for name in os.listdir(self._folder):
            found = _NAME.fullmatch(name)
            if found and int(found[1]) == process and found[3] == kind:
                with open(os.path.join(self._folder, name), "rb") as opened:
                    opened.seek(0, os.SEEK_END)
                    opened.seek(max(0, opened.tell() - TAIL_BYTES))
                    last = deque((x for x in opened if not x.startswith(MARK)), maxlen=lines)
                return b"".join(last).decode("utf-8", "replace")
        return ""
