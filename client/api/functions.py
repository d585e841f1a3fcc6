"""The public functions: get, put, wait, remote, cancel, kill, get_actor, cluster state."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from ract.client.actors.handles import ActorHandle
from ract.client.api import auto_init
from ract.client.api.actor_class import ActorClass, handle_from_lookup, make_actor_class
from ract.client.api.remote_function import RemoteFunction, make_remote_function
from ract.client.calls.streams import ObjectRefGenerator
from ract.client.objects.refs import ObjectRef
from ract.client.process import finalizers
from ract.client.tasks.groups import GroupClient
from ract.core.errors import BadDecoratorError
from ract.core.ids import PlacementGroupID

if TYPE_CHECKING:
    from ract.client.runtime import Runtime


def remote(*args: Any, **options: Any) -> Any:
    """Make a function or class remote; used bare or with options.

    ``@ract.remote`` or ``@ract.remote(num_cpus=2, ...)``; the options are those of
    `RemoteFunction.options` for functions and `ActorClass.options` for classes.

    Raises:
        TypeError: something that is neither a function nor a class, or an option of a wrong type.
        ValueError: an unknown option or a bad value.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make_remote(args[0], {})
    if len(args) == 1 and not options:
        raise BadDecoratorError(
            f"The @ract.remote decorator must be applied to either a function or a class, "
            f"not {type(args[0]).__name__}"
        )
    if args or not options:
        raise BadDecoratorError(
            "The @ract.remote decorator must be applied either with no arguments and no "
            "parentheses, for example '@ract.remote', or with at least one keyword argument, for "
            "example '@ract.remote(num_returns=2, resources={\"CustomResource\": 1})'."
        )

    def decorate(target: Any) -> Any:
        return _make_remote(target, options)

    return decorate


def _make_remote(target: Any, options: dict[str, Any]) -> RemoteFunction | ActorClass:
    if inspect.isclass(target):
        return make_actor_class(target, **options)
    if callable(target) and (
        inspect.isroutine(target)
        or type(target).__name__ in ("cython_function_or_method", "partial")
    ):
        return make_remote_function(target, **options)
    raise BadDecoratorError(
        "The @ract.remote decorator must be applied to either a function or a class, "
        f"not {type(target).__name__}"
    )


@overload
def get(object_refs: ObjectRef, *, timeout: float | None = None) -> Any: ...
@overload
def get(object_refs: Sequence[ObjectRef], *, timeout: float | None = None) -> list[Any]: ...


def get(
    object_refs: Any,
    *,
    timeout: float | None = None,
    _use_object_store: bool = False,
    worker: Any = None,
) -> Any:
    """Wait for values and return them: one for a ref, a list for a list of refs.

    Arrays come back as read-only views of shared memory. A list raises as soon as one of its
    objects has failed, though others still run.

    Args:
        object_refs: A ref, or a list of refs (with duplicates, if you like).
        timeout: Seconds to wait; None or -1 for ever, 0 to look once.

    Raises:
        GetTimeoutError: not ready in time. The objects are unaffected.
        RactTaskError: the task raised; also an instance of the user's exception type.
        ValueError: neither a ref nor a list.
        TypeError: a list of other things.
    """
    runtime = auto_init.runtime()
    if worker is not None:
        _warn_of_worker()
    if timeout is not None and timeout < 0:
        timeout = None
    if isinstance(object_refs, ObjectRef):
        return runtime.get_one(object_refs, timeout)
    if not isinstance(object_refs, list):
        raise ValueError(
            f"ract.get() takes an ObjectRef or a list of ObjectRefs, not "
            f"{type(object_refs).__name__}"
        )
    for ref in object_refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(
                f"ract.get() got a list that contains {ref!r:.200} of type {type(ref).__name__}; "
                "every item must be an ObjectRef"
            )
    return runtime.get_many(object_refs, timeout)


def put(
    value: Any, *, _owner: Any = None, _tensor_transport: Any = None, worker: Any = None
) -> ObjectRef:
    """Keep a value in the object store and return a ref to it.

    Args:
        value: Any value that can be pickled. It is copied: later changes are not seen.
        _owner: Accepted for compatibility: here objects outlive their creator anyway.

    Raises:
        TypeError: a ref (it already is an object), or a value that cannot be pickled.
        ObjectStoreFullError: no room, even after spilling.
    """
    if _owner is not None and not isinstance(_owner, ActorHandle):
        raise TypeError(f"The '_owner' of ract.put must be an ActorHandle, not {type(_owner)}")
    if worker is not None:
        _warn_of_worker()
    return auto_init.runtime().put(value)


def wait(
    ray_waitables: list[Any],
    *older: Any,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
    timeout_ms: float | None = None,
    worker: Any = None,
) -> tuple[list[Any], list[Any]]:
    """Wait until some of the refs are complete (with a value or an error).

    Args:
        ray_waitables: Refs, and generators, without duplicates. A generator is complete when its
            next item can be taken without waiting, or it has ended.
        num_returns: How many to wait for, 1..len.
        timeout: Seconds; None waits as long as it takes, 0 looks once.
        fetch_local: Whether a value of another node is complete only when it was copied here.
        timeout_ms: The timeout in milliseconds, for programs that count in them.
        *older: ``num_returns`` and ``timeout`` by position, as in Ray 0.x; the timeout is in
            seconds all the same.

    Returns:
        (ready, not_ready), both in input order; at most ``num_returns`` are in ``ready``.

    Raises:
        TypeError: not a list of refs.
        ValueError: duplicates, a bad ``num_returns`` or a negative ``timeout``.
    """
    if older or worker is not None or timeout_ms is not None:
        num_returns, timeout = _older_wait(older, num_returns, timeout, timeout_ms, worker)
    if isinstance(ray_waitables, ObjectRef):
        raise TypeError("ract.wait() takes a list of ObjectRefs, not a single ObjectRef")
    if not isinstance(ray_waitables, list):
        kind = type(ray_waitables).__name__
        raise TypeError(f"ract.wait() takes a list of ObjectRefs, not {kind}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"The 'timeout' of ract.wait() must not be negative, got {timeout}")
    has_generators = False
    for kind in set(map(type, ray_waitables)):
        if issubclass(kind, ObjectRefGenerator):
            has_generators = True
        elif not issubclass(kind, ObjectRef):
            raise TypeError(f"ract.wait() takes ObjectRefs; the list contains a {kind.__name__}")
    if not ray_waitables:
        return [], []
    if len(set(ray_waitables)) != len(ray_waitables):
        raise ValueError("ract.wait() takes a list of unique ObjectRefs; it contains duplicates")
    if num_returns <= 0:
        raise ValueError(f"num_returns={num_returns}: ract.wait() waits for at least one object")
    if num_returns > len(ray_waitables):
        raise ValueError(
            f"num_returns={num_returns} cannot be greater than the number of objects, "
            f"{len(ray_waitables)}"
        )
    runtime = auto_init.runtime()
    if has_generators:
        return _wait_with_generators(runtime, ray_waitables, num_returns, timeout, fetch_local)
    return runtime.wait(ray_waitables, num_returns, timeout, fetch_local)


def _older_wait(
    older: tuple[Any, ...],
    num_returns: int,
    timeout: float | None,
    timeout_ms: float | None,
    worker: Any,
) -> tuple[int, float | None]:
    """The arguments of `wait` in its older forms, with warnings; returns (num_returns, timeout)."""
    if worker is not None:
        _warn_of_worker()
    if older:
        if len(older) > 2:
            raise TypeError(
                f"ract.wait() takes 3 positional arguments at most, not {len(older) + 1}"
            )
        warnings.warn(
            "give num_returns and timeout to ract.wait() by name", DeprecationWarning, stacklevel=3
        )
        num_returns = older[0]
        timeout = older[1] if len(older) > 1 else timeout
        if isinstance(timeout, int) and timeout >= 1000:
            warnings.warn(
                f"timeout={timeout} is in seconds; timeout_ms= counts in milliseconds", stacklevel=3
            )
    if timeout_ms is not None:
        if timeout is not None:
            raise ValueError("give timeout or timeout_ms to ract.wait(), not both")
        timeout = timeout_ms / 1000
    return num_returns, timeout


def _warn_of_worker() -> None:
    warnings.warn("worker= is of Ray 0.x and does nothing", DeprecationWarning, stacklevel=3)


def error_info() -> list[dict[str, Any]]:
    """Failures of this job that nobody has read: dicts with "type", "message" and "data"."""
    runtime = auto_init.runtime_without_init("error_info()")
    pushed = [dict(item.data) for item in list(runtime.pushed) if item.kind == "error"]
    found = [
        {"type": each.get("type", "error"), "message": each.get("message", ""), "data": each}
        for each in pushed
    ]
    return found + [
        {"type": "task", "message": str(error), "data": error}
        for error in list(runtime.unread.errors)
    ]


def _wait_with_generators(
    runtime: Runtime,
    waitables: list[Any],
    num_returns: int,
    timeout: float | None,
    fetch_local: bool,
) -> tuple[list[Any], list[Any]]:
    """Wait for the next items of generators in place of them."""
    given = {
        each._stream.peek() if isinstance(each, ObjectRefGenerator) else each: each
        for each in waitables
    }
    ready, rest = runtime.wait(list(given), num_returns, timeout, fetch_local)
    return [given[ref] for ref in ready], [given[ref] for ref in rest]


def cancel(ray_waitable: Any, *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task or actor call that makes a ref.

    A call that has not started never runs; a running task gets a KeyboardInterrupt, a coroutine
    asyncio.CancelledError; a finished call ignores it. ``get`` then raises TaskCancelledError.

    Args:
        ray_waitable: The ref, or the generator.
        force: Kill the worker process instead of interrupting it. Not for actor calls.
        recursive: Also cancel the calls that the task has submitted.

    Raises:
        TypeError: not a ref. ValueError: ``force`` for an actor call.
    """
    if isinstance(ray_waitable, ObjectRefGenerator):
        ray_waitable = ray_waitable.completed()
    if not isinstance(ray_waitable, ObjectRef):
        raise TypeError(
            f"ract.cancel() only supports ObjectRefs, got {type(ray_waitable).__name__}"
        )
    runtime = auto_init.runtime()
    if finalizers.amid and finalizers.is_amid():
        finalizers.later(partial(runtime.cancel, ray_waitable, force, recursive))
    else:
        runtime.cancel(ray_waitable, force, recursive)


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """Kill an actor at once: running, queued and later calls fail; exit handlers do not run.

    Args:
        actor: Any handle to it.
        no_restart: False lets it restart if its class allows.

    Raises:
        ValueError: not an actor handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(
            f"ract.kill() only supports actors, got {type(actor).__name__}. "
            "For tasks, try ract.cancel()."
        )
    actor._runtime.check_open()
    if finalizers.amid and finalizers.is_amid():
        finalizers.later(partial(actor._client.kill, no_restart))
    else:
        actor._client.kill(no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """A (weak) handle to a named actor.

    Args:
        name: The name it was created with.
        namespace: Where to look; None for the current one.

    Raises:
        ValueError: no live actor has the name.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an actor must be a string, not {type(name).__name__}")
    if not name:
        raise ValueError("Please supply a non-empty name to get a named actor")
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be a string, not {type(namespace).__name__}")
    if namespace == "":
        raise ValueError('"" is not a valid namespace. Pass None for the current one.')
    runtime: Any = auto_init.runtime()
    if runtime.is_local:
        return runtime.named_actor(name, namespace or runtime.namespace)
    runtime.actors.say_farewells()
    found = runtime.link.request("get_actor", name=name, namespace=namespace or runtime.namespace)
    return handle_from_lookup(runtime, found)


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, dead ones included, as dicts with Ray's keys."""
    return auto_init.runtime_without_init("nodes()").link.request("nodes")


def cluster_resources() -> dict[str, float]:
    """All resources of the cluster."""
    return auto_init.runtime_without_init("cluster_resources()").link.request("cluster_resources")


def available_resources() -> dict[str, float]:
    """The resources that are free now (to within a second); what is used up has no entry."""
    runtime = auto_init.runtime_without_init("available_resources()")
    runtime.release_idle_leases()
    return runtime.link.request("available_resources")


def explain(what: Any) -> str:
    """Say in words why something is not ready, or that it is.

    Args:
        what: A ref, an actor handle or a placement group, or the id of one (hex).

    Returns:
        What it waits for; of what waits for resources, the nodes that were looked at, what each of
        them lacks, and what is ahead in the queue.

    Raises:
        TypeError: something else.
    """
    runtime = auto_init.runtime()
    if isinstance(what, str):
        return _text(runtime.link.request("explain", id=bytes.fromhex(what)))
    if isinstance(what, ActorHandle):
        return _text(runtime.link.request("explain", id=what._actor_id_bytes))
    if isinstance(getattr(what, "id", None), PlacementGroupID):
        return _text(runtime.link.request("explain", id=what.id.binary()))
    if not isinstance(what, ObjectRef):
        raise TypeError(
            "ract.explain() takes a ref, an actor handle or a placement group, not "
            f"{type(what).__name__}"
        )
    if what._state >= 3:
        return f"{what!r} is ready."
    text = runtime.describe_wait(what)
    call = what._call
    if call is None:
        return _text(runtime.link.request("explain", id=what.binary()))
    owner = call.owner
    if call.waiting:
        return text
    if isinstance(owner, GroupClient):
        return f"{text}. {_text(runtime.link.request('explain', id=owner.group_id))}"
    if call.actor_id is not None:
        return f"{text}. {_text(runtime.link.request('explain', id=call.actor_id))}"
    if call.channel is None:
        return f"{text}. {_text(runtime.link.request('explain', shape_key=owner.key))}"
    return text


def _text(answer: Any) -> str:
    return answer.get("text", str(answer)) if isinstance(answer, dict) else str(answer)


AUTO_INIT_APIS: tuple[Callable[..., Any], ...] = (get, put, wait, cancel, kill, get_actor)
NON_AUTO_INIT_APIS: tuple[Callable[..., Any], ...] = (nodes, cluster_resources, available_resources)

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = range(5)
"""Kinds of processes, as Ray numbers them."""
