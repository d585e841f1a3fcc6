"""Which accelerators an executor may use: by the variables that libraries read when they start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ract.core.accelerators import VENDORS, is_left_alone, variables, visible

devices: dict[str, tuple[str, list[str]]] = {}
"""What the node offers: by resource, the vendor and the ids by number. Set by the zygote."""

_before = dict(os.environ)


def show(assigned: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, list[str]]:
    """Make exactly the assigned accelerators visible to this process; none if none are assigned.

    Args:
        assigned: By resource, the numbers of the node's devices.
        own: Variables that the job sets itself, which stay as they are.

    Returns:
        By resource, the ids under which the machine knows them.
    """
    shown = {}
    for resource, (name, offered) in devices.items():
        vendor = VENDORS[name]
        numbers = assigned.get(resource, ())
        ids = [offered[number] for number in numbers]
        if vendor.variable in own:
            ids = (visible(vendor, own) or ids) if numbers else []
        elif not is_left_alone(vendor, os.environ):
            for variable, value in variables(vendor, ids).items():
                _set(variable, value)
        if ids:
            shown[resource] = ids
    return shown


def _set(variable: str, value: str | None) -> None:
    value = _before.get(variable) if value is None else value
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value
