"""The folder of what has ended: names, what lives, and the quota."""

import fcntl
import os
import time

import pytest

from ract.core import history


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RACT_TMPDIR", str(tmp_path))
    return tmp_path


def ended(name, age_s=0.0, size=1000):
    """A session that ended so long ago."""
    path = history.open_session(name * 8)
    (path / "state.db").write_bytes(b"x" * size)
    at = time.time() - age_s
    about = path / "about.json"
    about.write_text(f'{{"cluster_id": "{name * 8}", "started": {at - 10}}}')
    for file in path.iterdir():
        os.utime(file, (at, at))
    return path


def test_sessions_are_found_by_name_and_by_age():
    ended("1a2b", 50)
    newest = ended("3c4d", 5)
    running = history.open_session("5e6f" * 8)
    fd = history.lock(running)
    assert [s.name[:4] for s in history.sessions()] == ["1a2b", "3c4d", "5e6f"]
    assert history.find("last").path == newest
    assert history.find("current").path == running
    assert history.find("1a").name == "1a2b" * 4
    with pytest.raises(LookupError, match="no session has a name that begins with 'zz'; remembe"):
        history.find("zz")
    with pytest.raises(LookupError, match="several"):
        history.find("")
    assert history.lock(running) is None  # one scheduler
    os.close(fd)
    assert history.find("last").path == running
    with pytest.raises(LookupError, match="no cluster runs here"):
        history.find("current")


def test_without_any_session_that_is_said():
    with pytest.raises(LookupError, match="no session that has ended is remembered"):
        history.find("last")


def test_a_quota_of_zero_switches_it_off(monkeypatch):
    monkeypatch.setenv("RACT_history_max_bytes", "0")
    assert history.open_session("1a2b" * 8) is None
    assert history.sessions() == []


def test_old_sessions_go_and_then_the_oldest_that_are_too_much(monkeypatch):
    monkeypatch.setenv("RACT_history_max_bytes", "5000")
    monkeypatch.setenv("RACT_history_max_days", "1")
    too_old = ended("aaaa", 2 * 86400, size=10)
    old, new = ended("bbbb", 100, size=2500), ended("cccc", 50, size=2500)
    assert history.prune(time.time()) == [too_old, old]
    assert [s.path for s in history.sessions()] == [new]
    assert history.prune(time.time()) == []


def test_what_living_processes_write_is_never_removed(monkeypatch, root):
    monkeypatch.setenv("RACT_history_max_bytes", "100")
    running = history.open_session("1a2b" * 8)
    fd = history.lock(running)
    folder = history.log_folder(running, "0a0a0a0a")
    mine = folder / f"worker-1-{os.getpid()}.out"
    rotated = folder / f"worker-1-{os.getpid()}.out.1"
    over = folder / f"worker-2-{2**22 + 1}.err"  # no process has such a number
    other = folder / "node.log"
    for path in (mine, rotated, over, other):
        path.write_bytes(b"x" * 1000)
    assert set(history.prune(time.time())) == {rotated, over}
    assert mine.exists()
    assert other.exists()
    os.close(fd)
    # A node lives while its session directory is there, though its scheduler is gone.
    (root / "0a0a0a0a").mkdir()
    assert history.prune(time.time()) == []
    assert history.find("current").path == running
    (root / "0a0a0a0a").rmdir()
    assert history.prune(time.time()) == [running]


def test_a_lock_is_let_go_when_its_process_ends():
    path = history.open_session("1a2b" * 8)
    fd = history.lock(path)
    other = os.open(path / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
