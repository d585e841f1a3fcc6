"""Which GPUs tasks and actors see. No GPU is needed: nodes offer what they are told to."""

import os

import pytest

import ract
from ract.core.accelerators import VENDORS


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch):
    for vendor in VENDORS.values():
        monkeypatch.delenv(vendor.variable, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def seen():
    context = ract.get_runtime_context()
    return (
        os.environ["CUDA_VISIBLE_DEVICES"],
        ract.get_gpu_ids(),
        context.get_accelerator_ids().get("GPU", []),
    )


look = ract.remote(num_cpus=0)(seen)


@ract.remote(num_cpus=0)
class Actor:
    def __init__(self):
        self.at_start = seen()

    def look(self):
        return self.at_start, seen()


@pytest.mark.parametrize("ract_start", [{"num_gpus": 3}], indirect=True)
def test_each_gets_devices_of_its_own(ract_start):
    actors = [Actor.options(num_gpus=1).remote() for _ in range(2)]
    found = [ract.get(actor.look.remote()) for actor in actors]
    assert all(first == later for first, later in found)
    third = ract.get(look.options(num_gpus=1).remote())
    devices = [found[0][0], found[1][0], third]
    assert sorted(device for device, _, _ in devices) == ["0", "1", "2"]
    assert all(ids == [int(device)] and names == [device] for device, ids, names in devices)
    del actors
    # Once they are free again.
    assert ract.get(look.options(num_gpus=3).remote(), timeout=30)[1] == [0, 1, 2]


@pytest.mark.parametrize("ract_start", [{"num_gpus": 1}], indirect=True)
def test_fractions_share_a_device_and_others_see_none(ract_start):
    actors = [Actor.options(num_gpus=0.5).remote() for _ in range(2)]
    assert [ract.get(actor.look.remote())[1][0] for actor in actors] == ["0", "0"]
    assert ract.get(look.remote()) == ("", [], [])


@pytest.fixture
def start(monkeypatch):
    """Start a cluster with these variables and these arguments of ``init``."""

    def start(variables, **arguments):
        ract.shutdown()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        ract.init(**{"num_cpus": 2, "include_dashboard": False, **arguments})

    yield start
    ract.shutdown()


def test_ids_are_those_that_the_node_may_use(start):
    start({"CUDA_VISIBLE_DEVICES": "5,GPU-ab12"}, num_gpus=2)
    assert ract.cluster_resources()["GPU"] == 2
    assert ract.get_gpu_ids() == [5, "GPU-ab12"]  # the driver sees what the node does
    assert ract.get(look.options(num_gpus=2).remote()) == (
        "5,GPU-ab12",
        [5, "GPU-ab12"],
        ["5", "GPU-ab12"],
    )


@pytest.mark.parametrize("prefix", ["RACT", "RAY"])
def test_the_variable_can_be_left_alone(start, prefix):
    start(
        {
            "CUDA_VISIBLE_DEVICES": "0,1",
            f"{prefix}_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        },
        num_gpus=2,
    )
    assert ract.get(look.options(num_gpus=1).remote()) == ("0,1", [0], ["0"])


def test_a_job_can_leave_the_variable_alone_or_set_its_own(start):
    start({"CUDA_VISIBLE_DEVICES": "5,6"}, num_gpus=2)

    def with_variables(**env_vars):
        return look.options(num_gpus=1, runtime_env={"env_vars": env_vars}).remote()

    left = with_variables(RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES="1")
    assert ract.get(left) == ("5,6", [5], ["5"])
    assert ract.get(with_variables(CUDA_VISIBLE_DEVICES="9")) == ("9", [9], ["9"])


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"num_gpus": 3}),
        ({"TPU_VISIBLE_CHIPS": "0,1"}, {"resources": {"TPU": 4}}),
        ({"RAY_OVERRIDE_RESOURCES": '{"GPU": 2}', "CUDA_VISIBLE_DEVICES": "0"}, {}),
    ],
    ids=str,
)
def test_more_than_the_node_may_see_cannot_be_offered(start, variables, arguments):
    with pytest.raises(ValueError, match=r"CUDA_VISIBLE_DEVICES|TPU_VISIBLE_CHIPS"):
        start(variables, **arguments)
    assert not ract.is_initialized()


def test_overrides_win(start):
    start({"RAY_OVERRIDE_RESOURCES": '{"CPU": 3, "GPU": 1, "X": 2}'}, num_cpus=1)
    found = ract.cluster_resources()
    assert (found["CPU"], found["GPU"], found["X"]) == (3, 1, 2)


# --------------------------------------------------------------------------- other vendors

SHOWN = (
    "CUDA_VISIBLE_DEVICES",
    "TPU_VISIBLE_CHIPS",
    "TPU_CHIPS_PER_HOST_BOUNDS",
    "HABANA_VISIBLE_MODULES",
    "NEURON_RT_VISIBLE_CORES",
)
SEVERAL = {"resources": {"TPU": 4, "HPU": 2}, "num_gpus": 1, "num_cpus": 2}


@ract.remote(num_cpus=0)
def look_around():
    ids = ract.get_runtime_context().get_accelerator_ids()
    variables = {name: os.environ[name] for name in SHOWN if name in os.environ}
    return variables, {name: listed for name, listed in ids.items() if listed}


NONE = {"CUDA_VISIBLE_DEVICES": "", "TPU_VISIBLE_CHIPS": "", "HABANA_VISIBLE_MODULES": ""}


@pytest.mark.parametrize("ract_start", [SEVERAL], indirect=True)
def test_each_vendor_has_its_variable(ract_start):
    def seen(**options):
        return ract.get(look_around.options(**options).remote())

    assert seen() == (NONE, {})
    part = {"TPU_VISIBLE_CHIPS": "0,1", "TPU_CHIPS_PER_HOST_BOUNDS": "1,2,1"}
    assert seen(resources={"TPU": 2}) == ({**NONE, **part}, {"TPU": ["0", "1"]})
    # Maybe in the same process: what the part needed is gone.
    whole = {"TPU_VISIBLE_CHIPS": "0,1,2,3"}
    assert seen(resources={"TPU": 4}) == ({**NONE, **whole}, {"TPU": ["0", "1", "2", "3"]})
    both = {"CUDA_VISIBLE_DEVICES": "0", "HABANA_VISIBLE_MODULES": "0"}
    assert seen(num_gpus=1, resources={"HPU": 1}) == (
        {**NONE, **both},
        {"GPU": ["0"], "HPU": ["0"]},
    )


@pytest.mark.parametrize("ract_start", [SEVERAL], indirect=True)
def test_ids_are_told_for_every_accelerator_also_in_a_driver(ract_start):
    ids = ract.get_runtime_context().get_accelerator_ids()
    assert {"GPU", "TPU", "HPU", "NPU", "neuron_cores"} <= set(ids)
    assert not any(ids.values())


def test_variables_are_set_before_the_module_of_a_function_is_imported(start, tmp_path):
    (tmp_path / "reads_early.py").write_text(
        "import os\nSEEN = os.environ['CUDA_VISIBLE_DEVICES']\n"
        "def seen():\n    return SEEN, os.environ['OMP_NUM_THREADS']\n"
    )
    start({"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}, num_gpus=1)

    @ract.remote(num_gpus=1, num_cpus=2)
    def task():
        import reads_early

        return reads_early.seen()

    assert ract.get(task.remote()) == ("0", "2")


# --------------------------------------------------------------------------- threads


@ract.remote
def threads():
    return os.environ["OMP_NUM_THREADS"]


@ract.remote
class Threads:
    def get(self):
        return os.environ["OMP_NUM_THREADS"]


def test_libraries_use_as_many_threads_as_there_are_cpus(ract_start):
    def of(**options):
        return ract.get(threads.options(**options).remote())

    assert [of(num_cpus=n) for n in (0, 0.5, 1, 1.5, 2)] == ["1", "1", "1", "1", "2"]
    assert of() == "1"
    assert of(num_cpus=2, runtime_env={"env_vars": {"OMP_NUM_THREADS": "7"}}) == "7"
    actors = [Threads.remote(), Threads.options(num_cpus=2).remote()]
    assert ract.get(actors[0].get.remote()) == "1"
    del actors[0]
    assert ract.get(actors[0].get.remote()) == "2"


def test_threads_that_the_user_has_set_stay(start):
    start({"OMP_NUM_THREADS": "5"})
    assert ract.get(threads.options(num_cpus=2).remote()) == "5"
