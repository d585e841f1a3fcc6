"""Where this process is: addresses to give to other machines."""

from __future__ import annotations

import socket

import ract
from ract.client.runtime import current_runtime
from ract.core.session import setting

OUTSIDE = "8.8.8.8:53"
"""An address beyond the local network; nothing is sent to it."""


def get_node_ip_address(address: str | None = None) -> str:
    """The IP address of this node.

    Args:
        address: The address, ``host:port``, of a peer: return the one from which this machine
            reaches it. None for the one by which the cluster knows the node; outside of a cluster,
            the one from which the machine reaches the internet.

    Raises:
        ValueError: ``address`` has no port.
    """
    if address is not None:
        return _source_address(address)
    runtime = current_runtime()
    if runtime is not None and not runtime.closed:
        mine = runtime.node_id.hex()
        for node in ract.nodes():
            if node["NodeID"] == mine:
                return node["NodeManagerAddress"]
    return _source_address(OUTSIDE)


def get_node_instance_id() -> str:
    """The id that a cloud gave to this machine (``$RACT_CLOUD_INSTANCE_ID``); "" without."""
    return setting("CLOUD_INSTANCE_ID") or ""


def _source_address(peer: str) -> str:
    host, separator, port = peer.rpartition(":")
    if not separator or not port.isdigit():
        raise ValueError(f"an address is host:port, got {peer!r}")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))  # of a datagram socket: only looks up the route
            return probe.getsockname()[0]
        except OSError:  # no route, or no such name
            pass
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"
