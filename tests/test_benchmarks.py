"""The benchmarks run, check what they measure, and say it in text and JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ract.benchmarks import limits, operations, scheduling

RACT = Path(sys.executable).parent / "ract"


def test_one_operation_is_measured_and_reported(tmp_path):
    file = tmp_path / "found.json"
    command = [RACT, "microbenchmark", "--only", "get small", "--repeats", "1", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "get small" in done.stdout
    found = json.loads(file.read_text())
    assert found["operations"]["get small"]["rates"]["ract"] > 0
    assert found["limits"]["raw ping-pong"]["rate"] > 0
    assert found["idle_megabytes"]["ract"] > 0


def test_unknown_options_are_refused():
    command = [RACT, "microbenchmark", "--on", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "No such option" in done.stderr


@pytest.mark.parametrize("name", list(operations.OPERATIONS))
def test_every_operation_can_be_prepared_and_run(name, benchmark_cluster):
    if operations.OPERATIONS[name].rounds == 1:
        pytest.skip("it takes long; the short ones use the same code")
    operations.OPERATIONS[name].prepare()()


@pytest.fixture(scope="module")
def benchmark_cluster(ract_module):
    operations.api = ract_module
    yield
    operations._remotes.clear()


def test_a_wrong_result_is_an_error():
    with pytest.raises(AssertionError, match="1 instead of 2"):
        operations.expect(1, 2)


@pytest.mark.parametrize("name", scheduling.MEASURES)
def test_the_machine_decides_at_any_size(name, monkeypatch):
    monkeypatch.setattr(scheduling, "SECONDS", 0.02)
    bench = scheduling.Bench(10)
    bench.wait_for_more(100)
    assert scheduling.MEASURES[name](bench) > 0
    bench.machine.check()


def test_limits_are_measured():
    assert limits.pipelined(0.02) > 0
    assert limits.warm_copy(0.01) > 0
