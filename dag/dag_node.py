"""Nodes of a lazy graph of calls: what they have in common.

Theory of operation
-------------------
``.bind()`` makes a node and runs nothing. A node knows what it needs: nodes anywhere in its
arguments, and others by name (a method call needs its actor's node and the call bound before it).
As a node exists before whatever needs it, there are no cycles.

`DAGNode.execute` takes the nodes that its own needs (`upstream`), in an order in which each comes
after what it needs, and submits every one once, with the refs that the others gave in their place.
It waits for nothing. Whatever is only needed meanwhile, such as the handles of new actors, goes
when it returns.
"""

from __future__ import annotations

import copy
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ract.dag import scanner
from ract.dag.input_data import given

T = TypeVar("T")


class DAGNode:
    """A call to be made, with nodes among its arguments.

    Args:
        args, kwargs: Of the call; nodes in them stand for what they will give.
        options: Of the call.
        other_args_to_resolve: What it needs beside, by name; nodes among it too.
    """

    _was_entered: bool | None = None
    """Of an `InputNode`, whether it was made in a ``with``; None of all other nodes."""

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        self._bound_args = tuple(args)
        self._bound_kwargs = dict(kwargs)
        self._bound_options = dict(options)
        self._bound_others = dict(other_args_to_resolve or {})
        self._stable_uuid = uuid.uuid4().hex
        self._cache: dict[str, Any] = {}
        self._type_hint: Any = None
        self._find_needed()

    def _find_needed(self) -> None:
        others = [each for each in self._bound_others.values() if is_node(each)]
        found = scanner.find((self._bound_args, self._bound_kwargs), is_node)
        self._needed: list[DAGNode] = list(dict.fromkeys([*others, *found]))

    # ------------------------------------------------------------------ running

    def execute(self, /, *args: Any, _ray_cache_refs: bool = False, **kwargs: Any) -> Any:
        """Submit this call, and every call that it needs once; does not wait.

        Args:
            args, kwargs: What the `InputNode` of the graph stands for.
            _ray_cache_refs: Keep what every node gave, for `get_object_refs_from_last_execute`.

        Returns:
            What ``remote`` of the function, class or method would: a ref, a handle, a list of refs.

        Raises:
            AssertionError: an `InputNode` made outside a ``with``, or several in one graph.
            TypeError: arguments do not fit a function or method.
        """
        nodes = upstream(self)
        _check_inputs(nodes)
        results: dict[DAGNode, Any] = {}
        data = given(args, kwargs)
        for node in nodes:
            results[node] = node._submit(_Resolved(node, results), data)
        if _ray_cache_refs:
            self._cache = {node._stable_uuid: result for node, result in results.items()}
        return results[self]

    def _submit(self, resolved: _Resolved, data: Any) -> Any:
        """Make the call. ``data`` is what the graph was executed with."""
        raise NotImplementedError

    async def get_object_refs_from_last_execute(self) -> dict[str, Any]:
        """What the nodes gave in the last execution that kept it, by `get_stable_uuid`."""
        return dict(self._cache)

    def clear_cache(self) -> None:
        """Forget what the last execution gave."""
        self._cache = {}

    def experimental_compile(self, *args: Any, **options: Any) -> NoReturn:
        """Not supported. Raises NotImplementedError."""
        raise NotImplementedError("ract does not compile graphs: run this one with .execute()")

    def with_tensor_transport(self, *args: Any, **options: Any) -> NoReturn:
        """Not supported. Raises NotImplementedError."""
        raise NotImplementedError(
            "tensor transports are for compiled graphs, which ract does not have; tensors travel "
            "between tasks and actors through shared memory"
        )

    # ------------------------------------------------------------------ looking at it

    def get_args(self) -> tuple[Any, ...]:
        """The positional arguments of the call."""
        return self._bound_args

    def get_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the call."""
        return dict(self._bound_kwargs)

    def get_options(self) -> dict[str, Any]:
        """The options of the call, those that were given."""
        return dict(self._bound_options)

    def get_other_args_to_resolve(self) -> dict[str, Any]:
        """What the call needs beside its arguments, by the names in `ract.dag.constants`."""
        return dict(self._bound_others)

    def get_stable_uuid(self) -> str:
        """A name for the node, 32 hex digits; copies and pickles of it keep it."""
        return self._stable_uuid

    @property
    def type_hint(self) -> Any:
        """What `with_type_hint` was given."""
        return self._type_hint

    def with_type_hint(self, hint: Any) -> DAGNode:
        """Deprecated: note a type; it has no effect. Returns the node."""
        self._type_hint = hint
        return self

    # ------------------------------------------------------------------ going through it

    def apply_recursive(self, fn: Callable[[DAGNode], Any]) -> Any:
        """Rebuild the graph from its leaves: every node becomes what ``fn`` makes of it.

        ``fn`` is called once for each node, with a copy of it in which the nodes that it needs are
        replaced already. Returns what it makes of this one.
        """
        made: dict[DAGNode, Any] = {}
        for node in upstream(self):
            made[node] = fn(node._with(made))
        return made[self]

    def _with(self, made: dict[DAGNode, Any]) -> DAGNode:
        resolved = _Resolved(self, made)
        other = copy.copy(self)
        other._bound_args, other._bound_kwargs = resolved.args, resolved.kwargs
        other._bound_others = {
            name: made[each] if is_node(each) else each for name, each in self._bound_others.items()
        }
        other._cache = {}
        other._find_needed()
        return other

    def traverse_and_apply(self, fn: Callable[[DAGNode], Any]) -> None:
        """Call ``fn`` once for this node and each that it needs, nearest first."""
        seen = {self}
        waiting = deque([self])
        while waiting:
            node = waiting.popleft()
            fn(node)
            fresh = [each for each in node._needed if each not in seen]
            seen.update(fresh)
            waiting.extend(fresh)

    def apply_functional(
        self,
        source_input_list: Any,
        predicate_fn: Callable[[Any], bool],
        apply_fn: Callable[[Any], Any],
    ) -> Any:
        """``source_input_list`` with ``apply_fn(x)`` for every ``x`` in it that the test picks."""
        return scanner.replaced(source_input_list, predicate_fn, apply_fn)

    def __getattr__(self, name: str) -> Any:
        kind = type(self).__name__
        if name == "remote":
            raise AttributeError(
                f".remote() cannot be used on a {kind}: it is a call to be made. To run it and "
                "what it needs, use .execute()."
            )
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")

    def _label(self) -> str:
        return ""

    def __repr__(self) -> str:
        parts = filter(None, (self._label(), self._stable_uuid[:8]))
        return f"{type(self).__name__}({', '.join(parts)})"


class _Resolved:
    """A node's arguments, with what other nodes gave in their place."""

    def __init__(self, node: DAGNode, results: dict[DAGNode, Any]) -> None:
        self.args: tuple[Any, ...]
        self.kwargs: dict[str, Any]
        bound = (node._bound_args, node._bound_kwargs)
        self.args, self.kwargs = scanner.replaced(bound, is_node, results.__getitem__)
        self.results = results


def is_node(value: Any) -> bool:
    """Whether it is a node."""
    return isinstance(value, DAGNode)


def _check_inputs(nodes: list[DAGNode]) -> None:
    """Raise AssertionError unless there is one `InputNode` at most, made in a ``with``."""
    inputs = [node for node in nodes if node._was_entered is not None]
    assert all(node._was_entered for node in inputs), (
        "InputNode is a context manager: write 'with InputNode() as given:' and build the graph "
        "inside"
    )
    assert len(inputs) <= 1, "a graph has one InputNode; this one has several"


def upstream(root: DAGNode) -> list[DAGNode]:
    """The nodes that ``root`` needs, and it: each once, after all that it needs itself."""
    ordered: dict[DAGNode, None] = {}
    waiting = [(root, False)]  # not by recursion: graphs may be deeper than Python's stack
    while waiting:
        node, is_met = waiting.pop()
        if is_met:
            ordered[node] = None
        elif node not in ordered:
            waiting.append((node, True))
            waiting += [(each, False) for each in reversed(node._needed) if each not in ordered]
    return list(ordered)
