"""Opening direct channels: a Unix socket on this node, a tunnel through the daemons otherwise."""

from __future__ import annotations

import os
import socket
import struct

import msgpack

from ract.client.calls.connection import ExecutorGone

TUNNEL_SOCKET = "tunnel.sock"


def dial(address: str, node_id: bytes, my_node_id: bytes, session_dir: str) -> socket.socket:
    """Connect to the executor that listens at ``address`` on ``node_id``; never waits.

    Raises:
        ExecutorGone: nobody listens there any more. A tunnel cannot tell: it just ends.
        OSError: it is not possible now: there are too many open files, or the queue is full.
    """
    is_here = node_id == my_node_id
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if is_here:
            sock.connect(address)
        else:
            sock.connect(os.path.join(session_dir, TUNNEL_SOCKET))
            target = msgpack.packb([node_id, address])
            sock.sendall(struct.pack("<I", len(target)) + target)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        sock.close()
        if is_here:
            raise ExecutorGone(f"nobody listens at {address}") from error
        raise
    except BaseException:
        sock.close()
        raise
    return sock
