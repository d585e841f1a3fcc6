"""Resource isolation: CPU and memory that the node keeps for its own processes (cgroup version 2).

Theory of operation
-------------------
Programs that take all CPUs or all memory of a machine would starve the node daemon with them. With
isolation the node makes three control groups::

    <cgroup_path>/ract-<node>/system    the daemon; memory.min and cpu.weight keep its share
    <cgroup_path>/ract-<node>/user      the zygote and all executors; memory.max is the rest

Executors are born in the group of the zygote. CPU shares count only while CPUs are scarce; memory
is a limit: what exceeds it is ended by the kernel, within ``user``. The folder must be one in which
this user may make groups, with the controllers ``cpu`` and ``memory``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_PATH = "/sys/fs/cgroup"
CONTROLLERS = ("cpu", "memory")
WEIGHT_MAX = 10_000  # of cpu.weight, by its documentation

GiB = 2**30
_CPU_SHARE, _CPU_MIN, _CPU_MAX = 0.05, 1.0, 3.0
_MEMORY_SHARE, _MEMORY_MIN, _MEMORY_MAX = 0.1, GiB // 2, 10 * GiB


def asked(
    is_enabled: bool, path: str | None, reserved_cpu: float | None, reserved_memory: int | None
) -> dict[str, Any] | None:
    """What was asked for, as an option of the node; None without isolation.

    Raises:
        TypeError, ValueError: options that do not go together, or bad quantities.
    """
    given = {
        "cgroup_path": path,
        "system_reserved_cpu": reserved_cpu,
        "system_reserved_memory": reserved_memory,
    }
    for name, value in given.items():
        if value is not None and not is_enabled:
            raise ValueError(f"{name} has no effect without enable_resource_isolation=True")
    if not isinstance(is_enabled, bool):
        raise TypeError(f"enable_resource_isolation must be a bool, got {is_enabled!r}")
    if not is_enabled:
        return None
    if path is not None and not isinstance(path, str):
        raise TypeError(f"cgroup_path must be a path, got {path!r}")
    for name, kinds in (("system_reserved_cpu", (int, float)), ("system_reserved_memory", (int,))):
        value = given[name]
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value!r}")
    return {name: value for name, value in given.items() if value is not None}


def check(option: Mapping[str, Any]) -> None:
    """Check that the groups can be made.

    Raises:
        RuntimeError: this user may not, or there is no cgroup version 2 with the controllers.
    """
    folder = Path(option.get("cgroup_path", DEFAULT_PATH))
    found = folder / "cgroup.controllers"
    hint = (
        "resource isolation needs a folder of cgroup version 2 in which this user may make groups: "
        "name it with cgroup_path=, or go without enable_resource_isolation"
    )
    try:
        there = found.read_text().split()
    except OSError as error:
        raise RuntimeError(
            f"{folder} is no folder of cgroup version 2 ({error}): {hint}"
        ) from error
    missing = [name for name in CONTROLLERS if name not in there]
    if missing:
        raise RuntimeError(f"{folder} lacks the controllers {', '.join(missing)}: {hint}")
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.subtree_control", os.W_OK):
        raise RuntimeError(f"{folder} cannot be written to: {hint}")


def limits(option: Mapping[str, Any], cpus: float, memory: int) -> dict[str, dict[str, str]]:
    """The settings of the groups, by group and file.

    Args:
        option: What was asked for.
        cpus: Of the machine.
        memory: Of the machine, in bytes.

    Raises:
        ValueError: more is reserved than there is.
    """
    reserved_cpu = option.get("system_reserved_cpu")
    if reserved_cpu is None:
        reserved_cpu = min(max(_CPU_MIN, cpus * _CPU_SHARE), _CPU_MAX, cpus / 2)
    reserved_memory = option.get("system_reserved_memory")
    if reserved_memory is None:
        reserved_memory = min(max(_MEMORY_MIN, int(memory * _MEMORY_SHARE)), _MEMORY_MAX)
    if reserved_cpu >= cpus:
        raise ValueError(f"system_reserved_cpu={reserved_cpu:g} leaves nothing of {cpus:g} CPUs")
    if reserved_memory >= memory:
        raise ValueError(f"system_reserved_memory={reserved_memory} leaves nothing of {memory}")
    weight = max(1, int(WEIGHT_MAX * reserved_cpu / cpus))
    return {
        "system": {"cpu.weight": str(weight), "memory.min": str(reserved_memory)},
        "user": {
            "cpu.weight": str(WEIGHT_MAX - weight),
            "memory.max": str(memory - reserved_memory),
        },
    }


class Isolation:
    """The groups of one node.

    Args:
        option: What was asked for.
        name: Of the node.
    """

    def __init__(self, option: Mapping[str, Any], name: str) -> None:
        self._above = Path(option.get("cgroup_path", DEFAULT_PATH))
        self.folder = self._above / f"ract-{name}"
        self._moved: list[int] = []

    def make(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Make the groups, with the settings of `limits`. Raises OSError."""
        wanted = " ".join(f"+{controller}" for controller in CONTROLLERS)
        (self._above / "cgroup.subtree_control").write_text(wanted)
        self.folder.mkdir()
        (self.folder / "cgroup.subtree_control").write_text(wanted)
        for group, files in settings.items():
            (self.folder / group).mkdir()
            for file, text in files.items():
                (self.folder / group / file).write_text(text)

    def add(self, group: str, pid: int) -> None:
        """Move a process, and its children to come, into a group. Raises OSError."""
        (self.folder / group / "cgroup.procs").write_text(str(pid))
        if pid == os.getpid():
            self._moved.append(pid)

    def close(self) -> None:
        """Leave the groups and remove them, as far as nobody is in them any more."""
        with contextlib.suppress(OSError):
            for pid in self._moved:
                (self._above / "cgroup.procs").write_text(str(pid))
        for folder in (self.folder / "system", self.folder / "user", self.folder):
            with contextlib.suppress(OSError):
                folder.rmdir()
