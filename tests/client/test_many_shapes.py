"""Programs that make ever new shapes of tasks."""

import pytest

import ract
from ract.client import runtime as runtimes


@pytest.mark.parametrize("ract_module", [{"num_cpus": 1}], indirect=True)
def test_shapes_without_work_are_forgotten_and_come_back(ract_module, monkeypatch):
    monkeypatch.setattr(runtimes, "POOLS_MAX", 8)

    @ract.remote
    def f(x):
        return x

    first = f.options(memory=1)
    assert ract.get(first.remote(0)) == 0
    for i in range(2, 40):
        assert ract.get(f.options(memory=i).remote(i)) == i
        runtimes.current_runtime().release_idle_leases()
    assert len(runtimes.current_runtime()._pools) <= 9
    assert ract.get([first.remote(i) for i in range(5)]) == list(range(5))
