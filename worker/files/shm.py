"""Files of shared memory: the segments of a node's object store."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ract.core.session import setting

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


def create_on_disk(path: str, target: str, size: int) -> None:
    """Create a segment whose path leads to a file on disk, for what is larger than the memory.

    Raises:
        OSError: no room on the disk; then there is no file.
    """
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    _check_room(os.path.dirname(target), size)
    try:
        create(target, size)
        os.symlink(target, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        raise


def move_to_disk(path: str, target: str) -> int:
    """Copy a segment to disk and have its path lead there.

    Whoever opens the path meanwhile gets the one or the other. Who has the memory mapped keeps it.

    Raises:
        OSError: no room on the disk; then nothing has changed.
    """
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    size = os.stat(path).st_size
    _check_room(os.path.dirname(target), size)
    link = f"{path}.link"  # beside the path, so that it can take its place at once
    try:
        shutil.copyfile(path, target)
        os.chmod(target, 0o600)
        os.symlink(target, link)
        os.replace(link, path)
    except OSError:
        for left in (target, link):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
        raise
    return size


def fill_on_disk(path: str, target: str, size: int, fill: Callable[[str], None]) -> None:
    """As `create_on_disk`, with content that ``fill(target)`` writes before the path leads there.

    Raises:
        OSError: no room on the disk, or ``fill`` failed; then there is no file.
    """
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    _check_room(os.path.dirname(target), size)
    try:
        create(target, size)
        fill(target)
        os.symlink(target, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        raise


def _check_room(folder: str, size: int) -> None:
    """Leave some of the disk to others. Raises OSError."""
    found = os.statvfs(folder)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    most = float(setting("local_fs_capacity_threshold", "0.95") or 0.95)
    if total - free + size > most * total:
        used = f"{(total - free) / total:.0%} of {total} bytes are used"
        raise OSError(errno.ENOSPC, f"no room for {size} bytes: {used}, {most:.0%} may be", folder)


def remove(path: str) -> None:
    """Remove a segment's file, if it is there, and give its pages back; on disk likewise.

    Whoever still maps the file keeps it in existence. Therefore only files of objects that nobody
    holds are removed, and the pages go when the last mapping does.
    """
    with contextlib.suppress(OSError):  # most are not on disk
        target = os.readlink(path)
        os.unlink(target)
        os.rmdir(os.path.dirname(target))  # the last one takes the folder along
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
