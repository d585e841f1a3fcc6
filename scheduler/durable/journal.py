"""The journal: what went into the scheduler, in a file, so that it can come back after a crash.

Theory of operation
-------------------
An SQLite database in WAL mode. ``log`` has a row per turn
(`ract.scheduler.durable.durable.Record`), which is committed before anything that follows from the
turn is sent; so nothing was ever said that the file does not account for. ``snapshot`` has the
state at the beginning of the log, a pickle in parts; making a new one empties the log in the same
transaction. ``meta`` says what it is a journal of, and what wrote it.

A commit survives the death of the process, by whatever signal. It survives the death of the machine
only with ``full=True``, which waits for the disk at each turn.

The file is trusted as a program is, since it holds pickles: it must belong to this user, and nobody
else may write it. It is the machine's code that gives its rows a meaning: another version of ract
or Python refuses them. Whatever is not as it should be is a `JournalError`; an existing file is
never taken for an empty one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import secrets
import sqlite3
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from ract.core.errors import JournalError
from ract.core.version import __version__
from ract.scheduler.durable.durable import CLUSTER_ID_BYTES, SEED_BITS, Durable, Record

logger = logging.getLogger("ract.scheduler")

FORMAT = 5
"""Changes with the layout of the file, or the meaning of its rows."""

SNAPSHOT_BYTES_MIN = 32 * 2**20
"""The log is not replaced by a snapshot while it is smaller."""

SNAPSHOT_RATIO = 8
"""Nor while it is smaller than so many times the last snapshot."""

PART_BYTES = 64 * 2**20
"""A snapshot is stored in parts of this size: SQLite has a limit to values."""

MARK_EVERY = 64
"""Every so many rows have the checksum of what was sent before."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE snapshot (part INTEGER PRIMARY KEY, data BLOB);
CREATE TABLE log (
    n INTEGER PRIMARY KEY, now REAL, node BLOB, seq INTEGER, ack INTEGER,
    frames BLOB, event BLOB, crc INTEGER, mark INTEGER
);
"""

T = TypeVar("T")


class Journal:
    """An open journal; only one process at a time has it.

    Args:
        path: the file; made, with mode 0600, if there is none.
        full: wait for the disk at each turn, so that a machine that loses power loses nothing.

    Attributes:
        replayed: (turns, seconds) of `recover`.
        is_different: `recover` led to other commands than the turns of the journal did.

    Raises:
        JournalError: the file cannot be made or read, another scheduler has it, or it is no
            journal, damaged, or of another version.
    """

    def __init__(self, path: str | os.PathLike[str], *, full: bool = False) -> None:
        self.path = Path(path).absolute()
        self.replayed = (0, 0.0)
        self.is_different = False
        self._next = 1
        self._log_bytes = 0
        self._snapshot_bytes = 0
        self._make_or_check_file()
        self._db = sqlite3.connect(
            self.path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            self._reading(lambda: self._open(full))
        except BaseException:
            self._db.close()
            raise

    # ------------------------------------------------------------------ the beginning

    def recover(self, config: dict[str, Any]) -> Durable:
        """The state at the end of the journal.

        Args:
            config: of the machine, for a journal that is new; one that is not has its own.

        Raises:
            JournalError: it is damaged.
        """
        started = time.perf_counter()
        durable = self._reading(lambda: self.beginning(config))
        turns = 0
        for record, mark in self.records():
            if mark is not None and mark != durable.checksum and not self.is_different:
                self.is_different = True
                logger.error(
                    "the journal %s, taken again, gives other commands than the first time (found "
                    "at turn %d): please report this as a bug of ract",
                    self.path,
                    turns,
                )
            try:
                durable.take(record)
            except Exception as error:
                raise self._damaged(f"turn {turns} cannot be taken again: {error}") from error
            turns += 1
        self._next = turns + 1
        self.replayed = (turns, time.perf_counter() - started)
        return durable

    def get(self, name: str) -> Any:
        """A plain value kept beside the log; None if there is none."""
        rows = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall()
        return msgpack.unpackb(rows[0][0]) if rows else None

    def put(self, name: str, value: Any) -> None:
        """Keep a plain value beside the log.

        Raises:
            JournalError: it cannot be written; the disk may be full.
        """
        row = (name, msgpack.packb(value))
        try:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)
        except sqlite3.Error as error:
            raise JournalError(f"cannot write the journal {self.path}: {error}") from error

    # ------------------------------------------------------------------ every turn

    def append(self, record: Record, checksum: int) -> None:
        """Commit a record.

        Args:
            record: What the next turn takes.
            checksum: That of all that was sent before it.

        Raises:
            JournalError: it cannot be written; the disk may be full.
        """
        now, node_id, seq, ack, frames, event = record
        packed = msgpack.packb(frames)
        extra = pickle.dumps(event) if event is not None else None
        row = (
            *(self._next, now, node_id, seq, ack, packed, extra),
            _crc(now, node_id, seq, ack, packed, extra),
            checksum if self._next % MARK_EVERY == 0 else None,
        )
        try:
            self._db.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise JournalError(f"cannot write the journal {self.path}: {error}") from error
        self._next += 1
        self._log_bytes += len(packed) + 64

    @property
    def wants_snapshot(self) -> bool:
        """Whether the log has become long."""
        return self._log_bytes > max(SNAPSHOT_BYTES_MIN, SNAPSHOT_RATIO * self._snapshot_bytes)

    def snapshot(self, durable: Durable) -> None:
        """Replace the log by the state that it leads to.

        Raises:
            JournalError: it cannot be written; the journal is as it was before.
        """
        data = pickle.dumps(durable, pickle.HIGHEST_PROTOCOL)
        try:
            with self._db:
                self._db.execute("BEGIN")
                self._db.execute("DELETE FROM snapshot")
                for at in range(0, len(data), PART_BYTES):
                    part = memoryview(data)[at : at + PART_BYTES]
                    self._db.execute("INSERT INTO snapshot (data) VALUES (?)", (part,))
                self.put("snapshot", [len(data), zlib.crc32(data)])
                self._db.execute("DELETE FROM log")
        except sqlite3.Error as error:
            raise JournalError(f"cannot write the journal {self.path}: {error}") from error
        finally:
            self._log_bytes = 0  # if it failed, the next try is not the next turn
        self._next = 1
        self._snapshot_bytes = len(data)

    @property
    def is_new(self) -> bool:
        """Whether no cluster has used it yet: `recover` begins one."""
        return self.get("machine") is None

    def close(self) -> None:
        """Close the file; another scheduler may open it."""
        self._db.close()

    # ------------------------------------------------------------------ inside

    def _make_or_check_file(self) -> None:
        """Make the file if there is none."""
        try:
            if not self.path.exists():
                self._make()
            found = self.path.stat()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"cannot make the journal {self.path}: {error}") from error
        if not stat.S_ISREG(found.st_mode):
            raise JournalError(f"cannot keep a journal in {self.path}: it is no file")
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise JournalError(
                f"the journal {self.path} is not this user's alone, so it cannot be trusted: "
                f"chown and chmod 600 it if you know that nobody has changed it"
            )

    def _make(self) -> None:
        """Make the file, complete or not at all: an empty one is one that was damaged."""
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            db = sqlite3.connect(beside)
            db.executescript(_SCHEMA)
            for name, value in self._versions().items():
                db.execute("INSERT INTO meta VALUES (?, ?)", (name, msgpack.packb(value)))
            db.commit()
            db.close()
            with contextlib.suppress(FileExistsError):  # somebody else was faster
                os.link(beside, self.path)
        finally:
            beside.unlink()

    def _open(self, full: bool) -> None:
        execute = self._db.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
        execute("BEGIN EXCLUSIVE")  # now, and for as long as it is open
        execute("COMMIT")
        self._check_versions()
        faults = [row[0] for row in execute("PRAGMA quick_check")]
        if faults != ["ok"]:
            raise self._damaged("; ".join(faults[:3]))

    def _versions(self) -> dict[str, Any]:
        python = ".".join(platform.python_version_tuple()[:2])
        return {"format": FORMAT, "ract": __version__, "python": python}

    def _check_versions(self) -> None:
        theirs = {name: self.get(name) for name in self._versions()}
        if theirs != self._versions():
            said, mine = (
                f"ract {v['ract']} on Python {v['python']} (format {v['format']})"
                for v in (theirs, self._versions())
            )
            raise JournalError(
                f"the journal {self.path} was written by {said}, and this is {mine}: start the "
                "version that wrote it, or a new cluster with another journal"
            )

    def beginning(self, config: dict[str, Any]) -> Durable:
        """The state at the beginning of the log; a new cluster's, with ``config``, if it is new."""
        known = self.get("snapshot")
        if known is not None:
            size, crc = known
            data = b"".join(row[0] for row in self._db.execute("SELECT data FROM snapshot"))
            if len(data) != size or zlib.crc32(data) != crc:
                raise self._damaged("its snapshot is not what was written")
            self._snapshot_bytes = size
            return pickle.loads(data)
        machine = self.get("machine")
        if machine is None:
            seed = secrets.randbits(SEED_BITS)
            machine = [secrets.token_bytes(CLUSTER_ID_BYTES), seed, config]
            self.put("machine", machine)
        return Durable(*machine)

    def records(self) -> Iterator[tuple[Record, int | None]]:
        """The turns of the log, some with the checksum of what was sent before.

        Raises:
            JournalError: it is damaged.
        """
        query = self._db.execute("SELECT * FROM log ORDER BY n")
        n = 0
        while (row := self._reading(query.fetchone)) is not None:
            n += 1
            number, now, node_id, seq, ack, frames, event, crc, mark = row
            try:
                is_whole = number == n and _crc(now, node_id, seq, ack, frames, event) == crc
            except (TypeError, AttributeError):  # not even of the right type
                is_whole = False
            if not is_whole:
                raise self._damaged(f"turn {n} of its log is not what was written")
            self._log_bytes += len(frames) + 64
            extra = pickle.loads(event) if event is not None else None
            yield Record(now, node_id, seq, ack, msgpack.unpackb(frames), extra), mark

    def _reading(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError(
                    f"another scheduler has the journal {self.path} open: one cluster has one"
                ) from error
            raise self._damaged(str(error)) from error
        except (sqlite3.Error, pickle.UnpicklingError, ValueError, EOFError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> JournalError:
        return JournalError(
            f"the journal {self.path} is damaged, or no journal of ract ({why}): restore the file "
            "from a copy, or start a new cluster with another journal"
        )


def _crc(now: float, node_id: bytes, seq: int, ack: int, frames: bytes, event: bytes | None) -> int:
    head = b"%s %d %d " % (now.hex().encode(), seq, ack)
    return zlib.crc32(event or b"", zlib.crc32(frames, zlib.crc32(node_id, zlib.crc32(head))))
