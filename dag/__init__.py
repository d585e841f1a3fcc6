"""Lazy graphs of calls: built by ``.bind()``, run by ``.execute()``."""

from ract.dag.class_node import ClassMethodNode, ClassNode
from ract.dag.constants import (
    BIND_INDEX_KEY,
    COLLECTIVE_OPERATION_KEY,
    DAGNODE_TYPE_KEY,
    IS_CLASS_METHOD_OUTPUT_KEY,
    PARENT_CLASS_NODE_KEY,
    PREV_CLASS_METHOD_CALL_KEY,
)
from ract.dag.dag_node import DAGNode
from ract.dag.function_node import FunctionNode
from ract.dag.input_node import DAGInputData, InputAttributeNode, InputNode
from ract.dag.output_node import MultiOutputNode
from ract.dag.vis_utils import plot

__all__ = [
    "BIND_INDEX_KEY",
    "COLLECTIVE_OPERATION_KEY",
    "DAGNODE_TYPE_KEY",
    "IS_CLASS_METHOD_OUTPUT_KEY",
    "PARENT_CLASS_NODE_KEY",
    "PREV_CLASS_METHOD_CALL_KEY",
    "ClassMethodNode",
    "ClassNode",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
    "plot",
]
