"""What is in a node's store, in words for people."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from ract.worker.node.store import StoreIndex


def described(store: StoreIndex, most: int) -> dict[str, Any]:
    """The objects, the largest first: by id (hex), where they are; and how many there are."""
    largest = heapq.nlargest(most, store.objects.items(), key=lambda each: each[1].size)
    found = {}
    for object_id, stored in largest:
        segment = store.segments.get(stored.segment)
        found[object_id.hex()] = {
            "size": stored.size,
            "is_copy": stored.is_copy,
            "is_spilled": segment is not None and segment.is_spilled,
        }
    return {
        "objects": found,
        "count": len(store.objects),
        "bytes": object_bytes(store),
        "count_in_memory": sum(
            len(segment.objects) for segment in store.segments.values() if not segment.is_spilled
        ),
        "used": store.used_bytes,
        "pinned": store.pinned_bytes,
        "capacity": store.capacity,
        "spilled": store.spilled_bytes,
    }


def described_one(store: StoreIndex, object_id: bytes) -> dict[str, Any]:
    """One object: how large it is, and in which segment. Raises ValueError if it is not here.

    Unlike `find` it only looks: the object does not count as used.
    """
    stored = store.objects.get(object_id)
    segment = store.segments.get(stored.segment) if stored is not None else None
    if stored is None or segment is None:
        raise ValueError(f"object {object_id.hex()} is not in the store (any more)")
    return {
        "size": stored.size,
        "is_copy": stored.is_copy,
        "is_spilled": segment.is_spilled,
        "is_away": segment.is_away,
        "segment": segment.id,
    }


def spilled_among(store: StoreIndex, ids: Iterable[bytes]) -> list[bytes]:
    """Those of these objects that are on disk or away."""
    found = ((id_, store.objects.get(id_)) for id_ in ids)
    return [id_ for id_, at in found if at is not None and store.segments[at.segment].is_spilled]


def sizes_in(store: StoreIndex, segment_id: int) -> list[int]:
    """The sizes of the objects in a segment."""
    segment = store.segments.get(segment_id)
    return [store.objects[each].size for each in segment.objects] if segment else []


def object_bytes(store: StoreIndex) -> int:
    """Bytes of living objects."""
    return sum(stored.size for stored in store.objects.values())
