"""Files of shared memory: the segments of a node's object store."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

FOLDER = "/dev/shm"


def create(path: str, size: int) -> None:
    """Create a segment's file and reserve its pages, so that writing it cannot fail later.

    Reserving matters: a write to a page that the kernel cannot provide is a SIGBUS in the writer.

    Raises:
        OSError: it exists, or there is no room (ENOSPC); then there is no file.
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Remove a segment's file, if it is there, and give its pages back.

    Whoever still maps the file keeps it in existence. Therefore only files of objects that nobody
    holds are removed, and the pages go when the last mapping does.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def map_for_read(path: str, offset: int, size: int) -> tuple[mmap.mmap, memoryview]:
    """Map a file; returns the mapping and a read-only view of ``size`` bytes at ``offset``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(fd, offset + size, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    return mapping, memoryview(mapping)[offset : offset + size]


def map_for_write(path: str, offset: int, size: int) -> tuple[mmap.mmap, memoryview]:
    """Map a file; returns the mapping and a writable view of ``size`` bytes at ``offset``."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(fd, offset + size)
    finally:
        os.close(fd)
    return mapping, memoryview(mapping)[offset : offset + size]


def free_bytes() -> int:
    """Bytes that shared memory has left on this machine."""
    found = os.statvfs(FOLDER)
    return found.f_bavail * found.f_frsize


def remove_prefix(prefix: str) -> int:
    """Remove every file whose path begins with ``prefix``; returns how many there were."""
    folder, _, start = prefix.rpartition("/")
    count = 0
    for path in Path(folder).iterdir():
        if path.name.startswith(start):
            remove(str(path))
            count += 1
    return count
