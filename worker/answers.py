"""What a node tells when it is asked (`NodeAsked`): logs, objects, what its executors do."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import Any

from ract.core import logs
from ract.core.messages import CollectGarbage, DumpStacks, StacksDumped
from ract.worker.machine import Executor, NodeMachine

STACKS_TIMEOUT_S = 2.0
PY_SPY_TIMEOUT_S = 5.0

Args = dict[str, Any]


class Answers:
    """Answers questions about a node.

    Args:
        machine: Of the node.
        log_folder: Where its executors write.
        tell: Called as (process, message) to say something to an executor.
    """

    def __init__(
        self, machine: NodeMachine, log_folder: str, tell: Callable[[int, Any], None]
    ) -> None:
        self._machine = machine
        self._log_folder = log_folder
        self._tell = tell
        self._dumping: dict[int, list[asyncio.Future[str]]] = {}

    async def answer(self, op: str, args: Args) -> Any:
        """The answer.

        ``log_files`` and ``log``: see `ract.core.logs`. ``stacks`` (``pid`` or None): what the
        threads of the executors do. ``stored`` (``most``): where the objects of the store are.
        ``collect_garbage``: how many executors were told to do so.

        Raises:
            ValueError, OSError: there is none.
        """
        if op in logs.OPS:
            return await asyncio.to_thread(logs.OPS[op], self._log_folder, args)
        if op == "stacks":
            return await self._stacks(args.get("pid"))
        if op == "collect_garbage":
            connected = [each.process for each in self._connected()]
            for process in connected:
                self._tell(process, CollectGarbage(process))
            return len(connected)
        if op == "stored":
            return self._machine.objects.store.described(int(args.get("most") or 10_000))
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
    program = shutil.which("py-spy")
    if program is None:
        return f"{late}; with py-spy installed it would be asked from outside\n"
    asked = await asyncio.create_subprocess_exec(
        program, "dump", "--pid", str(pid),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(asked.communicate(), PY_SPY_TIMEOUT_S)
    except TimeoutError:
        asked.kill()
        await asked.wait()
        return f"{late}; py-spy did not answer either\n"
    return f"{late}\n{said.decode('utf-8', 'replace')}"
