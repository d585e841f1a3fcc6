"""Malformed frames, plain-tcp peers and wrong tokens: refused, and the cluster goes on."""

import os
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import ract
from ract.client.runtime import current_runtime
from ract.core import security

FRAMES = 10_000
BATCH = 100


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def echo(x):
    return x


@ract.remote
class Actor:
    def pid(self):
        return os.getpid()


def cluster_processes():
    me = psutil.Process()
    return [p for p in me.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def tcp_ports():
    return sorted(
        {
            connection.laddr.port
            for process in cluster_processes()
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
    )


def malformed(rng):
    """A frame that is none: random bytes, or a length with garbage behind it."""
    body = rng.randbytes(rng.randrange(1, 64))
    kind = rng.randrange(4)
    if kind == 0:
        return body
    if kind == 1:
        return struct.pack("<I", len(body)) + body
    if kind == 2:
        return struct.pack("<Q", 1) + struct.pack("<Q", len(body)) + body
    return struct.pack("<I", rng.randrange(2**32)) + body


def throw(connect, rng, frames):
    """Send malformed frames over connections of one batch each."""
    for _ in range(frames // BATCH):
        try:
            with connect() as sock:
                sock.sendall(b"".join(malformed(rng) for _ in range(BATCH)))
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(10)
                while sock.recv(65536):
                    pass
        except TimeoutError:
            raise  # neither refused nor read
        except OSError:
            continue  # it was refused in the middle, which is what it should be


def test_only_loopback_listens():
    for process in cluster_processes():
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1")


def test_malformed_frames_on_every_tcp_port():
    actor = Actor.remote()
    pid = ract.get(actor.pid.remote())
    ports = tcp_ports()
    assert len(ports) >= 2
    for port in ports:
        rng = random.Random(port)
        throw(lambda port=port: socket.create_connection(("127.0.0.1", port), 10), rng, FRAMES)
    assert ract.get(actor.pid.remote(), timeout=30) == pid
    assert ract.get(echo.remote(1), timeout=30) == 1
    assert tcp_ports() == ports


def test_malformed_frames_on_every_unix_socket():
    actor = Actor.remote()
    pid = ract.get(actor.pid.remote())
    session = Path(current_runtime().link.welcome.session_dir)
    paths = sorted(path for path in session.iterdir() if path.is_socket())
    assert len(paths) >= 3

    def connect(path):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        return sock

    for path in paths:
        if path.exists():
            throw(lambda path=path: connect(path), random.Random(path.name), 1000)
    assert ract.get(actor.pid.remote(), timeout=30) == pid
    assert ract.get(echo.remote(1), timeout=30) == 1


def test_plain_tcp_peers_are_refused():
    address = current_runtime().link.welcome.scheduler_address
    code = f"""
from distributed import Client
try:
    Client({address.replace("tls://", "tcp://")!r}, timeout=3)
except (OSError, TimeoutError) as error:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "refused" in done.stdout, done
    assert ract.get(echo.remote(2), timeout=30) == 2


def test_wrong_token_is_refused(tmp_path):
    address = current_runtime().link.welcome.scheduler_address
    token = tmp_path / "token"
    security.load_or_create_token(str(token))
    env = {**os.environ, "RACT_TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "ract.worker.cli", address, "--token-file", str(token)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode != 0
    assert "token" in done.stderr
    assert len(ract.nodes()) == 1
    code = f"import ract; ract.init({address!r}, token_file={str(token)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "AuthenticationError" in done.stderr
    assert ract.get(echo.remote(3), timeout=30) == 3
