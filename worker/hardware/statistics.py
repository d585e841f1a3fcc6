"""What a node and its processes use, for people: sampled once a second, never decided from.

Theory of operation
-------------------
`Statistics.sample` reads small files of /proc and of the control groups, in a thread: a look at an
executor costs some 40 µs, which the node's event loop need not wait for. Rates and percentages are
differences to the sample before, so the first one has zeros. Memory and CPUs are those that the
node may use, as `ract.worker.hardware.memory_watch` and `ract.worker.hardware.detect` see them: a
limit of a control group counts, and then only what the group uses.

What the node has done (`Totals`) and what its store holds is counted where it happens, on the loop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ract.core import messages as m
from ract.worker.hardware import cgroups, detect
from ract.worker.hardware.gpus import Gpus
from ract.worker.hardware.memory_settings import Settings
from ract.worker.hardware.memory_watch import MemoryWatch
from ract.worker.node.listing import object_bytes

if TYPE_CHECKING:
    from ract.worker.node.executors import Executor
from ract.worker.node.machine import NodeMachine

NAME_CHARS_MAX = 120
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Watched:
    """A process to look at.

    Attributes:
        process: Its process number.
        pid: Of the operating system.
        kind: "task" | "actor" | "idle" | "driver".
        name: An actor's class, a driver's program; "": as its title says.
        state: What the node machine calls the executor's state; "" for drivers.
    """

    process: int
    pid: int
    kind: str
    name: str = ""
    state: str = ""


@dataclass(slots=True)
class Totals:
    """What the node has done since it started."""

    spills: int = 0  #: segments that were copied to disk
    spilled_bytes: int = 0  #: of the objects in them
    spilled_objects: int = 0
    spill_s: float = 0.0  #: that this took
    restored_bytes: int = 0  #: of objects that were copied back from behind a URL
    restored_objects: int = 0
    restore_s: float = 0.0
    pulls: int = 0  #: objects that were copied from other nodes
    pulled_bytes: int = 0
    serves: int = 0  #: objects that were copied to other nodes
    served_bytes: int = 0
    received_from: Counter[str] = field(default_factory=Counter)  #: bytes, by node id (hex)

    def spilled(self, sizes: list[int], took_s: float) -> None:
        """A segment with objects of these sizes was copied to disk, or away."""
        self.spills += 1
        self.spilled_bytes += sum(sizes)
        self.spilled_objects += len(sizes)
        self.spill_s += took_s

    def restored(self, sizes: list[int], took_s: float) -> None:
        """A segment with objects of these sizes was copied back."""
        self.restored_bytes += sum(sizes)
        self.restored_objects += len(sizes)
        self.restore_s += took_s

    def of_spilling(self) -> dict[str, float]:
        """What was spilled and restored since the node started."""
        return {
            "spilled_bytes": self.spilled_bytes,
            "spilled_objects": self.spilled_objects,
            "spill_s": self.spill_s,
            "restored_bytes": self.restored_bytes,
            "restored_objects": self.restored_objects,
            "restore_s": self.restore_s,
        }

    def pulled(self, source: bytes, size: int) -> None:
        """So many bytes of an object came from a node; others may bring the rest."""
        self.pulled_bytes += size
        self.received_from[source.hex()] += size


def of_machine(machine: NodeMachine, totals: Totals) -> dict[str, Any]:
    """What a node knows without looking: its store, and what it has done."""
    store = machine.objects.store
    return {
        "store_capacity": store.capacity,
        "store_used": store.used_bytes,
        "store_pinned": store.pinned_bytes,
        "store_objects": len(store.objects),
        "store_object_bytes": object_bytes(store),
        "store_spilled": store.spilled_bytes,
        "spills_total": totals.spills,
        "spilled_bytes_total": totals.spilled_bytes,
        "pulls_total": totals.pulls,
        "pulled_bytes_total": totals.pulled_bytes,
        "serves_total": totals.serves,
        "served_bytes_total": totals.served_bytes,
        "received_from_bytes": dict(totals.received_from),
        "oom_kills_total": machine.supervised.oom_kills,
        "executors_forked_total": machine.supervised.forks,
    }


def watched(machine: NodeMachine) -> list[Watched]:
    """The processes of a node: its executors, and the drivers that are connected to it."""
    executors = [_of_executor(e) for e in machine.executors.values() if e.pid and e.exited is None]
    drivers = [
        Watched(driver.process, driver.hello.pid, "driver", driver.hello.entrypoint)
        for driver in machine.drivers.values()
        if driver.hello.kind == "driver"
    ]
    return executors + drivers


def _of_executor(executor: Executor) -> Watched:
    work = executor.work
    if isinstance(work, m.StartActor):
        kind, name = "actor", work.spec.class_name
    else:
        kind, name = ("idle" if work is None else "task"), ""
    return Watched(executor.process, executor.pid, kind, name, executor.state)


class Statistics:
    """Samples what this machine and some processes use. Nothing here may run on an event loop.

    Args:
        settings: How the node's memory is measured.
        disk: A folder on the disk of which the use is told; it may come later.
        root: Where the file system begins, for tests.
        gpus: Says what the GPUs do; default: those of this machine.
    """

    def __init__(
        self, settings: Settings, disk: str, root: Path = cgroups.ROOT, gpus: Gpus | None = None
    ) -> None:
        self._memory = MemoryWatch(settings, root)
        self._disk = disk
        self._root = root
        self._proc = root / "proc"
        self._gpus = Gpus() if gpus is None else gpus
        self._cpus = detect.num_cpus(root)
        self._group = cgroups.cpu_group(root)
        self._daemon = os.getpid()
        #: Of the sample before: when it was, CPU seconds, and bytes by name.
        self._at: float | None = None
        self._cpu: tuple[float, float] = (0.0, 0.0)
        self._bytes: dict[str, int] = {}
        #: CPU seconds by process number, of those that were there.
        self._process_cpu: dict[int, float] = {}

    def sample(self, processes: Iterable[Watched], at: float) -> dict[str, Any]:
        """What is in use now.

        Args:
            processes: Those of the node.
            at: The time on any steady clock, in seconds.
        """
        processes = list(processes)
        elapsed = 0.0 if self._at is None else max(0.0, at - self._at)
        self._at = at
        used, total = self._memory.use([each.pid for each in processes if each.kind != "driver"])
        disk = shutil.disk_usage(_existing(self._disk))
        return {
            "cpu_percent": self._cpu_percent(at),
            "cpu_count": self._cpus,
            "memory_used_bytes": used,
            "memory_total_bytes": total,
            "daemon_rss_bytes": self._resident(self._daemon),
            "disk_used_bytes": disk.used,
            "disk_total_bytes": disk.total,
            **self._rates(elapsed),
            "gpus": self._gpus.sample(),
            "executors": self._look_at(processes, elapsed),
        }

    # ------------------------------------------------------------------ the machine

    def _cpu_percent(self, at: float) -> float:
        """How much of the CPU time that the node may use was used since the sample before."""
        busy, whole = self._group_cpu(at) or self._machine_cpu()
        before_busy, before_whole = self._cpu
        self._cpu = (busy, whole)
        if not before_whole or whole <= before_whole:
            return 0.0
        return round(min(100.0, max(0.0, 100 * (busy - before_busy) / (whole - before_whole))), 1)

    def _group_cpu(self, at: float) -> tuple[float, float] | None:
        if self._group is None:
            return None
        folder, quota = self._group
        used = cgroups.cpu_used_s(folder)
        return None if used is None else (used, at * quota)

    def _machine_cpu(self) -> tuple[float, float]:
        """(seconds that the CPUs were busy, seconds in all) since the machine started."""
        _, *fields = (self._proc / "stat").read_text().split("\n", 1)[0].split()
        ticks = [int(each) for each in fields[:8]]  # what comes after is in these already
        idle = ticks[3] + ticks[4]  # with what waited for the disk
        return (sum(ticks) - idle) / _TICKS_PER_S, sum(ticks) / _TICKS_PER_S

    def _rates(self, elapsed: float) -> dict[str, float]:
        now = {**_disk_bytes(), **self._network_bytes()}
        before, self._bytes = self._bytes, now
        return {
            f"{name}_bytes_per_s": round(max(0, n - before[name]) / elapsed, 1)
            if elapsed and name in before
            else 0.0
            for name, n in now.items()
        }

    def _network_bytes(self) -> dict[str, int]:
        received = sent = 0
        with contextlib.suppress(OSError):  # no network here
            for line in (self._proc / "net/dev").read_text().splitlines()[2:]:
                name, _, figures = line.partition(":")
                if name.strip() != "lo":
                    columns = figures.split()
                    received += int(columns[0])
                    sent += int(columns[8])
        return {"network_received": received, "network_sent": sent}

    # ------------------------------------------------------------------ processes

    def _look_at(self, processes: list[Watched], elapsed: float) -> list[dict[str, Any]]:
        found = []
        before, self._process_cpu = self._process_cpu, {}
        for each in processes:
            try:
                used = self._cpu_s(each.pid)
                rss = self._resident(each.pid)
                name = each.name or self._title(each.pid)
            except (OSError, ValueError, IndexError):  # it is gone
                continue
            self._process_cpu[each.process] = used
            share = (
                (used - before[each.process]) / elapsed if elapsed and each.process in before else 0
            )
            found.append(
                {
                    "process": each.process,
                    "pid": each.pid,
                    "kind": each.kind,
                    "name": name[:NAME_CHARS_MAX],
                    "state": each.state,
                    "cpu_percent": round(100 * max(0.0, share), 1),
                    "rss_bytes": rss,
                }
            )
        return found

    def _cpu_s(self, pid: int) -> float:
        stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
        fields = stat.rpartition(")")[2].split()  # from the third on; the name may hold anything
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def _resident(self, pid: int) -> int:
        return int((self._proc / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES

    def _title(self, pid: int) -> str:
        """What an executor shows as its title: the name of the function that it runs."""
        line = (self._proc / str(pid) / "cmdline").read_bytes()
        title = line.replace(b"\0", b" ").strip().decode(errors="replace")
        return title.partition("::")[2] or title


def _existing(folder: str) -> str:
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _disk_bytes() -> dict[str, int]:
    found = psutil.disk_io_counters()  # None where no disk can be seen
    read, written = (found.read_bytes, found.write_bytes) if found is not None else (0, 0)
    return {"disk_read": read, "disk_write": written}
