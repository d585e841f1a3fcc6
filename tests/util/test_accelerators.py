"""Names of accelerator types, and the TPU pod of the running code."""

import subprocess
import sys

import pytest

import ract
from ract.util import accelerators
from ract.util.accelerators import tpu
from ract.util.annotations import RayDeprecationWarning


def test_types_have_names():
    assert accelerators.NVIDIA_TESLA_V100 == "V100"
    assert accelerators.NVIDIA_A100_80G == "A100-80G"
    assert accelerators.AMD_INSTINCT_MI250x == "AMD-Instinct-MI250X"
    assert accelerators.GOOGLE_TPU_V5LITEPOD == "TPU-V5LITEPOD"
    assert {"NVIDIA_H100", "INTEL_GAUDI", "AWS_NEURON_CORE", "tpu"} <= set(accelerators.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"ract.util.accelerators.*NVIDIA_ABACUS"):
        accelerators.NVIDIA_ABACUS


def test_an_older_name_still_works_with_a_warning():
    with pytest.warns(RayDeprecationWarning, match="use NVIDIA_A100 instead"):
        assert accelerators.NVIDIA_TESLA_A100 == "A100"


def test_programs_import_them_by_rays_names():
    script = """
import ract.compat.ray
from ray.util.accelerators import NVIDIA_TESLA_V100, tpu
from ray.util.accelerators.tpu import get_current_pod_name
from ray.accelerators import NVIDIA_TESLA_T4
import ray
print(NVIDIA_TESLA_V100, NVIDIA_TESLA_T4, ray.util.accelerators.NVIDIA_L4, tpu.__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.stdout.split() == ["V100", "T4", "L4", "ract.util.accelerators.tpu"], done.stderr


V100 = {"num_gpus": 1, "resources": {f"accelerator_type:{accelerators.NVIDIA_TESLA_V100}": 1}}


@pytest.mark.parametrize("ract_start", [V100], indirect=True)
def test_a_task_runs_where_its_type_is(ract_start):
    @ract.remote(num_gpus=1, accelerator_type=accelerators.NVIDIA_TESLA_V100)
    def on_a_v100():
        return ract.get_runtime_context().get_assigned_resources()

    assert ract.get(on_a_v100.remote())["accelerator_type:V100"] == 0.001
    elsewhere = on_a_v100.options(accelerator_type=accelerators.NVIDIA_H100, on_infeasible="raise")
    with pytest.raises(ract.exceptions.RactError, match="H100"):
        ract.get(elsewhere.remote())


# --------------------------------------------------------------------------- TPU pods


@pytest.fixture
def pod(monkeypatch):
    """Variables as GKE sets them; none at first."""
    for name in ("NAME", "ACCELERATOR_TYPE", "WORKER_ID", "WORKER_HOSTNAMES", "TOPOLOGY"):
        monkeypatch.delenv(f"TPU_{name}", raising=False)
    return lambda **given: [monkeypatch.setenv(f"TPU_{k}", v) for k, v in given.items()]


def test_outside_of_a_pod_nothing_is_known(pod):
    assert tpu.get_current_pod_name() is None
    assert tpu.get_current_pod_worker_count() is None
    assert tpu.get_num_tpu_chips_on_node() == 0


def test_in_a_pod_its_name_and_size_are_known(pod):
    pod(NAME="mypod", ACCELERATOR_TYPE="v4-16")
    assert tpu.get_current_pod_name() == "mypod"
    assert tpu.get_current_pod_worker_count() is None  # without chips here, nobody can tell
    pod(WORKER_HOSTNAMES="a,b")
    assert tpu.get_current_pod_worker_count() == 2
