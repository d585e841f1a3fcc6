"""``rscheduler --journal`` as a process of this machine: a scheduler that may be killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from ract.core.session import child_environment

STOP_TIMEOUT_S = 10.0


class SchedulerProcess:
    """A scheduler that comes back with what its journal has; it ends with this process.

    Args:
        journal: The file of the journal.
        env: More variables for its environment.

    Attributes:
        address: Where it listens, the same after each `start`.

    Raises:
        RuntimeError: it could not start; its output says why.
    """

    def __init__(self, journal: str | os.PathLike[str], env: dict[str, str] | None = None) -> None:
        self.journal = Path(journal).absolute()
        self.address = ""
        self._env = dict(env or {})
        self.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def start(self) -> None:
        """Start it, the first time or again; returns when it listens."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "ract.scheduler.cli", "--port", "0"),
                *("--no-dashboard", "--journal", str(self.journal)),
                *("--until-pid", str(os.getpid())),
            ],
            env=child_environment(**self._env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.match(r"rscheduler: listening at (\S+)", line)
        if found is None:
            self._process.kill()
            code = self._wait()
            raise RuntimeError(f"rscheduler did not start (exit code {code}); see its output")
        self.address = found[1]

    def kill(self) -> None:
        """SIGKILL: no goodbye. Nodes wait for it to be started again."""
        self._process.kill()
        self._wait()

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._wait()
        except subprocess.TimeoutExpired:
            self.kill()

    def _wait(self) -> int:
        code = self._process.wait(STOP_TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code
