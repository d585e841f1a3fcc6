"""Looking into a cluster, and disturbing it, for people who test programs built on ract."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

import ract
from ract.client.objects.refs import ERROR, PENDING, READY, REMOTE, ObjectRef
from ract.client.runtime import Runtime, current_runtime
from ract.client.start import node_processes
from ract.core import errors
from ract.core.messages import ObjectsFreed
from ract.util.memory_report import MemoryReport

# --------------------------------------------------------------------------- processes


def kill_node(node_id: str) -> None:
    """SIGKILL for the daemon of a node on this machine; its executors end with it.

    Args:
        node_id: 56 hex digits, as in ``ract.nodes()``.

    Raises:
        ValueError: no such node runs on this machine under this user.
    """
    here = {node["node_id"]: node["pid"] for node in node_processes.local_nodes()}
    if node_id not in here:
        known = ", ".join(here) or "none"
        raise ValueError(f"no node {node_id} runs on this machine; those that do: {known}")
    os.kill(here[node_id], signal.SIGKILL)


def all_processes_alive() -> bool:
    """Whether this process' node still has its daemon and its zygote (which forks executors)."""
    runtime = _runtime()
    if runtime.lost_reason:
        return False
    local = node_processes.local_nodes()
    node = next((n for n in local if n["node_id"] == runtime.node_id.hex()), None)
    if node is None:
        return False
    try:
        children = psutil.Process(node["pid"]).children()
        alive = [p for p in children if p.status() != psutil.STATUS_ZOMBIE]
        return any("zygote" in " ".join(p.cmdline()) for p in alive)
    except psutil.NoSuchProcess:
        return False


def session_dir() -> str:
    """The folder of this process' node: sockets, and below ``logs`` what its executors write."""
    return _runtime().link.welcome.session_dir


# --------------------------------------------------------------------------- objects


def object_exists(ref: ObjectRef) -> bool:
    """Whether the value of a ref is kept anywhere, here or in the cluster."""
    runtime = _runtime()
    if not ref._holds and ref._state != REMOTE:
        return PENDING < ref._state != ERROR
    return runtime.link.request("object_exists", id=ref.binary())


def reference_counts() -> dict[str, dict[str, int]]:
    """References of this process, by hex id of the object.

    ``local`` is 1 while something of the program (a variable, a container, an array that views the
    value) keeps the ref alive: there is one ref per object in a process. ``submitted`` counts
    unfinished calls of this process that have it as an argument, alone or inside a container.
    Objects of which both are 0 are left out.
    """
    runtime = _runtime()
    submitted: dict[ObjectRef, int] = {}
    internal: dict[ObjectRef, int] = {}
    for call in {id(call): call for call in runtime.unfinished_calls()}.values():
        arguments = [ref for ref in call.kept if isinstance(ref, ObjectRef)]
        for ref in set(arguments):
            submitted[ref] = submitted.get(ref, 0) + 1
        late = call.extra.deps if call.extra is not None else ()
        for ref in (*arguments, *call.refs, *(d for d in late if isinstance(d, ObjectRef))):
            internal[ref] = internal.get(ref, 0) + 1
    gc.collect()
    found = {}
    refs = [item for item in gc.get_objects() if isinstance(item, ObjectRef)]
    # What holds a ref here: `refs`, `ref`, the argument of getrefcount, keys of the two tables.
    arguments = late = ref = None  # type: ignore[assignment]
    while refs:
        ref = refs.pop()
        mine = 2 + (ref in submitted) + (ref in internal) + internal.get(ref, 0)
        counts = {
            "local": int(sys.getrefcount(ref) > mine),
            "submitted": submitted.get(ref, 0),
        }
        if ref._home is runtime.home and any(counts.values()):
            found[ref.hex()] = counts
    return found


def free(refs: ObjectRef | Sequence[ObjectRef]) -> None:
    """Drop the values of objects although refs remain; ``get`` then raises ObjectFreedError.

    An object that is not ready stays. Other processes must not be reading them.
    """
    runtime = _runtime()
    given = [refs] if isinstance(refs, ObjectRef) else list(refs)
    known = []
    for ref in given:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"free() takes ObjectRefs, not {type(ref).__name__}")
        if ref._state == PENDING:
            continue  # there is no value yet
        if ref._holds or ref._state < READY:
            known.append(ref.binary())
        if ref._state >= READY:
            runtime.values.forget_value(ref, errors.ObjectFreedError(ref.hex(), "", ""))
    if known:
        runtime.tell(ObjectsFreed(runtime.process, known))
        # Whatever is answered, the answer comes after this node was told to drop the values.
        runtime.link.request("object_exists", id=known[0])


def collect_garbage() -> None:
    """Free what only cycles of objects keep alive: here, and soon in all executors of the cluster.

    Refs in such cycles keep values. Python collects them when it has made enough new objects.
    """
    _runtime().link.request("collect_garbage")
    gc.collect()


def memory_summary(
    address: str | None = None,
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    line_wrap: bool = True,
    stats_only: bool = False,
    num_entries: int | None = None,
) -> str:
    """The objects of a cluster, who holds them and what the stores hold, as text.

    Args:
        address: Of the cluster; default: the one that this process is in.
        group_by: "NODE_ADDRESS" (of the holder) or "STACK_TRACE" (where it was made).
        sort_by: "OBJECT_SIZE", "PID" or "REFERENCE_TYPE".
        units: "B", "KB", "MB" or "GB", of 1024.
        line_wrap: Accepted for compatibility: lines are not wrapped.
        stats_only: Only what the nodes' stores hold in total.
        num_entries: At most so many objects per table.

    Raises:
        ValueError: there is no such group, order or unit.
    """
    report = MemoryReport(address, stats_only=stats_only)
    return "\n".join(report.lines(group_by, sort_by, units, num_entries))


# --------------------------------------------------------------------------- messages


def error_messages() -> list[dict[str, Any]]:
    """Errors and warnings that the cluster pushed to this driver so far, oldest first."""
    return [dict(item.data) for item in list(_runtime().pushed) if item.kind == "error"]


def log_messages() -> list[dict[str, Any]]:
    """Printed lines of tasks and actors that were pushed to this driver so far, oldest first."""
    return [dict(item.data) for item in list(_runtime().pushed) if item.kind == "log"]


# --------------------------------------------------------------------------- waiting


def wait_for_condition(
    condition: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Return once ``condition(**kwargs)`` is true.

    Args:
        condition: Asked again and again.
        timeout: Seconds until it has to be true.
        retry_interval_ms: Milliseconds between two tries.
        raise_exceptions: Do not take an exception of the condition for "not yet".

    Raises:
        RuntimeError: not in time; its cause is the last exception of the condition, if it had one.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            if condition(**kwargs):
                return
            last = None
        except Exception as error:
            if raise_exceptions:
                raise
            last = error
        if time.monotonic() >= deadline:
            name = getattr(condition, "__name__", repr(condition))
            why = f": {type(last).__name__}: {last}" if last is not None else ""
            raise RuntimeError(f"{name} was not true within {timeout} s{why}") from last
        time.sleep(retry_interval_ms / 1000)


@ract.remote(num_cpus=0)
class SignalActor:
    """A gate that tasks wait at until it is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._waiters = 0

    async def send(self, clear: bool = False) -> None:
        """Open the gate for all who wait; ``clear`` closes it behind them."""
        self._open.set()
        if clear:
            self._open.clear()

    async def wait(self, should_wait: bool = True) -> None:
        """Return once the gate is open."""
        if should_wait:
            self._waiters += 1
            try:
                await self._open.wait()
            finally:
                self._waiters -= 1

    async def cur_num_waiters(self) -> int:
        """How many wait now."""
        return self._waiters


@ract.remote(num_cpus=0)
class Semaphore:
    """An `asyncio.Semaphore` that tasks and actors share."""

    def __init__(self, value: int = 1) -> None:
        self._semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> None:
        """Take one, when there is one."""
        await self._semaphore.acquire()

    async def release(self) -> None:
        """Give one back."""
        self._semaphore.release()

    async def locked(self) -> bool:
        """Whether `acquire` would wait."""
        return self._semaphore.locked()


def _runtime() -> Runtime:
    runtime = current_runtime()
    if runtime is None:
        raise RuntimeError("this process is in no cluster: call ract.init() first")
    return runtime
