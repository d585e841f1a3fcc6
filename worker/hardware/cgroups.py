"""The limits of the control groups that this process is in, of both versions.

Theory of operation
-------------------
``/proc/self/cgroup`` says which group the process is in, per controller (version 1) or for all of
them (version 2, the line with no controllers); ``/proc/self/mountinfo`` says where the groups can
be seen, and from which group on: in a container that is often the container's own. A limit of a
group holds for all groups in it, so the way up to the mount point is searched as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")

_LIMIT = ("memory.max", "memory.limit_in_bytes")
_USED = ("memory.current", "memory.usage_in_bytes")
_RECLAIMABLE = ("inactive_file", "total_inactive_file")


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that the process may use; None: no limit.

    Args:
        root: Where the file system begins, for tests.
    """
    group = cpu_group(root)
    return None if group is None else group[1]


def cpu_group(root: Path = ROOT) -> tuple[Path, float] | None:
    """The folder of the group that leaves the process least time, and how many CPUs' worth."""
    limits = ((folder, n) for folder in _folders("cpu", root) for n in _quota(folder))
    return min(limits, key=lambda limit: limit[1], default=None)


def cpu_used_s(folder: Path) -> float | None:
    """CPU time that a group has used, in seconds; None if the group does not say."""
    for line in _lines(folder / "cpu.stat"):
        name, _, value = line.partition(" ")
        if name == "usage_usec":
            return int(value) / 1e6
    used = _number(folder, ("cpuacct.usage",))
    return None if used is None else used / 1e9


def memory_available(root: Path = ROOT) -> int | None:
    """Bytes that the process' group may still use; None: no limit. Idle caches do not count."""
    uses = filter(None, map(memory_use, memory_folders(root)))
    return min((max(0, limit - used) for used, limit in uses), default=None)


def memory_folders(root: Path = ROOT) -> list[Path]:
    """The folders of the process' group and of those around it, whose limits of memory hold."""
    return list(_folders("memory", root))


def memory_use(folder: Path) -> tuple[int, int] | None:
    """(bytes in use, limit) of a group; None: no limit. Idle caches do not count."""
    limit = _number(folder, _LIMIT)
    if limit is None:
        return None
    return max(0, (_number(folder, _USED) or 0) - _reclaimable(folder)), limit


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process' group and of those around it."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), group))
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2":
            group = groups.get("", "")
        elif kind == "cgroup" and controller in options.split(","):
            group = groups.get(controller, "")
        else:
            continue
        shown, top = mount.split(" ")[3:5]
        folder = base = root / top.lstrip("/")
        shown = shown.rstrip("/")
        if group.startswith(f"{shown}/") and ".." not in group:
            folder = base / group.removeprefix(shown).lstrip("/")
        yield folder
        if folder != base:
            yield from folder.parents[: len(folder.parts) - len(base.parts)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # no control groups here
        return []


def _quota(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()  # "max": none, a ValueError
        yield float(int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):
        micros = int((folder / "cpu.cfs_quota_us").read_text())
        if micros > 0:
            yield micros / int((folder / "cpu.cfs_period_us").read_text())


def _number(folder: Path, names: tuple[str, ...]) -> int | None:
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            return int((folder / name).read_text())
    return None


def _reclaimable(folder: Path) -> int:
    counted = dict(line.partition(" ")[::2] for line in _lines(folder / "memory.stat"))
    return max(int(counted.get(name, 0)) for name in _RECLAIMABLE)
