"""What the threads and coroutines of this process do, in words."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from typing import Any

from ract.client.process.context import Running

TASKS_MAX = 100


def text(in_progress: Iterable[Running]) -> str:
    """The stacks of all threads, after what runs (`Execution.in_progress`) and for how long."""
    lines = []
    for running in in_progress:
        lines.append(f"{running.name} has run for {time.time() - running.started:.1f} s")
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    me = threading.get_ident()
    for ident, frame in sys._current_frames().items():
        if ident == me:
            continue
        lines.append(f"Thread {names.get(ident, '?')} ({ident:#x}):")
        lines += [line.rstrip() for line in traceback.format_stack(frame)]
    waiting = [task for task in _coroutines() if not task.done()]
    for task in waiting[:TASKS_MAX]:
        lines.append(f"Coroutine {task.get_name()}:")
        for frame in task.get_stack():
            lines += [line.rstrip() for line in traceback.format_stack(frame)[-1:]]
    if len(waiting) > TASKS_MAX:
        lines.append(f"and {len(waiting) - TASKS_MAX} more coroutines")
    return "\n".join(lines) + "\n"


def _coroutines() -> list[Any]:
    """The tasks of all event loops; `asyncio.all_tasks` knows those of one."""
    return [each for each in gc.get_objects() if isinstance(each, asyncio.Task)]
