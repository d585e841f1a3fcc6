"""From a checked call to a `Call` on its way: shared by tasks and actor methods."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ract.client.calls import arguments
from ract.client.calls.call import Call
from ract.client.calls.returns import returns_of
from ract.client.objects.held import id_of
from ract.client.objects.refs import new_ref
from ract.client.process import context, finalizers, sites, tracing
from ract.core.errors import MailboxFullError
from ract.core.options import MethodOptions, TaskOptions

if TYPE_CHECKING:
    from ract.client.actors.handles import ActorHandle
    from ract.client.actors.info import Method
    from ract.client.runtime import Runtime
    from ract.client.tasks.pool import TaskPool


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
        finalizers.later(partial(_dispatch_late, runtime, call, args, kwargs))
    elif args or kwargs:
        arguments.dispatch(runtime.replies, call, args, kwargs)
    else:
        pool.submit(call)
    return result


def submit_actor_call(
    handle: ActorHandle,
    method: Method,
    options: MethodOptions | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Submit one actor call; returns as `submit_task`."""
    runtime = handle._runtime
    if runtime.closed:
        runtime.check_open()
    client = handle._client
    call = Call(runtime.next_number(), method.name, client, method.full_name)
    call.actor_id = client.actor_id
    call.retries = method.retries
    if not runtime.is_driver:
        call.parent = context.current_number()
    if sites.of_calls:
        call.more().site = sites.of_caller()
    returns: Any = 1
    given = options.given_values() if options is not None else method.options
    if given:
        returns = given.get("num_returns", 1)
        call.retries = given.get("max_task_retries", method.retries)
        call.retry_exceptions = given.get("retry_exceptions", False)
        if given.get("name"):
            call.more().label = given["name"]
        if given.get("concurrency_group"):
            call.more().group = given["concurrency_group"]
        if given.get("enable_task_events") is not None:
            call.more().events = given["enable_task_events"]
        if given.get("priority"):
            call.priority = given["priority"]
            call.more().priority = call.priority
    if returns is None or returns == 1:
        ref = new_ref(call.number, client.actor_id, 1, call)
        call.refs = [ref]
        result: Any = ref
    else:
        limit = (given or {}).get("_generator_backpressure_num_objects") or 0
        if limit > 0 and handle._info.is_async:
            raise ValueError(
                "_generator_backpressure_num_objects is not supported for async actors. An async "
                "generator can await what it likes between its items."
            )
        result = returns_of(runtime, call, returns, limit)
    if given and given.get("timeout") is not None:  # now that the call has its refs
        runtime.cancelling.set_timeout(call, given["timeout"])
    if method.on_full:
        if finalizers.amid:
            finalizers.check_may_wait(f"{method.name}() of an actor with a bounded mailbox")
        if client.find_room(call, method.on_full):
            call.more().room = True
        else:
            error = MailboxFullError(f"the mailbox of {handle!r} has no room for {method.name}()")
            if method.on_full == "raise":
                raise error
            runtime.fail_call(call, error)
            return result
    try:
        if tracing.tracer is not None:
            call.more().trace = tracing.submitted(call.name)
        if finalizers.amid and finalizers.is_amid():
            finalizers.later(partial(_dispatch_late, runtime, call, args, kwargs))
        elif args or kwargs:
            arguments.dispatch(runtime.replies, call, args, kwargs)
        else:
            client.submit(call)
    except BaseException:
        client.vacate(call)  # an argument cannot be pickled, say
        raise
    return result


def _dispatch_late(
    runtime: Runtime, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Send a call that a finalizer made; its ref is with the program already."""
    try:
        arguments.dispatch(runtime.replies, call, args, kwargs)
    except Exception as error:
        runtime.fail_call(call, error)
