"""What this machine has: CPUs, memory, GPUs, room for objects. Container limits count."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from ract.worker import shm

STORE_FRACTION = 0.3
"""Share of the memory that the object store takes by default, as in Ray."""

STORE_BYTES_MIN = 64 * 2**20
SHM_FRACTION_MAX = 0.95

_CGROUPS = (
    ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max"),  # v2
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # v1
)


def num_cpus() -> int:
    """CPUs that this process may use: affinity and the cgroup's quota, at least 1."""
    affinity = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    return max(1, min(affinity, int(quota + 0.5))) if quota else affinity


def _cpu_quota() -> float | None:
    for path, _ in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):
            words = Path(path).read_text().split()
            if len(words) == 2:
                return float(words[0]) / float(words[1])
            period = float(Path(path).with_name("cpu.cfs_period_us").read_text())
            if float(words[0]) > 0:
                return float(words[0]) / period
    return None


def memory_bytes() -> int:
    """Memory of the machine, or the cgroup's limit if that is less; bytes."""
    total = int(psutil.virtual_memory().total)
    for _, path in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):
            return min(total, int(Path(path).read_text()))
    return total


def store_bytes() -> int:
    """Default capacity of the object store: 30 % of memory, as far as /dev/shm has room."""
    wanted = int(memory_bytes() * STORE_FRACTION)
    room = int(shm.free_bytes() * SHM_FRACTION_MAX)
    return max(STORE_BYTES_MIN, min(wanted, room))


def num_gpus() -> int:
    """GPUs that this process may see: ``CUDA_VISIBLE_DEVICES``, else what NVML reports."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len(
            [part for part in visible.split(",") if part.strip() not in ("", "-1", "NoDevFiles")]
        )
    if not Path("/dev/nvidiactl").exists():
        return 0  # saves loading NVML where there is nothing
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver: a node without GPUs
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def host_ip(address: str) -> str:
    """Host part of an address such as ``tls://127.0.0.1:4711``."""
    return urlsplit(address).hostname or "127.0.0.1"
