"""``ray._common.test_utils``: what Ray's own tests use."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ract.compat.prometheus import (
    MetricSamplePattern,
    PrometheusTimeseries,
    fetch_prometheus,
    fetch_prometheus_metric_timeseries,
    fetch_prometheus_metrics,
    fetch_prometheus_timeseries,
    fetch_raw_prometheus,
)
from ract.util.testing import Semaphore, SignalActor, wait_for_condition

__all__ = [
    "DEFAULT_DRIVER_TIMEOUT_SECONDS",
    "MetricSamplePattern",
    "PrometheusTimeseries",
    "Semaphore",
    "SignalActor",
    "async_wait_for_condition",
    "fetch_prometheus",
    "fetch_prometheus_metric_timeseries",
    "fetch_prometheus_metrics",
    "fetch_prometheus_timeseries",
    "fetch_raw_prometheus",
    "is_named_tuple",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "run_string_as_driver_stdout_stderr",
    "wait_for_condition",
]

DEFAULT_DRIVER_TIMEOUT_SECONDS = 300.0


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
    driver_script: str,
    env: dict[str, str] | None = None,
    encode: str = "utf-8",
    timeout: float | None = DEFAULT_DRIVER_TIMEOUT_SECONDS,
) -> str:
    """Run a script in another Python process and return what it printed.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    return _run(driver_script, env, encode, timeout, subprocess.STDOUT)[0]


def run_string_as_driver_stdout_stderr(
    driver_script: str,
    env: dict[str, str] | None = None,
    encode: str = "utf-8",
    timeout: float | None = DEFAULT_DRIVER_TIMEOUT_SECONDS,
) -> tuple[str, str]:
    """As `run_string_as_driver`, with stdout and stderr apart."""
    return _run(driver_script, env, encode, timeout, subprocess.PIPE)


def _run(
    script: str, env: dict[str, str] | None, encode: str, timeout: float | None, stderr: int
) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-"],
        input=script.encode(encode),
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=env,
        timeout=timeout,
        check=False,
    )
    printed = done.stdout.decode(encode, "replace")
    errors = (done.stderr or b"").decode(encode, "replace")
    if done.returncode:
        print(printed, errors, sep="")
        raise subprocess.CalledProcessError(done.returncode, done.args, printed, errors)
    return printed, errors


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


def is_named_tuple(cls: type) -> bool:
    """Whether a class is a named tuple."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields")
