"""Whether this process is in a cluster. It joins, and it leaves, in one step.

Theory of operation
-------------------
A process is in one cluster at most. Who joins or leaves holds `Membership.lock` from the look
whether the process is in a cluster to the end of what follows from it. So of several threads that
need a cluster at a time one joins and the others find that it has, and nobody leaves a cluster that
is half joined. Who only looks, as each call does, reads `current.runtime` without the lock.

The lock is reentrant for the sake of signal handlers, which run between any two lines of the main
thread: a handler may leave while the code that it interrupts joins. `Membership.leavings` tells.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from ract.client.process import context, current, interrupts
from ract.client.start.node_processes import NodeProcess
from ract.core.session import use_system_config


class Membership:
    """The place of this process in a cluster, or in none.

    Attributes:
        lock: Held by who joins or leaves. It stands before all locks of
            `ract.client.process.locks`: who holds one of those neither joins nor leaves.
        context: What `init` has returned, a `RactContext`.
        started: The node that was started for this process, and ends when it leaves.
        leavings: How often the process has left a cluster, or has tried to.
        is_ending: The interpreter ends; nothing joins a cluster any more by itself.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Be in no cluster, in a forked child: another thread of the parent may hold the lock."""
        self.lock = threading.RLock()
        self.context: Any = None
        self.started: NodeProcess | None = None
        self.leavings = 0
        self.is_ending = False

    def runtime(self) -> Any:
        """The runtime of this process, if it is in a cluster, else None."""
        found = current.runtime
        return None if found is None or found.closed else found

    def join(self, connect: Callable[[], tuple[Any, Any]], *, again: bool) -> Any:
        """Join a cluster, unless this process is in one.

        Args:
            connect: Makes a connection: a runtime that was not started, and what `init` returns.
            again: Whether it is right that this process is in a cluster already.

        Raises:
            RuntimeError: this process is in a cluster, or has left it while it joined.
        """
        with self.lock:
            if self.runtime() is not None:
                return self._known(again)
            leavings = self.leavings
            try:
                runtime, made = connect()
                current.install(runtime)
                self.context = made
                runtime.start()
                interrupts.install()
                interrupts.install_in_notebook()
                if self.leavings != leavings:
                    raise RuntimeError("ract.shutdown() was called while ract.init() ran")
            except BaseException:
                self.leave()
                raise
            return made

    def _known(self, again: bool) -> Any:
        if not again:
            raise RuntimeError(
                "Maybe you called ract.init twice by accident? This process is already connected. "
                "Call ract.shutdown() first, or pass ignore_reinit_error=True."
            )
        assert self.context is not None
        return self.context

    def joined(self, join: Callable[[], object]) -> Any:
        """The runtime of this process; ``join()`` is called if there is none.

        Raises:
            RuntimeError: the interpreter ends.
        """
        with self.lock:
            found = self.runtime()
            if found is None:
                if self.is_ending:
                    raise RuntimeError("ract was shut down, since the interpreter ends")
                join()
                found = self.runtime()
                if found is None:  # a signal handler
                    raise RuntimeError("ract.shutdown() was called while ract.init() ran")
            return found

    def leave(self) -> None:
        """Leave the cluster, and end what was started for this process."""
        with self.lock:
            self.leavings += 1
            runtime = current.runtime
            if runtime is not None and not context.process.is_executor:
                runtime.close()
                interrupts.uninstall()
                current.install(None)
                use_system_config({})
                _stop_tracing()
            self.context = None
            self.stop_started()

    def stop_started(self) -> None:
        """End the node that was started for this process, if there is one."""
        started, self.started = self.started, None
        if started is not None:
            started.stop()


def _stop_tracing() -> None:
    if (tracing := sys.modules.get("ract.client.process.tracing")) is not None:
        tracing.stop()


membership = Membership()
"""That of this process."""


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leave the cluster; an embedded one ends with everything in it. Idempotent.

    Any thread may call it at any moment. What other threads wait for in the cluster raises a
    RuntimeError there.

    Args:
        wait_for_processes: Accepted for compatibility: an embedded cluster is always waited for.
    """
    membership.leave()


def is_initialized() -> bool:
    """Whether this process is connected to a cluster."""
    return membership.runtime() is not None


def _at_exit() -> None:
    membership.is_ending = True
    if not context.process.is_executor:
        shutdown(_exiting_interpreter=True)


atexit.register(_at_exit)


def _after_fork() -> None:
    """A forked child must not touch its parent's sockets, nor end its parent's cluster."""
    membership.forget()
    current.install(None)


os.register_at_fork(after_in_child=_after_fork)
