"""What a node tells when it is asked (`NodeAsked`): logs, objects, what its executors do."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

from ract.core import logs
from ract.core.messages import CollectGarbage, DumpStacks, StacksDumped
from ract.worker.hardware.statistics import Totals
from ract.worker.node import listing
from ract.worker.node.executors import Executor
from ract.worker.node.machine import NodeMachine

STACKS_TIMEOUT_S = 2.0
PY_SPY_TIMEOUT_S = 5.0

RIGHTS = (
    "It needs the right to trace processes: CAP_SYS_PTRACE in a container, and "
    "kernel.yama.ptrace_scope=0 if the node does not run as root."
)

Args = dict[str, Any]


class Answers:
    """Answers questions about a node.

    Args:
        machine: Of the node.
        log_folder: Where its executors write.
        tell: Called as (process, message) to say something to an executor.
        totals: What the node has done.
        place_of: Called with a segment (and whether it is away): its path or URL.
        read_logs: Reads what executors have written so far; the scheduler hears of it.
    """

    def __init__(
        self,
        machine: NodeMachine,
        log_folder: str,
        tell: Callable[[int, Any], None],
        totals: Totals,
        place_of: Callable[[int, bool], str],
        read_logs: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._totals = totals
        self._log_folder = log_folder
        self._tell = tell
        self._place_of = place_of
        self._read_logs = read_logs
        self._dumping: dict[int, list[asyncio.Future[str]]] = {}

    async def answer(self, op: str, args: Args) -> Any:
        """The answer.

        ``log_files`` and ``log``: see `ract.core.logs`. ``stacks`` (``pid`` or None): what the
        threads of the executors do. ``stored`` (``most``): where the objects of the store are, and
        what was spilled and restored; or one with ``object_id``, and its ``place``. ``spilled``
        (``ids``): those that are on disk, or away. ``collect_garbage``:
        how many executors were told to do so. ``read_logs``: None, after all that executors have
        printed so far.

        Raises:
            ValueError, OSError: there is none.
        """
        if op in logs.OPS:
            return await asyncio.to_thread(logs.OPS[op], self._log_folder, args)
        if op == "read_logs":
            self._read_logs()
            return None
        if op == "stacks":
            return await self._stacks(args.get("pid"))
        if op == "stored" and args.get("object_id"):
            found = listing.described_one(self._machine.objects.store, args["object_id"])
            return {**found, "place": self._place_of(found["segment"], found["is_away"])}
        if op == "collect_garbage":
            connected = [each.process for each in self._connected()]
            for process in connected:
                self._tell(process, CollectGarbage(process))
            return len(connected)
        if op == "stored":
            most = int(args.get("most") or 10_000)
            described = listing.described(self._machine.objects.store, most)
            return {**described, **self._totals.of_spilling()}
        if op == "spilled":
            return listing.spilled_among(self._machine.objects.store, args["ids"])
        raise ValueError(f"a node knows no question {op!r}")

    def dumped(self, message: StacksDumped) -> None:
        """An executor has said what its threads do."""
        for future in self._dumping.pop(message.process, []):
            if not future.done():
                future.set_result(message.text)

    def _connected(self) -> list[Executor]:
        executors = self._machine.executors.values()
        return [each for each in executors if each.connected and each.exited is None]

    async def _stacks(self, pid: int | None) -> list[dict[str, Any]]:
        executors = [
            (executor.process, executor.pid, executor.state)
            for executor in self._connected()
            if pid in (None, executor.pid)
        ]
        if pid is not None and not executors:
            raise ValueError(f"there is no executor with pid {pid}")
        texts = await asyncio.gather(*(self._stack(process, pid) for process, pid, _ in executors))
        return [
            {"process": process, "pid": pid, "state": state, "text": text}
            for (process, pid, state), text in zip(executors, texts, strict=True)
        ]

    async def _stack(self, process: int, pid: int) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._dumping.setdefault(process, []).append(future)
        self._tell(process, DumpStacks(process))
        try:
            return await asyncio.wait_for(future, STACKS_TIMEOUT_S)
        except TimeoutError:
            return await _from_outside(pid)


async def _from_outside(pid: int) -> str:
    """The stacks of a process that cannot tell them itself, if py-spy is installed."""
    late = f"it did not answer within {STACKS_TIMEOUT_S:g} s: native code may hold the GIL"
    program = _py_spy()
    if program is None:
        return f"{late}; with py-spy installed it would be asked from outside\n"
    try:
        asked = await asyncio.create_subprocess_exec(
            program, "dump", "--pid", str(pid),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        return f"{late}; py-spy cannot be run: {error}\n"
    try:
        said, _ = await asyncio.wait_for(asked.communicate(), PY_SPY_TIMEOUT_S)
    except TimeoutError:
        asked.kill()
        await asked.wait()
        return f"{late}; py-spy did not answer either\n"
    text = said.decode("utf-8", "replace")
    if asked.returncode:
        return (
            f"{late}; py-spy cannot look into it (exit code {asked.returncode}). {RIGHTS}\n{text}"
        )
    return f"{late}\n{text}"


def _py_spy() -> str | None:
    """Where py-spy is: in the environment that runs this node, else on the PATH."""
    return shutil.which("py-spy", path=os.path.dirname(sys.executable)) or shutil.which("py-spy")
