"""What every test gets: its own folders, and a check that nothing is left behind.

Each pytest process (each xdist worker is one) has its own ``RACT_TMPDIR`` and ``RACT_HOME``. The
checks at the end look only at what carries that folder: sockets below it, processes with it in
their environment, command line or open files, and shared memory named after a node that had its
session directory there. Runs side by side do not see each other.
"""

import atexit
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cloudpickle
import psutil
import pytest

LEFT_OVER_WAIT_S = 15.0
"""Processes of a killed head may take this long to be gone."""

# Short: the path of a Unix socket has at most 107 bytes, of which ract needs about 30. Set at
# import time, before a test module can import ract; never inherited from a pytest around this one.
ROOT = Path(tempfile.mkdtemp(prefix=f"r{os.getpid()}-", dir="/tmp"))
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)
os.environ["RACT_TMPDIR"] = str(ROOT / "s")
os.environ["RACT_HOME"] = str(ROOT / "h")
os.environ["RACT_CHECK_LOCK_ORDER"] = "1"  # in all processes: see ract.client.process.locks
for _name in ("RACT_ADDRESS", "RAY_ADDRESS", "RACT_TOKEN"):
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True, scope="module")
def _pickle_test_module_by_value(request):
    """Functions defined in tests pickle by reference, and children cannot import the tests."""
    module = getattr(request, "module", None)
    if module is None or module.__name__ not in sys.modules:
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def _running_cluster(**arguments):
    import ract

    if ract.is_initialized():
        ract.shutdown()
    ract.init(**{"num_cpus": 2, **arguments})
    try:
        yield ract
    finally:
        ract.shutdown()


@pytest.fixture
def ract_start(request):
    """An embedded cluster with 2 CPUs for one test; gives the module ``ract``.

    Other arguments of ``init`` come from
    ``@pytest.mark.parametrize("ract_start", [{"num_cpus": 4}], indirect=True)``.
    """
    yield from _running_cluster(**getattr(request, "param", {}))


@pytest.fixture(scope="module")
def ract_module(request):
    """An embedded cluster with 2 CPUs that the tests of a module share; gives ``ract``."""
    yield from _running_cluster(**getattr(request, "param", {}))


# --------------------------------------------------------------------------- nothing is left


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind():
    seen = _NodesSeen()
    yield
    seen.look()
    deadline = time.monotonic() + LEFT_OVER_WAIT_S
    while (left := _left_over(seen.names)) and time.monotonic() < deadline:
        time.sleep(0.1)  # nothing announces the end of somebody else's process
    _remove(left)
    assert not left, "left behind by this run:\n" + "\n".join(str(item) for item in left)


@pytest.fixture(scope="module", autouse=True)
def _note_nodes(_nothing_left_behind):
    yield
    _NodesSeen.current.look()


class _NodesSeen:
    """The node ids (8 hex digits) that had a session directory of this run.

    A node removes its directory when it ends, so they are noted after each module; a node that
    came and went within one is still found by the processes it left.
    """

    current: "_NodesSeen"

    def __init__(self):
        self.names: set[str] = set()
        _NodesSeen.current = self

    def look(self):
        folder = Path(os.environ["RACT_TMPDIR"])
        if folder.is_dir():
            self.names |= {p.name for p in folder.iterdir() if re.fullmatch("[0-9a-f]{8}", p.name)}


def _left_over(node_names):
    """Processes, shared memory and sockets that belong to this run."""
    left: list[psutil.Process | Path] = [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _is_ours(process)
    ]
    mine = re.compile(rf"ract-{os.getuid()}-([0-9a-f]{{8}})-")
    for path in Path("/dev/shm").glob("ract-*"):
        found = mine.match(path.name)
        if found and found[1] in node_names:
            left.append(path)
    folder = Path(os.environ["RACT_TMPDIR"])
    if folder.is_dir():
        left.extend(path for path in folder.rglob("*") if path.is_socket())
    return left


#: Helpers of the pytest process itself, which end with it.
_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")


def _is_ours(process):
    folder = Path("/proc", str(process.pid))
    mark = os.fsencode(ROOT)
    try:
        command = (folder / "cmdline").read_bytes()
        if any(helper in command for helper in _HELPERS):
            return False
        # A process that sets its title overwrites its environment, hence the open files: the log.
        ours = (
            mark + b"/" in command
            or mark + b"/" in (folder / "environ").read_bytes()
            or any(os.fsencode(os.readlink(fd)).startswith(mark) for fd in folder.glob("fd/*"))
        )
        return ours and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):  # gone meanwhile, or another user's
        return False


def _remove(left):
    for item in left:
        try:
            item.kill() if isinstance(item, psutil.Process) else item.unlink()
        except (psutil.Error, OSError):
            pass
