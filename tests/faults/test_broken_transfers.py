"""Copies between nodes whose source stops or dies in the middle."""

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

import ract
from ract.client.start.tool import ask_node
from ract.exceptions import ObjectFetchTimedOutError
from ract.testing import Cluster, wait_for_condition

MB = 2**20
SIZE = 256 * MB
WAIT_S = 60


@pytest.fixture
def cluster(monkeypatch):
    """A head with the driver, two nodes that store the object, one that wants it."""
    ract.shutdown()
    monkeypatch.setenv("RACT_object_transfer_stall_milliseconds", "1000")
    monkeypatch.setenv("RACT_fetch_fail_timeout_milliseconds", "4000")
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        for name in ("a", "b", "c"):
            node = cluster.add_node(num_cpus=1, resources={name: 1}, object_store_memory=2 * SIZE)
            setattr(cluster, name, node)
        cluster.connect()
        yield cluster
        for node in (cluster.a, cluster.b):  # who was stopped could not end
            if node.alive:
                os.kill(node.pid, signal.SIGCONT)


@ract.remote
class Reader:
    def ready(self):
        pass

    def read(self, refs):
        """The size and the sum of an array, so that no byte of it may be wrong."""
        array = ract.get(refs[0])
        return array.size, int(array.sum())


@ract.remote(max_retries=0)
def numbers():
    return np.arange(SIZE // 8)


RIGHT = (SIZE // 8, (SIZE // 8) * (SIZE // 8 - 1) // 2)


def reader(node):
    found = Reader.options(resources={node: 1}, num_cpus=0).remote()
    ract.get(found.ready.remote(), timeout=WAIT_S)
    return found


def segments(node):
    name = Path(node.session_dir).name
    return list(Path("/dev/shm").glob(f"ract-{os.getuid()}-{name}-*"))


def arrived(node):
    """Bytes from the front of the largest segment that are not zero, in whole MB."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        path = max(segments(node), key=lambda path: path.stat().st_size)
        with path.open("rb") as file:
            count = 0
            while True:
                file.seek((count + 1) * MB - 8)
                if not any(file.read(8)):
                    return count
                count += 1
    return 0


def serves(source, node):
    """Whether ``node`` has a connection to the daemon ``source``, beside those to the scheduler."""
    ours = {c.laddr for c in psutil.Process(source.pid).net_connections() if c.raddr}
    return any(c.raddr in ours for c in psutil.Process(node.pid).net_connections() if c.raddr)


def catch_in_the_middle(cluster, read):
    """Stop both sources as soon as something has arrived at the third node; returns how much."""
    wait_for_condition(lambda: arrived(cluster.c) > 0, timeout=WAIT_S, retry_interval_ms=1)
    for node in (cluster.a, cluster.b):
        os.kill(node.pid, signal.SIGSTOP)
    assert not ract.wait([read], timeout=0)[0]
    count = arrived(cluster.c)
    assert 0 < count < SIZE // MB, "it was over before the sources stopped"
    return count


def stats(cluster, node):
    return ask_node(cluster.head_node.session_dir, "store")[node.node_id]


def pulled_bytes(cluster):
    return stats(cluster, cluster.c)["pulled_bytes_total"]


@pytest.fixture
def stored(cluster):
    """The object, on two nodes, and the reader on the third."""
    ref = numbers.options(resources={"a": 1}).remote()
    assert ract.get(reader("b").read.remote([ref]), timeout=WAIT_S) == RIGHT
    return ref, reader("c")


def test_a_pull_goes_on_from_another_holder_when_its_source_dies(cluster, stored):
    ref, other = stored
    read = other.read.remote([ref])
    catch_in_the_middle(cluster, read)
    [source] = [node for node in (cluster.a, cluster.b) if serves(node, cluster.c)]
    [second] = {cluster.a, cluster.b} - {source}
    cluster.remove_node(source, allow_graceful=False)
    os.kill(second.pid, signal.SIGCONT)
    assert ract.get(read, timeout=WAIT_S) == RIGHT
    # Every byte once, and what the reader's class needed.
    wait_for_condition(lambda: SIZE <= pulled_bytes(cluster) <= SIZE + MB)


def test_a_pull_goes_on_from_another_holder_when_its_source_stops(cluster, stored):
    ref, other = stored
    read = other.read.remote([ref])
    catch_in_the_middle(cluster, read)
    [source] = [node for node in (cluster.a, cluster.b) if serves(node, cluster.c)]
    [second] = {cluster.a, cluster.b} - {source}
    os.kill(second.pid, signal.SIGCONT)
    assert ract.get(read, timeout=WAIT_S) == RIGHT
    wait_for_condition(lambda: SIZE <= pulled_bytes(cluster) <= SIZE + MB)


def test_when_no_holder_can_deliver_get_says_so(cluster, stored):
    ref, other = stored
    read = other.read.remote([ref])
    catch_in_the_middle(cluster, read)
    with pytest.raises(ObjectFetchTimedOutError, match="nothing came for 4 s"):
        ract.get(read, timeout=WAIT_S)
    wait_for_condition(lambda: stats(cluster, cluster.c)["store_used"] < SIZE)
    for node in (cluster.a, cluster.b):
        os.kill(node.pid, signal.SIGCONT)
    assert ract.get(other.read.remote([ref]), timeout=WAIT_S) == RIGHT, "the object was not lost"
