"""What a node offers when it joins: what it was told to offer, else what the machine has.

Theory of operation
-------------------
What the options (`ract.worker.hardware.options`) do not say is looked for: CPUs, memory, and
accelerators as far as the node's environment lets it see them. Of accelerators the ids are kept,
for executors to show them to libraries (`ract.worker.executor.accelerators`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ract.core import accelerators
from ract.core.accelerators import OF_RESOURCE, Vendor
from ract.core.labels import check_labels
from ract.core.resources import UNIT, offered
from ract.core.session import setting
from ract.worker.hardware import detect, devices, tpu
from ract.worker.hardware.options import asked_accelerators, overridden

Devices = dict[str, tuple[str, list[str]]]
"""By resource: the vendor's name, and the ids of what is offered, by number."""

_LABELS = {
    "NODE_TYPE_NAME": "ray.io/node-group",
    "NODE_MARKET_TYPE": "ray.io/market-type",
    "NODE_REGION": "ray.io/availability-region",
    "NODE_ZONE": "ray.io/availability-zone",
}
"""What whoever starts machines says of them, as ``RACT_...`` or ``RAY_...``."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node offers.

    Attributes:
        resources: In units.
        labels: Without that of its id.
        devices: Its accelerators; of ``GPU`` always, since libraries must see none of those that
            are not offered.
    """

    resources: dict[str, int]
    labels: dict[str, str]
    devices: Devices


def make(
    options: Mapping[str, Any],
    host: str,
    environ: Mapping[str, str] = os.environ,
    root: Path = devices.ROOT,
) -> Offer:
    """Find out what this node offers.

    Args:
        options: The node's; ``for-driver``: nothing that it is not told, since it is there for a
            driver to talk to.
        host: Its address, of which it offers one.
        environ: Its environment, if it is another than this process' own.
        root: Where the file system begins, for tests.

    Raises:
        TypeError, ValueError: as `ract.worker.hardware.options.check`.
    """
    options = overridden(options, environ)
    found = {} if options.get("for-driver") else {f.vendor.resource: f for f in devices.find(root)}
    vendors = {**OF_RESOURCE, **{name: f.vendor for name, f in found.items()}}
    counts = asked_accelerators(options)
    accelerators.check_visible(counts, vendors, environ)
    resources: dict[str, Any] = dict(options.get("resources") or {})
    labels = {label: setting(name, "", environ) or "" for name, label in _LABELS.items()}
    numbered: Devices = {}
    for name, vendor in vendors.items():
        there = found.get(name)
        ids = _ids(vendor, there.count if there else 0, counts.get(name), environ)
        if ids or name == "GPU":
            numbered[name] = (vendor.name, ids)
        if not ids:
            continue
        counts.setdefault(name, len(ids))
        types = there.types if there else ()
        if name == "TPU":
            types = _of_pod(tpu.pod(environ, ask=there is not None), resources, labels)
        for kind in types:
            resources.setdefault(f"accelerator_type:{kind}", 1)
        if types:
            labels.setdefault("ray.io/accelerator-type", types[0])
    labels = {label: value for label, value in labels.items() if value}
    labels.update(check_labels(options.get("labels") or {}))
    return Offer(_in_units(options, counts, resources, host, root), labels, numbered)


def _in_units(
    options: Mapping[str, Any],
    counts: dict[str, float],
    resources: dict[str, Any],
    host: str,
    root: Path,
) -> dict[str, int]:
    cpus = options.get("num-cpus")
    available = detect.available_bytes(root)
    store = options.get("object-store-memory") or detect.store_bytes(available)
    units = offered(
        detect.num_cpus(root) if cpus is None else cpus,
        counts.pop("GPU", 0),
        options.get("memory") or max(0, available - store),
        store,
        {**resources, **counts},
    )
    units[f"node:{host}"] = UNIT
    if options.get("is-head"):
        units["node:__internal_head__"] = UNIT
    return units


def _ids(vendor: Vendor, there: int, asked: float | None, environ: Mapping[str, str]) -> list[str]:
    """The ids of the devices that the node offers, by number."""
    shown = accelerators.visible(vendor, environ)
    if asked is None:
        count = there if shown is None else min(there, len(shown))
    else:
        count = int(asked)
    return [str(i) for i in range(count)] if shown is None else shown[:count]


def _of_pod(pod: tpu.Pod, resources: dict[str, Any], labels: dict[str, str]) -> tuple[str, ...]:
    """Let programs find the machines of one pod, and its first; returns the type of its chips."""
    if not pod.kind:
        return ()
    if pod.name:
        resources.setdefault(pod.name, 1)
    if pod.worker == "0":
        resources.setdefault(f"TPU-{pod.kind}-head", 1)
    known = {
        "ray.io/tpu-slice-name": pod.name,
        "ray.io/tpu-worker-id": pod.worker,
        "ray.io/tpu-topology": pod.topology,
        "ray.io/tpu-pod-type": pod.kind,
    }
    labels.update({label: value for label, value in known.items() if value})
    return (pod.accelerator_type,)
