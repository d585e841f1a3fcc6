"""What has ended, on disk: written in batches by a thread, read by whoever looks back.

Theory of operation
-------------------
``state.db`` of a session (`ract.core.history`) has two tables: ``entries`` (kind, id, time, row as
msgpack), where a newer row of the same kind and id replaces the older, and ``runs``: calls that
just finished, in the columns in which they were reported.

`History.put` only appends to a queue; the thread writes what has come once a second, in one
transaction. When the database is larger than half of the quota the oldest tenth goes. A disk that
is full, or any other fault, ends the history with a warning, never the scheduler.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from ract.core import history
from ract.scheduler.people.task_records import Run
from ract.scheduler.queries import rows, tables

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger("ract.scheduler")

PERIOD_S = 1.0
CLOSE_TIMEOUT_S = 10.0
QUEUED_MAX = 100_000
"""So many entries and runs may wait for a slow disk; more are dropped, and that is said."""

_SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS entries (
    kind TEXT, id TEXT, at REAL, data BLOB, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_at ON entries (at);
CREATE TABLE IF NOT EXISTS runs (at REAL, count INTEGER, data BLOB);
CREATE INDEX IF NOT EXISTS runs_at ON runs (at);
"""

Entry = tuple[str, str, float, Any]
"""kind (a name of `ract.scheduler.queries.tables.TABLES`, without "list_"), id, seconds, row."""


class History:
    """The history of a cluster that runs.

    Args:
        cluster_id: Hex.
    """

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._queue: queue.SimpleQueue[list[Entry] | list[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._closing = threading.Event()
        self._lock_fd: int | None = None

    def start(self) -> None:
        """Open the session, unless there is to be no history."""
        try:
            path = history.open_session(self._cluster_id)
            if path is None:
                return
            self._lock_fd = history.lock(path)
        except OSError as error:
            logger.warning("there will be no history: %s", error)
            return
        self._thread = threading.Thread(
            target=self._run, args=(path,), name="ract-history", daemon=True
        )
        self._thread.start()

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._thread is not None and self._thread.is_alive()

    def put(self, entries: list[Entry]) -> None:
        """Keep rows."""
        self._put(entries)

    def put_run(self, plain: list[Any]) -> None:
        """Keep a run (`ract.core.events`) with ``[executor, pid, node_id]`` at its end."""
        self._put(plain)

    def _put(self, what: Any) -> None:
        if not what or not self.is_on:
            return
        if self._queue.qsize() >= QUEUED_MAX:
            self._dropped += 1
        else:
            self._queue.put(what)

    def close(self) -> None:
        """Write what has come, and end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._closing.set()
            self._queue.put(None)
            thread.join(CLOSE_TIMEOUT_S)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    # ------------------------------------------------------------------ the thread

    def _run(self, path: Path) -> None:
        try:
            self._write(path)
        except Exception:
            logger.exception("the history of this cluster ends here")

    def _write(self, path: Path) -> None:
        batch = [self._queue.get()]  # a cluster that starts has better things to do
        import sqlite3

        database = sqlite3.connect(path / "state.db", isolation_level=None)
        os.chmod(path / "state.db", 0o600)
        database.executescript(_SCHEMA)
        try:
            while True:
                self._closing.wait(PERIOD_S if self._queue.qsize() < QUEUED_MAX // 2 else 0)
                while not self._queue.empty():
                    batch.append(self._queue.get())
                self._store(database, batch)
                self._make_room(database)
                if None in batch:
                    return
                batch = [self._queue.get()]
        finally:
            database.close()

    def _store(self, database: sqlite3.Connection, batch: list[Any]) -> None:
        if self._dropped:
            logger.warning("the disk is slow: %d entries of history were dropped", self._dropped)
            self._dropped = 0
        database.execute("BEGIN")
        for each in batch:
            if each and isinstance(each[0], str):
                times = array("d", each[6])
                database.execute(
                    "INSERT INTO runs VALUES (?, ?, ?)",
                    (max(times, default=0.0), len(times) // 2, msgpack.packb(each)),
                )
            elif each:
                database.executemany(
                    "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)",
                    [(kind, id_, at, msgpack.packb(row)) for kind, id_, at, row in each],
                )
        database.execute("COMMIT")

    @staticmethod
    def _make_room(database: sqlite3.Connection) -> None:
        most = history.bytes_max() // 2
        while _bytes_used(database) > most:  # to count rows, all pages are read: only if need be
            (entries,) = database.execute("SELECT count(*) FROM entries").fetchone()
            (runs,) = database.execute("SELECT count(*) FROM runs").fetchone()
            if not entries + runs:
                break
            for table, count in (("runs", runs), ("entries", entries)):
                database.execute(
                    f"DELETE FROM {table} WHERE at <= "
                    f"(SELECT at FROM {table} ORDER BY at LIMIT 1 OFFSET ?)",
                    (count // 10,),
                )
            database.executescript("PRAGMA incremental_vacuum")  # execute() would free one page


def _bytes_used(database: sqlite3.Connection) -> int:
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return (pages - free) * size


# --------------------------------------------------------------------------- reading


def read(session: history.Session, kind: str, args: dict[str, Any]) -> dict[str, Any]:
    """Answer a question about a table of a session as `ract.scheduler.queries.tables.select` does.

    Raises:
        ValueError: a filter is malformed, or the limit is out of range.
    """
    filters = [tables.parse(each) for each in args.get("filters") or []]
    limit, offset = int(args.get("limit", 100)), int(args.get("offset", 0))
    if not 0 < limit <= tables.ROWS_MAX:
        raise ValueError(f"limit {limit} is not in 1..{tables.ROWS_MAX}")
    page: list[dict[str, Any]] = []
    total = 0
    for made, count in _passing(session, kind.removeprefix("list_"), filters):
        wanted = range(max(0, offset - total), max(0, min(count, offset + limit - total)))
        page += map(made, wanted)
        total += count
    return {"rows": page, "total": total, "note": ""}


def spans(session: history.Session) -> dict[str, Any]:
    """When which task ran where, as the request ``task_spans`` answers it."""
    with _opened(session) as database:
        runs = [
            [*plain[:2], plain[11], plain[10], plain[9], plain[3], plain[4], plain[5], plain[6]]
            for plain in _runs(database)
        ]
        single = [
            [
                row["name"],
                row["type"],
                bytes.fromhex(row["node_id"] or ""),
                row["worker_pid"],
                int(row["worker_id"] or "0", 16),
                bytes.fromhex(row["task_id"]),
                row["attempt_number"],
                row["start_time_ms"] / 1000,
                (row["end_time_ms"] or row["start_time_ms"]) / 1000,
                row["state"],
                row["error_type"] or "",
            ]
            for row in _entries(database, "tasks")
            if row["start_time_ms"]
        ]
        marked = list(_entries(database, "marked"))
        hosts = {bytes.fromhex(n["node_id"]): n["node_ip"] for n in _entries(database, "nodes")}
    return {"runs": runs, "tasks": single, "marked": marked, "hosts": hosts, "forgotten": 0}


def _passing(
    session: history.Session, kind: str, filters: list[tables.Filter]
) -> Iterator[tuple[Callable[[int], rows.Row], int]]:
    """(what makes the i-th row, how many there are) of what passes."""
    with _opened(session) as database:
        for row in _entries(database, kind):
            if tables.row_holds(row, filters):
                yield partial(_made, row), 1
        if kind == "tasks":
            for plain in _runs(database):
                run = _run_of(plain)
                places = tables.of_run(tables.TABLES["tasks"], run, filters)
                yield partial(_row_of_run, run, places), len(places)


def _made(row: rows.Row, i: int) -> rows.Row:
    return row


def _row_of_run(run: Run, places: tables.Places, i: int) -> rows.Row:
    return tables.TABLES["tasks"].row(None, run.task(places[i]))


def _run_of(plain: list[Any]) -> Run:
    name, function, type_, actor_id, job_id, numbers, times, parents, facts = plain[:9]
    columns = array("Q", numbers), array("d", times), array("Q", parents)
    return Run(name, function, type_, actor_id, job_id, *columns, facts, *plain[9:12])


def _entries(database: sqlite3.Connection, kind: str) -> Iterator[rows.Row]:
    found = database.execute("SELECT data FROM entries WHERE kind = ? ORDER BY at", (kind,))
    return (msgpack.unpackb(data, strict_map_key=False) for (data,) in found)


def _runs(database: sqlite3.Connection) -> Iterable[list[Any]]:
    found = database.execute("SELECT data FROM runs ORDER BY at")
    return (msgpack.unpackb(data) for (data,) in found)


@contextlib.contextmanager
def _opened(session: history.Session) -> Iterator[sqlite3.Connection]:
    import sqlite3

    path = session.path / "state.db"
    if not path.exists():  # a node of a cluster whose scheduler is elsewhere
        yield sqlite3.connect(":memory:").executescript(_SCHEMA).connection
        return
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        yield database
    finally:
        database.close()
