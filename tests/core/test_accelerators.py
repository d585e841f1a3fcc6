"""What vendors differ in: ids in variables, quantities, and leaving variables alone."""

import pytest

from ract.core.accelerators import (
    ACCELERATORS,
    NVIDIA,
    OF_RESOURCE,
    VENDORS,
    check_quantity,
    check_visible,
    is_left_alone,
    variables,
    visible,
)
from ract.core.resources import demand_from_options, to_units
from ract.scheduler.books import ledger


def test_the_scheduler_numbers_the_devices_that_the_table_knows():
    assert ledger.ACCELERATORS == ACCELERATORS
    assert {"GPU", "TPU", "NPU", "HPU", "neuron_cores", "RBLN"} < set(ACCELERATORS)
    assert OF_RESOURCE["GPU"] is NVIDIA


@pytest.mark.parametrize(
    ("vendor", "environ", "ids"),
    [
        ("nvidia", {}, None),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": ""}, []),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "3, 1"}, ["3", "1"]),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "GPU-ab-12,MIG-9"}, ["GPU-ab-12", "MIG-9"]),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ["0"]),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ("nvidia", {"HIP_VISIBLE_DEVICES": "0"}, None),
        ("amd", {"HIP_VISIBLE_DEVICES": "2"}, ["2"]),
        ("amd", {"ROCR_VISIBLE_DEVICES": "4,6"}, ["0", "1"]),
        ("amd", {"ROCR_VISIBLE_DEVICES": "4,6", "HIP_VISIBLE_DEVICES": "1"}, ["1"]),
        ("intel", {"ONEAPI_DEVICE_SELECTOR": "level_zero:1,0"}, ["1", "0"]),
        ("intel", {"ONEAPI_DEVICE_SELECTOR": "level_zero:*"}, None),
        ("intel", {"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}, None),
        ("intel", {"ONEAPI_DEVICE_SELECTOR": "opencl:cpu"}, None),
        ("intel", {"ONEAPI_DEVICE_SELECTOR": "!*:gpu"}, []),
        ("neuron", {"NEURON_RT_VISIBLE_CORES": "0-3,8"}, ["0", "1", "2", "3", "8"]),
        ("habana", {"HABANA_VISIBLE_MODULES": "all"}, None),
        ("google", {"TPU_VISIBLE_CHIPS": "2,3"}, ["2", "3"]),
        ("furiosa", {"FURIOSA_DEVICES": "npu:0,npu:1"}, ["0", "1"]),
    ],
    ids=str,
)
def test_a_variable_restricts_a_node_to_its_ids(vendor, environ, ids):
    assert visible(VENDORS[vendor], environ) == ids


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=lambda vendor: vendor.name)
@pytest.mark.parametrize("ids", [[], ["1"], ["0", "3"], ["0", "1", "2", "3"]], ids=len)
def test_what_is_shown_is_what_is_read(vendor, ids):
    environ = {name: value for name, value in variables(vendor, ids).items() if value is not None}
    assert visible(vendor, environ) == ids


def test_values_are_in_the_words_of_each_vendor():
    assert variables(NVIDIA, ["0", "GPU-a"]) == {"CUDA_VISIBLE_DEVICES": "0,GPU-a"}
    assert variables(NVIDIA, []) == {"CUDA_VISIBLE_DEVICES": ""}
    assert variables(VENDORS["intel"], ["0"]) == {"ONEAPI_DEVICE_SELECTOR": "level_zero:0"}
    assert variables(VENDORS["furiosa"], ["0", "1"]) == {"FURIOSA_DEVICES": "npu:0,npu:1"}


def test_a_part_of_a_tpu_host_is_told_its_shape_and_a_whole_one_is_not():
    tpu = VENDORS["google"]
    assert variables(tpu, ["1", "2"]) == {
        "TPU_VISIBLE_CHIPS": "1,2",
        "TPU_CHIPS_PER_HOST_BOUNDS": "1,2,1",
        "TPU_HOST_BOUNDS": "1,1,1",
    }
    whole = variables(tpu, ["0", "1", "2", "3"])
    assert whole["TPU_VISIBLE_CHIPS"] == "0,1,2,3"
    assert whole["TPU_CHIPS_PER_HOST_BOUNDS"] is whole["TPU_HOST_BOUNDS"] is None


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=lambda vendor: vendor.name)
@pytest.mark.parametrize("prefix", ["RACT", "RAY"])
def test_a_variable_is_left_alone_on_request(vendor, prefix):
    name = f"{prefix}_EXPERIMENTAL_NOSET_{vendor.variable}"
    assert is_left_alone(vendor, {name: "1"})
    assert is_left_alone(vendor, {name: "true"})
    assert not is_left_alone(vendor, {name: "0"})
    assert not is_left_alone(vendor, {f"{prefix}_EXPERIMENTAL_NOSET_OTHER": "1"})


def test_some_variables_are_left_alone_by_other_names_too():
    assert is_left_alone(VENDORS["amd"], {"RAY_EXPERIMENTAL_NOSET_ROCR_VISIBLE_DEVICES": "1"})
    name = "RAY_EXPERIMENTAL_NOSET_RBLN_RT_VISIBLE_DEVICES"
    assert is_left_alone(VENDORS["rebellions"], {name: "1"})


# --------------------------------------------------------------------------- quantities


@pytest.mark.parametrize(
    ("resource", "quantity"),
    [
        *((name, 1) for name in ACCELERATORS),
        *((name, 2) for name in ACCELERATORS),
        *((name, 0) for name in ACCELERATORS),
        ("GPU", 0.25),
        ("NPU", 0.5),
        ("TPU", 8),
        ("HPU", 3),
        ("custom", 0.3),
    ],
)
def test_quantities_that_hardware_does(resource, quantity):
    check_quantity(resource, quantity)


@pytest.mark.parametrize(
    ("resource", "quantity", "why"),
    [
        ("TPU", 3, r"not a supported chip configuration. Supported configs: \(1, 2, 4, 8\)"),
        ("TPU", 0.5, "not a supported chip"),
        ("TPU", 16, "not a supported chip"),
        ("HPU", 0.5, "must be whole numbers"),
        ("HPU", 1.5, "must be whole numbers"),
        ("neuron_cores", 0.1, "must be whole numbers"),
        ("RBLN", 0.5, "must be whole numbers"),
        ("NPU", 1.5, "must be whole numbers"),
    ],
)
def test_quantities_that_hardware_does_not_do_are_refused(resource, quantity, why):
    with pytest.raises(ValueError, match=why):
        demand_from_options(None, None, None, {resource: quantity}, None)


@pytest.mark.parametrize("resource", ACCELERATORS)
def test_above_one_device_all_are_whole(resource):
    with pytest.raises(ValueError, match="whole numbers"):
        to_units(resource, 1.5)


def test_a_node_offers_no_more_than_it_may_see():
    environ = {"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0"}
    check_visible({"GPU": 2, "TPU": 4, "custom": 9}, {}, environ)
    with pytest.raises(ValueError, match=r"3 GPU, but CUDA_VISIBLE_DEVICES contains \['0', '1'\]"):
        check_visible({"GPU": 3}, {}, environ)
    with pytest.raises(ValueError, match="2 GPU, but ROCR_VISIBLE_DEVICES contains"):
        check_visible({"GPU": 2}, {"GPU": VENDORS["amd"]}, environ)
    with pytest.raises(ValueError, match="4 TPU, but TPU_VISIBLE_CHIPS"):
        check_visible({"TPU": 4}, {}, {"TPU_VISIBLE_CHIPS": "0"})
