"""The error of a task whose code raised: both `RactTaskError` and the user's own type.

``get`` must satisfy ``except MyError`` as well as ``except RactTaskError``. So it raises an
instance of a class made on the fly that inherits from both. The user's ``__init__`` is never called
(its signature is unknown); the cause's arguments and attributes are copied instead.
"""

from __future__ import annotations

import types
from typing import Any

from ract.core import naming
from ract.core.root_error import RactError

_dual_types: dict[type, type | None] = {}


class RactTaskError(RactError):
    """An exception raised by user code in a task or actor call.

    Attributes:
        function_name: The task's or method's name.
        traceback_str: The remote traceback.
        cause: The exception that user code raised.
        proctitle, pid, ip: Where it ran.
        actor_repr, actor_id: The actor, if it was one.
    """

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: Any,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause: Any
        #: Whether the cause cannot be pickled the usual way.
        self._by_parts = isinstance(cause, ByParts)
        # A failed argument or an inner get: the root error stays the cause.
        while isinstance(cause, RactTaskError):
            self._by_parts = cause._by_parts
            cause = cause.cause
        self.cause = cause
        self.proctitle = proctitle or naming.title(function_name)
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self.actor_id = actor_id
        self.args = (cause,)

    def __str__(self) -> str:
        where = f"pid={self.pid}, ip={self.ip}"
        if self.actor_id:
            where += f", actor_id={self.actor_id}"
        if self.actor_repr:
            where += f", repr={self.actor_repr}"
        return f"{self.proctitle}() ({where})\n{self.traceback_str.rstrip()}"

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            name: self.__dict__[name]
            for name in (
                "function_name",
                "traceback_str",
                "proctitle",
                "pid",
                "ip",
                "actor_repr",
                "actor_id",
            )
        }
        cause = self.cause
        if self._by_parts and not isinstance(cause, ByParts):
            cause = ByParts(cause)
        return _rebuild, (state, cause, type(self) is not RactTaskError)

    def make_dual_exception_type(self) -> type | None:
        """The class that inherits from RactTaskError and the cause's class; None if impossible."""
        cause_type = type(self.cause)
        if cause_type not in _dual_types:
            _dual_types[cause_type] = _make_dual(cause_type)
        return _dual_types[cause_type]

    def as_instanceof_cause(self) -> RactTaskError:
        """This error as an instance of the cause's class too (itself where that cannot be)."""
        cause = self.cause
        if type(self) is not RactTaskError or not isinstance(cause, BaseException):
            return self
        if isinstance(self, type(cause)):
            return self
        dual = self.make_dual_exception_type()
        if dual is None:
            return self
        error = _made(dual, cause)
        _copy_slots(cause, error)
        error.__dict__.update(getattr(cause, "__dict__", {}))
        error.__dict__.update(self.__dict__)
        error.args = cause.args
        if cause.__cause__ is not None:
            error.__cause__ = cause.__cause__
        return error


def _made(dual: Any, cause: BaseException) -> Any:
    if isinstance(cause, BaseExceptionGroup):
        return dual.__new__(dual, cause.message, cause.exceptions)
    for args in (cause.args, ()):
        try:
            return dual.__new__(dual, *args)
        except TypeError:
            continue
    return BaseException.__new__(
        dual
    )  # MemoryError refuses to make instances of subclasses like this


_OF_EVERY_EXCEPTION = frozenset(dir(BaseException))
_SLOT_TYPES = (types.MemberDescriptorType, types.GetSetDescriptorType)


def _copy_slots(cause: BaseException, error: BaseException) -> None:
    """Attributes that builtin exceptions keep outside ``__dict__``, such as ``OSError.errno``."""
    for kind in type(cause).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, _SLOT_TYPES) and name not in _OF_EVERY_EXCEPTION:
                try:
                    setattr(error, name, getattr(cause, name))
                except (AttributeError, TypeError):  # not set, or read-only
                    continue


def _rebuild(state: dict[str, Any], cause: Any, is_dual: bool) -> RactTaskError:
    error = RactTaskError(state["function_name"], state["traceback_str"], cause)
    if isinstance(cause, ByParts):
        error.cause = cause.rebuilt()
        error.args = (error.cause,)
    error.__dict__.update(state)
    return error.as_instanceof_cause() if is_dual else error


class ByParts:
    """What an exception is rebuilt from without its constructor.

    An exception class whose ``__init__`` takes other arguments than ``args`` cannot be unpickled
    the usual way, which calls it with ``args``.
    """

    def __init__(self, error: BaseException) -> None:
        self._parts = (type(error), error.args, dict(error.__dict__))

    def rebuilt(self) -> BaseException:
        """An exception like the one that was taken apart."""
        cls, args, attributes = self._parts
        error = cls.__new__(cls, *args)
        error.args = args
        error.__dict__.update(attributes)
        return error


def _make_dual(cause_type: type) -> type | None:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        pass

    own = f"{naming.program.capitalize()}TaskError"
    try:
        return type(
            f"{own}({cause_type.__name__})",
            (RactTaskError, cause_type),
            {
                "__init__": __init__,
                "__getattr__": lambda self, name: _from_cause(self, name),
                "__module__": cause_type.__module__,
                "__qualname__": f"{own}({cause_type.__qualname__})",
            },
        )
    except TypeError:  # a final class, or a metaclass that refuses
        return None


def _from_cause(error: Any, name: str) -> Any:
    cause = error.__dict__.get("cause")
    if cause is None or name.startswith("__"):
        raise AttributeError(name)
    return getattr(cause, name)
