"""Calls that somebody cancels, and calls whose executor has died."""

from __future__ import annotations

from ract.core.wire import message

# --------------------------------------------------------------------------- process <-> its node


@message
class CancelCall:
    """node -> executor: interrupt (or never start) the call ``task`` (its 64-bit number)."""

    process: int
    task: int
    force: bool
    recursive: bool


# --------------------------------------------------------------------------- process <-> scheduler


@message
class CancelAsked:
    """process -> scheduler -> the process that made the call: cancel what makes an object."""

    process: int  #: who asks; then, who is asked
    object_id: bytes
    force: bool
    recursive: bool


@message
class CancelWanted:
    """process -> scheduler -> node of ``executor``: cancel a call that runs (or waits) there."""

    process: int
    executor: int
    task: int
    force: bool
    recursive: bool


@message
class CallsLost:
    """process -> scheduler: an executor died that owed it replies; it has none of what was in them.

    ``calls``: [number, index of the first return (or item) that has not arrived].
    """

    process: int
    executor: int
    calls: list[list[int]]
