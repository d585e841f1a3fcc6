"""Asking a cluster from outside: a *tool* has no job, and is forgotten when it hangs up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from ract.client.process.node_link import NodeLink
from ract.client.runtime import current_runtime
from ract.client.start import node_processes, places
from ract.client.start.init import init
from ract.client.start.membership import shutdown
from ract.core.messages import Hello
from ract.core.version import __version__

ANSWER_TIMEOUT_S = 10.0


class Ask(Protocol):
    """Asks the scheduler; see `NodeLink.request`."""

    def __call__(self, op: str, timeout: float | None = ..., **args: Any) -> Any: ...


def ask_cluster(address: str | None, op: str, timeout: float | None = None, **args: Any) -> Any:
    """The scheduler's answer to a request, asked through a node here or by joining.

    Args:
        address: The scheduler's; None for ``$RACT_ADDRESS``, else the newest cluster here.
        op: What to ask, see `ract.scheduler.queries.queries`.
        timeout: Seconds to wait for the answer; 10 if not given.
        args: Of the request.

    Raises:
        ConnectionError: no such cluster, or it could not be joined.
        TimeoutError: no answer.
    """
    with connected(address) as ask:
        return ask(op, timeout or ANSWER_TIMEOUT_S, **args)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Ask]:
    """A connection for several questions, made as `ask_cluster` does.

    Raises:
        ConnectionError: no such cluster, or it could not be joined.
    """
    address = places.resolve(address or "auto")
    if address is None:  # "local", which only makes sense for a program that goes on
        raise ConnectionError("'local' names a cluster that only its own program can see")
    node = node_processes.local_node(address)
    if node is not None:
        with connected_to_node(node["session_dir"]) as ask:
            yield ask
        return
    runtime = current_runtime()
    if runtime is not None and not runtime.closed:
        raise ConnectionError(
            f"no node of {address} is on this machine, and this process cannot join to ask since "
            "it is in another cluster: ask from a process of its own"
        )
    init(address, log_to_driver=False, include_dashboard=False)
    try:
        runtime = current_runtime()
        assert runtime is not None
        yield runtime.link.request
    finally:
        shutdown()


def ask_node(session_dir: str, op: str, **args: Any) -> Any:
    """The scheduler's answer to a request, asked as a tool through one node.

    Raises:
        OSError: the node is not there, or does not answer in time.
    """
    with connected_to_node(session_dir) as ask:
        return ask(op, ANSWER_TIMEOUT_S, **args)


@contextlib.contextmanager
def connected_to_node(session_dir: str) -> Iterator[Ask]:
    """A tool's connection to one node.

    Raises:
        OSError: the node is not there.
    """
    hello = Hello(kind="tool", pid=os.getpid(), ract_version=__version__)
    link = NodeLink(os.path.join(session_dir, "node.sock"), hello)
    reader = threading.Thread(target=_read, args=(link,), daemon=True, name="ract-tool")
    reader.start()
    try:
        yield link.request
    finally:
        link.close()
        reader.join()


def _read(link: NodeLink) -> None:
    link.begin()
    while not link.is_closed:
        link.readable()
