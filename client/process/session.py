"""Which process of which cluster this is, and whether it still belongs to it."""

from __future__ import annotations

import itertools

from ract.client.process import interrupts
from ract.core import errors, ids
from ract.core.messages import Welcome


class Session:
    """The identity of this process in one cluster.

    Args:
        welcome: What the node answered when the process said hello.
        is_driver: Whether this is a driver; else it is an executor.

    Attributes:
        process: The process number, unique for the life of the cluster.
        node_id: The node that the process runs on (28 bytes).
        job_id: The job that the process works for (4 bytes). An executor gets one with its first
            lease or actor.
        namespace: Of the named actors that do not say another.
        closed: Whether the process has left the cluster.
        lost_reason: Why the node is gone; "" while it is there.
    """

    def __init__(self, welcome: Welcome, *, is_driver: bool) -> None:
        self.is_driver = is_driver
        self.process: int = welcome.process
        self.node_id: bytes = welcome.node_id
        self.job_id: bytes = welcome.job_id or b"\0\0\0\0"
        self.namespace: str = welcome.namespace
        self.closed = False
        self.lost_reason = ""
        self._first_number = self.process << ids.COUNTER_BITS
        self._counter = itertools.count(1)  # its `next` is one step for all threads

    def next_number(self) -> int:
        """A task number, unique in the cluster."""
        return self._first_number | next(self._counter)

    def check_open(self) -> None:
        """Raise if this process has left the cluster.

        Raises:
            RuntimeError: `ract.shutdown` was called.
        """
        if self.closed:
            raise RuntimeError(
                "this handle belongs to a cluster that this process has left (ract.shutdown)"
            )

    def check_alive(self) -> None:
        """Raise if it makes no sense to wait (on). Whoever waits calls this again and again.

        Raises:
            KeyboardInterrupt: this is the main thread, and it was interrupted.
            LocalRayletDiedError: the node daemon is gone.
            RuntimeError: `ract.shutdown` was called.
        """
        interrupts.check()
        if self.closed:
            raise errors.LeftClusterError("ract.shutdown() was called while this thread waited")
        if self.lost_reason:
            raise errors.LocalRayletDiedError(self.lost_reason)
