"""The vocabulary of direct channels: calls one way, replies the other.

A frame is a 4-byte little-endian length and one pickle of a list. Only processes of the same job's
user exchange these frames, over Unix sockets in a 0700 directory (or a tunnel between two daemons
that hold the cluster's certificate).

Calls (caller -> executor) are tuples that start with an op code:

``(HELLO, process, job_id, node_id, actor_id, received)``
                                               who calls; alone in the first frame of a connection.
                                               ``received``: None on the first connection of a
                                               channel, else the number of the newest reply frame
                                               that came on the ones before
``(RECEIVED, frame)``                          reply frames up to this number have come
``(USE_LEASE, lease)``                         following tasks belong to this lease
``(DEFINE, key, pickled)``                     a function's body, once per channel
``(CALL, seq, number, target, args, extra, parent)``
                                               run ``target``: a function key (bytes) or method
                                               name; ``parent``: the number of the task that calls,
                                               or 0
``(CREDIT, seq, read)``                        so many items of a stream have been read
``(ASK, number, wait)``                        is there room for one more call in the mailbox?
``(VACATE,)``                                  room that was kept for a call is not needed
``(DONE, seq)``                                replies to all calls before ``seq`` have arrived
``(UNFINISHED, [number, ...])``                of calls to earlier processes only these may return

The last two go to durable actors only.

``args`` is a tuple of plain positional values, or None when they are packed in ``extra``:

==========  ===============================================================
``packed``  (head, buffers) of ``(args, kwargs)``, top-level refs replaced by `Slot`
``deps``    values of the slots: see `PLAIN`, `INLINE`, `STORED`
``refs``    [(id, count)]: holds that the caller has added for the executor
``returns`` number of return values if not 1 (int, "dynamic", "streaming")
``name``    task name if not the target's
``group``   concurrency group
``trace``   context of the caller's span (`ract.client.process.tracing`)
``retry``   exception classes packed, or True: which errors the caller retries (informative)
``rerun``   of a call to a durable actor: how often its own error made it run again
``attempt`` which attempt it is, if not the first (0)
``site``    where it was called from, if that is recorded
``captures``  the function captures refs or handles, so the executor does not keep it
``backpressure``  items of a stream that may be unread; ``read``: those read before a repetition
==========  ===============================================================

Replies (executor -> caller) come as ``(busy_s, [reply, ...], received)`` where ``busy_s`` is the
time spent in user code for the batch, and ``received`` the number of the newest frame that came
from the caller. A reply is ``(seq, value)`` for one plain result, else ``(seq, status, ...)``:

``(seq, INLINE, head, buffers, refs)``        packed value; ``refs`` = [(id, count)] held for caller
``(seq, ERROR, head, buffers, refs)``         packed exception
``(seq, STORED, object_id, node_id, path, offset, size, is_error)``   in that node's shared memory
``(seq, SEVERAL, [result, ...])``             one result (without seq) per return
``(seq, RETURNED, None)``                     not started: give it to somebody else
``(seq, CANCELLED, head)``                    the call was cancelled; ``head``: the packed error if
                                              it had started, else None
``(seq, ITEM, index, result)``                one item of a stream
``(seq, END, count)``                         the stream is over after ``count`` items; an ERROR or
                                              CANCELLED instead ends it with an item that raises
``(BLOCKED,)`` / ``(UNBLOCKED,)``             the executor's task waits / goes on
``(ROOM, number, there is)``                  the answer to ASK; room is kept for the call
``(RESUMED, received)``                       the answer to a HELLO that is not the first: which
                                              frame of the caller was the newest that came; -1 if
                                              the executor knows of no earlier connection;
                                              `GONE`, by a tunnel: there is no such executor

A channel outlives its connections. Each end numbers its frames from 1 on, without those that only
open a connection (HELLO, RESUMED), and keeps those that the other end has not acknowledged
(`SentFrames`). After a break both say on the next connection which frame was the newest that came,
and send again what followed it. So each frame arrives once, and in order.
"""

from __future__ import annotations

import pickle
import struct
from collections import deque
from typing import Any

HELLO, USE_LEASE, DEFINE, CALL, CREDIT, ASK, DONE, UNFINISHED, RECEIVED, VACATE = range(10)

PLAIN, INLINE, ERROR, STORED, SEVERAL, RETURNED, CANCELLED, ITEM, END = range(1, 10)

BLOCKED, UNBLOCKED, ROOM, RESUMED = -1, -2, -3, -4

LENGTH = struct.Struct("<I")
FRAME_BYTES_MAX = 2**31
"""Larger values go through shared memory long before this."""

GONE = -2
"""In a RESUMED: nobody listens at the address any more."""

RESUME_S = 20.0
"""An executor knows so long of a caller whose connection broke. Later it forgets what it owes."""


class GapError(Exception):
    """The other end asks for frames that are not kept any more, or were never sent."""


class Slot:
    """Stands in packed arguments where a top-level ref was."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return (Slot, (self.index,))


def frame(items: Any) -> bytes:
    """Encode one frame.

    Raises:
        ValueError: the other side would refuse it: larger than `FRAME_BYTES_MAX`.
    """
    body = pickle.dumps(items, 5)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"frame of {len(body)} bytes on a direct channel")
    return LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames. Feed it what was received; it returns whole payloads.

    The common case, one whole frame per receive, costs no copy: the payload is a view of the
    caller's buffer, valid until the next receive.
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: memoryview) -> list[Any]:
        """Return the decoded frames that ``data`` completes."""
        pending = self._pending
        if not pending:
            n = len(data)
            if n > 4 and LENGTH.unpack_from(data)[0] == n - 4:
                return [pickle.loads(data[4:])]
        pending += data
        frames = []
        start = 0
        view = memoryview(pending)
        try:
            while len(view) - start >= 4:
                size = LENGTH.unpack_from(view, start)[0]
                if size > FRAME_BYTES_MAX:
                    raise ValueError(f"frame of {size} bytes on a direct channel")
                if len(view) - start - 4 < size:
                    break
                frames.append(pickle.loads(view[start + 4 : start + 4 + size]))
                start += 4 + size
        finally:
            view.release()
        del pending[:start]
        return frames


class SentFrames:
    """The frames that one end of a channel has sent and that may have to be sent again. Pure.

    One thread adds while another one acknowledges: both ends of a deque may be used at once.

    Attributes:
        acknowledged: The number of the newest frame that has arrived for sure.
    """

    __slots__ = ("_kept", "acknowledged")

    def __init__(self) -> None:
        self._kept: deque[memoryview] = deque()
        self.acknowledged = 0

    def add(self, frame: memoryview) -> None:
        """A frame is sent; it gets the next number."""
        self._kept.append(frame)

    def arrived(self, number: int) -> None:
        """The frames up to this number have come.

        Raises:
            GapError: so many were not sent.
        """
        kept = self._kept
        while self.acknowledged < number:
            if not kept:
                raise GapError(f"frame {number} is said to have come, of {self.acknowledged}")
            kept.popleft()
            self.acknowledged += 1

    def after(self, number: int) -> list[memoryview]:
        """The frames to send again, to who has got those up to this number.

        Raises:
            GapError: some of them were dropped, or were never made.
        """
        if number < self.acknowledged:
            raise GapError(f"frame {number + 1} was acknowledged before it is asked for again")
        self.arrived(number)
        return list(self._kept)

    def __len__(self) -> int:
        return len(self._kept)
