"""Pictures of graphs, drawn by Graphviz."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from ract.dag.dag_node import DAGNode, upstream


def plot(dag: DAGNode, to_file: str | None = None) -> Any:
    """Draw a graph.

    Args:
        dag: The node that is executed.
        to_file: Where to write the picture; its ending says in which format. Default: a file that
            is removed again, for notebooks.

    Returns:
        In a notebook the picture, else None.

    Raises:
        ImportError: pydot or Graphviz is not installed.
    """
    pydot = _pydot()
    graph = pydot.Dot(rankdir="LR")
    names = _names(upstream(dag))
    for node, name in names.items():
        graph.add_node(pydot.Node(name, shape="box"))
        for needed in node._needed:
            graph.add_edge(pydot.Edge(names[needed], name))
    if to_file is None:
        with tempfile.TemporaryDirectory() as folder:
            return _drawn(graph, os.path.join(folder, "dag.png"))
    return _drawn(graph, to_file)


def _names(nodes: list[DAGNode]) -> dict[DAGNode, str]:
    """A name for each node: what it calls, with a number from the second of the kind on."""
    names: dict[DAGNode, str] = {}
    counts: dict[str, int] = {}
    for node in nodes:
        base = node._label() or type(node).__name__
        counts[base] = counts.get(base, 0) + 1
        names[node] = base if counts[base] == 1 else f"{base}_{counts[base] - 1}"
    return names


def _pydot() -> Any:
    try:
        import pydot  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise ImportError("drawing a graph needs pydot: pip install pydot") from None
    if shutil.which("dot") is None:
        raise ImportError("drawing a graph needs Graphviz: install the program 'dot'")
    return pydot


def _drawn(graph: Any, to_file: str) -> Any:
    form = os.path.splitext(to_file)[1].removeprefix(".") or "png"
    graph.write(to_file, format=form)
    try:
        from IPython.core.display import Image  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return Image(filename=to_file) if form == "png" else None
