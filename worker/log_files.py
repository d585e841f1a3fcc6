"""Reading a node's log files for somebody else: a list, and pieces of bounded size.

Only files that lie in the node's ``logs`` folder can be read, whatever name is asked for.
"""

from __future__ import annotations

import os
import stat
from typing import Any

PIECE_BYTES_MAX = 2**20
FILES_MAX = 10_000


def listed(folder: str) -> list[dict[str, Any]]:
    """The files of a folder, the newest first: name, size (bytes), changed (seconds since epoch)."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # rotated away meanwhile
                continue
            if stat.S_ISREG(facts.st_mode):
                found.append((facts.st_mtime, entry.name, facts.st_size))
    found.sort(reverse=True)
    return [
        {"name": name, "size": size, "changed": changed}
        for changed, name, size in found[:FILES_MAX]
    ]


def read(folder: str, name: str, offset: int, size: int) -> dict[str, Any]:
    """A piece of a file: ``data``, ``offset`` where it begins and ``end`` of the file, in bytes.

    Args:
        folder: Where the file lies.
        name: Its name, without folders.
        offset: Where to begin; negative: so many bytes before the end.
        size: At most so many bytes.

    Raises:
        LookupError: There is no such file in the folder.
    """
    if not name or os.path.basename(name) != name or name in (".", ".."):
        raise LookupError(f"{name!r} is not the name of a log file")
    try:
        fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise LookupError(f"there is no log file {name!r} (any more): {error.strerror}")
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise LookupError(f"{name!r} is not a log file")
        begin = max(0, facts.st_size + offset) if offset < 0 else min(offset, facts.st_size)
        data = os.pread(fd, max(0, min(size, PIECE_BYTES_MAX)), begin)
    finally:
        os.close(fd)
    return {"data": data, "offset": begin, "end": facts.st_size}
