"""Which GPUs an executor may use: by the variable that CUDA libraries read when they start."""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "CUDA_VISIBLE_DEVICES"
KEEP = (
    "RACT_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
)

_of_node = os.environ.get(VARIABLE)
"""What the node was restricted to when it started, by ids or UUIDs; None for all it has."""


def show(assigned: dict[str, Any]) -> dict[str, list[str]]:
    """Make exactly the assigned GPUs visible to this process; none if none are assigned.

    Args:
        assigned: By resource, the numbers of the node's devices, counted from 0.

    Returns:
        By resource, the ids under which the machine knows them.
    """
    offered = _of_node.split(",") if _of_node else None
    ids = [offered[i] if offered is not None else str(i) for i in assigned.get("GPU", ())]
    if not any(os.environ.get(name) == "1" for name in KEEP):
        os.environ[VARIABLE] = ",".join(ids)
    return {"GPU": ids} if ids else {}
