"""Where the saved state of durable actors is: a folder, or a URL that fsspec understands.

Theory of operation
-------------------
Each actor has a folder named after the cluster and itself; in it each *incarnation* has a folder of
its own. A new incarnation begins with a *claim*: it renames the folder of its predecessor to its
own. That is one atomic step, after which the predecessor, if it should still be alive somewhere
(its node was cut off and declared dead), can save no more: the folder it knows is gone. A state is
written beside the old one, synced, and takes its place in one step.

Behind a URL there is nothing as good for all kinds of stores. There an incarnation has one file,
and looks for files of later ones before and after it writes; of two that write at the same moment
the later one's file counts. File systems with an atomic move get the new state beside the old one
first; stores of whole objects (S3 and the like) replace an object in one step anyway.

Only the executor of the actor claims and saves; the node daemon removes.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Any, Protocol

from ract.core.errors import DurableStateError
from ract.core.security import home
from ract.core.session import setting

STATE = "state"
_ATOMIC_MOVES = {"file", "local", "sftp", "ssh", "smb", "hdfs", "webhdfs", "arrow_hdfs"}


class SupersededError(Exception):
    """A later incarnation of the actor has claimed the state: this one is over."""


class Place(Protocol):
    """The state of one actor."""

    def claim(self, incarnation: int) -> bytes | None:
        """Make the newest state this incarnation's; return it, None if there is none.

        Raises:
            SupersededError: a later incarnation was faster. OSError: the place cannot be used.
        """

    def save(self, data: bytes) -> None:
        """Replace the state, in one step, by another one that is safely stored.

        Raises:
            SupersededError: a later incarnation has claimed it. OSError: it could not be written.
        """

    def remove(self) -> None:
        """Remove all of it, if it is there."""


def place_of(path: str, cluster_id: bytes, actor_id: bytes) -> Place:
    """The place for an actor's state.

    Args:
        path: A folder or a URL; empty for ``RACT_durable_path`` of this process, or else
            ``durable`` below ``$RACT_HOME`` or ``~/.ract``.
        cluster_id, actor_id: Whose it is.

    Raises:
        DurableStateError: the URL's protocol is unknown, or its driver is not installed.
    """
    path = path or setting("durable_path") or str(home() / "durable")
    name = f"{cluster_id.hex()}-{actor_id.hex()}"
    protocol, separator, rest = path.partition("://")
    if not separator:
        return FolderPlace(os.path.join(path, name))
    if protocol == "file":
        return FolderPlace(os.path.join(rest, name))
    return UrlPlace(path.rstrip("/") + "/" + name)


class FolderPlace:
    """State in a folder of a file system, perhaps a shared one."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._mine = ""

    def __str__(self) -> str:
        return self.folder

    def claim(self, incarnation: int) -> bytes | None:
        """As `Place.claim`."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        found = sorted(int(name) for name in os.listdir(self.folder) if name.isdigit())
        mine = os.path.join(self.folder, str(incarnation))
        if found and found[-1] > incarnation:
            raise SupersededError(f"incarnation {found[-1]} has claimed {self.folder}")
        if found and found[-1] < incarnation:
            os.rename(os.path.join(self.folder, str(found[-1])), mine)
        else:
            os.makedirs(mine, mode=0o700, exist_ok=True)
        _sync(self.folder)
        self._mine = mine
        try:
            with open(os.path.join(mine, STATE), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def save(self, data: bytes) -> None:
        """As `Place.save`."""
        beside = os.path.join(self._mine, f"{STATE}.new")
        try:
            fd = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(fd, left) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(beside, os.path.join(self._mine, STATE))
            _sync(self._mine)
        except FileNotFoundError as error:
            raise SupersededError(f"{self._mine} is not there any more") from error

    def remove(self) -> None:
        """As `Place.remove`."""
        shutil.rmtree(self.folder, ignore_errors=True)


class UrlPlace:
    """State behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._folder = open_url(url)
        self._moves = not _ATOMIC_MOVES.isdisjoint(_protocols(self._fs))
        self._incarnation = 0

    def __str__(self) -> str:
        return self.url

    def claim(self, incarnation: int) -> bytes | None:
        """As `Place.claim`."""
        self._incarnation = incarnation
        self._fs.makedirs(self._folder, exist_ok=True)
        older = self._others()
        data: bytes | None = None
        if older:
            data = self._fs.cat_file(self._path(older[-1]))
            self._fs.pipe_file(self._path(incarnation), data)
        self._others()
        for each in older:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._path(each))
        return data

    def save(self, data: bytes) -> None:
        """As `Place.save`."""
        self._others()
        path = self._path(self._incarnation)
        if self._moves:
            self._fs.pipe_file(f"{path}.new", data)
            self._fs.mv(f"{path}.new", path)
        else:
            self._fs.pipe_file(path, data)
        self._others()

    def remove(self) -> None:
        """As `Place.remove`."""
        with suppress(FileNotFoundError):
            self._fs.rm(self._folder, recursive=True)

    def _path(self, incarnation: int) -> str:
        return f"{self._folder}/{incarnation}.{STATE}"

    def _others(self) -> list[int]:
        """Earlier incarnations that have a file. Raises SupersededError if a later one has."""
        self._fs.invalidate_cache()
        try:
            listed = self._fs.ls(self._folder, detail=False)
        except FileNotFoundError:  # stores of objects have no empty folders
            listed = []
        names = [name.rpartition("/")[2] for name in listed]
        ours = (name.removesuffix(f".{STATE}") for name in names if name.endswith(f".{STATE}"))
        found = sorted(int(name) for name in ours if name.isdigit())
        if found and found[-1] > self._incarnation:
            raise SupersededError(f"incarnation {found[-1]} has claimed {self.url}")
        return [each for each in found if each < self._incarnation]


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        DurableStateError: fsspec, or the driver for the protocol, is missing or refuses the URL.
    """
    try:
        import fsspec
    except ImportError as error:
        raise DurableStateError(f"{url}: fsspec is needed: pip install 'ract[fsspec]'") from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DurableStateError(f"{url} cannot be opened: {error}") from error
    return fs, path


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
