"""Faults on purpose: processes of a cluster are killed while a program runs on it.

Theory of operation
-------------------
`Chaos` has a thread that kills something, waits, and does it again; what and when comes from one
seed. It knows only what anybody can see: the processes of this machine's nodes. A node that it
kills is one of the `ract.testing.Cluster` that it is given, never the head, and is replaced. A
scheduler can be killed if the cluster has a journal; it is started again some moments later.

`main` is what ``make chaos`` runs: tasks and actor calls with retries under faults, whose results
are compared with what they must be, and others without, which leave a trace in a file each time
they run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

import ract
from ract.core.errors import RactError
from ract.util.local_cluster import Cluster

KINDS = ("executor", "node", "scheduler")
AWAY_S = 0.5
"""So long on average a killed scheduler is away."""

RECONNECT_S = 30
"""A node that is killed before it has found a new scheduler is waited for so long."""


class Chaos:
    """Kills processes of a cluster until it is left; a context manager.

    Args:
        cluster: Whose nodes may be killed.
        seed: Of all choices.
        every_s: Seconds between two faults, on average.
        kinds: What is killed: "executor" (SIGKILL to one), "node" (SIGKILL to a daemon, and a new
            node in its place), "scheduler" (SIGKILL to it, and a start again). Default: all that
            the cluster allows.

    Attributes:
        faults: How many there were, by kind.

    Raises:
        ValueError: another kind, or "scheduler" for a cluster without a journal.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        seed: int = 0,
        every_s: float = 0.5,
        kinds: tuple[str, ...] | None = None,
        node_args: dict[str, Any] | None = None,
    ) -> None:
        possible = KINDS if cluster.scheduler is not None else KINDS[:2]
        kinds = possible if kinds is None else kinds
        unknown = [kind for kind in kinds if kind not in possible]
        if unknown:
            why = "" if cluster.scheduler is not None else " (the cluster has no journal)"
            raise ValueError(f"kinds={unknown} are not among {list(possible)}{why}")
        self.faults: Counter[str] = Counter()
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._every_s = every_s
        self._kinds = kinds
        self._node_args = dict(node_args or {})
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ract-chaos", daemon=True)

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._rng.expovariate(1 / self._every_s)):
            kind = self._rng.choice(self._kinds)
            kill = {
                "executor": self._kill_executor,
                "node": self._kill_node,
                "scheduler": self._kill_scheduler,
            }
            if kill[kind]():
                self.faults[kind] += 1

    def _kill_executor(self) -> bool:
        nodes = [node for node in self._cluster.list_all_nodes() if node.alive]
        found = sorted(pid for node in nodes for pid in executors(node.pid))
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self._rng.choice(found)).kill()
        return True

    def _kill_node(self) -> bool:
        if not self._cluster.worker_nodes:
            return False
        node = self._rng.choice(self._cluster.worker_nodes)
        self._cluster.remove_node(node, allow_graceful=False)
        self._cluster.add_node(**self._node_args)
        return True

    def _kill_scheduler(self) -> bool:
        scheduler = self._cluster.scheduler
        assert scheduler is not None, "that was checked at first"
        scheduler.kill()
        self._is_over.wait(self._rng.expovariate(1 / AWAY_S))
        scheduler.start()
        return True


def executors(daemon: int) -> list[int]:
    """The pids of the executors of a node, by the pid of its daemon."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for zygote in psutil.Process(daemon).children():
            found += [child.pid for child in zygote.children()]
    return found


# --------------------------------------------------------------------------- the long run


@ract.remote(max_retries=-1)
def _square(i: int) -> int:
    time.sleep(0.01)
    return i * i


@ract.remote(max_retries=-1)
def _array(i: int) -> Any:
    import numpy as np

    return np.full(ARRAY_ITEMS, i)


@ract.remote(max_retries=-1)
def _doubled(array: Any) -> Any:
    return array * 2


@ract.remote(max_restarts=-1, max_task_retries=-1)
class _Echo:
    def echo(self, i: int) -> int:
        return i


@ract.remote(max_retries=0)
def _once(ledger: str, key: str) -> None:
    _write(ledger, key)


@ract.remote(max_restarts=-1)
class _Once:
    def do(self, ledger: str, key: str) -> None:
        _write(ledger, key)


def _write(ledger: str, key: str) -> None:
    """Leave a trace that outlives the process: one line, in one write."""
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{key}\n".encode())
    finally:
        os.close(fd)


class _Work:
    """Rounds of work of all kinds, whose results are known beforehand."""

    def __init__(self, ledger: Path) -> None:
        self.tasks = self.calls = self.lost = 0
        self._ledger = ledger
        self._acknowledged: list[str] = []
        self._round = 0
        self._echoes = [_Echo.remote() for _ in range(4)]  # type: ignore[attr-defined]
        self._careful = [_Once.remote() for _ in range(2)]  # type: ignore[attr-defined]

    def round(self) -> None:
        """Submit, wait, and check."""
        self._round += 1
        ledger = str(self._ledger)
        keys = [f"{self._round}.{i}" for i in range(20)]
        refs = [_square.remote(i) for i in range(100)]
        arrays = [_doubled.remote(_array.remote(i)) for i in range(4)]
        answers = [actor.echo.remote(i) for i in range(25) for actor in self._echoes]
        once = [_once.remote(ledger, key) for key in keys[:10]]
        once += [self._careful[i % 2].do.remote(ledger, key) for i, key in enumerate(keys[10:])]
        self._check(ract.get(refs), [i * i for i in range(100)])
        self._check(ract.get(answers), [i for i in range(25) for _ in self._echoes])
        self._check([(len(a), a[0], a[-1]) for a in ract.get(arrays)], _DOUBLED)
        for key, ref in zip(keys, once, strict=True):
            try:
                ract.get(ref)
            except RactError:  # it may have run, or not
                continue
            self._acknowledged.append(key)
        self.tasks += len(refs) + 2 * len(arrays) + 10
        self.calls += len(answers) + 10

    def _check(self, found: list[Any], expected: list[Any]) -> None:
        self.lost += sum(a != b for a, b in zip(found, expected, strict=True))

    def finish(self) -> int:
        """Look into the ledger; returns how often something was done that had been done before."""
        done = Counter(self._ledger.read_text().split()) if self._ledger.exists() else Counter()
        self.lost += sum(not done[key] for key in self._acknowledged)
        return sum(n - 1 for n in done.values() if n > 1)


ARRAY_ITEMS = 50_000  # too many to travel in a reply
_DOUBLED = [(ARRAY_ITEMS, 2 * i, 2 * i) for i in range(4)]


def run(seed: int, seconds: float, every_s: float = 0.5, faults_min: int = 0) -> dict[str, Any]:
    """Work under faults for so long, and until there were so many; returns the figures.

    Returns:
        ``faults`` by kind; ``tasks`` and ``calls`` done; ``lost``: wrong or missing results, and
        acknowledged work without a trace; ``duplicates``: work that was to be done at most once
        and was done again; ``recovery_s``: (median, maximum) of what a round with faults took
        longer than the median round without.
    """
    node: dict[str, Any] = {"num_cpus": 2}
    quiet: list[float] = []
    shaken: list[float] = []
    head = {
        "num_cpus": 1,
        "_system_config": {"gcs_rpc_server_reconnect_timeout_s": RECONNECT_S},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(True, head_node_args=head, journal=Path(folder, "journal")) as cluster,
    ):
        for _ in range(2):
            cluster.add_node(**node)
        cluster.connect()
        work = _Work(Path(folder, "ledger"))
        until = time.monotonic() + seconds
        with Chaos(cluster, seed=seed, every_s=every_s, node_args=node) as chaos:
            while time.monotonic() < until or chaos.faults.total() < faults_min:
                before, start = chaos.faults.total(), time.monotonic()
                work.round()
                took = time.monotonic() - start
                (shaken if chaos.faults.total() > before else quiet).append(took)
        faults = dict(chaos.faults)
        duplicates = work.finish()
    usual = statistics.median(quiet) if quiet else 0.0
    longer = [max(0.0, took - usual) for took in shaken] or [0.0]
    return {
        "faults": faults,
        "tasks": work.tasks,
        "calls": work.calls,
        "lost": work.lost,
        "duplicates": duplicates,
        "recovery_s": (statistics.median(longer), max(longer)),
    }


def main() -> None:
    """Run it and print the figures; exit code 1 if a result was lost, or work done twice."""
    parser = argparse.ArgumentParser(description="Work under faults, and check all results.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between faults")
    given = parser.parse_args()
    found = run(given.seed, given.seconds, given.every)
    median, longest = found["recovery_s"]
    faults = ", ".join(f"{n} of {kind}" for kind, n in sorted(found["faults"].items())) or "none"
    print(f"faults: {faults}")
    print(f"tasks {found['tasks']}, actor calls {found['calls']}, results lost: {found['lost']}")
    print(f"work that was to be done at most once and was done again: {found['duplicates']}")
    print(f"a round with faults took longer by {median:.2f} s (median), {longest:.2f} s (most)")
    sys.exit(1 if found["lost"] or found["duplicates"] else 0)


if __name__ == "__main__":
    main()
