"""Several results of one graph."""

from __future__ import annotations

from typing import Any

from ract.dag.dag_node import DAGNode, _Resolved


class MultiOutputNode(DAGNode):
    """Executes several nodes together; gives the list of their results.

    Args:
        args: A list or tuple of nodes.

    Raises:
        ValueError: something else.
    """

    def __init__(self, args: Any) -> None:
        if not isinstance(args, (list, tuple)):
            raise ValueError(
                f"MultiOutputNode takes a list or tuple of nodes, not {type(args).__name__}"
            )
        super().__init__(tuple(args), {}, {})

    def _submit(self, resolved: _Resolved, data: Any) -> list[Any]:
        return list(resolved.args)
