"""Nodes: how they come, what they are asked, how they end."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ract.core.messages.values import ExitCause
from ract.core.wire import message

# --------------------------------------------------------------------------- node -> scheduler


@message
class NodeJoined:
    """First message of a node on its stream."""

    node_id: bytes
    address: str  #: the distributed worker's address
    host: str
    pid: int
    resources: dict[str, int]
    labels: dict[str, str]
    session_dir: str
    hostname: str = ""
    is_head: bool = False
    name: str = ""


@message
class NodeLeaving:
    """Last message of a node that ends by itself: why."""

    node_id: bytes
    cause: ExitCause


@message
class NodeAnswered:
    """Answer to `NodeAsked`; ``error`` says why there is none, "" if there is."""

    node_id: bytes
    number: int
    value: Any = None
    error: str = ""


# --------------------------------------------------------------------------- scheduler -> node


@message
class NodeAccepted:
    """Answer to `NodeJoined`; the node numbers its processes from the block."""

    node_id: bytes
    cluster_id: bytes
    first_process: int
    process_count: int
    reconnect_s: float = 0.0  #: the scheduler may come back within this time; 0: it does not


@message
class NodesChanged:
    """Where the nodes are, for tunnels and pulls: ``{node id hex: distributed address}``."""

    addresses: dict[str, str]


@message
class NodeAsked:
    """A question that the node answers by `NodeAnswered`.

    ``op``: see `ract.worker.host.answers`.
    """

    number: int
    op: str
    args: dict[str, Any] = field(default_factory=dict)


@message
class EndNode:
    """Shut the node down."""

    cause: ExitCause
