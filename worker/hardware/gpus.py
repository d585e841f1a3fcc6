"""What NVIDIA's GPUs do now, by NVML (`pynvml`), if there is a driver for them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ract.worker.hardware import cgroups

logger = logging.getLogger(__name__)

_DRIVER = "dev/nvidiactl"


class Gpus:
    """The GPUs of this machine. NVML is loaded at the first look, and only behind a driver.

    Args:
        root: Where the file system begins, for tests.
        nvml: Stands in for the module ``pynvml``, for tests.
    """

    def __init__(self, root: Path = cgroups.ROOT, nvml: Any = None) -> None:
        self._nvml = nvml
        self._devices: list[tuple[int, Any, str]] | None = None  # (index, handle, name)
        self._is_there = (root / _DRIVER).exists()

    def sample(self) -> list[dict[str, Any]]:
        """One entry per GPU; ``utilization_percent`` None if the GPU does not tell (MIG)."""
        if not self._is_there:
            return []
        if self._devices is None:
            self._devices = self._open()
        return [entry for device in self._devices if (entry := self._look(*device)) is not None]

    def _open(self) -> list[tuple[int, Any, str]]:
        try:
            if self._nvml is None:
                import pynvml

                self._nvml = pynvml
            nvml = self._nvml
            nvml.nvmlInit()
            found = []
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                name = nvml.nvmlDeviceGetName(handle)
                found.append((index, handle, name.decode() if isinstance(name, bytes) else name))
            return found
        except Exception as error:  # a driver without its library, an old one, a broken device
            logger.info("no statistics of GPUs: %s", error)
            return []

    def _look(self, index: int, handle: Any, name: str) -> dict[str, Any] | None:
        nvml = self._nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            logger.info("GPU %d says nothing of its memory: %s", index, error)
            return None
        try:
            utilization = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except nvml.NVMLError:
            utilization = None
        return {
            "index": index,
            "name": name,
            "utilization_percent": utilization,
            "memory_used_bytes": int(memory.used),
            "memory_total_bytes": int(memory.total),
        }
