"""What this machine has: CPUs, memory, room for objects. Container limits count."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ract.core.session import setting
from ract.worker.files import shm
from ract.worker.hardware import cgroups

STORE_FRACTION = 0.3
"""Share of the available memory that the object store takes by default, as in Ray: another one by
``RACT_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION``."""

STORE_BYTES_MAX = 200e9
"""At most so much by default; ``RACT_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES``."""

STORE_BYTES_MIN = 64 * 2**20
SHM_FRACTION_MAX = 0.95


def num_cpus(root: Path = cgroups.ROOT) -> int:
    """CPUs that this process may use: affinity and the cgroup's quota, at least 1.

    With ``RACT_USE_MULTIPROCESSING_CPU_COUNT=1``, or Ray's, all that the machine has.
    """
    if setting("USE_MULTIPROCESSING_CPU_COUNT") == "1":
        return os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0))
    quota = cgroups.cpu_quota(root)
    return max(1, min(affinity, int(quota + 0.5))) if quota else affinity


def available_bytes(root: Path = cgroups.ROOT) -> int:
    """Memory that nobody uses yet, of the machine or of the cgroup if that is less; bytes."""
    machine = memory(root)["MemAvailable"]
    group = cgroups.memory_available(root)
    return machine if group is None else min(machine, group)


def memory(root: Path = cgroups.ROOT) -> Mapping[str, int]:
    """The figures of ``/proc/meminfo``; bytes."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def store_bytes(available: int) -> int:
    """Default capacity of the object store: 30 % of ``available``, if /dev/shm has the room."""
    share = float(setting("DEFAULT_OBJECT_STORE_MEMORY_PROPORTION") or STORE_FRACTION)
    most = float(setting("DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES") or STORE_BYTES_MAX)
    wanted = int(min(available * share, most))
    room = int(shm.free_bytes() * SHM_FRACTION_MAX)
    return max(STORE_BYTES_MIN, min(wanted, room))


def host_ip(address: str) -> str:
    """Host part of an address such as ``tls://127.0.0.1:4711``."""
    return urlsplit(address).hostname or "127.0.0.1"
