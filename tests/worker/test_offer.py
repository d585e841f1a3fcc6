"""What a node offers: what it is told, else what its machine has. The devices are fake files."""

import json

import pytest

from ract.core.resources import UNIT
from ract.worker.hardware import offer
from ract.worker.hardware.detect import STORE_BYTES_MIN
from ract.worker.hardware.options import check

GiB = 2**30
HOST = "10.0.0.7"
STORE = {"object-store-memory": GiB}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine with 8 GiB of memory to spare, and no tools."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "dev").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {8 * 2**20} kB\n")
    return tmp_path


def devices(root, *names):
    for name in names:
        (root / "dev" / name).parent.mkdir(exist_ok=True)
        (root / "dev" / name).touch()


def make(root, given=None, **environ):
    return offer.make(given or {}, HOST, environ, root)


def amounts(made):
    return {name: units / UNIT for name, units in made.resources.items()}


def accelerators(made):
    rest = {"CPU", "memory", "object_store_memory", f"node:{HOST}"}
    return {name: amount for name, amount in amounts(made).items() if name not in rest}


def test_without_options_it_is_what_the_machine_has(root):
    made = make(root)
    found = amounts(made)
    store = found["object_store_memory"]
    assert set(found) == {"CPU", "memory", "object_store_memory", f"node:{HOST}"}
    assert STORE_BYTES_MIN <= store <= 8 * GiB * 0.3
    assert found["memory"] == 8 * GiB - store
    assert found[f"node:{HOST}"] == 1
    assert made.labels == {}
    assert made.devices == {"GPU": ("nvidia", [])}


def test_options_say_it_instead(root):
    options = {
        **STORE,
        "num-cpus": 3,
        "num-gpus": 2,
        "memory": 1000,
        "resources": {"Custom": 0.5},
        "labels": {"zone": "a"},
        "is-head": True,
    }
    made = make(root, options)
    assert amounts(made) == {
        "CPU": 3,
        "GPU": 2,
        "memory": 1000,
        "object_store_memory": GiB,
        "Custom": 0.5,
        f"node:{HOST}": 1,
        "node:__internal_head__": 1,
    }
    assert made.labels == {"zone": "a"}
    assert made.devices == {"GPU": ("nvidia", ["0", "1"])}


def test_memory_is_what_the_store_leaves(root):
    assert amounts(make(root, STORE))["memory"] == 7 * GiB


# --------------------------------------------------------------------------- accelerators


def test_devices_are_offered_with_their_type(root):
    devices(root, "hl0", "hl1")
    made = make(root)
    assert accelerators(made) == {"HPU": 2, "accelerator_type:Intel-GAUDI": 1}
    assert made.labels == {"ray.io/accelerator-type": "Intel-GAUDI"}
    assert made.devices["HPU"] == ("habana", ["0", "1"])


def test_a_variable_that_is_set_restricts_what_is_offered(root):
    devices(root, "davinci0", "davinci1", "davinci2")
    made = make(root, ASCEND_RT_VISIBLE_DEVICES="2,0")
    assert accelerators(made) == {"NPU": 2}
    assert made.devices["NPU"] == ("ascend", ["2", "0"])
    assert accelerators(make(root, ASCEND_RT_VISIBLE_DEVICES="")) == {}


def test_a_variable_makes_no_devices(root):
    made = make(root, CUDA_VISIBLE_DEVICES="0,1")
    assert accelerators(made) == {}


def test_fewer_may_be_asked_for_than_there_are(root):
    devices(root, "hl0", "hl1", "hl2")
    made = make(root, {"resources": {"HPU": 1}}, HABANA_VISIBLE_MODULES="5,6,7")
    assert accelerators(made)["HPU"] == 1
    assert made.devices["HPU"] == ("habana", ["5"])
    assert "HPU" not in amounts(make(root, {"resources": {"HPU": 0}}))
    assert "accelerator_type:Intel-GAUDI" not in amounts(make(root, {"resources": {"HPU": 0}}))


def test_more_may_be_asked_for_than_there_are_to_try_things_out(root):
    made = make(root, {"num-gpus": 3, "resources": {"TPU": 4}})
    assert accelerators(made) == {"GPU": 3, "TPU": 4}
    assert made.devices["TPU"] == ("google", ["0", "1", "2", "3"])


def test_ids_may_be_names(root):
    made = make(root, {"num-gpus": 2}, CUDA_VISIBLE_DEVICES="GPU-a,GPU-b,GPU-c")
    assert made.devices["GPU"] == ("nvidia", ["GPU-a", "GPU-b"])


def test_a_type_that_is_given_is_kept(root):
    devices(root, "hl0")
    made = make(root, {"resources": {"accelerator_type:Intel-GAUDI": 5}})
    assert accelerators(made)["accelerator_type:Intel-GAUDI"] == 5


def test_a_node_that_is_there_for_a_driver_offers_nothing_by_itself(root):
    devices(root, "hl0")
    options = {"num-cpus": 0, "num-gpus": 0, "for-driver": True}
    made = make(root, options, RACT_OVERRIDE_RESOURCES='{"CPU": 4, "X": 1}')
    assert set(amounts(made)) == {"memory", "object_store_memory", f"node:{HOST}"}


# --------------------------------------------------------------------------- TPU pods


def test_the_first_machine_of_a_pod_can_be_asked_for(root):
    devices(root, "accel0", "accel1", "accel2", "accel3")
    pod = {"TPU_NAME": "mypod", "TPU_ACCELERATOR_TYPE": "v4-16", "TPU_TOPOLOGY": "2x2x2"}
    made = make(root, TPU_WORKER_ID="0", **pod)
    assert accelerators(made) == {
        "TPU": 4,
        "accelerator_type:TPU-V4": 1,
        "mypod": 1,
        "TPU-v4-16-head": 1,
    }
    assert made.labels == {
        "ray.io/accelerator-type": "TPU-V4",
        "ray.io/tpu-slice-name": "mypod",
        "ray.io/tpu-worker-id": "0",
        "ray.io/tpu-topology": "2x2x2",
        "ray.io/tpu-pod-type": "v4-16",
    }
    assert "TPU-v4-16-head" not in amounts(make(root, TPU_WORKER_ID="1", **pod))


# --------------------------------------------------------------------------- overrides


@pytest.mark.parametrize("prefix", ["RACT", "RAY"])
def test_quantities_can_be_overridden(root, prefix):
    given = {"CPU": 5, "GPU": 2, "memory": 10**9, "foo": 3}
    environ = {f"{prefix}_OVERRIDE_RESOURCES": json.dumps(given)}
    made = make(root, {**STORE, "num-cpus": 1, "resources": {"bar": 1, "foo": 9}}, **environ)
    assert amounts(made) == {
        **given,
        "bar": 1,
        "object_store_memory": GiB,
        f"node:{HOST}": 1,
    }
    assert made.devices["GPU"] == ("nvidia", ["0", "1"])


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "not JSON"), ("[1]", "JSON object"), ('{"CPU": -1}', "negative")],
)
def test_bad_overrides_are_refused_before_the_node_starts(text, why):
    with pytest.raises(ValueError, match=why):
        check({}, {"RACT_OVERRIDE_RESOURCES": text})


def test_what_starts_machines_labels_them(root):
    environ = {
        "RAY_NODE_TYPE_NAME": "workers",
        "RACT_NODE_MARKET_TYPE": "spot",
        "RAY_NODE_REGION": "us-1",
        "RAY_NODE_ZONE": "us-1a",
    }
    assert make(root, **environ).labels == {
        "ray.io/node-group": "workers",
        "ray.io/market-type": "spot",
        "ray.io/availability-region": "us-1",
        "ray.io/availability-zone": "us-1a",
    }


# --------------------------------------------------------------------------- checks

BAD = [
    ({"num-cpus": -1}, {}, ValueError, "CPU.*negative"),
    ({"num-cpus": "1"}, {}, TypeError, "number"),
    ({"num-gpus": 1.5}, {}, ValueError, "whole"),
    ({"labels": {"ray.io/x": "1"}}, {}, ValueError, "ray.io/"),
    ({"labels": {"x": "a b"}}, {}, ValueError, "label 'x'"),
    ({"num-gpus": 3}, {"CUDA_VISIBLE_DEVICES": "0,1"}, ValueError, "CUDA_VISIBLE_DEVICES"),
    ({"resources": {"TPU": 4}}, {"TPU_VISIBLE_CHIPS": "0"}, ValueError, "TPU_VISIBLE_CHIPS"),
    *(
        ({"resources": {name: 1}}, {}, ValueError, name)
        for name in ("CPU", "GPU", "memory", "object_store_memory")
    ),
]


@pytest.mark.parametrize(("options", "environ", "error", "why"), BAD, ids=str)
def test_bad_options_are_refused_before_and_when_the_node_starts(
    root, options, environ, error, why
):
    with pytest.raises(error, match=why):
        check(options, environ)
    with pytest.raises(error, match=why):
        make(root, options, **environ)


def test_good_options_pass():
    environ = {"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0"}
    check({"num-gpus": 2, "resources": {"TPU": 4}, "labels": {"a": "b"}}, environ)
    check({"num-gpus": 0}, {"CUDA_VISIBLE_DEVICES": ""})
    check({}, {})
