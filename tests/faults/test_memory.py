"""Tasks and actors that take more memory than their node has; the node's share is 300 MB."""

from __future__ import annotations

import os
import time

import pytest

import ract
from ract.util import state

WAIT_S = 30
SHARE = 300 * 10**6


@pytest.fixture(autouse=True)
def _small_node(monkeypatch):
    monkeypatch.setenv("RACT_NODE_MEMORY_BYTES", str(SHARE))
    monkeypatch.setenv("RACT_memory_usage_threshold", "0.8")
    monkeypatch.setenv("RACT_memory_monitor_refresh_ms", "50")
    monkeypatch.setenv("RACT_task_oom_retry_delay_base_ms", "50")


def touch(megabytes):
    """Memory of one's own; a sleep follows because the node looks only now and then."""
    return bytearray(os.urandom(1024)) * (megabytes * 1024)


@ract.remote
def hog(folder):
    name = f"{folder}/{time.monotonic_ns()}"
    with open(name, "w"):
        pass
    kept = touch(260)
    time.sleep(WAIT_S)
    return len(kept)


@ract.remote
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return "done"


@ract.remote
class Hoard:
    def __init__(self):
        self.kept = b""

    def grow(self, megabytes):
        self.kept = touch(megabytes)
        time.sleep(WAIT_S)

    def size(self):
        return len(self.kept)


def test_a_task_that_fills_the_node_alone_fails_with_the_figures(ract_start, tmp_path):
    with pytest.raises(ract.exceptions.OutOfMemoryError) as caught:
        ract.get(hog.remote(tmp_path), timeout=WAIT_S)
    text = str(caught.value)
    for part in ("task hog failed", "of 300 MB were in use", "at its peak", "ract::hog (pid"):
        assert part in text
    assert caught.value.kind == "out_of_memory"
    assert len(os.listdir(tmp_path)) == 1
    exits = [w.exit_type for w in state.list_workers(detail=True) if not w.is_alive]
    assert exits == ["NODE_OUT_OF_MEMORY"]
    assert ract.get(wait_for.remote("/"), timeout=WAIT_S) == "done", "the node goes on"


def test_beside_other_work_it_is_tried_again_without_using_up_retries(ract_start, tmp_path):
    """The other task of the same caller came first: the hog alone is ended, again and again."""
    other = wait_for.remote(tmp_path / "go on")
    ract.wait([other], timeout=0.3)
    tries = tmp_path / "tries"
    tries.mkdir()
    failing = hog.options(max_retries=1).remote(tries)
    deadline = time.monotonic() + WAIT_S
    while len(os.listdir(tries)) < 3:
        assert time.monotonic() < deadline
        ract.wait([failing], timeout=0.05)
    (tmp_path / "go on").touch()
    assert ract.get(other, timeout=WAIT_S) == "done"
    with pytest.raises(ract.exceptions.OutOfMemoryError):  # when it is the only one
        ract.get(failing, timeout=WAIT_S)


@pytest.mark.parametrize("limit", [0, 1])
def test_the_number_of_tries_can_be_limited(limit, ract_start, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_task_oom_retries", str(limit))
    other = wait_for.remote(tmp_path / "go on")
    ract.wait([other], timeout=0.3)
    tries = tmp_path / "tries"
    tries.mkdir()
    with pytest.raises(ract.exceptions.OutOfMemoryError):
        ract.get(hog.remote(tries), timeout=WAIT_S)
    assert len(os.listdir(tries)) == limit + 1
    (tmp_path / "go on").touch()


def test_a_task_without_retries_is_not_tried_again(ract_start, tmp_path):
    other = wait_for.options(max_retries=0).remote(tmp_path / "go on")
    ract.wait([other], timeout=0.3)
    tries = tmp_path / "tries"
    tries.mkdir()
    with pytest.raises(ract.exceptions.OutOfMemoryError):
        ract.get(hog.options(max_retries=0).remote(tries), timeout=WAIT_S)
    assert len(os.listdir(tries)) == 1
    (tmp_path / "go on").touch()
    assert ract.get(other, timeout=WAIT_S) == "done"


def test_a_task_that_waits_to_be_tried_again_can_be_cancelled(ract_start, tmp_path, monkeypatch):
    monkeypatch.setenv("RACT_task_oom_retry_delay_base_ms", "60000")
    other = wait_for.remote(tmp_path / "go on")
    ract.wait([other], timeout=0.3)
    tries = tmp_path / "tries"
    tries.mkdir()
    waiting = hog.remote(tries)
    deadline = time.monotonic() + WAIT_S
    while all(w.is_alive for w in state.list_workers(detail=True)):
        assert time.monotonic() < deadline
    ract.cancel(waiting)
    with pytest.raises(ract.exceptions.TaskCancelledError):
        ract.get(waiting, timeout=WAIT_S)
    (tmp_path / "go on").touch()


def test_an_actor_dies_of_it(ract_start):
    hoard = Hoard.remote()
    with pytest.raises(ract.exceptions.ActorDiedError, match="its node ran out of memory"):
        ract.get(hoard.grow.remote(260), timeout=WAIT_S)


def test_an_actor_with_restarts_comes_back(ract_start):
    hoard = Hoard.options(max_restarts=1).remote()
    with pytest.raises(ract.exceptions.ActorUnavailableError, match="its node ran out of memory"):
        ract.get(hoard.grow.remote(260), timeout=WAIT_S)
    assert ract.get(hoard.size.remote(), timeout=WAIT_S) == 0


def test_without_the_monitor_nobody_is_ended(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    monkeypatch.delenv("RACT_memory_monitor_refresh_ms")
    ract.init(num_cpus=1)
    try:
        assert ract.wait([hog.remote(tmp_path)], timeout=1.5)[0] == []
        assert len(os.listdir(tmp_path)) == 1
    finally:
        ract.shutdown()


def test_a_bad_setting_is_the_callers_error(monkeypatch):
    monkeypatch.setenv("RACT_memory_usage_threshold", "95")
    with pytest.raises(ValueError, match=r"RACT_memory_usage_threshold must be 0 to 1, got 95"):
        ract.init(num_cpus=1)
