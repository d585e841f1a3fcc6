"""From a checked call of a function to a `Call` on its way."""

from __future__ import annotations

from functools import partial
from typing import Any

from ract.client.calls import arguments
from ract.client.calls.call import Call
from ract.client.calls.returns import returns_of
from ract.client.objects.held import id_of
from ract.client.objects.refs import new_ref
from ract.client.process import context, finalizers, sites, tracing
from ract.client.tasks.pool import TaskPool
from ract.core.options import TaskOptions


def submit_task(
    pool: TaskPool,
    definition: tuple[bytes, bytes],
    captured: list[Any],
    name: str,
    options: TaskOptions,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Submit one task; returns a ref, a list of refs, or None for ``num_returns=0``."""
    runtime = pool.runtime
    call = Call(runtime.next_number(), definition[0], pool, name)
    call.definition = definition
    call.retries = options.max_retries
    call.retry_exceptions = options.retry_exceptions
    if not runtime.is_driver:
        call.parent = context.current_number()
    if captured:
        call.kept = list(captured)
        extra = call.more()
        extra.hold(dict.fromkeys(map(id_of, captured)))
        extra.captures = True
    if sites.of_calls:
        call.more().site = sites.of_caller()
    returns = options.num_returns
    if returns is None or returns == 1:
        ref = new_ref(call.number, None, 1, call)
        call.refs = [ref]
        result: Any = ref
    else:
        limit = options._generator_backpressure_num_objects or 0
        result = returns_of(runtime, call, returns, limit)
    if options.name is not None:
        call.more().label = options.name
    if options.enable_task_events is False:
        call.more().events = False
    if options.max_calls:
        call.more().max_calls = options.max_calls
    if options.priority:
        call.priority = options.priority
    if tracing.tracer is not None:
        call.more().trace = tracing.submitted(name)
    if options.timeout is not None:
        runtime.cancelling.set_timeout(call, options.timeout)
    if finalizers.amid and finalizers.is_amid():
        finalizers.later(partial(arguments.dispatch_late, runtime.replies, call, args, kwargs))
    elif args or kwargs:
        arguments.dispatch(runtime.replies, call, args, kwargs)
    else:
        pool.submit(call)
    return result
