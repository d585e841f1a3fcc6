"""The daemon's end of its zygote (`ract.worker.executor.zygote`).

It asks for executors, and hears of their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack

from ract.core.session import child_environment

PACKET_BYTES_MAX = 1 << 16
STOP_TIMEOUT_S = 10.0


_Spawned = tuple["subprocess.Popen[bytes]", socket.socket]
_early: _Spawned | None = None


def start_early() -> None:
    """Start the process whose zygote will be wanted, before this one imports distributed.

    Both import for a third of a second; this way they do it at the same time.
    """
    global _early
    _early = _spawn()


def _take_early() -> _Spawned | None:
    global _early
    taken, _early = _early, None
    return taken


def _spawn() -> _Spawned:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "ract.worker.executor.zygote"],
            env=child_environment(RACT_ZYGOTE=str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    mine.setblocking(False)
    return popen, mine


class Zygote:
    """The zygote of this node.

    Args:
        session_dir: The node's session directory.
        shm_prefix: What the paths of the node's shared memory begin with.
        on_forked: Called as (process, pid).
        on_exited: Called as (process, pid, wait status or -1 if it could not be made, last task).
        on_lost: Called if the zygote ends by itself.
    """

    def __init__(
        self,
        session_dir: str,
        shm_prefix: str,
        on_forked: Callable[[int, int], None],
        on_exited: Callable[[int, int, int, int], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._session_dir = session_dir
        self._shm_prefix = shm_prefix
        self._on_forked = on_forked
        self._on_exited = on_exited
        self._on_lost = on_lost
        self._sock: socket.socket | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._unsent: deque[bytes] = deque()
        self._pids: set[int] = set()

    async def start(self, devices: dict[str, Any]) -> None:
        """Start the process; requests may follow at once.

        Args:
            devices: The node's accelerators (`ract.worker.hardware.offer.Devices`).
        """
        self._loop = asyncio.get_running_loop()
        self._popen, self._sock = _take_early() or _spawn()
        self._loop.add_reader(self._sock, self._readable)
        self._send(
            {
                "session_dir": self._session_dir,
                "shm_prefix": self._shm_prefix,
                "devices": devices,
            }
        )

    @property
    def pid(self) -> int:
        """Of the process, which has been started."""
        assert self._popen is not None
        return self._popen.pid

    def fork(self, process: int, env: dict[str, str]) -> None:
        """Fork an executor with a process number and further environment variables."""
        self._send({"fork": process, "env": env})

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to an executor and what it has started, if it still lives."""
        self._send({"kill": pid, "signal": number})

    def close(self) -> None:
        """End the zygote, hence all executors. Blocks until they are gone."""
        if self._sock is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._forget, self._sock)
            self._sock.shutdown(socket.SHUT_RDWR)
            self._sock = None
        if self._popen is not None:
            try:
                self._popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()  # the executors get SIGKILL with it
                self._popen.wait()

    def _forget(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        sock.close()

    # ------------------------------------------------------------------ the socket

    def _send(self, message: dict[str, Any]) -> None:
        self._unsent.append(msgpack.packb(message))
        self._writable()

    def _writable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            while self._unsent:
                sock.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:  # it is still importing
            self._loop.add_writer(sock, self._writable)
            return
        except ConnectionError:  # the reader will hear of it
            self._unsent.clear()
        self._loop.remove_writer(sock)

    def _readable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            packet = sock.recv(PACKET_BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionError:
            packet = b""
        if not packet:
            self._sock = None
            self._forget(sock)
            self._kill_orphans()
            self._on_lost()
            return
        message = msgpack.unpackb(packet)
        if "forked" in message:
            self._pids.add(message["pid"])
            self._on_forked(message["forked"], message["pid"])
        else:
            self._pids.discard(message["pid"])
            self._on_exited(message["exited"], message["pid"], message["status"], message["task"])

    def _kill_orphans(self) -> None:
        """The executors died with the zygote; what they have started did not."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
