"""Where objects go that have no room in shared memory: folders, or stores behind URLs.

Theory of operation
-------------------
In a *folder* a segment stays readable at its path, which becomes a link (`ract.worker.files.shm`).
Behind a *URL* (any that fsspec understands) it is out of reach until it is restored. There may be
several of either kind; they take turns, and one that fails is passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ract.core.session import setting
from ract.worker.files import shm

COPY_BYTES = 8 * 2**20

#: The first is the documented type; with the others Ray's tests play slow or shared stores.
_FOLDER_TYPES = ("filesystem", "mock_distributed_fs", "slow_fs", "unstable_fs")


def parse(value: Any) -> list[str]:
    """The folders or URLs that an ``object_spilling_directory`` names.

    Args:
        value: One, several separated by commas, a list, or what Ray's ``object_spilling_config``
            takes, as JSON or a dict: ``{"type": "filesystem", "params": {"directory_path": ...}}``
            or ``{"type": "smart_open", "params": {"uri": ...}}``.

    Raises:
        ValueError: none of that, or folders mixed with URLs.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"object_spilling_config is not JSON: {error}") from error
    if isinstance(value, Mapping):
        names = {**dict.fromkeys(_FOLDER_TYPES, "directory_path"), "smart_open": "uri"}
        kind, params = value.get("type"), value.get("params")
        if kind not in names or not isinstance(params, Mapping) or names[kind] not in params:
            raise ValueError(
                "object_spilling_config must be {'type': 'filesystem', 'params': "
                "{'directory_path': ...}} or {'type': 'smart_open', 'params': {'uri': ...}}, "
                f"got {dict(value)}"
            )
        value = params[names[kind]]
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(isinstance(each, str) for each in given):
        raise ValueError(f"object_spilling_directory must be folders or URLs, got {value!r}")
    found = [each.strip() for each in given if each.strip()]
    if not found:
        raise ValueError(f"object_spilling_directory={value!r} names nothing")
    if len({is_url(each) for each in found}) > 1:
        raise ValueError(
            f"object_spilling_directory={value!r} mixes folders with URLs: give one kind"
        )
    return found


def chosen(given: Any, environ: Mapping[str, str]) -> list[str]:
    """The folders or URLs of a node: as it was told, else as its environment says, else none."""
    for value in (
        given,
        setting("object_spilling_config", environ=environ),
        setting("object_spilling_directory", environ=environ),
    ):
        if value:
            return parse(value)
    return []


def is_url(place: str) -> bool:
    """Whether it is a URL; ``file://`` is a folder, too."""
    return "://" in place and not place.startswith("file://")


def check(places: Sequence[str]) -> None:
    """Check folders and URLs before the node starts.

    Raises:
        ValueError: a folder is not there, or there is no driver for a URL.
    """
    for place in places:
        if is_url(place):
            _open(place)
            continue
        folder = _path(place)
        if not (os.path.isabs(folder) and os.path.isdir(folder)):
            raise ValueError(
                f"object_spilling_directory={place!r} is not the absolute path of a folder that "
                "exists"
            )


PREFIX = "ract_spilled_objects"

NOTE = "spilled_to"


def folder_name(node_id: bytes) -> str:
    """What the folder of a node is called in each place."""
    return f"{PREFIX}_{node_id.hex()}"


def note_places(session_dir: str, places: Sequence[str], name: str) -> None:
    """Write down what `remove_left` will need, if the node is killed."""
    Path(session_dir, NOTE).write_text(json.dumps([name, *places]))


def remove_left(session_dir: str) -> None:
    """Remove what a killed node has left where it was told to spill, as far as that is possible.

    No link leads to what it was just copying to a folder.
    """
    try:
        name, *places = json.loads(Path(session_dir, NOTE).read_text())
        kind = Urls if is_url(places[0]) else Folders
        kind(places, name).close()
    except (OSError, ValueError):  # it was told nothing, or they cannot be reached any more
        pass


def _path(place: str) -> str:
    return place.removeprefix("file://")


def _open(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(
            f"object_spilling_directory={url!r} needs fsspec: pip install 'ract[fsspec]'"
        ) from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"object_spilling_directory={url!r} cannot be used: {error}") from error
    return fs, path


class Folders:
    """Folders on disks of this machine.

    Args:
        places: Where to make them.
        name: What they are called, see `folder_name`.
    """

    is_remote = False

    def __init__(self, places: Sequence[str], name: str) -> None:
        self._folders = [os.path.join(_path(place), name) for place in places]
        self._turn = 0

    def spill(self, path: str, segment: int) -> None:
        """Move a segment to disk. Raises OSError if there is room on none."""

        def move(folder: str) -> None:
            shm.move_to_disk(path, os.path.join(folder, str(segment)))

        self._in_turn(move)

    def create(self, path: str, segment: int, size: int) -> None:
        """Make a segment on disk. Raises OSError if there is room on none."""
        self._in_turn(
            lambda folder: shm.create_on_disk(path, os.path.join(folder, str(segment)), size)
        )

    def fill(self, path: str, segment: int, size: int, fill: Callable[[str], None]) -> None:
        """Make a segment on disk with what ``fill`` writes. Raises OSError."""
        self._in_turn(
            lambda folder: shm.fill_on_disk(path, os.path.join(folder, str(segment)), size, fill)
        )

    def _in_turn(self, action: Callable[[str], None]) -> None:
        first, self._turn = self._turn, (self._turn + 1) % len(self._folders)
        errors = []
        for folder in self._folders[first:] + self._folders[:first]:
            try:
                return action(folder)
            except OSError as error:
                errors.append(error)
        raise errors[0] if len(errors) == 1 else OSError("; ".join(map(str, errors)))

    def close(self) -> None:
        """Remove everything."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


class Urls:
    """Stores behind URLs; a segment is one object there.

    All methods may take long: they are for threads.
    """

    is_remote = True

    def __init__(self, places: Sequence[str], name: str) -> None:
        self._stores = []
        for place in places:
            fs, path = _open(place)
            self._stores.append((place, fs, f"{path.rstrip('/')}/{name}"))
        self._turn = 0
        #: By segment that was uploaded, or is to be removed: where it is.
        self._where: dict[int, tuple[Any, str]] = {}

    def probe(self) -> None:
        """Write and remove something everywhere.

        Raises:
            OSError: one of them cannot be reached or written; says which.
        """
        for place, fs, folder in self._stores:
            try:
                fs.makedirs(folder, exist_ok=True)
                fs.pipe_file(f"{folder}/probe", b"ract")
                fs.rm_file(f"{folder}/probe")
            except Exception as error:  # of whatever driver it is
                text = f"{type(error).__name__}: {error}"
                raise OSError(f"objects cannot be spilled to {place}: {text}") from error

    def upload(self, path: str, segment: int) -> None:
        """Copy a segment there. Raises OSError if none of them takes it."""
        first, self._turn = self._turn, (self._turn + 1) % len(self._stores)
        reasons = []
        for place, fs, folder in self._stores[first:] + self._stores[:first]:
            target = f"{folder}/{segment}"
            try:
                fs.put_file(path, target)
            except Exception as error:  # of whatever driver it is
                reasons.append(f"{place}: {type(error).__name__}: {error}")
                with contextlib.suppress(Exception):  # what there is of it
                    fs.rm_file(target)
            else:
                self._where[segment] = (fs, target)
                return
        raise OSError("; ".join(reasons))

    def restore(self, path: str, segment: int, size: int) -> None:
        """Make the segment's file again, complete or not at all.

        Raises:
            OSError: no room for it, or it cannot be read.
        """
        beside = f"{path}.in"
        shm.create(beside, size)
        try:
            self.fill(beside, segment, size)
            os.rename(beside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise

    def fill(self, path: str, segment: int, size: int) -> None:
        """Write a segment into a file that is there. Raises OSError if it cannot be read."""
        with open(path, "r+b") as file:
            for start in range(0, size, COPY_BYTES):
                file.write(self.read(segment, start, min(size, start + COPY_BYTES)))

    def read(self, segment: int, start: int, end: int) -> bytes:
        """Bytes of a segment. Raises OSError if they cannot be read."""
        fs, target = self._where[segment]
        try:
            data = fs.cat_file(target, start=start, end=end)
        except Exception as error:  # of whatever driver it is
            raise OSError(f"{target}: {type(error).__name__}: {error}") from error
        if len(data) != end - start:
            raise OSError(f"{target} is {end - start - len(data)} bytes short")
        return bytes(data)

    def where(self, segment: int) -> str:
        """The URL of a segment, for people."""
        fs, target = self._where[segment]
        return str(fs.unstrip_protocol(target))

    def has(self, segment: int) -> bool:
        """Whether there is anything of it."""
        return segment in self._where

    def remove(self, segment: int) -> None:
        """Remove a segment."""
        fs, target = self._where.pop(segment)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(target)

    def close(self) -> None:
        """Remove everything. Raises OSError if that is not possible."""
        left = []
        for place, fs, folder in self._stores:
            try:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    fs.rm(folder, recursive=True)
            except Exception as error:  # of whatever driver it is
                left.append(f"{place}: {type(error).__name__}: {error}")
        if left:
            raise OSError(f"spilled objects may be left at {'; '.join(left)}")
