"""What this machine can do at best, measured with as little code as possible.

The rates of ract are read against these: two processes that exchange plain pickles over a Unix
socket, one by one and pipelined; a copy into warm shared memory; a fork.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import statistics
import struct
import time
from collections.abc import Callable

import numpy as np

_LENGTH = struct.Struct("<I")
CALL = [(1, 2, 3, "method", (), None)]
REPLY = [(1, b"ok")]
PIPELINED = 1000
COPY_BYTES = 100_000_000


def all_limits(repeats: int = 3) -> dict[str, tuple[float, str]]:
    """``{name: (median rate, unit)}``."""
    measures: dict[str, tuple[Callable[[], float], str]] = {
        "raw ping-pong": (ping_pong, "exchanges/s"),
        "raw pipelined exchange": (pipelined, "exchanges/s"),
        "warm memcpy": (warm_copy, "GB/s"),
        "fork": (fork, "forks/s"),
    }
    return {
        name: (statistics.median(measure() for _ in range(repeats)), unit)
        for name, (measure, unit) in measures.items()
    }


def _served(serve: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    mine, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        mine.close()
        try:
            serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return mine, pid


def _answer_each(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        pickle.loads(data)
        sock.send(pickle.dumps(REPLY, 5))


def ping_pong(seconds: float = 0.5) -> float:
    """Exchanges per second of one small pickle each way, one after another."""
    sock, pid = _served(_answer_each)
    n, start = 0, time.perf_counter()
    with sock:
        while time.perf_counter() - start < seconds:
            sock.send(pickle.dumps(CALL, 5))
            pickle.loads(sock.recv(65536))
            n += 1
        took = time.perf_counter() - start
    os.waitpid(pid, 0)
    return n / took


def _answer_all(sock: socket.socket) -> None:
    stream = sock.makefile("rwb", buffering=1 << 18)
    while True:
        for _ in range(PIPELINED):
            header = stream.read(4)
            if not header:
                return
            call = pickle.loads(stream.read(_LENGTH.unpack(header)[0]))
            body = pickle.dumps((call[1], b"ok"), 5)
            stream.write(_LENGTH.pack(len(body)) + body)
        stream.flush()


def pipelined(seconds: float = 0.5) -> float:
    """Exchanges per second of one small pickle each way, `PIPELINED` of them on the way at once."""
    sock, pid = _served(_answer_all)
    n, start = 0, time.perf_counter()
    with sock, sock.makefile("rwb", buffering=1 << 18) as stream:
        while time.perf_counter() - start < seconds:
            for i in range(PIPELINED):
                body = pickle.dumps((1, i, 3, "method", (), None), 5)
                stream.write(_LENGTH.pack(len(body)) + body)
            stream.flush()
            for _ in range(PIPELINED):
                pickle.loads(stream.read(_LENGTH.unpack(stream.read(4))[0]))
            n += PIPELINED
        took = time.perf_counter() - start
    os.waitpid(pid, 0)
    return n / took


def warm_copy(seconds: float = 0.5) -> float:
    """GB per second of copying an array into shared memory that is mapped and was written."""
    data = np.ones(COPY_BYTES, dtype=np.uint8)
    memory = mmap.mmap(-1, COPY_BYTES)
    target = np.frombuffer(memory, dtype=np.uint8)
    np.copyto(target, data)
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        np.copyto(target, data)
        n += 1
    return n * COPY_BYTES / (time.perf_counter() - start) / 1e9


def fork(seconds: float = 0.3) -> float:
    """Forks per second of this process, waited for."""
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        n += 1
    return n / (time.perf_counter() - start)
