"""From a checked call of an actor's method to a `Call` on its way."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from ract.client.actors.info import Client, HandleInfo, Method
from ract.client.calls import arguments
from ract.client.calls.call import Call
from ract.client.calls.returns import returns_of
from ract.client.calls.surroundings import Surroundings
from ract.client.objects.refs import new_ref
from ract.client.process import context, finalizers, sites, tracing
from ract.core.errors import MailboxFullError
from ract.core.options import MethodOptions


class Handle(Protocol):
    """A handle to an actor (`ract.client.actors.handles`)."""

    _runtime: Surroundings
    _client: Client

    @property
    def _info(self) -> HandleInfo: ...


def submit_actor_call(
    handle: Handle,
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
    returns, given = _with_options(call, method, options)
    if returns is None or returns == 1:
        ref = new_ref(call.number, client.actor_id, 1, call)
        call.refs = [ref]
        result: Any = ref
    else:
        limit = given.get("_generator_backpressure_num_objects") or 0
        if limit > 0 and handle._info.is_async:
            raise ValueError(
                "_generator_backpressure_num_objects is not supported for async actors. An async "
                "generator can await what it likes between its items."
            )
        result = returns_of(runtime, call, returns, limit)
    if given.get("timeout") is not None:  # now that the call has its refs
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
            finalizers.later(partial(arguments.dispatch_late, runtime.replies, call, args, kwargs))
        elif args or kwargs:
            arguments.dispatch(runtime.replies, call, args, kwargs)
        else:
            client.submit(call)
    except BaseException:
        client.vacate(call)  # an argument cannot be pickled, say
        raise
    return result


def _with_options(
    call: Call, method: Method, options: MethodOptions | None
) -> tuple[Any, dict[str, Any]]:
    """Put options into the call; returns the number of its values, and what was given."""
    returns: Any = 1
    given = (options.given_values() if options is not None else method.options) or {}
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
    return returns, given
