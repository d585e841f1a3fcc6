"""Spans of OpenTelemetry for calls: one where a call is submitted, one below it where it runs.

Theory of operation
-------------------
A program names a function, the *hook*, that sets OpenTelemetry up. It is called in the driver and
in each process that works for its job. From then on `tracer` is there: a caller makes a short span
of kind PRODUCER and sends its context along (``extra["trace"]``), the executor runs the call within
a span of kind CONSUMER, whose parent that is. Without a hook `tracer` is None, which is all that a
call looks at, and OpenTelemetry is not imported.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from ract.client.process import context, current
from ract.core import ids, naming
from ract.core.version import __version__

VARIABLE = "TRACING_STARTUP_HOOK"
"""``RACT_TRACING_STARTUP_HOOK`` names the hook of a driver, or of all executors of a node."""

tracer: Any = None
"""OpenTelemetry's, once a hook was called in this process."""

_trace: Any = None
_propagate: Any = None


def start(hook: str) -> None:
    """Call the hook, and make spans from here on.

    Args:
        hook: ``"module:function"``.

    Raises:
        TypeError: no text.
        ValueError: it has another form, or there is no such function in the module.
        ImportError: the module, or OpenTelemetry, cannot be imported.
    """
    global tracer, _trace, _propagate
    if not isinstance(hook, str):
        raise TypeError(f"a tracing hook is a text 'module:function', not {type(hook).__name__}")
    module, colon, name = hook.partition(":")
    if not (module and colon and name):
        raise ValueError(f"a tracing hook looks like 'module:function', not {hook!r}")
    try:
        _trace = importlib.import_module("opentelemetry.trace")
        _propagate = importlib.import_module("opentelemetry.propagate")
    except ImportError as error:
        raise ImportError(
            f"tracing ({hook}) needs OpenTelemetry: pip install 'ract[tracing]'"
        ) from error
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise ValueError(f"there is no function {name!r} in {module!r}, which tracing should call")
    function()
    tracer = _trace.get_tracer("ract", __version__)


def start_in_executor(hook: str) -> None:
    """As `start`, but without the hook tasks run all the same, and the driver is told why."""
    try:
        start(hook)
    except Exception:
        traceback.print_exc()
        print(f"calls in this process are not traced: {hook} failed", file=sys.stderr)


def stop() -> None:
    """Make no more spans."""
    global tracer
    tracer = None


def submitted(name: str) -> dict[str, str]:
    """Make the span of a call that is being submitted; returns its context, to be sent along."""
    carrier: dict[str, str] = {}
    title = f"{name} {naming.program}.remote"
    kind = _trace.SpanKind.PRODUCER
    span = tracer.start_span(title, kind=kind, attributes=_attributes(name))
    with _trace.use_span(span, end_on_exit=True):
        _propagate.inject(carrier)
    return carrier


def traced(function: Callable[..., Any], name: str, carrier: dict[str, str]) -> Callable[..., Any]:
    """The function, to be run within a span below the one that ``carrier`` tells of."""
    if tracer is None:
        return function

    def run(*args: Any, **kwargs: Any) -> Any:
        span = tracer.start_span(
            f"{name} {naming.program}.remote_worker",
            context=_propagate.extract(carrier),
            kind=_trace.SpanKind.CONSUMER,
            attributes=_attributes(name),
        )
        try:
            with _trace.use_span(span):
                value = function(*args, **kwargs)
        except BaseException:
            span.end()
            raise
        # What runs later is within the span as well.
        if inspect.iscoroutine(value):
            return _awaited(value, span)
        if inspect.isgenerator(value):
            return _iterated(value, span)
        if inspect.isasyncgen(value):
            return _iterated_async(value, span)
        span.end()
        return value

    return run


async def _awaited(coroutine: Any, span: Any) -> Any:
    with _trace.use_span(span, end_on_exit=True):
        return await coroutine


def _iterated(generator: Any, span: Any) -> Iterator[Any]:
    try:
        while True:
            with _trace.use_span(span):  # only while it runs, not while its reader does
                try:
                    item = next(generator)
                except StopIteration:
                    return
            yield item
    finally:
        generator.close()
        span.end()


async def _iterated_async(generator: Any, span: Any) -> AsyncIterator[Any]:
    try:
        while True:
            with _trace.use_span(span):
                try:
                    item = await anext(generator)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        await generator.aclose()
        span.end()


def _attributes(name: str) -> dict[str, Any]:
    """Who, where: of this process and of the call that runs in it."""
    word = naming.program
    found: dict[str, Any] = {f"{word}.function": name, f"{word}.pid": os.getpid()}
    runtime = current.runtime
    if runtime is not None:
        found[f"{word}.job_id"] = runtime.job_id.hex()
        found[f"{word}.node_id"] = runtime.node_id.hex()
        found[f"{word}.worker_id"] = ids.worker_id_bytes(runtime.process).hex()
    spec = context.process.actor_spec
    if spec is not None:
        found[f"{word}.actor_id"] = spec.actor_id.hex()
    running = context.running()
    if running is not None and runtime is not None:
        actor_id = spec.actor_id if spec is not None else b""
        task_id = ids.task_id_bytes(running.number, runtime.job_id, actor_id)
        found[f"{word}.task_id"] = task_id.hex()
    return found
