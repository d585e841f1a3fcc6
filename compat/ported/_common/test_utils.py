"""``ray._common.test_utils``: what Ray's own tests use."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ract.util.testing import Semaphore, SignalActor, wait_for_condition

__all__ = [
    "Semaphore",
    "SignalActor",
    "async_wait_for_condition",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "wait_for_condition",
]


async def async_wait_for_condition(
    condition_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    **kwargs: Any,
) -> None:
    """`wait_for_condition` in a coroutine; the condition may be a coroutine function.

    Raises:
        RuntimeError: not in time.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            found = condition_predictor(**kwargs)
            if inspect.isawaitable(found):
                found = await found
            if found:
                return
            last = None
        except Exception as error:
            last = error
        if time.monotonic() >= deadline:
            raise RuntimeError(f"The condition wasn't met before the timeout expired: {last!r}")
        await asyncio.sleep(retry_interval_ms / 1000)


def run_string_as_driver(
    driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8"
) -> str:
    """Run a script in another Python process and return what it printed.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
    """
    process = subprocess.run(
        [sys.executable, "-"],
        input=driver_script.encode(encode),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        check=False,
    )
    printed = process.stdout.decode(encode, "replace")
    if process.returncode:
        print(printed)
        raise subprocess.CalledProcessError(process.returncode, process.args, printed)
    return printed


def run_string_as_driver_nonblocking(
    driver_script: str, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a script in another Python process."""
    process = subprocess.Popen(
        [sys.executable, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    assert process.stdin is not None
    process.stdin.write(driver_script.encode())
    process.stdin.close()
    return process
