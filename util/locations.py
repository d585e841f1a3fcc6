"""Where the values of objects are."""

from __future__ import annotations

from typing import Any, NoReturn

from ract.client.objects.refs import PENDING, REMOTE, STORED, ObjectRef
from ract.client.runtime import current_runtime


def get_object_locations(
    obj_refs: list[ObjectRef], timeout_ms: int = -1
) -> dict[ObjectRef, dict[str, Any]]:
    """Nodes and sizes of objects.

    Args:
        obj_refs: Refs; those that are not ready have no location yet.
        timeout_ms: Accepted for compatibility: nothing is waited for.

    Returns:
        By ref, ``{"node_ids": [hex, ...], "object_size": bytes, "did_spill": bool}``; spilled is
        what a node has on disk, or behind a URL, now. Small values are in no node's store: they
        have no nodes, and size 0. What is not ready has no nodes, and size None.

    Raises:
        RuntimeError: this process is in no cluster.
        TypeError: not a list of refs.
    """
    _check(obj_refs)
    runtime = current_runtime()
    if runtime is None or runtime.closed:
        raise RuntimeError("ract is not initialized: call ract.init() first")
    known = [ref for ref in obj_refs if ref._holds or ref._state <= REMOTE]
    found = runtime.link.request("object_locations", ids=[ref.binary() for ref in known])
    nowhere = {"node_ids": [], "object_size": 0, "did_spill": False}
    places = {ref: {**nowhere, **found.get(ref.hex(), {})} for ref in obj_refs}
    for ref, place in places.items():
        if ref._state == PENDING:
            place["object_size"] = None
    return places


def get_local_object_locations(obj_refs: list[ObjectRef]) -> dict[ObjectRef, dict[str, Any]]:
    """As `get_object_locations`, from what this process knows, without asking anybody.

    It does not know what nodes have spilled: ``did_spill`` is always False.
    """
    _check(obj_refs)
    found: dict[ObjectRef, dict[str, Any]] = {}
    for ref in obj_refs:
        place: dict[str, Any] = {"node_ids": [], "object_size": 0}
        if ref._state == STORED:
            place = {"node_ids": [ref._value[0].hex()], "object_size": ref._value[3]}
        found[ref] = {**place, "did_spill": False}
    return found


def _check(obj_refs: Any) -> None:
    if not isinstance(obj_refs, list | tuple):
        raise TypeError(f"a list of ObjectRefs is needed, not {type(obj_refs).__name__}")
    for ref in obj_refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"every item must be an ObjectRef, and one is {ref!r:.100}")


def set_resource(resource_name: str, capacity: float, node_id: Any = None) -> NoReturn:
    """Resources cannot be changed while a cluster runs. Raises DeprecationWarning, as in Ray."""
    raise DeprecationWarning(
        "resources are given when a node starts: ract.init(resources=...) or rworker --resources"
    )
