"""The zygote of a node: parent of its executors, and janitor of its files.

Theory of operation
-------------------
``python -m ract.worker.executor.zygote`` imports once what every executor needs, then forks on
request: a few milliseconds instead of half a second. It stays single-threaded, so that forking is
safe.

It shares a SEQPACKET socket with its daemon; a packet is one msgpack map:

    daemon -> zygote   {"session_dir": path, "shm_prefix": prefix, "devices": {...}}   first
                       {"fork": process, "env": {...}}    {"kill": pid, "signal": number}
    zygote -> daemon   {"forked": process, "pid": pid}
                       {"exited": process, "pid": pid, "status": n, "task": number}

A wait status of -1 says that the process could not be made; ``task`` is the number of the call
that it started last, from a page of memory that it shares with the zygote. When the socket ends,
the daemon is gone, however it died: the zygote kills every executor with all that it started (each
leads a process group), removes the node's shared memory and session directory, and exits.

An executor whose zygote dies gets SIGKILL from the kernel (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import random
import select
import shutil
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

import msgpack
import numpy as np

from ract.core.session import set_switch_interval
from ract.worker.executor import accelerators
from ract.worker.executor import main as executor
from ract.worker.executor.streams import log_path, open_log
from ract.worker.executor.titles import set_title
from ract.worker.files import shm, spill_places

PACKET_BYTES_MAX = 1 << 16
NOT_MADE = -1
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Zygote:
    """Forks, watches and kills.

    Args:
        sock: The socket shared with the daemon.
        session_dir: The node's session directory.
        shm_prefix: What the paths of the node's shared memory begin with.
    """

    def __init__(self, sock: socket.socket, session_dir: str, shm_prefix: str) -> None:
        self._sock = sock
        self._session_dir = session_dir
        self._shm_prefix = shm_prefix
        self._children: dict[int, int] = {}  # process number by pid
        self._progress: dict[int, mmap.mmap] = {}  # by pid: shared with that child
        self._wakeup, self._woken = socket.socketpair()

    def run(self) -> None:
        """Serve until the daemon is gone; then clean up."""
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.collect()
        gc.freeze()  # children share these objects; their collectors need not touch the pages
        while True:
            ready, _, _ = select.select([self._sock, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(4096)
                self._reap()
            if self._sock in ready:
                packet = self._receive()
                if not packet:
                    break
                self._handle(msgpack.unpackb(packet))
        self._clean_up()

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(PACKET_BYTES_MAX)
        except ConnectionResetError:  # the daemon has gone without reading all that we said
            return b""

    def _handle(self, request: dict[str, Any]) -> None:
        if "fork" in request:
            self._fork(request["fork"], request["env"])
        elif request["kill"] in self._children:
            _signal_group(request["kill"], request["signal"])

    def _tell(self, **message: Any) -> None:
        # The daemon may be gone; the next recv says so.
        with contextlib.suppress(ConnectionError):
            self._sock.send(msgpack.packb(message))

    def _fork(self, process: int, env: dict[str, str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        progress = mmap.mmap(-1, mmap.PAGESIZE)
        try:
            pid = os.fork()
        except OSError as error:
            print(f"ract: cannot fork an executor: {error}", file=sys.stderr)
            self._tell(exited=process, pid=0, status=NOT_MADE, task=0)
            return
        if pid == 0:
            self._be_executor(process, env, progress)
        self._children[pid] = process
        self._progress[pid] = progress
        with contextlib.suppress(OSError):  # the child does it too; whoever comes first
            os.setpgid(pid, pid)
        self._tell(forked=process, pid=pid)

    def _be_executor(self, process: int, env: dict[str, str], progress: mmap.mmap) -> NoReturn:
        try:
            parent = os.getppid()
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for sock in (self._sock, self._wakeup, self._woken):
                sock.close()
            self._open_logs(process)
            random.seed()
            np.random.seed()
            executor.run(process, self._session_dir, env, memoryview(progress).cast("Q"))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _open_logs(self, process: int) -> None:
        for stream, suffix in ((sys.stdout, "out"), (sys.stderr, "err")):
            open_log(log_path(self._session_dir, process, suffix), stream.fileno())
            stream.reconfigure(  # type: ignore[union-attr]
                encoding="utf-8", errors="backslashreplace", line_buffering=True
            )

    def _reap(self) -> None:
        while self._children:
            try:
                # Not reaped yet: as long as it is a zombie, its group's number is nobody else's.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            _signal_group(pid, signal.SIGKILL)  # what it has started goes with it
            _, status = os.waitpid(pid, 0)
            process = self._children.pop(pid, None)
            if process is not None:
                with self._progress.pop(pid) as progress:
                    task = int.from_bytes(progress[:8], sys.byteorder)
                self._tell(exited=process, pid=pid, status=status, task=task)

    def _clean_up(self) -> None:
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        shm.remove_prefix(self._shm_prefix)
        spill_places.remove_left(self._session_dir)
        shutil.rmtree(self._session_dir, ignore_errors=True)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> None:
    """Be the zygote at the other end of the socket with the number ``$RACT_ZYGOTE``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it outlives the daemon by what the cleaning takes
    set_switch_interval()  # executors inherit it
    sock = socket.socket(fileno=int(os.environ.pop("RACT_ZYGOTE")))
    set_title("zygote")
    first = sock.recv(PACKET_BYTES_MAX)
    if first:  # else the daemon has ended while it started
        node = msgpack.unpackb(first)
        accelerators.devices.update(node["devices"])
        Zygote(sock, node["session_dir"], node["shm_prefix"]).run()


if __name__ == "__main__":
    main()
