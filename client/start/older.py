"""The arguments that ``init`` had in Ray 0.x."""

from __future__ import annotations

import warnings
from typing import Any

_OLDER = {
    "redis_address": "address",
    "node_ip_address": "_node_ip_address",
    "driver_mode": "local_mode or log_to_driver",
}
_OLDER_IGNORED = {
    "object_id_seed",
    "num_workers",
    "num_redis_shards",
    "plasma_directory",
    "huge_pages",
    "redirect_output",
    "_lru_evict",
}
_MODES: dict[Any, dict[str, bool]] = {0: {}, 1: {}, 2: {"local_mode": True}, 3: {"quiet": True}}
"""What ``driver_mode`` meant: script, worker, Python and silent mode."""


def from_older(
    kwargs: dict[str, Any], address: str | None, log_to_driver: bool | None, local_mode: bool
) -> tuple[str | None, bool | None, bool]:
    """Take the arguments of Ray 0.x out of ``kwargs``; returns what they mean today."""
    for name in sorted(kwargs.keys() & (_OLDER.keys() | _OLDER_IGNORED)):
        value, now = kwargs.pop(name), _OLDER.get(name)
        what = f"use {now}" if now else "it does nothing here"
        warnings.warn(f"init({name}=...) is of Ray 0.x: {what}", DeprecationWarning, stacklevel=4)
        if name == "redis_address":
            address = address or value
        elif name == "node_ip_address":
            kwargs["_node_ip_address"] = value
        elif name == "driver_mode":
            if value not in _MODES:
                raise ValueError(f"driver_mode={value!r} is not one of {sorted(_MODES)}")
            local_mode = local_mode or _MODES[value].get("local_mode", False)
            log_to_driver = False if _MODES[value].get("quiet") else log_to_driver
    return address, log_to_driver, local_mode
