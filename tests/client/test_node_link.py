"""The connection of a process to its node."""

import os
import signal
import socket
import threading

import pytest

from ract.client.process import node_link
from ract.core.errors import LeftClusterError, RactSystemError
from ract.core.messages import Hello, Request, Welcome


def test_a_node_that_never_answers_is_given_up_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(node_link, "WELCOME_TIMEOUT_S", 0.1)
    path = os.path.join(tmp_path, "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(ConnectionError, match="did not accept this process within"):
            node_link.NodeLink(path, Hello(kind="driver", pid=os.getpid()))


class Node:
    """A node that welcomes one process, and answers nothing."""

    def __init__(self, folder):
        path = os.path.join(folder, "s")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            welcoming = threading.Thread(target=self._welcome, args=(listener,))
            welcoming.start()
            self.link = node_link.NodeLink(path, Hello(kind="driver", pid=os.getpid()))
            welcoming.join()

    def _welcome(self, listener):
        self.sock, _ = listener.accept()
        welcome = Welcome(1, b"n" * 28, b"job1", b"c" * 16, "", "", "")
        self.sock.sendall(node_link._framed(welcome))

    def close(self):
        self.link.close()
        self.sock.close()


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.close()


def asking(node, n):
    """So many threads that ask, and a list of what they get."""
    found = []

    def ask():
        try:
            found.append(node.link.request("nodes"))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(n)]
    for thread in threads:
        thread.start()
    while len(node.link._requests) < n:
        threads[0].join(0.001)
    return threads, found


def test_who_waits_for_an_answer_hears_of_shutdown(node):
    threads, found = asking(node, 5)
    node.link.close()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in found] == [LeftClusterError] * 5
    with pytest.raises(LeftClusterError, match="shutdown"):
        node.link.request("nodes")
    with pytest.raises(LeftClusterError, match="shutdown"):
        node.link.send(Request(1, 1, "nodes", {}))


def test_who_waits_for_an_answer_hears_that_the_node_is_gone(node):
    lost = []
    node.link.on_lost = lambda: lost.append(1)
    threads, found = asking(node, 5)
    node.sock.close()
    node.link.readable()
    node.link.readable()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in found] == [RactSystemError] * 5
    with pytest.raises(RactSystemError, match="the node is gone"):
        node.link.request("nodes")
    assert lost == [1]


def test_a_message_is_whole_although_its_sender_was_interrupted(node):
    """A signal comes while the socket takes no more; the next sender writes the rest first."""
    big = Request(1, 1, "x", {"value": "y" * 4_000_000})
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            node.link.send(big)
    finally:
        signal.signal(signal.SIGALRM, before)
    sender = threading.Thread(target=node.link.send, args=(Request(1, 2, "z", {}),))
    sender.start()
    data = b""
    expected = sum(len(node_link._framed(m)) for m in (big, Request(1, 2, "z", {})))
    node.sock.recv(4)  # the length of the greeting
    node.sock.recv(len(node_link._framed(Hello(kind="driver", pid=os.getpid()))) - 4)
    while len(data) < expected:
        data += node.sock.recv(1 << 20)
    sender.join()
    assert data == node_link._framed(big) + node_link._framed(Request(1, 2, "z", {}))


def interrupt(signum, frame):
    raise KeyboardInterrupt
