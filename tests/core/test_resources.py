"""Quantities in fixed point: exact, finite and no finer than 0.0001."""

import decimal
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ract.core import wire
from ract.core.messages import Shape
from ract.core.resources import (
    ACCELERATOR_TYPE_UNITS,
    UNIT,
    demand_from_options,
    describe,
    fits,
    from_units,
    to_units,
)


@pytest.mark.parametrize(
    ("quantity", "units"),
    [
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        (1, 10_000),
        (1.0, 10_000),
        (0.5, 5000),
        (0.1 + 0.2, 3000),
        (0.0001, 1),
        (0.3333, 3333),
        (1.0001, 10_001),
        (123456.7891, 1234567891),
        (10**9, 10**13),
        (2**40 + 0.5, (2**40 * 2 + 1) * 5000),
    ],
)
def test_quantities_become_units_exactly(quantity, units):
    assert to_units("custom", quantity) == units
    assert type(to_units("custom", quantity)) is int


@given(st.integers(0, 10**12))
@settings(max_examples=200, deadline=None, database=None, derandomize=True)
def test_units_go_round_through_quantities(units):
    assert to_units("custom", from_units(units)) == units


def test_a_million_takes_and_gives_end_where_they_began():
    rng = random.Random(1)
    shares = [to_units("CPU", rng.randrange(1, 10_000) / 10_000) for _ in range(1000)]
    free = to_units("CPU", 1000)
    assert free - sum(shares) + sum(reversed(shares)) == free


@pytest.mark.parametrize(
    "quantity",
    [0.00005, 0.00001, 1e-9, 1e-11, 1e-300, 0.12345, 1.00005, 101.00005, 12345.00005, 5e-324],
)
def test_quantities_finer_than_a_ten_thousandth_are_refused(quantity):
    with pytest.raises(ValueError, match=r"'custom'.*0\.0001"):
        to_units("custom", quantity)


@pytest.mark.parametrize("quantity", [-1, -0.5, -0.0001, -1e-12, -(10**30)])
def test_negative_quantities_are_refused(quantity):
    with pytest.raises(ValueError, match="must not be negative"):
        to_units("CPU", quantity)


@pytest.mark.parametrize("quantity", [math.inf, -math.inf, math.nan])
def test_quantities_that_are_not_finite_are_refused(quantity):
    with pytest.raises(ValueError, match="must be finite"):
        to_units("CPU", quantity)


@pytest.mark.parametrize("quantity", [10**15, 1e18, 10**400, 1e300, 1.7e308])
def test_quantities_that_no_message_can_carry_are_refused(quantity):
    with pytest.raises(ValueError, match="too large"):
        to_units("custom", quantity)


def test_the_largest_quantity_travels():
    demand = {"custom": to_units("custom", 9 * 10**14)}
    shape = Shape(demand, b"job1")
    assert wire.decode(wire.encode(shape)) == shape


@pytest.mark.parametrize("quantity", ["1", None, True, False, [1], 1j, decimal.Decimal(1), b"1"])
def test_what_is_no_number_is_refused(quantity):
    with pytest.raises(TypeError, match="'CPU' must be a number"):
        to_units("CPU", quantity)


@pytest.mark.parametrize("quantity", [1.5, 2.0001, 100.5])
def test_gpus_above_one_are_whole(quantity):
    with pytest.raises(ValueError, match="whole numbers"):
        to_units("GPU", quantity)
    assert to_units("CPU", quantity) == round(quantity * UNIT)


@pytest.mark.parametrize("quantity", [0, 0.25, 1, 2, 8.0])
def test_gpus_below_one_may_be_shares(quantity):
    assert to_units("GPU", quantity) == quantity * UNIT


# --------------------------------------------------------------------------- demands


def test_options_become_a_demand_without_zeros():
    demand = demand_from_options(2, 0.5, 1000, {"custom": 1, "none": 0}, "A100")
    assert demand == {
        "CPU": 20_000,
        "GPU": 5000,
        "memory": 1000 * UNIT,
        "custom": UNIT,
        "accelerator_type:A100": ACCELERATOR_TYPE_UNITS,
    }
    assert from_units(ACCELERATOR_TYPE_UNITS) == 0.001


def test_cpus_have_a_default_and_zero_is_not_none():
    assert demand_from_options(None, None, None, None, None) == {}
    assert demand_from_options(None, None, None, None, None, 1) == {"CPU": UNIT}
    assert demand_from_options(0, 0, 0, {}, None, 1) == {}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("CPU", "num_cpus"),
        ("GPU", "num_gpus"),
        ("memory", "memory"),
        ("object_store_memory", "object_store_memory"),
    ],
)
def test_predefined_resources_have_their_own_options(name, option):
    with pytest.raises(ValueError, match=f"use the '{option}' option"):
        demand_from_options(None, None, None, {name: 1}, None)


def test_bad_quantities_in_a_demand_name_the_resource():
    with pytest.raises(ValueError, match="'custom'"):
        demand_from_options(None, None, None, {"custom": -1}, None)
    with pytest.raises(TypeError, match="'custom'"):
        demand_from_options(None, None, None, {"custom": "1"}, None)
    with pytest.raises(ValueError, match="'memory'"):
        demand_from_options(None, None, -1, None, None)


@pytest.mark.parametrize(
    ("demand", "free", "expected"),
    [
        ({}, {}, True),
        ({"CPU": 1}, {}, False),
        ({"CPU": 1}, {"CPU": 1}, True),
        ({"CPU": 2}, {"CPU": 1}, False),
        ({"CPU": 1, "GPU": 1}, {"CPU": 5}, False),
        ({"CPU": 1}, {"CPU": 5, "GPU": 1}, True),
        ({"CPU": 0}, {}, True),
        ({"CPU": 1}, {"CPU": -1}, False),
    ],
)
def test_a_demand_fits_if_every_resource_does(demand, free, expected):
    assert fits(demand, free) is expected


def test_demands_are_described_in_order_of_their_names():
    assert describe({}) == "{}"
    assert describe({"GPU": 5000, "CPU": 10_000}) == "{CPU: 1, GPU: 0.5}"
    assert describe({"a": 1}) == "{a: 0.0001}"
