"""The TPU pod that this machine is part of, if it is: from the environment, else Google's metadata.

GKE sets variables; on a TPU VM, the metadata server knows. It is asked only where there are chips.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ract.worker.hardware import devices

TIMEOUT_S = 1.0
CORES_PER_CHIP = {"v2": 2, "v3": 2, "v4": 2, "v5p": 2, "v7x": 2}
"""Pod types of these generations count cores, of others chips."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What is known; "" for what is not.

    Attributes:
        name: The slice's name.
        kind: Its accelerator type, such as ``v4-16``.
        topology: Such as ``2x2x2``.
        worker: The number of this machine in it.
        hosts: How many machines it has; 0: not said.
    """

    name: str = ""
    kind: str = ""
    topology: str = ""
    worker: str = ""
    hosts: int = 0

    @property
    def generation(self) -> str:
        """Such as ``v4`` or ``v5litepod``; what Google calls ``tpu7x`` is ``v7x``."""
        return self.kind.partition("-")[0].replace("tpu", "v")

    @property
    def accelerator_type(self) -> str:
        """As tasks ask for it: ``TPU-V4``."""
        return f"TPU-{self.generation.upper()}"

    @property
    def chips(self) -> int:
        """How many chips all its machines have; 0: not known."""
        count = self.kind.rpartition("-")[2]
        return int(count) // CORES_PER_CHIP.get(self.generation, 1) if count.isdecimal() else 0


def pod(environ: Mapping[str, str], *, ask: bool) -> Pod:
    """The pod of this machine.

    Args:
        environ: Where GKE's variables are.
        ask: Whether the metadata server may be asked for what they do not say.
    """
    fetch = _attribute if ask else lambda _: ""
    kind = environ.get("TPU_ACCELERATOR_TYPE") or fetch("accelerator-type")
    if not kind:
        return Pod()
    topology = environ.get("TPU_TOPOLOGY", "")
    if not topology:
        found = re.search(r"TOPOLOGY: '?([\dx]+)", fetch("tpu-env"))
        topology = found[1] if found else ""
    hosts = environ.get("TPU_WORKER_HOSTNAMES", "")
    return Pod(
        environ.get("TPU_NAME") or fetch("instance-id"),
        kind,
        topology,
        environ.get("TPU_WORKER_ID") or fetch("agent-worker-number"),
        len(hosts.split(",")) if hosts else 0,
    )


@functools.cache
def _attribute(name: str) -> str:
    import urllib.request

    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{name}",
        headers={"Metadata-Flavor": "Google"},
    )
    with (
        contextlib.suppress(OSError, ValueError),
        urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer,
    ):
        return answer.read().decode().strip()
    return ""


def chips_here(root: Path = devices.ROOT) -> int:
    """TPU chips of this machine."""
    return devices.number_of("google", root)


def hosts(of: Pod, chips: int) -> int:
    """How many machines a pod has, each with as many chips; 0: not known."""
    return of.hosts or (-(-of.chips // chips) if chips else 0)
