"""Which GPUs tasks and actors see. No GPU is needed: nodes offer what they are told to."""

import os

import pytest

import ract


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


def test_ids_are_those_that_the_node_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab12")
    ract.shutdown()
    ract.init(num_cpus=1)
    try:
        assert ract.cluster_resources()["GPU"] == 2
        assert ract.get_gpu_ids() == [5, "GPU-ab12"]
        assert ract.get(look.options(num_gpus=2).remote()) == (
            "5,GPU-ab12",
            [5, "GPU-ab12"],
            ["5", "GPU-ab12"],
        )
    finally:
        ract.shutdown()


def test_the_variable_can_be_left_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "1")
    ract.shutdown()
    ract.init(num_cpus=1)
    try:
        assert ract.get(look.options(num_gpus=1).remote()) == ("0,1", [0], ["0"])
    finally:
        ract.shutdown()
