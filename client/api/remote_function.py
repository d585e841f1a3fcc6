"""Remote functions: what ``@ract.remote`` makes of a function."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.client.api import auto_init
from ract.client.process import current
from ract.client.tasks import strategies
from ract.client.tasks.submit import submit_task
from ract.core import serialization
from ract.core.diagnose import explain_unpicklable
from ract.core.messages import Shape
from ract.core.options import TaskOptions, task_options
from ract.core.seams import seam
from ract.core.signatures import Signature

if TYPE_CHECKING:
    from ract.client.runtime import Runtime
    from ract.client.tasks.pool import TaskPool


FUNCTION_BYTES_WARN = 10 * 2**20
FUNCTION_BYTES_MAX = 95 * 2**20

_NOT_FOUND: tuple[Any, object] = (None, None)


class RemoteFunction:
    """A function that runs in other processes: ``f.remote(...)`` submits a task."""

    def __init__(self, function: Callable[..., Any], options: TaskOptions) -> None:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ValueError(
                f"{function.__name__} is async: 'async def' should not be used for remote tasks. "
                "Wrap it: a normal function that calls asyncio.run(...), or an async actor."
            )
        _check_returns(function, options)
        self._function = function
        self._shipped = _Shipped(function)
        self._signature = Signature.of(function)
        self._options = options
        self._name = getattr(function, "__name__", None) or repr(function)
        self._label = options.name or self._name
        self._least, self._most = 0, sys.maxsize
        if self._signature is not None:
            self._least, self._most = self._signature.plain_range()
        #: The pool of its calls, and the scope in which that was found: one value, so that threads
        #: never see the one without the other.
        self._found = _NOT_FOUND
        functools.update_wrapper(self, function, updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"Remote functions cannot be called directly. Instead of running "
            f"'{self._name}()', try '{self._name}.remote()'."
        )

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a task; returns a ref (a list of refs, or None, per ``num_returns``).

        Raises:
            TypeError: the arguments do not fit, or an argument cannot be pickled.
        """
        if kwargs or not self._least <= len(args) <= self._most:
            if self._signature is not None:
                self._signature.check(self._name, args, kwargs)
        pool, scope = self._found
        if scope is not current.scope:
            runtime: Any = auto_init.runtime()
            if runtime.is_local:
                return runtime.run(self._function, self._label, self._options, args, kwargs)
            scope = current.scope  # first: what is found meanwhile is found anew
            pool = self._find_pool(runtime)
            self._found = pool, scope
        definition, captured = self._shipped.definition(pool.runtime, self._name)
        return submit_task(pool, definition, captured, self._label, self._options, args, kwargs)

    def _find_pool(self, runtime: Runtime) -> TaskPool:
        options = self._options
        plan = strategies.plan(runtime, options, options.demand, self._label)
        key = strategies.shape_key(options.demand, options, plan)
        return runtime.pools.find(
            key, lambda: strategies.make_shape(runtime, options.demand, options, plan, Shape)
        )

    def _remote(self, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        return self.options(**options).remote(*args, **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """A node of a lazy graph that will submit this task: see `ract.dag`."""
        return seam("dag.function_node")(self, args, kwargs)

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options.

        Raises:
            ValueError: an unknown option or a bad value. TypeError: a value of a wrong type.
        """
        other = object.__new__(RemoteFunction)
        other.__dict__.update(self.__dict__)
        other._options = self._options.merged(**options)
        if "num_returns" in options:
            _check_returns(self._function, other._options)
        other._label = other._options.name or other._name
        other._found = _NOT_FOUND
        return other

    def __repr__(self) -> str:
        return f"RemoteFunction({self._name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A function that names itself is rebuilt before it is complete: send what was found.
        return _rebuild, ({**self.__dict__, "_shipped": None, "_found": _NOT_FOUND},)


def _rebuild(state: dict[str, Any]) -> RemoteFunction:
    made = object.__new__(RemoteFunction)
    made.__dict__.update(state)
    made._shipped = _Shipped(made._function)
    return made


class _Shipped:
    """The function pickled, once per cluster, at its first call.

    No lock is held while the function is pickled, since that runs code of users. Two threads that
    call it for the first time may both pickle it; either result is right.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        #: For which runtime, (key, pickled function), refs and handles that it captures.
        self._made: tuple[Runtime, tuple[bytes, bytes], list[Any]] | None = None

    def definition(self, runtime: Runtime, name: str) -> tuple[tuple[bytes, bytes], list[Any]]:
        """((key, pickled), refs and handles that it captures)."""
        made = self._made
        if made is None or made[0] is not runtime:
            made = self._made = (runtime, *self._pickle(runtime, name))
        return made[1], made[2]

    def _pickle(self, runtime: Runtime, name: str) -> tuple[tuple[bytes, bytes], list[Any]]:
        try:
            packed = serialization.pack_by_value(self._function)
        except Exception as error:
            what = f"the remote function {name}"
            raise TypeError(explain_unpicklable(self._function, what, error)) from error
        check_size(runtime, name, len(packed.head), "function")
        key = hashlib.blake2b(packed.head, digest_size=16).digest()
        return (key, packed.head), packed.refs


def check_size(runtime: Runtime, name: str, size: int, kind: str) -> None:
    """Warn about a large pickled function or class; refuse a huge one.

    Raises:
        ValueError: larger than `FUNCTION_BYTES_MAX`.
    """
    advice = (
        "Its closure or globals hold large objects: put them with ract.put() and pass the ref "
        "as an argument."
    )
    if size > FUNCTION_BYTES_MAX:
        raise ValueError(
            f"The {kind} {name} is too large: {size / 2**20:.0f} MiB pickled, the limit is "
            f"{FUNCTION_BYTES_MAX // 2**20} MiB. {advice}"
        )
    if size > FUNCTION_BYTES_WARN:
        text = f"The {kind} {name} is very large: {size / 2**20:.0f} MiB pickled. {advice}"
        runtime.warn("pickling_large_object", text)


def make_remote_function(function: Callable[..., Any], **options: Any) -> RemoteFunction:
    """``@ract.remote`` on a function."""
    if inspect.isgeneratorfunction(function) and options.get("num_returns") is None:
        options["num_returns"] = "streaming"
    return RemoteFunction(function, task_options(**options))


def _check_returns(function: Any, options: TaskOptions) -> None:
    wanted = options.num_returns
    if wanted in ("streaming", "dynamic") and not inspect.isgeneratorfunction(function):
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"num_returns={wanted!r} is for generator functions; {name} is none")
    if wanted == "dynamic":
        warnings.warn(
            'num_returns="dynamic" is deprecated: a generator function without num_returns streams',
            DeprecationWarning,
            stacklevel=5,
        )
