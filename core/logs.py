"""Reading the log files of a node: which there are, and pieces of them.

A line that starts with `MARK` says who wrote what follows, up to the next one: a name, and the
number of the task (`ract.worker.executor.streams`). Such lines are not shown.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable
from typing import Any

MARK = b"\x1e"
"""ASCII "record separator"."""

NUMBER = b"\x1f"
"""Between the name in a mark and the number of the task, in hex digits."""

PIECE_BYTES_MAX = 2**20
LINE_BYTES_MAX = 2**20
"""A longer line is cut into pieces, so that one without end can be read at all."""

NAME = re.compile(r"worker-(\d+)-(\d+)\.(out|err)(?:\.(\d+))?")

Args = dict[str, Any]


def log_name(process: int, pid: int, suffix: str) -> str:
    """The file that a process writes to: ``suffix`` is "out" or "err"."""
    return f"worker-{process}-{pid}.{suffix}"


def list_files(folder: str, args: Args) -> list[dict[str, Any]]:
    """The files that match ``glob``, by name."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_file() or not fnmatch.fnmatch(entry.name, str(args.get("glob") or "*")):
            continue
        about = entry.stat()
        facts = {"name": entry.name, "size": about.st_size}
        facts["modified_ms"] = round(about.st_mtime * 1000)
        named = NAME.fullmatch(entry.name)
        if named is not None:
            facts.update(process=int(named[1]), pid=int(named[2]), is_err=named[3] == "err")
        found.append(facts)
    return found


def read(folder: str, args: Args) -> dict[str, Any]:
    """A piece of a file, in whole lines.

    Args:
        folder: Where it is.
        args: ``filename``, or ``pid`` with ``suffix``; ``offset``, or ``tail``: how many of the
            last lines, -1 for all; ``bytes``: at most so many; ``task``: only what this task wrote,
            by its number; ``rest``: whether an unfinished last line counts as one.

    Returns:
        ``filename``, ``data``, ``offset`` of what follows, ``size`` of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name that leads elsewhere.
    """
    name = _name(folder, args)
    task = args.get("task")
    most = min(int(args.get("bytes") or PIECE_BYTES_MAX), PIECE_BYTES_MAX)
    with open(os.path.join(folder, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = args.get("offset")
        if offset is None:
            tail = int(args.get("tail", -1))
            offset = 0 if task is not None or tail < 0 else _start_of_tail(file, size, tail)
        offset = int(offset) if int(offset) <= size else 0  # the file was turned over
        writes = task is None or _is_writing(file, offset, task)
        file.seek(offset)
        data = file.read(max(most, 1))
    end = data.rfind(b"\n") + 1
    is_rest = bool(args.get("rest")) and offset + len(data) >= size
    if is_rest or (not end and len(data) >= LINE_BYTES_MAX):
        end = len(data)
    kept = []
    for line in data[:end].splitlines(keepends=True):
        if not line.startswith(MARK):
            kept.append(line if writes else b"")
        elif task is not None:
            writes = _number_of(line) == task
    return {"filename": name, "data": b"".join(kept), "offset": offset + end, "size": size}


OPS: dict[str, Callable[[str, Args], Any]] = {"log_files": list_files, "log": read}


def task_number_of(mark: bytes) -> int:
    """The number in a mark; 0 if it has none."""
    return _number_of(mark)


def name_of(mark: bytes) -> str:
    """The name in a mark."""
    return mark[len(MARK) :].partition(NUMBER)[0].decode("utf-8", "replace")


def _number_of(mark: bytes) -> int:
    number = mark.rstrip(b"\n").partition(NUMBER)[2]
    try:
        return int(number or b"0", 16)
    except ValueError:  # a program wrote it
        return 0


def _name(folder: str, args: Args) -> str:
    name = args.get("filename")
    if name:
        if os.path.basename(name) != name or name in (".", ".."):
            raise ValueError(f"{name!r} is not the name of a file")
        if not os.path.isfile(os.path.join(folder, name)):
            raise FileNotFoundError(f"there is no log file {name}")
        return name
    pid, suffix = int(args["pid"]), args.get("suffix", "out")
    if suffix not in ("out", "err"):
        raise ValueError(f"suffix {suffix!r} is not 'out' or 'err'")
    for entry in sorted(os.listdir(folder)):
        found = NAME.fullmatch(entry)
        if found and int(found[2]) == pid and found[3] == suffix and not found[4]:
            return entry
    raise FileNotFoundError(f"process {pid} has no log (any more)")


def _start_of_tail(file: Any, size: int, lines: int) -> int:
    """Where the last so many lines begin, marks not counted."""
    if lines == 0:
        return size
    at, step, data = size, 64 * 1024, b""
    while at > 0:
        step = min(2 * step, at)
        at -= step
        file.seek(at)
        data = file.read(step) + data
        first = 0 if at == 0 else data.find(b"\n") + 1  # before it is a part of a line
        starts, offset = [], first
        for line in data[first:].splitlines(keepends=True):
            if not line.startswith(MARK):
                starts.append(at + offset)
            offset += len(line)
        if len(starts) >= lines:
            return starts[-lines]
    return 0


def _is_writing(file: Any, offset: int, task: int) -> bool:
    """Whether what is at an offset was written by a task: the last mark before says so."""
    at, tail = offset, b""
    while at > 0:
        step = min(256 * 1024, at)
        at -= step
        file.seek(at)
        block = file.read(step) + tail
        found = block.rfind(b"\n" + MARK)
        if found >= 0 or (at == 0 and block.startswith(MARK)):
            start = found + 1 if found >= 0 else 0
            return _number_of(block[start:].split(b"\n", 1)[0]) == task
        tail = block[:4096]
    return False
