"""Objects: where they are written, who holds them, where they lie, what becomes of them."""

from __future__ import annotations

from ract.core.messages.values import Blob, Contained, Hold
from ract.core.wire import message

# --------------------------------------------------------------------------- process <-> its node


@message
class SegmentWanted:
    """A process asks for shared memory to write an object (or several small ones) into."""

    process: int
    request: int
    size: int


@message
class SegmentGranted:
    """``path`` may be written from 0 to ``size`` by the asking process, until it gives it back."""

    process: int
    request: int
    segment: int
    path: str
    size: int
    recycled: bool  #: pages are already there: copy through a mapping; else write with pwrite


@message
class SegmentRefused:
    """No room: ``error`` names an exception class of `core.errors`."""

    process: int
    request: int
    error: str
    detail: str


@message
class SegmentsMoved:
    """node -> process: these are on disk now; do not keep what you have mapped of them."""

    process: int
    paths: list[str]


@message
class SegmentClosed:
    """The process writes no further objects into the segment."""

    process: int
    segment: int


@message
class ObjectSealed:
    """An object was written to shared memory of this node. The node publishes it."""

    process: int
    object_id: bytes
    segment: int
    offset: int
    size: int
    contains: list[Contained]
    holds: list[Hold]
    is_error: bool = False
    call_site: str = ""  #: where the ref was made, if that is recorded


@message
class ObjectWanted:
    """The process (or node) waits for a value. Answered once, by `ObjectHere` (to the process)."""

    process: int
    object_id: bytes
    seen_on: bytes = b""  #: the node that stores it, as whoever made it said


@message
class ObjectUnwanted:
    """The process no longer waits."""

    process: int
    object_id: bytes


@message
class ObjectHere:
    """The value: inline in ``blob``, or in this node's shared memory at ``path``."""

    process: int
    object_id: bytes
    blob: Blob | None = None
    path: str = ""
    offset: int = 0
    size: int = 0
    is_error: bool = False


# --------------------------------------------------------------------------- process <-> scheduler


@message
class HoldsChanged:
    """process -> scheduler, in order with everything else it says.

    With ``call``: of the caller, for what is in return (or item) ``index`` of that call.
    """

    process: int
    holds: list[Hold]
    call: int = 0
    index: int = 0


@message
class ObjectPublished:
    """process -> scheduler: an object escaped. ``blob`` None: not ready, `process` will say.

    Sent again with a value (or by `ObjectSealed`) once it is ready.
    """

    process: int
    object_id: bytes
    blob: Blob | None
    contains: list[Contained]
    holds: list[Hold]
    task_name: str = ""
    call_site: str = ""  #: where the ref was made, if that is recorded
    #: The node that stores the value, says the reply that brought `process` a hold of it. That node
    #: tells of it too, unless it dies first.
    seen_on: bytes = b""


@message
class ObjectsFreed:
    """process -> scheduler: ``free(refs)``: drop the values though refs remain."""

    process: int
    object_ids: list[bytes]


@message
class ObjectLost:
    """scheduler -> the process that made the call: the last copy is gone, and somebody holds it.

    It runs the call again, or answers `ObjectUnrecoverable`.
    """

    process: int
    object_id: bytes
    reason: str
    is_held: bool = True  #: the cluster counts a hold of the process; it may not have heard of it


@message
class ObjectUntold:
    """scheduler -> the process that made the call: somebody waits, and no node has told of it.

    It publishes the value, or asks for it itself and says where it lies (`ObjectWanted.seen_on`).
    """

    process: int
    object_id: bytes


@message
class ObjectUnrecoverable:
    """process -> scheduler: the lost object cannot be made again.

    ``kind`` is "unrecoverable", "attempts" (no retries are left) or "evicted" (its lineage is).
    """

    process: int
    object_id: bytes
    kind: str
    reason: str


@message
class LineageKept:
    """process -> scheduler: it holds these no more, but could make them again. Say when they go."""

    process: int
    object_ids: list[bytes]


@message
class LineageOver:
    """scheduler -> process: nobody holds these any more (answers `LineageKept`)."""

    process: int
    object_ids: list[bytes]


# --------------------------------------------------------------------------- node -> scheduler


@message
class ObjectStored:
    """A sealed object (or a pulled copy) lies in the node's store."""

    node_id: bytes
    object_id: bytes
    size: int
    contains: list[Contained]
    holds: list[Hold]
    is_copy: bool = False
    is_error: bool = False
    maker: int = 0  #: the process that wrote it
    call_site: str = ""


@message
class ObjectKept:
    """The node keeps its copy as if the object had been made there (answer to `KeepObject`)."""

    node_id: bytes
    object_id: bytes


@message
class ObjectMissing:
    """A node could not pull the object from ``source``; answered as `ObjectSought`, if wanted."""

    node_id: bytes
    object_id: bytes
    source: bytes
    is_gone: bool = True  #: ``source`` said that it does not have it; else it could not be asked
    is_wanted: bool = True  #: somebody on the node still waits for it


@message
class ObjectSought:
    """The node has processes that wait for the object. Answered by `ObjectLocated`."""

    node_id: bytes
    object_id: bytes
    seen_on: bytes = b""  #: as in `ObjectWanted`; that node may have died before it could tell


@message
class ObjectUnsought:
    """Nobody on the node waits any more, or what it was told by `ObjectLocated` is of no use."""

    node_id: bytes
    object_id: bytes


# --------------------------------------------------------------------------- scheduler -> node


@message
class ObjectLocated:
    """Answer to `ObjectSought`: inline, or nodes that have it (their distributed addresses).

    A location is answered in turn: by `ObjectStored`, `ObjectMissing` or `ObjectUnsought`.
    """

    object_id: bytes
    blob: Blob | None
    node_ids: list[bytes]
    addresses: list[str]
    size: int
    is_error: bool = False


@message
class KeepObject:
    """Have a copy, fetched if need be, and keep it as if it had been made on this node."""

    object_id: bytes


@message
class FreeObject:
    """Nobody holds it: drop the copy."""

    object_id: bytes
