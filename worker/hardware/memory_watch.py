"""Watching a node's memory: how much is in use, and who holds it.

Theory of operation
-------------------
A look costs some small files of /proc and of the control groups, which limit what the machine has
(`ract.worker.hardware.cgroups`). Only when too much is in use all processes are asked for what they
hold for themselves: shared memory and shared pages would still be there after the end of one. What
an executor has started belongs to its process group and ends with it, so it counts as its own.

With ``RACT_NODE_MEMORY_BYTES`` a node has a share of the machine: what its executors hold is
compared with that, and nothing else is.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ract.worker.hardware import cgroups, detect
from ract.worker.hardware.memory_settings import Settings
from ract.worker.node.events import MemoryHigh
from ract.worker.node.memory import Consumer

CONSUMERS_MAX = 5
NAME_CHARS_MAX = 60
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Looks at the memory of this machine. Nothing here may be called on an event loop.

    Args:
        settings: Those of the node.
        root: Where the file system begins, for tests.
    """

    def __init__(self, settings: Settings, root: Path = cgroups.ROOT) -> None:
        self._settings = settings
        self._proc = root / "proc"
        self._root = root
        self._groups: list[Path] | None = None

    def look(self, pids: Iterable[int], at: float) -> MemoryHigh | None:
        """What there is to say if too much memory is in use.

        Args:
            pids: Of the executors.
            at: The time, as it is to stand in the event.
        """
        pids = sorted(pids)
        used, total = self.use(pids)
        if used <= total * self._settings.threshold:
            return None
        held, groups = self._who_holds()
        together = {pid: sum(held[each] for each in groups.get(pid, ())) for pid in pids}
        peak = {pid: max(self._peak(pid), together[pid]) for pid in pids}
        apart = Counter(held)
        for pid in pids:
            for each in groups.get(pid, ()):
                del apart[each]
            apart[pid] = together[pid]
        consumers = tuple(
            Consumer(pid, self._name(pid), n) for pid, n in apart.most_common(CONSUMERS_MAX) if n
        )
        return MemoryHigh(at, used, total, self._settings.threshold, together, peak, consumers)

    def use(self, pids: Iterable[int]) -> tuple[int, int]:
        """(used, total) bytes of what is fullest: the machine, or a group that it is in."""
        if self._settings.share_bytes:
            return sum(map(self._held, pids)), self._settings.share_bytes
        if self._groups is None:
            self._groups = cgroups.memory_folders(self._root)
        machine = detect.memory(self._root)
        uses = [(machine["MemTotal"] - machine["MemAvailable"], machine["MemTotal"])]
        uses += [use for use in map(cgroups.memory_use, self._groups) if use is not None and use[1]]
        return max(uses, key=lambda use: use[0] / use[1])

    def _who_holds(self) -> tuple[dict[int, int], dict[int, list[int]]]:
        """What each process holds, and the members of each process group."""
        held: dict[int, int] = {}
        groups: dict[int, list[int]] = {}
        for pid in self._all():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it is gone
                stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
                group = int(stat.rpartition(")")[2].split()[2])
                held[pid] = self._held(pid)
                groups.setdefault(group, []).append(pid)
        return held, groups

    def _all(self) -> Iterator[int]:
        return (int(name) for name in os.listdir(self._proc) if name.isdigit())

    def _held(self, pid: int) -> int:
        try:
            _, resident, shared, *_ = (self._proc / str(pid) / "statm").read_text().split()
        except (OSError, ValueError):  # it is gone
            return 0
        return (int(resident) - int(shared)) * _PAGE_BYTES

    def _peak(self, pid: int) -> int:
        with contextlib.suppress(OSError):
            for line in (self._proc / str(pid) / "status").read_text(errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0

    def _name(self, pid: int) -> str:
        folder = self._proc / str(pid)
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid():  # what others have typed may be a secret
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").strip()
                if command:
                    return command.decode(errors="replace")[:NAME_CHARS_MAX]
            return (folder / "comm").read_text(errors="replace").strip()
        return "?"
