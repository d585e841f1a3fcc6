"""Passing bytes between sockets (real ones, TLS on one side as between nodes)."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from ract.core.security import security_config
from ract.worker.links.relay import Relay

MUCH = bytes(range(256)) * 20_000  # 5 MB: more than all buffers on the way


@pytest.fixture
def relay():
    made = Relay()
    yield made
    made.close()


def tls_pair():
    """Two connected TLS sockets."""
    import dask
    from distributed.security import Security

    with dask.config.set(security_config("the-token-of-this-test")):
        security = Security()
        server = security.get_listen_args("worker")["ssl_context"]
        client = security.get_connection_args("worker")["ssl_context"]
    mine, theirs = socket.socketpair()
    made = []
    thread = threading.Thread(
        target=lambda: made.append(server.wrap_socket(theirs, server_side=True))
    )
    thread.start()
    wrapped = client.wrap_socket(mine)
    thread.join()
    return wrapped, made[0]


def plain_pair():
    return socket.socketpair()


@pytest.fixture(params=[plain_pair, tls_pair], ids=["plain", "tls"])
def ends(request, relay):
    """(one end, the other end, event of the end) of a relayed connection."""
    near, near_relayed = socket.socketpair()
    far, far_relayed = request.param()
    over = threading.Event()
    relay.join(near_relayed, far_relayed, over.set)
    yield near, far, over
    for each in (near, far):
        each.close()
    assert over.wait(10)
    near_relayed.close()
    far_relayed.close()


def read(sock, size):
    found = b""
    while len(found) < size:
        data = sock.recv(size - len(found))
        assert data, f"ended after {len(found)} bytes"
        found += data
    return found


def test_bytes_pass_both_ways(ends):
    near, far, _ = ends
    for message in (b"a question", b"x" * 100_000):
        far.sendall(message)
        assert read(near, len(message)) == message
        near.sendall(message)
        assert read(far, len(message)) == message


def test_a_slow_reader_holds_the_sender_back_and_loses_nothing(ends):
    near, far, _ = ends
    for source, target in ((near, far), (far, near)):
        writer = threading.Thread(target=source.sendall, args=(MUCH,))
        writer.start()
        assert read(target, len(MUCH)) == MUCH
        writer.join()


def test_what_was_said_before_the_end_still_arrives(ends):
    near, far, over = ends

    def say_and_leave():
        near.sendall(MUCH)
        near.close()

    writer = threading.Thread(target=say_and_leave)
    writer.start()
    assert read(far, len(MUCH)) == MUCH
    writer.join()
    assert over.wait(10)


def test_a_connection_that_is_cut_ends_the_pair(ends):
    _, far, over = ends
    far.close()
    assert over.wait(10)


def test_closing_ends_all_pairs():
    relay = Relay()
    pairs = [socket.socketpair() for _ in range(4)]
    ended = []
    relay.join(pairs[0][1], pairs[1][1], lambda: ended.append(1))
    relay.join(pairs[2][1], pairs[3][1], lambda: ended.append(2))
    relay.close()
    assert sorted(ended) == [1, 2]
    for pair in pairs:
        for each in pair:
            each.close()


def test_many_pairs_share_the_thread(relay):
    before = threading.active_count()
    pairs, over = [], threading.Semaphore(0)
    for _ in range(50):
        near, near_relayed = socket.socketpair()
        far, far_relayed = socket.socketpair()
        relay.join(near_relayed, far_relayed, over.release)
        pairs.append((near, far, near_relayed, far_relayed))
    for i, (near, _, _, _) in enumerate(pairs):
        near.sendall(b"%d" % i)
    assert [int(far.recv(10)) for _, far, _, _ in pairs] == list(range(50))
    assert threading.active_count() == before
    for near, far, _, _ in pairs:
        near.close()
        far.close()
    for _ in pairs:
        assert over.acquire(timeout=10)
    for _, _, *relayed in pairs:
        for each in relayed:
            each.close()


def test_tls_is_really_used():
    one, two = tls_pair()
    assert isinstance(one, ssl.SSLSocket)
    assert one.version() == two.version() == "TLSv1.3"
    one.close()
    two.close()


def relayed(relay, on_end):
    """(one end, the other end) of a connection; the relay calls ``on_end`` when it is over."""
    near, near_relayed = socket.socketpair()
    far, far_relayed = socket.socketpair()
    relay.join(near_relayed, far_relayed, on_end)
    return near, far, near_relayed, far_relayed


@pytest.mark.parametrize("fault", ["on_end", "closed"])
def test_a_fault_in_one_connection_leaves_the_others_alone(relay, fault):
    failed = threading.Event()

    def fail():
        failed.set()
        raise RuntimeError("the event loop is closed")

    if fault == "on_end":
        near, far, *rest = relayed(relay, fail)
        near.close()
    else:  # the caller has lost one of the two before the relay takes them
        near, near_relayed = socket.socketpair()
        far, far_relayed = socket.socketpair()
        descriptor = far_relayed.detach()
        gone = socket.socket(fileno=descriptor)
        rest = [near_relayed, gone]
        end = _Closed(gone)
        relay.join(near_relayed, end, fail)
    assert failed.wait(10)
    over = threading.Event()
    one, two, *more = relayed(relay, over.set)
    one.sendall(b"still there?")
    assert two.recv(100) == b"still there?"
    for each in (near, far, *rest, one, two):
        each.close()
    assert over.wait(10)
    for each in more:
        each.close()


class _Closed:
    """A socket whose descriptor is that of no socket any more when the relay registers it."""

    def __init__(self, sock):
        self._sock = sock
        self._number = sock.fileno()
        sock.close()

    def fileno(self):
        return self._number

    def setblocking(self, flag):
        pass
