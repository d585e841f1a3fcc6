"""The options of a node, checked where whoever gave them still waits.

They come from `ract.init`, ``rworker`` or a deployer. ``RACT_OVERRIDE_RESOURCES``, or Ray's, says
over them what is offered: JSON, quantities by resource. Every driver that starts a cluster imports
this before it does, so it imports little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ract.core.accelerators import ACCELERATORS, check_visible
from ract.core.labels import check_labels
from ract.core.resources import offered
from ract.core.session import setting
from ract.worker.hardware import isolation
from ract.worker.hardware.memory_settings import Settings

_OPTION_OF = {
    "CPU": "num-cpus",
    "GPU": "num-gpus",
    "memory": "memory",
    "object_store_memory": "object-store-memory",
}


def check(options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Check a node's options, and what overrides them, before it is started.

    Args:
        options: As they are given to the node.
        environ: The environment that it will have.

    Raises:
        TypeError, ValueError: a bad quantity, label, folder or setting, or more accelerators than
            there are.
        RuntimeError: resource isolation is not possible here.
    """
    Settings.read(environ)
    options = overridden(options, environ)
    cpus, gpus, memory, store = (options.get(option) or 0 for option in _OPTION_OF.values())
    offered(cpus, gpus, memory, store, options.get("resources"))
    check_labels(options.get("labels") or {})
    if "isolation" in options:
        isolation.check(options["isolation"])
    if options.get("object-spilling-directory") or any(
        setting(name, environ=environ) for name in SPILLING_SETTINGS
    ):
        from ract.worker.files import spill_places

        spill_places.check(spill_places.chosen(options.get("object-spilling-directory"), environ))
    counts = {name: n for name, n in asked_accelerators(options).items() if n}
    if counts:
        from ract.worker.hardware.devices import gpu_vendor

        check_visible(counts, {"GPU": gpu_vendor()}, environ)


SPILLING_SETTINGS = ("object_spilling_config", "object_spilling_directory")


def asked_accelerators(options: Mapping[str, Any]) -> dict[str, float]:
    """How many of which accelerators are asked for."""
    asked = {**(options.get("resources") or {}), "GPU": options.get("num-gpus")}
    return {name: asked[name] for name in ACCELERATORS if asked.get(name) is not None}


def overridden(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The options with what overrides them; a node that is there for a driver stays as it is.

    Raises:
        ValueError: what overrides them is not a JSON object.
    """
    text = setting("OVERRIDE_RESOURCES", environ=environ)
    options = dict(options)
    if not text or options.get("for-driver"):
        return options
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"RACT_OVERRIDE_RESOURCES is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"RACT_OVERRIDE_RESOURCES must be a JSON object, got {text!r}")
    for name, option in _OPTION_OF.items():
        if name in given:
            options[option] = given.pop(name)
    options["resources"] = {**(options.get("resources") or {}), **given}
    return options
