"""What processes have promised to others: values of objects that escaped before they were there."""

from __future__ import annotations

from collections.abc import Iterator

from ract.scheduler.objects.directory import Directory


def owed_by(directory: Directory, process: int) -> Iterator[bytes]:
    """Yield the ids of what a process has promised and others still want, oldest first."""
    holds = directory.holds
    for object_id in directory.by_publisher.get(process, ()):
        is_held = any(holder != process for holder in holds.by_id.get(object_id, {}))
        is_sought = bool(directory.table[object_id].seekers)
        if is_held or is_sought or object_id in holds.contained:
            yield object_id


def owes(directory: Directory, process: int) -> bool:
    """Whether a process has promised anything that others still want."""
    return next(owed_by(directory, process), None) is not None
