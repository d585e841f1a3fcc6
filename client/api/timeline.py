"""When which task ran where, as a Chrome trace: ``chrome://tracing`` and Perfetto open it.

One *process* of the trace is a node, one *thread* an executor. Spans are complete events ("X") with
times in microseconds since the epoch. Those of one thread must nest: Perfetto leaves others out. So
an executor that runs several calls at a time has further threads.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import Any

from ract.client.api import auto_init
from ract.core.ids import task_id_bytes

FAILED_COLOUR = "terrible"

ROWS_MAX = 100
"""Of one executor; what still overlaps then is in the last one."""

FURTHER_ROWS_FROM = 2**30
"""Numbers of further threads: those of executors are smaller."""

SLACK_US = 1.0
"""So much may spans overlap that follow each other: what is left of such times in a float."""


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """The tasks that the cluster remembers, as a Chrome trace.

    Args:
        filename: A file to write the trace to, as JSON.

    Returns:
        The events if no file is named, else None.

    Raises:
        RuntimeError: `ract.init` has not been called.
        OSError: the file cannot be written.
    """
    link = auto_init.runtime_without_init("timeline()").link
    events = list(trace(link.request("task_spans")))
    if filename is None:
        return events
    with open(filename, "w") as file:
        json.dump(events, file)
    return None


def trace(spans: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Events of a trace, from what the request ``task_spans`` answers."""
    found = []
    names: dict[tuple[int, int], str] = {}
    for event in _events(spans):
        if event["ph"] == "X":
            found.append(event)
            continue
        if event["name"] == "thread_name":
            names[event["pid"], event["tid"]] = event["args"]["name"]
        yield event
    found.sort(key=lambda event: (event["ts"], -event["dur"]))
    rows: dict[tuple[int, int], list[list[float]]] = {}
    further: dict[tuple[int, int, int], int] = {}
    for event in found:
        place = event["pid"], event["tid"]
        number = _row(rows.setdefault(place, []), event["ts"], event["ts"] + event["dur"])
        if number:
            if (*place, number) not in further:
                further[*place, number] = FURTHER_ROWS_FROM + len(further)
                text = f"{names[place]}, row {number + 1}"
                yield _named("thread_name", event["pid"], further[*place, number], text)
            event["tid"] = further[*place, number]
        yield event


def _row(rows: list[list[float]], start: float, end: float) -> int:
    """The first row with room for a span; ``rows``: ends of what is open, the innermost last."""
    for i, ends in enumerate(rows):
        while ends and ends[-1] <= start + SLACK_US:
            ends.pop()
        if not ends or end <= ends[-1] + SLACK_US or i + 1 == ROWS_MAX:
            ends.append(end)
            return i
    rows.append([end])
    return len(rows) - 1


def _events(spans: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same with all spans of an executor in its one thread."""
    places = _Places(spans["hosts"])
    for name, kind, node_id, pid, executor, actor_id, job_id, numbers, times in spans["runs"]:
        yield from places.named(node_id, executor, pid)
        where = places.of(node_id), executor
        at = array("d", times)
        for i, number in enumerate(array("Q", numbers)):
            task_id = task_id_bytes(number, job_id, actor_id).hex()
            yield _span(name, kind, where, at[2 * i], at[2 * i + 1], task_id, 0, "FINISHED", "")
    for span in spans["tasks"]:
        name, kind, node_id, pid, executor, task_id, attempt, start, end, state, error = span
        yield from places.named(node_id, executor, pid)
        where = places.of(node_id), executor
        yield _span(name, kind, where, start, end, task_id.hex(), attempt, state, error)
    for node_id, pid, process, kind, start, end, task_id, extra in spans["marked"]:
        yield from places.named(node_id, process, pid)
        extra = dict(extra)
        colour = {"cname": extra.pop("cname")} if "cname" in extra else {}
        yield {
            "cat": kind,
            "name": extra.pop("name", kind),
            "pid": places.of(node_id),
            "tid": process,
            "ts": start * 1e6,
            "dur": max(0.0, end - start) * 1e6,
            "ph": "X",
            "args": {"task_id": task_id.hex(), **extra},
            **colour,
        }


class _Places:
    """Numbers and names of nodes and executors in a trace."""

    def __init__(self, hosts: dict[bytes, str]) -> None:
        self._hosts = hosts
        self._nodes: dict[bytes, int] = {}
        self._named: set[tuple[bytes, int]] = set()

    def of(self, node_id: bytes) -> int:
        """The number of a node."""
        return self._nodes.setdefault(node_id, len(self._nodes) + 1)

    def named(self, node_id: bytes, executor: int, pid: int) -> Iterator[dict[str, Any]]:
        """Metadata events that say what a new place is called."""
        if node_id not in self._nodes:
            name = f"Node {self._hosts.get(node_id, '')} ({node_id.hex()[:8]})"
            yield _named("process_name", self.of(node_id), 0, name)
        if (node_id, executor) not in self._named:
            self._named.add((node_id, executor))
            yield _named("thread_name", self.of(node_id), executor, f"worker (pid {pid})")


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _span(
    name: str,
    kind: str,
    where: tuple[int, int],
    start: float,
    end: float,
    task_id: str,
    attempt: int,
    state: str,
    error: str,
) -> dict[str, Any]:
    event: dict[str, Any] = {
        "cat": "task" if kind == "NORMAL_TASK" else kind.lower(),
        "name": name,
        "pid": where[0],
        "tid": where[1],
        "ts": start * 1e6,
        "dur": max(0.0, end - start) * 1e6,
        "ph": "X",
        "args": {"task_id": task_id, "attempt_number": attempt, "state": state},
    }
    if error:
        event["args"]["error_type"] = error
        event["cname"] = FAILED_COLOUR
    return event
