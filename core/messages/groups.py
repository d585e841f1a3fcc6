"""Placement groups: wanted, watched, removed."""

from __future__ import annotations

from dataclasses import field

from ract.core.wire import message

# --------------------------------------------------------------------------- values in messages


@message
class GroupSpec:
    """A placement group: bundles of resources to be reserved together."""

    group_id: bytes
    job_id: bytes
    owner: int  #: process number of the creator
    bundles: list[dict[str, int]]
    strategy: str = "PACK"
    name: str = ""
    namespace: str = ""
    detached: bool = False
    soft_target: bytes = b""  #: a node to be preferred (STRICT_PACK)
    selectors: list[dict[str, str]] = field(default_factory=list)  #: one per bundle, or none
    must_fit: bool = False  #: refuse it if no cluster of these nodes could ever hold it


# --------------------------------------------------------------------------- process <-> scheduler


@message
class GroupWanted:
    """process -> scheduler: reserve a placement group; who asks hears of it from now on.

    Named ones go through ``Request("create_group")``.
    """

    process: int
    spec: GroupSpec


@message
class GroupWatched:
    """process -> scheduler: tell me of this placement group, now and whenever it changes."""

    process: int
    group_id: bytes


@message
class GroupChanged:
    """scheduler -> watching process. ``state``: PENDING CREATED RESCHEDULING REMOVED."""

    process: int
    group_id: bytes
    state: str
    detail: str = ""


@message
class GroupRemoveWanted:
    """process -> scheduler: end a placement group and all that runs in it."""

    process: int
    group_id: bytes
