"""Quantities of resources in fixed point: integers in units of 1/10,000.

Floats do not add up (0.1 + 0.2), and a scheduler that takes and gives back a million times must end
where it began. So quantities are converted once, when they enter, and are integers ever after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ract.core.accelerators import ACCELERATORS, check_quantity

UNIT = 10_000
"""Units of one whole resource; 1/10,000 is the finest share."""

ACCELERATOR_TYPE_UNITS = 10
"""An accelerator type is asked for in this tiny share (0.001), so that it never runs out."""

UNITS_MAX = 2**63 - 1
"""What a control message carries, with room for sums."""

PREDEFINED = ("CPU", "GPU", "memory", "object_store_memory")
WHOLE_ABOVE_ONE = frozenset(ACCELERATORS)


def to_units(name: str, quantity: Any) -> int:
    """Convert a quantity to units.

    Raises:
        TypeError: not a number. ValueError: negative, not finite, larger than `UNITS_MAX`, finer
            than 0.0001, or a fraction above 1 of a resource whose devices are handed out whole.
    """
    if isinstance(quantity, bool) or not isinstance(quantity, (int, float)):
        raise TypeError(
            f"the quantity of resource {name!r} must be a number, not {type(quantity).__name__}"
        )
    if quantity != quantity or quantity in (float("inf"), float("-inf")):
        raise ValueError(f"the quantity of resource {name!r} must be finite, got {quantity}")
    if quantity < 0:
        raise ValueError(f"the quantity of resource {name!r} must not be negative, got {quantity}")
    if quantity > UNITS_MAX // UNIT:
        raise ValueError(
            f"the quantity of resource {name!r} is too large: at most {UNITS_MAX // UNIT}"
        )
    units = round(quantity * UNIT)
    # What sums of floats are off by is forgiven; ints are exact.
    tolerance = max(1e-6, 4 * UNIT * math.ulp(quantity))
    if abs(units - quantity * UNIT) > tolerance or (quantity and not units):
        raise ValueError(
            f"the quantity of resource {name!r} has a precision of 0.0001 at most, got {quantity}"
        )
    if name in WHOLE_ABOVE_ONE and units > UNIT and units % UNIT:
        raise ValueError(f"{name} quantities above 1 must be whole numbers, got {quantity}")
    return units


def from_units(units: int) -> float:
    """Convert units to a quantity."""
    return units / UNIT


def demand_from_options(
    num_cpus: Any,
    num_gpus: Any,
    memory: Any,
    resources: Mapping[str, Any] | None,
    accelerator_type: str | None,
    default_cpus: float = 0,
) -> dict[str, int]:
    """The demand that options describe; zero quantities are left out.

    Raises:
        TypeError: a quantity is not a number. ValueError: a bad quantity, also of accelerators that
            cannot be shared, or a predefined resource among the custom ones.
    """
    demand: dict[str, int] = {}
    given = {"CPU": default_cpus if num_cpus is None else num_cpus, "GPU": num_gpus}
    for name, quantity in given.items():
        if quantity is not None:
            demand[name] = to_units(name, quantity)
    if memory is not None:
        demand["memory"] = to_units("memory", int(memory))
    for name, quantity in (resources or {}).items():
        if name in PREDEFINED:
            option = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, name)
            raise ValueError(f"use the '{option}' option instead of {name!r} in 'resources'")
        demand[name] = to_units(name, quantity)
        check_quantity(name, quantity)
    if accelerator_type is not None:
        demand[f"accelerator_type:{accelerator_type}"] = ACCELERATOR_TYPE_UNITS
    return {name: units for name, units in demand.items() if units}


def offered(
    num_cpus: float,
    num_gpus: float,
    memory: float,
    object_store_memory: float,
    resources: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """What a node offers, in units. Memory is in bytes.

    Raises:
        TypeError, ValueError: a quantity is no number, negative or too large, or ``resources``
            names one that has a parameter of its own.
    """
    given = {
        "CPU": num_cpus,
        "GPU": num_gpus,
        "memory": memory,
        "object_store_memory": object_store_memory,
    }
    offer = {name: to_units(name, quantity) for name, quantity in given.items()}
    for name, quantity in (resources or {}).items():
        if name in PREDEFINED:
            option = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, name)
            raise ValueError(f"use '{option}' instead of {name!r} in 'resources'")
        offer[name] = to_units(name, quantity)
    return {name: units for name, units in offer.items() if units}


def fits(demand: Mapping[str, int], free: Mapping[str, int]) -> bool:
    """Whether ``free`` holds at least ``demand``."""
    return all(units <= free.get(name, 0) for name, units in demand.items())


def describe(demand: Mapping[str, int]) -> str:
    """The demand as text: ``{CPU: 1, GPU: 0.5}``."""
    parts = (f"{name}: {in_units(name, units)}" for name, units in sorted(demand.items()))
    return "{" + ", ".join(parts) + "}"


def in_units(name: str, units: int) -> str:
    """`amount` of ``units``."""
    return amount(name, from_units(units))


def amount(name: str, quantity: float) -> str:
    """A quantity of a resource for people; those of memory are bytes."""
    if "memory" not in name:
        return f"{quantity:g}"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if quantity < 1024:
            return f"{quantity:.3g} {unit}"
        quantity /= 1024
    return f"{quantity:.1f} TiB"
