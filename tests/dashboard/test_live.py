"""The dashboard of a living cluster over HTTP: what only callers know, and who may show it."""

import json
import time
import urllib.request

import pytest

import ract
from ract.client.runtime import current_runtime
from ract.core.security import load_token


def data(view):
    """What a page would be told."""
    address = current_runtime().link.request("status")["dashboard_address"]
    request = urllib.request.Request(
        f"http://{address}/ract/data/{view}", headers={"Authorization": f"Bearer {load_token()}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


def wait_for(check):
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


@ract.remote(num_cpus=0)
class Gate:
    def wait(self, path):
        while not path.exists():
            time.sleep(0.01)

    def fail(self):
        raise KeyError("nothing here")


def test_calls_that_an_actor_has_not_answered_are_seen_while_they_wait(ract_start, tmp_path):
    """One runs, so the actor itself could not say."""
    gate = Gate.remote()
    door = tmp_path / "door"
    calls = [gate.wait.remote(door) for _ in range(5)]

    def mailbox():
        [row] = data("actors")["rows"]
        return row["waiting"]

    wait_for(lambda: mailbox() == 5)
    door.touch()
    ract.get(calls)
    wait_for(lambda: mailbox() == 0)


def test_failures_are_told_with_their_kind_and_traceback(ract_start):
    gate = Gate.remote()
    with pytest.raises(KeyError):
        ract.get(gate.fail.remote())
    wait_for(lambda: data("failures")["total"] == 1)
    [row] = data("failures")["rows"]
    assert (row["kind"], row["function"], row["count"]) == ("KeyError", "Gate.fail", 1)
    assert row["message"] == "KeyError: 'nothing here'"
    assert 'raise KeyError("nothing here")' in row["examples"][0]["traceback"]


@pytest.mark.parametrize("prefix", ["", "local://"])  # the last goes through fsspec
def test_object_page_says_where_its_bytes_are(tmp_path, prefix):
    store, size = 80 * 2**20, 10**7
    ract.init(
        num_cpus=1,
        include_dashboard=True,
        object_store_memory=store,
        object_spilling_directory=f"{prefix}{tmp_path}",
    )
    try:
        refs = [ract.put(bytes(size)) for _ in range(12)]

        def copy(ref):
            [row] = data(f"object_copies?id={ref.hex()}")["rows"]
            return row["where"], row["place"]

        wait_for(lambda: data(f"objects?q={refs[-1].hex()}")["matched"] == 1)
        where, place = copy(refs[0])
        assert where == ("behind a URL" if prefix else "on disk")
        assert str(tmp_path) in place
        where, place = copy(refs[-1])
        assert (where, place.startswith("/dev/shm/")) == ("memory", True)
        found = data(f"object?id={refs[0].hex()}")
        assert (found["state"], found["holders"]) == ("READY", 1)
        assert found["size"] >= size
    finally:
        ract.shutdown()


def test_display_says_why_there_is_nothing_to_show():
    with pytest.raises(ract.dashboard.NoDashboardError, match=r"call ract\.init"):
        ract.dashboard.display()
    ract.init(num_cpus=1, include_dashboard=False)
    try:
        with pytest.raises(ract.dashboard.NoDashboardError, match="without a dashboard"):
            ract.dashboard.display()
    finally:
        ract.shutdown()
    ract.init(local_mode=True)
    try:
        with pytest.raises(ract.dashboard.NoDashboardError):
            ract.dashboard.display()
    finally:
        ract.shutdown()
