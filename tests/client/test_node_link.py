"""The connection of a process to its node."""

import os
import socket

import pytest

from ract.client.process import node_link
from ract.core.messages import Hello


def test_a_node_that_never_answers_is_given_up_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(node_link, "WELCOME_TIMEOUT_S", 0.1)
    path = os.path.join(tmp_path, "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(ConnectionError, match="did not accept this process within"):
            node_link.NodeLink(path, Hello(kind="driver", pid=os.getpid()))
