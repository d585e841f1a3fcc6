"""Which accelerators this machine has, per vendor: how many, and of which type.

One listing of ``/dev`` says which drivers are loaded. Only behind those are libraries loaded, tools
run or more files read, so that looking costs nothing where there is nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ract.core.accelerators import NVIDIA, VENDORS, Vendor

ROOT = Path("/")
TOOL_TIMEOUT_S = 10.0

Count = tuple[int, tuple[str, ...]]
"""How many devices, and their types, the most general first."""

_NOTHING: Count = (0, ())


@dataclass(frozen=True, slots=True)
class Found:
    """Devices of one vendor."""

    vendor: Vendor
    count: int
    types: tuple[str, ...]


def find(root: Path = ROOT) -> list[Found]:
    """The accelerators of this machine. Of a resource that several vendors make, only one's.

    Args:
        root: Where the file system begins, for tests.
    """
    names = set(_files(root / "dev"))
    found: dict[str, Found] = {}
    for name, look in _LOOKS.items():
        n, types = look(root, names)
        if n:
            vendor = VENDORS[name]
            found.setdefault(vendor.resource, Found(vendor, n, types))
    return list(found.values())


def number_of(vendor: str, root: Path = ROOT) -> int:
    """How many devices of one vendor, by its name, there are."""
    return _LOOKS[vendor](root, set(_files(root / "dev")))[0]


def gpu_vendor(root: Path = ROOT) -> Vendor:
    """Whose GPUs are here, NVIDIA's if there are none; loads no library and runs no tool."""
    names = set(_files(root / "dev"))
    if not names & _NVIDIA_DRIVERS:
        for name in ("amd", "intel"):
            if number_of(name, root):
                return VENDORS[name]
    return NVIDIA


# --------------------------------------------------------------------------- helpers


def _numbered(names: Iterable[str], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)


def _files(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _output(*command: str, folder: str = "") -> str:
    """What a vendor's tool prints; "" if it is not there or fails."""
    program = shutil.which(command[0]) or shutil.which(command[0], path=folder)
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TOOL_TIMEOUT_S,
            text=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout


def _one(kind: str | None) -> tuple[str, ...]:
    return (kind,) if kind else ()


# --------------------------------------------------------------------------- GPUs


_NVIDIA_DRIVERS = {"nvidiactl", "dxg"}
"""The second one is that of Windows' subsystem for Linux."""


def _nvidia(root: Path, names: set[str]) -> Count:
    if not names & _NVIDIA_DRIVERS:
        return _NOTHING
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, or no driver behind the file
        return _NOTHING
    try:
        n = int(pynvml.nvmlDeviceGetCount())
        name: Any = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)) if n else ""
        return n, nvidia_types(name.decode() if isinstance(name, bytes) else name)
    except Exception:  # such as a device that has fallen off the bus
        return _NOTHING
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


_NVIDIA_SERIES = re.compile(r"[A-Z]{1,2}\d+[A-Za-z]*\b")


def nvidia_types(name: str) -> tuple[str, ...]:
    """The types that a product name means: ``Tesla V100-SXM2-16GB`` is a ``V100``.

    An ``NVIDIA A100-SXM4-40GB`` is an ``A100`` and an ``A100-40G``, which programs ask for too.
    """
    product = re.sub(r"^((NVIDIA|Tesla) )+", "", name.strip())
    series = _NVIDIA_SERIES.match(product)
    if series is None:
        return _one(product.replace(" ", "-"))
    size = re.search(r"(\d+) ?GB", product)
    sized = (f"A100-{size[1]}G",) if size and series[0] == "A100" else ()
    return (series[0], *sized)


_AMD_TYPES = {
    0x6798: "AMD-Radeon-R9-200-HD-7900",
    0x679A: "AMD-Radeon-HD-7900",
    0x7408: "AMD-Instinct-MI250X",
    0x740C: "AMD-Instinct-MI250X-MI250",
    0x740F: "AMD-Instinct-MI210",
    0x738C: "AMD-Instinct-MI100",
    0x74A1: "AMD-Instinct-MI300X-OAM",
}
"""By PCI device id."""


def _amd(root: Path, names: set[str]) -> Count:
    if "kfd" not in names:
        return _NOTHING
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    listed = sorted(_files(nodes), key=lambda name: (len(name), name))
    properties = [
        dict(line.partition(" ")[::2] for line in _text(nodes / node / "properties").splitlines())
        for node in listed
    ]
    # CPUs are nodes of this topology too, without SIMD units.
    gpus = [node for node in properties if int(node.get("simd_count", 0))]
    kind = _AMD_TYPES.get(int(gpus[0].get("device_id", 0))) if gpus else None
    return len(gpus), _one(kind)


_INTEL = "0x8086"
_INTEL_TYPES = {
    "0x0bd5": "Intel-GPU-Max-1550",
    "0x0bd6": "Intel-GPU-Max-1550",
    "0x0bd9": "Intel-GPU-Max-1100",
    "0x0bda": "Intel-GPU-Max-1100",
    "0x0bdb": "Intel-GPU-Max-1100",
}
"""By PCI device id. Others, such as the graphics in a CPU, are not offered."""


def _intel(root: Path, names: set[str]) -> Count:
    if "dri" not in names:
        return _NOTHING
    drm = root / "sys/class/drm"
    kinds = [
        _INTEL_TYPES.get(_text(drm / name / "device/device"))
        for name in _files(drm)
        if name.startswith("renderD") and _text(drm / name / "device/vendor") == _INTEL
    ]
    known = [kind for kind in kinds if kind is not None]
    return len(known), tuple(known[:1])


def _metax(root: Path, names: set[str]) -> Count:
    if "mxcd" not in names:
        return _NOTHING
    listed = [line for line in _output("mx-smi", "-L").splitlines() if line.startswith("GPU")]
    kind = re.search(r"\bMX[A-Z]\d+", listed[0]) if listed else None
    return len(listed), _one(kind and kind[0])


# --------------------------------------------------------------------------- others


def _neuron(root: Path, names: set[str]) -> Count:
    chips = _numbered(names, r"neuron\d+")
    if not chips:
        return _NOTHING
    try:
        listed = json.loads(_output("neuron-ls", "--json-output", folder="/opt/aws/neuron/bin"))
        cores = sum(int(chip["nc_count"]) for chip in listed)
    except (ValueError, TypeError, KeyError):
        cores = 2 * chips  # what those that can be rented have
    return cores, ("aws-neuron-core",)


def _google(root: Path, names: set[str]) -> Count:
    chips = _numbered(names, r"accel\d+")
    if not chips and "vfio" in names and (chips := _numbered(_files(root / "dev/vfio"), r"\d+")):
        # Any device can be passed through by VFIO.
        pci = root / "sys/bus/pci/devices"
        if not any(_text(pci / name / "vendor") == "0x1ae0" for name in _files(pci)):
            return _NOTHING
    return chips, ()  # the type is the pod's: `ract.worker.hardware.tpu`


def _habana(root: Path, names: set[str]) -> Count:
    count = _numbered(names, r"hl\d+")
    if not count and "accel" in names:
        shown = (name for name in _files(root / "dev/accel") if re.fullmatch(r"accel\d+", name))
        count = sum(
            _text(root / "sys/class/accel" / name / "device/vendor") == "0x1da3" for name in shown
        )
    return count, ("Intel-GAUDI",)


def _ascend(root: Path, names: set[str]) -> Count:
    count = _numbered(names, r"davinci\d+")
    if not count:
        return _NOTHING
    kind = re.search(r"\b(\d{3}[A-Z]?)\d*\b[^|]*\|\s*OK", _output("npu-smi", "info"))
    return count, _one(kind and f"Ascend{kind[1]}")


def _rebellions(root: Path, names: set[str]) -> Count:
    count = _numbered(names, r"rbln\d+")
    kind = re.search(r"\bRBLN-CA\d+", _output("rbln-stat")) if count else None
    return count, _one(kind and kind[0])


def _mobilint(root: Path, names: set[str]) -> Count:
    aries, regulus = _numbered(names, r"aries\d+"), _numbered(names, r"regulus\d+")
    return aries + regulus, ("MOBILINT_ARIES" if aries else "MOBILINT_REGULUS",)


def _furiosa(root: Path, names: set[str]) -> Count:
    folder = _files(root / "dev/rngd") if "rngd" in names else ()
    return _numbered(folder, r"npu\d+mgmt"), ()


def _tenstorrent(root: Path, names: set[str]) -> Count:
    folder = _files(root / "dev/tenstorrent") if "tenstorrent" in names else ()
    return _numbered(folder, r"\d+"), ()


_LOOKS: dict[str, Callable[[Path, set[str]], Count]] = {
    "nvidia": _nvidia,
    "amd": _amd,
    "intel": _intel,
    "metax": _metax,
    "neuron": _neuron,
    "google": _google,
    "habana": _habana,
    "ascend": _ascend,
    "rebellions": _rebellions,
    "mobilint": _mobilint,
    "furiosa": _furiosa,
    "tenstorrent": _tenstorrent,
}
"""By the vendor's name."""
