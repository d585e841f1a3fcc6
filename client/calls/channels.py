"""Opening direct channels: a Unix socket on this node, a tunnel through the daemons otherwise."""

from __future__ import annotations

import os
import socket
import struct

import msgpack

TUNNEL_SOCKET = "tunnel.sock"


def connect(address: str, node_id: bytes, my_node_id: bytes, session_dir: str) -> socket.socket:
    """Connect to the executor that listens at ``address`` on ``node_id``.

    Raises:
        OSError: nobody listens there (any more).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if node_id == my_node_id:
            sock.connect(address)
        else:
            sock.connect(os.path.join(session_dir, TUNNEL_SOCKET))
            target = msgpack.packb([node_id, address])
            sock.sendall(struct.pack("<I", len(target)) + target)
    except BaseException:
        sock.close()
        raise
    return sock
