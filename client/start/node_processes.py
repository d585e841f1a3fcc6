"""Processes of nodes: starting them, and finding those that run on this machine.

A node process (`ract.client.start.head`) is the head of an embedded cluster, or a node that joins
one. It belongs to the process that starts it, and ends with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ract.core.session import SYSTEM_CONFIG, child_environment, root_folder

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class NodeProcess:
    """A node process that belongs to this one.

    Attributes:
        process: The process.
        answer: What its node.json says.
    """

    def __init__(self, config: dict[str, Any], env: dict[str, str] | None = None) -> None:
        """Start the process; `wait_ready` must follow.

        Args:
            config: As `ract.client.start.head` reads it.
            env: More variables for its environment.
        """
        self._reader, writer = os.pipe()
        config = {**config, "driver_pid": os.getpid(), "ready_fd": writer}
        told = {"RACT_HEAD": json.dumps(config)}
        told[SYSTEM_CONFIG] = json.dumps(config.get("system_config", {}))
        environment = child_environment(**(env or {}), **told)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ract.client.start.head"],
            env=environment,
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(writer)
        self.answer: dict[str, Any] = {}

    def wait_ready(self) -> None:
        """Wait until a driver can connect.

        Raises:
            RuntimeError: it could not start; the message says why.
            TimeoutError: it did not start in time.
        """
        try:
            line = _read_line(self._reader, self.process)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            os.close(self._reader)
        self.answer = json.loads(line)
        if "error" in self.answer:
            self.process.wait(STOP_TIMEOUT_S)
            raise RuntimeError(f"{self.answer['error']}: {self.answer['detail']}")

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # Its zygote cleans up what it leaves.
            self.process.kill()
            self.process.wait()


def local_nodes() -> list[dict[str, Any]]:
    """The living nodes of this user on this machine (their node.json), newest first."""
    found: list[tuple[float, dict[str, Any]]] = []
    for path in root_folder().glob("*/node.json"):
        try:
            if _is_locked(path.with_name("lock")):
                found.append((path.stat().st_mtime, json.loads(path.read_text())))
        except (OSError, ValueError):  # it ends right now
            continue
    return [node for _, node in sorted(found, key=lambda item: -item[0])]


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def local_node(address: str) -> dict[str, Any] | None:
    """The node of the cluster at ``address`` on this machine, the head if it is here."""
    nodes = [node for node in local_nodes() if node["scheduler_address"] == address]
    return min(nodes, key=lambda node: not node.get("is_head"), default=None)


def start(config: dict[str, Any], env: dict[str, str] | None = None) -> NodeProcess:
    """Start a node process and wait until a driver can connect; see `NodeProcess`."""
    made = NodeProcess(config, env)
    made.wait_ready()
    return made


def _read_line(reader: int, process: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + START_TIMEOUT_S
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"the head process did not start within {START_TIMEOUT_S} s")
        if select.select([reader], [], [], left)[0]:
            data = os.read(reader, 65536)
            if not data:
                code = process.wait()
                raise RuntimeError(f"the head process ended with exit code {code}; see its output")
            line += data
    return line
