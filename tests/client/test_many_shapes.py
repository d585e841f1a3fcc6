"""Programs that make ever new shapes of tasks."""

import pytest

import ract
from ract.client import runtime as runtimes
from ract.client.tasks import pools, strategies


@pytest.mark.parametrize("ract_module", [{"num_cpus": 1}], indirect=True)
def test_shapes_without_work_are_forgotten_and_come_back(ract_module, monkeypatch):
    monkeypatch.setattr(pools, "POOLS_MAX", 8)

    @ract.remote
    def f(x):
        return x

    first = f.options(memory=1)
    assert ract.get(first.remote(0)) == 0
    for i in range(2, 40):
        assert ract.get(f.options(memory=i).remote(i)) == i
        runtimes.current_runtime().release_idle_leases()
    assert len(runtimes.current_runtime().pools.all) <= 9
    assert ract.get([first.remote(i) for i in range(5)]) == list(range(5))


@pytest.mark.parametrize("ract_module", [{"num_cpus": 1}], indirect=True)
def test_a_function_works_its_shape_out_once_however_often_pools_were_dropped(
    ract_module, monkeypatch
):
    monkeypatch.setattr(pools, "POOLS_MAX", 8)
    planned = []
    plan = strategies.plan

    def counting(*how):
        planned.append(how)
        return plan(*how)

    monkeypatch.setattr(strategies, "plan", counting)

    @ract.remote
    def f(x):
        return x

    for i in range(20):
        assert ract.get(f.options(memory=i + 1).remote(i)) == i
        ract.get([f.remote(i), f.remote(i)])
    before = len(planned)
    assert ract.get([f.remote(i) for i in range(50)]) == list(range(50))
    assert len(planned) - before <= 1
