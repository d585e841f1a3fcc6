"""Accelerators: in what vendors differ, as one table.

A device has a number on its node, from 0 on, which the scheduler hands out, and an id, under which
the vendor's libraries know it. They look for ids in a variable of the environment when they start:
what it does not list, the process does not see. If it is set already when a node starts, the node
offers what it lists and nothing else.

Counting devices is the node's business (`ract.worker.hardware.devices`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Vendor(NamedTuple):
    """How one vendor's devices are asked for and shown.

    Attributes:
        name: Short, for tables.
        resource: What a task asks for.
        variable: What restricts a process to some devices.
        nothing: The variable's value for no devices.
        before_list: What its value begins with.
        before_id: What each id in it begins with.
        beneath: A variable of the driver below: where it is set, ids count what it lists.
        shares: Whether several processes may share a device.
        sizes: How many devices may be asked for; empty: any number.
        keep: Another name, beside the usual one, of what leaves the variable alone.
        more: Further variables, by number of devices shown.
    """

    name: str
    resource: str
    variable: str
    nothing: str = ""
    before_list: str = ""
    before_id: str = ""
    beneath: str = ""
    shares: bool = False
    sizes: tuple[int, ...] = ()
    keep: str = ""
    more: Mapping[int, Mapping[str, str]] = {}


NVIDIA = Vendor("nvidia", "GPU", "CUDA_VISIBLE_DEVICES", shares=True)

VENDORS: dict[str, Vendor] = {
    vendor.name: vendor
    for vendor in (
        NVIDIA,
        Vendor("amd", "GPU", "HIP_VISIBLE_DEVICES", beneath="ROCR_VISIBLE_DEVICES", shares=True),
        Vendor(
            "intel",
            "GPU",
            "ONEAPI_DEVICE_SELECTOR",
            nothing="!*:gpu",  # "" would be a selector that selects nothing, an error
            before_list="level_zero:",
            shares=True,
        ),
        Vendor("metax", "GPU", "CUDA_VISIBLE_DEVICES", shares=True),
        Vendor("neuron", "neuron_cores", "NEURON_RT_VISIBLE_CORES"),
        Vendor(
            "google",
            "TPU",
            "TPU_VISIBLE_CHIPS",
            sizes=(1, 2, 4, 8),
            # How the chips shown are wired; libtpu knows it by itself for whole hosts only.
            more={
                1: {"TPU_CHIPS_PER_HOST_BOUNDS": "1,1,1", "TPU_HOST_BOUNDS": "1,1,1"},
                2: {"TPU_CHIPS_PER_HOST_BOUNDS": "1,2,1", "TPU_HOST_BOUNDS": "1,1,1"},
            },
        ),
        Vendor("habana", "HPU", "HABANA_VISIBLE_MODULES"),
        Vendor("ascend", "NPU", "ASCEND_RT_VISIBLE_DEVICES", shares=True),
        Vendor("rebellions", "RBLN", "RBLN_DEVICES", keep="RBLN_RT_VISIBLE_DEVICES"),
        Vendor("mobilint", "MBLT", "QBRUNTIME_VISIBLE_DEVICES"),
        Vendor("furiosa", "FURIOSA", "FURIOSA_DEVICES", before_id="npu:"),
        Vendor("tenstorrent", "TTNPU", "TT_VISIBLE_DEVICES"),
    )
}

OF_RESOURCE: dict[str, Vendor] = {}
"""Whose devices a resource are, as long as nobody has looked: of several vendors, the first."""

for _vendor in VENDORS.values():
    OF_RESOURCE.setdefault(_vendor.resource, _vendor)

ACCELERATORS: tuple[str, ...] = tuple(OF_RESOURCE)
"""Resources that are numbered devices."""

_NO_DEVICE = ("-1", "NoDevFiles")
_RANGE = re.compile(r"(\d+)-(\d+)")


def visible(vendor: Vendor, environ: Mapping[str, str]) -> list[str] | None:
    """The ids to which an environment restricts a vendor's devices; None: it does not."""
    value = environ.get(vendor.variable)
    if value is None and vendor.beneath in environ:
        below = _listed(environ[vendor.beneath], "")
        return None if below is None else [str(i) for i in range(len(below))]
    if value is None:
        return None
    if value == vendor.nothing:
        return []
    if not value.startswith(vendor.before_list):
        return None  # it selects by something else than ids
    return _listed(value.removeprefix(vendor.before_list), vendor.before_id)


def _listed(value: str, before_id: str) -> list[str] | None:
    ids: list[str] = []
    for part in value.split(","):
        device = part.strip().removeprefix(before_id)
        if device in ("*", "all", "gpu"):
            return None
        if device in _NO_DEVICE:
            break  # what follows is not looked at
        if found := _RANGE.fullmatch(device):
            ids.extend(str(i) for i in range(int(found[1]), int(found[2]) + 1))
        elif device:
            ids.append(device)
    return ids


def variables(vendor: Vendor, ids: Sequence[str]) -> dict[str, str | None]:
    """The variables that show exactly these devices; None: to be left as they were."""
    listed = ",".join(vendor.before_id + device for device in ids)
    shown: dict[str, str | None] = dict.fromkeys(
        name for names in vendor.more.values() for name in names
    )
    shown[vendor.variable] = vendor.before_list + listed if ids else vendor.nothing
    shown.update(vendor.more.get(len(ids), {}))
    return shown


def is_left_alone(vendor: Vendor, environ: Mapping[str, str]) -> bool:
    """Whether ``RACT_EXPERIMENTAL_NOSET_<variable>``, or Ray's, says not to set the variable."""
    return any(
        environ.get(f"{prefix}_EXPERIMENTAL_NOSET_{name}", "").lower() in ("1", "true")
        for prefix in ("RACT", "RAY")
        for name in (vendor.variable, vendor.beneath, vendor.keep)
        if name
    )


def check_quantity(resource: str, quantity: float) -> None:
    """Check how much of an accelerator a task or actor asks for.

    Raises:
        ValueError: a share of a device that cannot be shared, or a number that the vendor's
            hardware does not do.
    """
    vendor = OF_RESOURCE.get(resource)
    if vendor is None or not quantity:
        return
    if vendor.sizes and quantity not in vendor.sizes:
        listed = ", ".join(map(str, vendor.sizes))
        raise ValueError(
            f"The number of requested {resource!r} was set to {quantity:g} which is not a "
            f"supported chip configuration. Supported configs: ({listed})"
        )
    if not vendor.shares and quantity % 1:
        raise ValueError(
            f"{resource} resource quantity must be whole numbers: its devices cannot be shared. "
            f"The specified quantity {quantity:g} is invalid."
        )


def check_visible(
    counts: Mapping[str, float], vendors: Mapping[str, Vendor], environ: Mapping[str, str]
) -> None:
    """Check that a node does not offer more devices than its environment lets it see.

    Args:
        counts: What it offers, by resource.
        vendors: Whose devices these are, by resource.
        environ: The node's environment.

    Raises:
        ValueError: it does.
    """
    for resource, count in counts.items():
        vendor = vendors.get(resource) or OF_RESOURCE.get(resource)
        ids = visible(vendor, environ) if vendor is not None else None
        if vendor is not None and ids is not None and count > len(ids):
            variable = vendor.variable if vendor.variable in environ else vendor.beneath
            raise ValueError(
                f"the node is to offer {count:g} {resource}, but {variable} contains {ids}"
            )
