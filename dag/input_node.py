"""What a graph is executed with."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ract.dag.dag_node import DAGNode, _Resolved
from ract.dag.input_data import DAGInputData


class InputNode(DAGNode):
    """Stands for the arguments of ``execute`` while a graph is built, one for each graph.

    ::

        with InputNode() as given:
            dag = f.bind(given)
        dag.execute(3)

    ``given`` is the only argument, or all of them as `DAGInputData`; ``given[0]``, ``given["key"]``
    and ``given.key`` are one of several arguments, or a part of the only one.

    Args:
        input_type: Types of the arguments, for people.

    Raises:
        ValueError: other arguments.
    """

    def __init__(self, /, *args: Any, input_type: Any = None, **kwargs: Any) -> None:
        if args or kwargs:
            raise ValueError("InputNode takes no arguments: it stands for those of execute()")
        super().__init__((), {}, {})
        self._input_type = input_type
        self._was_entered = False

    def get_result_type(self) -> Any:
        """The ``input_type``."""
        return self._input_type

    def __enter__(self) -> InputNode:
        self._was_entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        """An argument, or a part of the only one. Raises AssertionError for other keys."""
        assert isinstance(key, (int, str)), (
            f"an argument of a graph has a number or a name, not {key!r}: use an int or a str"
        )
        return InputAttributeNode(self, key, "__getitem__")

    def __getattr__(self, name: str) -> Any:
        if name == "remote" or (name.startswith("__") and name.endswith("__")):
            return super().__getattr__(name)
        if "_was_entered" not in self.__dict__:  # pickle and copy ask before it is complete
            raise AttributeError(name)
        return InputAttributeNode(self, name, "__getattr__")

    def _submit(self, resolved: _Resolved, data: Any) -> Any:
        return data


class InputAttributeNode(DAGNode):
    """Stands for one argument of ``execute``, or for a part of the only one."""

    def __init__(self, of: InputNode, key: int | str, accessor: str) -> None:
        super().__init__(
            (), {}, {}, {"dag_input_node": of, "key": key, "accessor_method": accessor}
        )

    @property
    def key(self) -> int | str:
        """Its number or name."""
        return self._bound_others["key"]

    def get_result_type(self) -> Any:
        """Its type, as the ``input_type`` of the `InputNode` says."""
        types = self._bound_others["dag_input_node"].get_result_type()
        return types.get(self.key) if isinstance(types, dict) else None

    def _submit(self, resolved: _Resolved, data: Any) -> Any:
        if isinstance(data, DAGInputData) or self._bound_others["accessor_method"] != "__getattr__":
            return data[self.key]
        return getattr(data, str(self.key))

    def _label(self) -> str:
        return repr(self.key)


def is_input(node: DAGNode) -> bool:
    """Whether it stands for what a graph is executed with."""
    return isinstance(node, (InputNode, InputAttributeNode))
