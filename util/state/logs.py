"""Logs of a cluster: which there are (`list_logs`), and what is in them (`get_log`)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from ract.client.runtime import current_runtime
from ract.client.start.tool import connected
from ract.core import history, logs
from ract.scheduler.durable import history as ended
from ract.util.state.api import ask
from ract.util.state.common import DEFAULT_RPC_TIMEOUT
from ract.util.state.exception import DataSourceUnavailable, RayStateApiException, ServerUnavailable

FOLLOW_S = 0.2
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Read = Callable[..., dict[str, Any]]


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _interval: float | None = None,
    *,
    session: str | None = None,
) -> dict[str, list[str]]:
    """The names of log files, by kind: ``worker_out``, ``worker_err``, ``other``.

    Args:
        address: Of the cluster.
        node_id: Of this node; of all if neither this nor ``node_ip`` is given.
        node_ip: Of the nodes with this address.
        glob_filter: Names that match.
        timeout: Seconds.
        session: The history of a cluster instead, see `ract.util.state.api`.

    Raises:
        RayStateApiException: a node did not answer; there is no such node, or no cluster.
    """
    found: dict[str, list[str]] = {}
    for files in log_files(address, node_id, node_ip, glob_filter, timeout, session).values():
        for file in files:
            kind = "other"
            if "is_err" in file:
                kind = "worker_err" if file["is_err"] else "worker_out"
            found.setdefault(kind, []).append(file["name"])
    return found


def log_files(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob: str | None = None,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    session: str | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The log files by node (hex): ``name``, ``size``, ``modified_ms``, ``pid``, ...

    Raises:
        RayStateApiException: see `list_logs`.
    """
    if session is not None:
        folders = _folders(session, node_id)
        return {path.name: logs.list_files(str(path), {"glob": glob}) for path in folders}
    found = ask(address, "log_files", timeout, node_id=node_id, node_ip=node_ip, glob=glob)
    if found["errors"] and not found["files"]:
        raise DataSourceUnavailable("; ".join(found["errors"].values()))
    return found["files"]


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
    *,
    worker_id: str | None = None,
    session: str | None = None,
) -> Iterator[str]:
    """The lines of a log, in pieces as they come.

    Args:
        address: Of the cluster.
        node_id, node_ip: Of the node that has it; with ``filename``, or an ambiguous ``pid``.
        filename: The file.
        actor_id: What this actor wrote (since its newest start).
        task_id: What this task wrote, and nothing else.
        pid, worker_id: What this process wrote.
        follow: Go on with what is added, for ever.
        tail: The last so many lines; -1 for all.
        timeout: Seconds, per question to the cluster.
        suffix: "out" or "err": which stream of a process.
        encoding: Of the file; None for bytes.
        errors: What to do about bytes that are none, see `bytes.decode`.
        submission_id: Of a job that was submitted.
        attempt_number: Which attempt at the task.
        filter_ansi_code: Leave out colours.
        session: The history of a cluster instead, see `ract.util.state.api`.

    Raises:
        ValueError: nothing is named, or two things are.
        RayStateApiException: there is no such log, or a node did not answer.
    """
    _check([filename, actor_id, task_id, pid, worker_id, submission_id], suffix, submission_id)
    wanted = _given(
        node_id=node_id,
        node_ip=node_ip,
        filename=filename,
        actor_id=actor_id,
        task_id=task_id,
        pid=pid,
        worker_id=worker_id,
        attempt=attempt_number,
        suffix=suffix,
    )
    pieces = _found(session, address, wanted, timeout, tail, follow)
    yield from _decoded(pieces, encoding, errors or "strict", filter_ansi_code)


def _found(
    session: str | None,
    address: str | None,
    wanted: dict[str, Any],
    timeout: int,
    tail: int,
    follow: bool,
) -> Iterator[bytes]:
    of_task = "task_id" in wanted
    if session is not None:
        return _pieces(_reader_of(session, wanted), tail, False, of_task)
    return _from_cluster(address, wanted, timeout, tail, follow, of_task)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _check(named: list[Any], suffix: str, submission_id: str | None) -> None:
    if sum(each is not None for each in named) != 1:
        raise ValueError("name one of filename, actor_id, task_id, pid, worker_id, submission_id")
    if suffix not in ("out", "err"):
        raise ValueError(f"suffix={suffix!r} is not 'out' or 'err'")
    if submission_id is not None:
        raise RayStateApiException("the logs of submitted jobs are not kept by job")


def _decoded(
    pieces: Iterator[bytes], encoding: str | None, errors: str, filter_ansi_code: bool
) -> Iterator[Any]:
    for data in pieces:
        if encoding is None:
            yield data
            continue
        text = data.decode(encoding, errors)
        yield _ANSI.sub("", text) if filter_ansi_code else text


def _from_cluster(
    address: str | None,
    wanted: dict[str, Any],
    timeout: float,
    tail: int,
    follow: bool,
    of_task: bool,
) -> Iterator[bytes]:
    runtime = current_runtime()
    if address in (None, "auto") and runtime is not None and not runtime.closed:
        yield from _pieces(_asker(runtime.link.request, wanted, timeout), tail, follow, of_task)
        return
    try:
        with connected(address) as request:
            yield from _pieces(_asker(request, wanted, timeout), tail, follow, of_task)
    except OSError as error:
        raise ServerUnavailable(f"no cluster to ask: {error}") from error


def _asker(request: Any, wanted: dict[str, Any], timeout: float) -> Read:
    where: dict[str, Any] = dict(wanted)

    def read(**more: Any) -> dict[str, Any]:
        try:
            found = request("log", timeout, **where, **more)
        except (TimeoutError, RuntimeError) as error:
            raise DataSourceUnavailable(str(error)) from error
        except ValueError as error:
            raise RayStateApiException(str(error)) from error
        if "task_id" not in where:  # go on in this file, whatever becomes of its process
            where.clear()
            where.update(node_id=found["node_id"], filename=found["filename"])
        return found

    return read


def _pieces(read: Read, tail: int, follow: bool, of_task: bool) -> Iterator[bytes]:
    """What is in a log; the last lines of a task are known when all of it was read."""
    found = read(tail=-1 if of_task else tail, rest=not follow)
    kept: list[bytes] = []
    before = -1
    while True:
        if of_task and tail >= 0 and not follow:
            kept = (kept + found["data"].splitlines(keepends=True))[-tail:] if tail else []
        elif found["data"]:
            yield found["data"]
        offset = found["offset"]
        if offset == before or offset >= found["size"]:
            if not follow:
                break
            time.sleep(FOLLOW_S)
        before = offset
        found = read(offset=offset, rest=not follow)
    if kept:
        yield b"".join(kept)


# --------------------------------------------------------------------------- history


def _folders(session: str, node_id: str | None) -> list[Any]:
    try:
        found = history.find(session)
    except LookupError as error:
        raise ServerUnavailable(str(error)) from error
    below = found.path / "logs"
    folders = sorted(below.iterdir()) if below.is_dir() else []
    short = (node_id or "")[:8]
    return [path for path in folders if path.name.startswith(short)]


def _reader_of(session: str, wanted: dict[str, Any]) -> Read:
    """Reads a log of a session."""
    args: dict[str, Any] = {
        key: value for key, value in wanted.items() if key in ("filename", "suffix", "pid")
    }
    node_id = wanted.get("node_id")
    if "actor_id" in wanted or "task_id" in wanted:
        column = "actor_id" if "actor_id" in wanted else "task_id"
        filters = [[column, "=", wanted[column]]]
        if column == "task_id":
            filters.append(["attempt_number", "=", wanted["attempt"]])
            args["task"] = int(wanted["task_id"][:16], 16)
        found = ended.read(history.find(session), f"{column[:-3]}s", {"filters": filters})
        if not found["rows"]:
            raise RayStateApiException(f"the history has no {column[:-3]} {wanted[column]}")
        row = found["rows"][0]
        node_id, args["pid"] = row["node_id"], row["pid" if column == "actor_id" else "worker_pid"]
        if not args["pid"]:
            raise RayStateApiException(f"{column[:-3]} {wanted[column]} has never run")
    elif "worker_id" in wanted:
        args["filename"] = f"worker-{int(wanted['worker_id'], 16)}-*.{wanted['suffix']}"
    folders = _folders(session, node_id)
    for folder in folders:
        if "*" in args.get("filename", ""):
            names = logs.list_files(str(folder), {"glob": args["filename"]})
            args["filename"] = names[0]["name"] if names else args["filename"]
        try:
            logs.read(str(folder), {**args, "tail": 0})
        except (FileNotFoundError, ValueError):
            continue
        return lambda **more: logs.read(str(folder), {**args, **more})
    what = args.get("filename") or f"log of process {args.get('pid')}"
    raise RayStateApiException(f"the history has no {what} (any more)")
