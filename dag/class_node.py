"""Actors and calls of their methods in a lazy graph.

Theory of operation
-------------------
A `ClassNode` stands for an actor that is made anew at each execution. Its methods run in the order
in which they were bound: each call needs the one before (`PREV_CLASS_METHOD_CALL_KEY`), also if
nobody uses what that gives. Methods bound on the handle of an actor that exists have no such order,
and their actor stays.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ract.client.actors.handles import ActorHandle, ActorMethod
from ract.client.api.actor_class import ActorClass
from ract.core.options import method_options
from ract.dag.constants import (
    BIND_INDEX_KEY,
    IS_CLASS_METHOD_OUTPUT_KEY,
    PARENT_CLASS_NODE_KEY,
    PREV_CLASS_METHOD_CALL_KEY,
)
from ract.dag.dag_node import DAGNode, _Resolved
from ract.dag.input_node import is_input


class ClassNode(DAGNode):
    """What ``C.bind(...)`` gives: an actor to be made; ``node.method.bind(...)`` calls it.

    Raises:
        ValueError: an `InputNode` among the constructor's arguments.
    """

    def __init__(self, cls: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs, cls._options.given_values())
        self._class = cls
        self._last_call: ClassMethodNode | None = None
        self._calls = 0
        if any(map(is_input, self._needed)):
            raise ValueError(
                f"{self!r}: an InputNode cannot be an argument of a constructor. Give it to a "
                "method of the actor instead."
            )

    def _submit(self, resolved: _Resolved, data: Any) -> ActorHandle:
        return self._class.remote(*resolved.args, **resolved.kwargs)

    def __getattr__(self, name: str) -> Any:
        # Before there is a class, pickle and copy ask for their hooks.
        cls = self.__dict__.get("_class")
        if cls is not None and name in cls._methods:
            return UnboundMethod(self, name)
        if cls is not None and name != "remote":
            raise AttributeError(f"actor class {cls._name!r} has no method {name!r}")
        return super().__getattr__(name)

    def _label(self) -> str:
        return self._class._name if "_class" in self.__dict__ else ""


class UnboundMethod:
    """A method of an actor that does not exist yet: ``.bind(...)`` makes a node of it."""

    def __init__(self, parent: ClassNode, name: str, options: dict[str, Any] | None = None) -> None:
        self._parent = parent
        self._name = name
        self._options = dict(options or {})

    def bind(self, /, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """A node that calls the method, after the calls of this actor bound before."""
        parent = self._parent
        others = {
            PARENT_CLASS_NODE_KEY: parent,
            PREV_CLASS_METHOD_CALL_KEY: parent._last_call,
            BIND_INDEX_KEY: parent._calls,
        }
        node = ClassMethodNode(self._name, args, kwargs, self._options, others)
        parent._last_call = node
        parent._calls += 1
        return node

    def options(self, **options: Any) -> UnboundMethod:
        """The same method with other options. Raises ValueError, TypeError."""
        merged = {**self._options, **options}
        method_options(**merged)
        return UnboundMethod(self._parent, self._name, merged)

    def __call__(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{self!r} cannot be called: use .bind()")

    def __getattr__(self, name: str) -> Any:
        if name == "remote":
            raise AttributeError(
                f".remote() cannot be used on {self!r}: there is no actor yet. Use .bind()."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{self._parent._label()}.{self._name}"


class ClassMethodNode(DAGNode):
    """What ``.bind(...)`` of an actor's method gives: a call to be made."""

    def __init__(
        self,
        method_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        other_args_to_resolve: dict[str, Any],
    ) -> None:
        super().__init__(args, kwargs, options, other_args_to_resolve)
        self._method_name = method_name

    def get_method_name(self) -> str:
        """The method that is called."""
        return self._method_name

    def _submit(self, resolved: _Resolved, data: Any) -> Any:
        parent = self._bound_others[PARENT_CLASS_NODE_KEY]
        handle = parent if isinstance(parent, ActorHandle) else resolved.results[parent]
        method = getattr(handle, self._method_name)
        if self._bound_options:
            method = method.options(**self._bound_options)
        return method.remote(*resolved.args, **resolved.kwargs)

    def _label(self) -> str:
        parent = self._bound_others[PARENT_CLASS_NODE_KEY]
        name = parent._info.class_name if isinstance(parent, ActorHandle) else parent._label()
        return f"{name}.{self._method_name}"


class MethodOutputNode(ClassMethodNode):
    """One of several returns of a method call."""

    def __init__(self, call: ClassMethodNode, index: int) -> None:
        super().__init__(f"return_idx_{index}", (call,), {}, {}, {IS_CLASS_METHOD_OUTPUT_KEY: True})
        self._index = index

    @property
    def output_idx(self) -> int:
        """Which one."""
        return self._index

    def _submit(self, resolved: _Resolved, data: Any) -> Any:
        return resolved.args[0][self._index]

    def _label(self) -> str:
        return self._method_name


def bind_method(method: ActorMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The node for ``handle.method.bind(...)``; a tuple of nodes for several returns."""
    options = method._given_options()
    others = {PARENT_CLASS_NODE_KEY: method._handle, PREV_CLASS_METHOD_CALL_KEY: None}
    node = ClassMethodNode(method._method.name, args, kwargs, options, others)
    returns = options.get("num_returns")
    if isinstance(returns, int) and returns > 1:
        return tuple(MethodOutputNode(node, i) for i in range(returns))
    return node
