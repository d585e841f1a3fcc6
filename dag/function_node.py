"""Calls of remote functions in a lazy graph."""

from __future__ import annotations

from typing import Any

from ract.client.api.remote_function import RemoteFunction
from ract.dag.dag_node import DAGNode, _Resolved


class FunctionNode(DAGNode):
    """What ``f.bind(...)`` gives: a task to be submitted."""

    def __init__(
        self, function: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        super().__init__(args, kwargs, function._options.given_values())
        self._function = function

    def _submit(self, resolved: _Resolved, data: Any) -> Any:
        return self._function.remote(*resolved.args, **resolved.kwargs)

    def _label(self) -> str:
        return self._function._name
