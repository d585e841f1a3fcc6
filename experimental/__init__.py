"""What Ray calls experimental."""

import importlib
from types import ModuleType

from ract.util.locations import get_local_object_locations, get_object_locations, set_resource

__all__ = ["get_local_object_locations", "get_object_locations", "set_resource"]

_SUBMODULES = ("dynamic_resources", "internal_kv", "locations", "queue", "tqdm_ray")


def __getattr__(name: str) -> ModuleType:
    """Import a module of this package at its first use."""
    if name in _SUBMODULES:
        return importlib.import_module(f"ract.experimental.{name}")
    raise AttributeError(f"module 'ract.experimental' has no attribute {name!r}")
