"""Every interleaving of threads that ask the node, of its answers, and of the connection's end."""

import types

import frontrun
import pytest

from ract.client.process import node_link
from ract.core.errors import LeftClusterError, RactSystemError
from ract.core.messages import Hello, Welcome

WELCOME = node_link._framed(Welcome(1, b"n" * 28, b"job1", b"c" * 16, "", "", ""))


class Socket:
    """A socket that takes everything, until it is closed."""

    def __init__(self, *kind):
        self.sent = 0
        self.is_over = self.is_closed = self.was_used_late = False

    def connect(self, path): ...
    def settimeout(self, seconds): ...
    def sendall(self, data): ...

    def recv(self, size):
        self._look()
        return b"" if self.is_over else WELCOME

    def send(self, data, flags):
        self._look()
        if self.is_over:
            raise BrokenPipeError
        self.sent += 1
        return len(data)

    def shutdown(self, how):
        self.is_over = True

    def close(self):
        self.is_closed = True

    def _look(self):
        if self.is_closed:
            self.was_used_late = True
            raise OSError(9, "Bad file descriptor")


class World:
    """A process with a node; question 1 is asked by a thread."""

    def __init__(self):
        self.link = node_link.NodeLink("", Hello(kind="driver", pid=1))
        self.lost = []
        self.link.on_lost = lambda: self.lost.append(1)
        self.ends = []

    def ask(self):
        try:
            self.ends.append(self.link.ask(1, Hello(kind="driver", pid=1), None, "x"))
        except Exception as error:
            self.ends.append(type(error))

    def answer(self):
        """The node answers what has come to it, and then goes."""
        if self.link._sock.sent:
            self.link.answer(1, 42)

    def close(self):
        self.link.close()

    def lose(self):
        self.link._sock.is_over = True
        self.link.readable()

    def tell(self):
        self.link.hold_changes.append((b"id", 1, 1))
        self.link.tell(Hello(kind="driver", pid=1))

    def flush(self):
        self.link.hold_changes.append((b"id", 1, 1))
        self.link.flush_holds()

    def has_ended(self, *kinds):
        is_told = len(self.ends) == 1 and self.ends[0] in kinds
        return is_told and not self.link._requests and len(self.lost) <= 1


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch):
    names = ("AF_UNIX", "SOCK_STREAM", "MSG_DONTWAIT", "MSG_NOSIGNAL", "SHUT_RDWR")
    fake = {name: getattr(node_link.socket, name) for name in names}
    poll = types.SimpleNamespace(register=lambda *a: None, poll=lambda: None)
    monkeypatch.setattr(node_link, "socket", types.SimpleNamespace(socket=Socket, **fake))
    select = types.SimpleNamespace(poll=lambda: poll, POLLOUT=4)
    monkeypatch.setattr(node_link, "select", select)


EXECUTIONS_MAX = 60
"""Each message is many steps under one lock: so many interleavings, spread over all."""


def explore(workers, invariant):
    frontrun.explore(
        setup=World,
        workers=workers,
        invariant=invariant,
        max_executions=EXECUTIONS_MAX,
        search="bit-reversal",
        clock="virtual",
    ).assert_holds()


def test_who_asks_hears_of_shutdown():
    explore([World.ask, World.close], lambda world: world.has_ended(LeftClusterError))


def test_who_asks_hears_that_the_node_is_gone():
    explore([World.ask, World.lose], lambda world: world.has_ended(RactSystemError))


def test_the_first_of_answer_and_end_counts():
    explore(
        [World.ask, World.answer, World.close],
        lambda world: world.has_ended(42, LeftClusterError),
    )


def test_of_two_ends_one_counts():
    explore(
        [World.ask, World.lose, World.close],
        lambda world: world.has_ended(LeftClusterError, RactSystemError),
    )


@pytest.mark.parametrize("worker", [World.tell, World.flush])
def test_who_tells_finds_no_closed_socket(worker):
    explore([worker, World.close], lambda world: not world.link._sock.was_used_late)
