"""Objects that have no room in shared memory go to disk, and are read as if they had not."""

import gc
import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import ract
from ract.exceptions import ObjectStoreFullError
from ract.testing import Cluster, memory_summary, session_dir, wait_for_condition

MB = 10**6
STORE = 80 * 2**20


@pytest.fixture
def start(tmp_path):
    ract.shutdown()

    def start(**more):
        ract.init(num_cpus=2, object_store_memory=STORE, **more)

    yield start
    ract.shutdown()


def array(i, size=10 * MB):
    return np.full(size // 8, i, dtype=np.float64)


def put_more_than_fits():
    return [ract.put(array(i)) for i in range(12)]


def on_disk(folder):
    return sorted(path for path in Path(folder).glob("ract_spilled_objects_*/*"))


def in_memory():
    name = Path(session_dir()).name
    files = list(Path("/dev/shm").glob(f"ract-{os.getuid()}-{name}-*"))
    return sum(path.stat().st_size for path in files if not path.is_symlink())


@pytest.mark.parametrize("prefix", ["", "file://", "local://"])  # the last goes through fsspec
def test_three_times_as_much_as_the_store_holds_is_kept_and_read_back(start, tmp_path, prefix):
    start(object_spilling_directory=f"{prefix}{tmp_path}")
    refs = [ract.put(array(i)) for i in range(25)]
    assert in_memory() <= STORE
    assert len(on_disk(tmp_path)) >= 17
    places = ract.experimental.get_object_locations(refs)
    here = ract.get_runtime_context().get_node_id()
    assert all(place["node_ids"] == [here] for place in places.values())
    assert sum(place["did_spill"] for place in places.values()) >= 17
    stats = memory_summary(stats_only=True)
    assert re.search(r"\nSpilled \d+ MiB, \d+ objects, avg write throughput \d+ MiB/s\n", stats)
    for _ in range(2):
        order = [*range(25), *reversed(range(25))]
        random.Random(_).shuffle(order)
        for i in order:
            found = ract.get(refs[i])
            assert found[0] == found[-1] == i
            assert not found.flags.writeable
            del found
    total = ract.remote(lambda *arrays: float(sum(a.sum() for a in arrays)))
    assert ract.get(total.remote(*refs)) == sum(range(25)) * 10 * MB / 8
    assert ("\nRestored " in memory_summary(stats_only=True)) == (prefix == "local://")
    del refs, places
    gc.collect()
    wait_for_condition(lambda: not on_disk(tmp_path))
    assert ract.get(ract.put(array(7)))[3] == 7


@pytest.mark.parametrize("prefix", ["", "local://"])
def test_results_of_tasks_spill_too_and_are_shuffled(start, tmp_path, prefix):
    start(object_spilling_directory=f"{prefix}{tmp_path}")

    @ract.remote(num_returns=4)
    def split(i):
        return [np.arange(i * 4 * n, i * 4 * n + n) for n in [3 * MB // 8] * 4]

    @ract.remote
    def merge(*parts):
        return float(sum(part.sum() for part in parts))

    parts = [split.remote(i) for i in range(20)]
    sums = ract.get([merge.remote(*column) for column in zip(*parts, strict=True)])
    n = 3 * MB // 8
    each = [sum(range(i * 4 * n, i * 4 * n + n)) for i in range(20)]
    assert sums == [float(sum(each))] * 4
    assert on_disk(tmp_path)


@pytest.mark.parametrize("prefix", ["", "local://"])
def test_array_in_use_stays_right_while_its_object_is_spilled(start, tmp_path, prefix):
    start(object_spilling_directory=f"{prefix}{tmp_path}")
    first = ract.put(array(1))
    looked_at = ract.get(first)
    kept = [ract.put(array(i)) for i in range(12)]
    assert (looked_at == 1).all()
    assert (ract.get(first) == 1).all()
    del kept


@pytest.mark.parametrize("options", [{}, {"object_spilling_directory": "memory://there"}])
def test_object_larger_than_the_store_is_written_to_disk(start, options):
    start(**options)
    large = ract.put(array(3, 100 * MB))
    assert in_memory() < STORE
    assert float(ract.get(large).sum()) == 3 * 100 * MB / 8
    assert len(on_disk(session_dir())) == 1


@pytest.mark.parametrize("prefix", ["", "local://"])
def test_spilled_object_is_read_on_another_node(start, tmp_path, prefix):
    head = {
        "num_cpus": 1,
        "object_store_memory": STORE,
        "object_spilling_directory": f"{prefix}{tmp_path}",
    }
    with Cluster(True, head_node_args=head) as cluster:
        cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=STORE)
        cluster.connect()
        refs = [ract.put(array(i)) for i in range(12)]
        ends = ract.remote(resources={"far": 1})(lambda a: (a[0], a[-1]))
        assert on_disk(tmp_path)
        assert [ract.get(ends.remote(ref)) for ref in refs] == [(i, i) for i in range(12)]
        ract.shutdown()


@pytest.mark.parametrize("prefix", ["", "local://"])
def test_a_node_that_is_killed_leaves_nothing_where_it_spilled(start, tmp_path, prefix):
    with Cluster(True, head_node_args={"num_cpus": 0}) as cluster:
        node = cluster.add_node(
            num_cpus=1, object_store_memory=STORE, object_spilling_directory=f"{prefix}{tmp_path}"
        )
        cluster.connect()
        refs = [ract.remote(array).remote(i) for i in range(12)]
        ract.wait(refs, num_returns=12, fetch_local=False)
        wait_for_condition(lambda: on_disk(tmp_path))
        (next(tmp_path.iterdir()) / "half").touch()  # as if it was just copying
        cluster.remove_node(node, allow_graceful=False)
        wait_for_condition(lambda: list(tmp_path.iterdir()) == [])
        ract.shutdown()


def test_several_folders_take_turns_and_stand_in_for_each_other(start, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    start(object_spilling_directory=[str(folder) for folder in folders])
    broken = folders[1] / f"ract_spilled_objects_{ract.get_runtime_context().get_node_id()}"
    broken.touch()  # no folder can be made here
    refs = [ract.put(array(i)) for i in range(25)]
    wait_for_condition(lambda: all(len(on_disk(folders[i])) >= 5 for i in (0, 2)))
    assert [ract.get(ref)[0] for ref in refs] == list(range(25))


def test_a_store_behind_a_url_that_takes_no_more_is_said(start, tmp_path):
    start(object_spilling_directory=f"local://{tmp_path}/away")
    shutil.rmtree(tmp_path / "away")
    (tmp_path / "away").touch()
    with pytest.raises(ract.exceptions.OutOfDiskError, match="local://"):
        put_more_than_fits()


def test_an_object_that_cannot_be_restored_is_lost_with_the_reason(start, tmp_path):
    start(object_spilling_directory=f"local://{tmp_path}")
    first = ract.put(array(0))
    rest = put_more_than_fits()
    wait_for_condition(lambda: on_disk(tmp_path))
    for path in on_disk(tmp_path):
        path.unlink()
    with pytest.raises(
        ract.exceptions.ObjectLostError, match=r"cannot be restored: .*FileNotFound"
    ):
        ract.get(first)
    assert ract.get(rest[-1])[0] == 11


def test_a_url_that_cannot_be_written_ends_the_start_with_the_reason(start):
    with pytest.raises(RuntimeError, match="cannot be spilled to local:///dev/null/there"):
        start(object_spilling_directory="local:///dev/null/there")


def test_a_url_without_a_driver_is_refused(start):
    with pytest.raises(ValueError, match=r"nonsense://there.* cannot be used"):
        start(object_spilling_directory="nonsense://there")


def test_the_place_is_taken_from_what_ray_calls_it(start, tmp_path):
    config = {"type": "filesystem", "params": {"directory_path": [str(tmp_path)]}}
    start(_system_config={"object_spilling_config": json.dumps(config)})
    kept = put_more_than_fits()
    wait_for_condition(lambda: on_disk(tmp_path))
    del kept


def test_without_spilling_a_full_store_is_an_error(start, monkeypatch):
    monkeypatch.setenv("RACT_automatic_object_spilling_enabled", "0")
    start()
    with pytest.raises(ObjectStoreFullError):
        put_more_than_fits()


def test_disk_that_is_full_is_said(start, monkeypatch):
    monkeypatch.setenv("RACT_local_fs_capacity_threshold", "0.000001")
    start()
    with pytest.raises(ract.exceptions.OutOfDiskError, match="no room for"):
        put_more_than_fits()


@pytest.mark.parametrize("folder", ["relative", "/nowhere/at/all"])
def test_folder_must_be_there(start, folder):
    with pytest.raises(ValueError, match="absolute path of a folder"):
        start(object_spilling_directory=folder)
