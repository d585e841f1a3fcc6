"""A node's session directory: made with a lock that the node keeps, removed at its end.

Whoever can take a directory's lock knows that its owner is dead, and may remove it together with
the shared memory that bears its name (`clean_dead_sessions`).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ract.core import history
from ract.core.session import root_folder
from ract.worker.files import shm, spill_places

NAME_DIGITS = 8
DIR_BYTES_MAX = 107 - len("/e268435456.sock")
"""A Unix socket's path has at most 107 bytes (unix(7))."""


def shm_prefix(name: str) -> str:
    """Path up to the segment's number of the shared memory of the session ``name``."""
    return f"{shm.FOLDER}/ract-{os.getuid()}-{name}-"


class Session:
    """The session directory of a living node.

    Attributes:
        dir: Its path.
        shm_prefix: What paths of the node's segments begin with.
        lock_fd: An open file with an exclusive flock; the session lives as long as it is held.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.dir = str(path)
        self.shm_prefix = shm_prefix(path.name)
        self.lock_fd = lock_fd

    @classmethod
    def create(cls, node_id: bytes) -> Session:
        """Make the directory of a node that starts."""
        path = root_folder() / node_id.hex()[:NAME_DIGITS]
        if len(os.fsencode(path)) > DIR_BYTES_MAX:
            raise ValueError(
                f"{path} is too long for Unix sockets in it ({DIR_BYTES_MAX} bytes at most): "
                "set RACT_TMPDIR to a shorter folder"
            )
        path.mkdir(mode=0o700)
        fd = _lock(path)
        if fd is None:
            raise RuntimeError(f"{path} was locked by somebody else at birth")
        (path / "logs").mkdir(mode=0o700)
        return cls(path, fd)

    def keep_logs(self, cluster_id: str) -> None:
        """From here on the node's logs are written to the history, if there is one.

        ``logs`` becomes a link to where they are, so that they outlive this directory.
        """
        session = history.open_session(cluster_id)
        if session is None:
            return
        path = Path(self.dir)
        link = path / "logs.new"
        link.symlink_to(history.log_folder(session, path.name))
        (path / "logs").rmdir()  # nothing has been written yet
        link.rename(path / "logs")

    def write_node_json(self, data: dict[str, Any]) -> None:
        """Tell drivers how to find the node; complete or not at all."""
        path = Path(self.dir, "node.json")
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(data))
        beside.chmod(0o600)
        beside.replace(path)

    def remove(self) -> None:
        """Remove what is left of the session. Idempotent."""
        shm.remove_prefix(self.shm_prefix)
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


def clean_dead_sessions() -> list[str]:
    """Remove what crashed nodes of this user left; returns their names."""
    removed = []
    for path in root_folder().iterdir():
        if not path.is_dir() or len(path.name) != NAME_DIGITS or not _is_abandoned(path):
            continue
        shm.remove_prefix(shm_prefix(path.name))
        spill_places.remove_left(str(path))
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path.name)
    return removed


def _is_abandoned(path: Path) -> bool:
    # A directory without a lock file is being made or removed right now.
    if not (path / "lock").exists():
        return False
    fd = _lock(path)
    if fd is None:
        return False
    os.close(fd)
    return True


def _lock(path: Path) -> int | None:
    """Take the lock; None if somebody has it."""
    try:
        fd = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
