"""Where what has ended can still be read: one folder per cluster, with a quota for all of them.

Theory of operation
-------------------
``<root>/history/<first digits of the cluster's id>/`` is a *session*:

* ``about.json``   when it began, written by whoever comes first;
* ``lock``         flocked by the scheduler while it lives;
* ``state.db``     what has ended (`ract.scheduler.durable.history`);
* ``logs/<node>/`` what the executors of a node of this machine write, from the beginning: so nobody
  needs to move anything when processes are killed.

`prune` keeps all sessions together below a number of bytes, and drops those that are too old. What
belongs to living processes is never removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ract.core.session import root_folder, setting

NAME_DIGITS = 16
BYTES_MAX = 200 * 2**20
AGE_DAYS_MAX = 7.0

_LOG_OF_PROCESS = re.compile(r"worker-\d+-(\d+)\.(?:out|err)(?:\.\d+)?")


def bytes_max() -> int:
    """How much all sessions may take on disk (``RACT_history_max_bytes``); 0 for no history."""
    given = setting("history_max_bytes")
    return int(given) if given else BYTES_MAX


def age_s_max() -> float:
    """How long ended sessions are kept (``RACT_history_max_days``), in seconds."""
    given = setting("history_max_days")
    return float(given or AGE_DAYS_MAX) * 86400.0


def folder() -> Path:
    """Where the sessions are."""
    return root_folder() / "history"


def open_session(cluster_id: str) -> Path | None:
    """The folder of a cluster's session, made if need be; None if there is to be no history."""
    if bytes_max() <= 0:
        return None
    path = folder() / cluster_id[:NAME_DIGITS]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = {"cluster_id": cluster_id, "started": time.time()}
    with contextlib.suppress(FileExistsError), (path / "about.json").open("x") as file:
        json.dump(about, file)
    return path


def log_folder(session: Path, node: str) -> Path:
    """Where a node writes logs; ``node`` is the name of its session directory."""
    path = session / "logs" / node
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def lock(session: Path) -> int | None:
    """Hold a session as its scheduler; an open file, or None if somebody else holds it."""
    fd = os.open(session / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


# --------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Session:
    """A cluster that is, or was.

    Attributes:
        name: The first digits of the cluster's id.
        path: Its folder.
        started: Seconds since the epoch.
        ended: Likewise; 0.0 while it runs.
        bytes: What it takes on disk.
    """

    name: str
    path: Path
    started: float
    ended: float
    bytes: int

    @property
    def is_running(self) -> bool:
        """Whether its scheduler or a node of it lives on this machine."""
        return not self.ended


def sessions() -> list[Session]:
    """Those that are remembered on this machine, oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder().iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError):
                about = json.loads((path / "about.json").read_text())
                ended = 0.0 if _lives(path) else _ended_at(path)
                size = sum(size for _, size, _ in _files(path))
                found.append(Session(path.name, path, about["started"], ended, size))
    return sorted(found, key=lambda session: session.started)


def find(name: str) -> Session:
    """A session by the beginning of its name; "last": the newest that has ended; "current".

    Raises:
        LookupError: there is none, or several.
    """
    known = sessions()
    if name in ("last", "current"):
        matching = [s for s in known if s.is_running == (name == "current")][-1:]
    else:
        matching = [s for s in known if s.name.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(s.name for s in known) or "none"
    what = {"last": "no session that has ended is remembered", "current": "no cluster runs here"}
    many = "several sessions have" if matching else "no session has"
    raise LookupError(
        f"{what.get(name, f'{many} a name that begins with {name!r}')}; remembered: {names}"
    )


# --------------------------------------------------------------------------- quota


def prune(now: float) -> list[Path]:
    """Remove what is too old, then what is too much, the oldest first; returns what was removed.

    Args:
        now: Seconds since the epoch.
    """
    known = sessions()
    removed: list[Path] = []
    for session in list(known):
        if not session.is_running and now - session.ended > age_s_max():
            known.remove(session)
            shutil.rmtree(session.path, ignore_errors=True)
            removed.append(session.path)
    excess = sum(session.bytes for session in known) - bytes_max()
    for session in known:
        if excess > 0 and not session.is_running:
            shutil.rmtree(session.path, ignore_errors=True)
            removed.append(session.path)
            excess -= session.bytes
    if excess <= 0:
        return removed
    old = sorted(
        (modified, size, path)
        for session in known
        if session.is_running
        for path, size, modified in _files(session.path / "logs")
        if _is_over(path)
    )
    for _, size, path in old:
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path)
            excess -= size
    return removed


def _files(path: Path) -> Iterator[tuple[Path, int, float]]:
    """(path, size, modified) of all files below; those that go meanwhile are left out."""
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.stat(os.path.join(parent, name))
                yield Path(parent, name), found.st_size, found.st_mtime


def _is_over(log: Path) -> bool:
    """Whether nobody writes to a log any more: a rotated one, or of a process that has ended."""
    found = _LOG_OF_PROCESS.fullmatch(log.name)
    if found is None:
        return False
    if log.name[-1].isdigit():
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's process has the number now
        return True
    return False


def _ended_at(path: Path) -> float:
    times = [modified for _, _, modified in _files(path)]
    return max(times, default=path.stat().st_mtime)


def _lives(path: Path) -> bool:
    """Whether the scheduler holds its lock, or a node of it its session directory."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        return any((root_folder() / node.name).exists() for node in (path / "logs").iterdir())
    return False
