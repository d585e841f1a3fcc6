"""``/metrics``: its text, what it says of a real cluster, who may read it, and what hangs on it."""

import asyncio
import contextlib
import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import ract
from ract.core.security import load_token
from ract.dashboard import metrics
from ract.dashboard.metrics import LAG, LoopLag, exposition
from ract.scheduler.queries import system_metrics
from ract.testing import wait_for_condition

DOCS = Path(metrics.__file__).parents[1] / "docs"
MIB = 2**20


def parsed(text):
    """{sample name: {labels: value}}; raises if Prometheus would refuse the page."""
    found: dict = {}
    families = Counter()
    for family in text_string_to_metric_families(text):
        families[family.name] += 1
        for sample in family.samples:
            labels = frozenset(sample.labels.items())
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    assert set(families.values()) <= {1}
    return found


def shown(*families):
    return parsed(exposition(list(families)).decode())


# --------------------------------------------------------------------------- the text


def test_kinds_have_their_suffixes():
    found = shown(
        ["a", "counter", "A", [], [[["k", "v"], 2]]],
        ["b_total", "counter", "B", [], [[[], 3]]],
        ["c", "gauge", "C", [], [[[], 1.5]]],
        ["d", "histogram", "D", [1, 2.5], [[["k", "v"], [2, 1, 1, 9.5]]]],
    )
    v = ("k", "v")
    assert found["a_total"] == {frozenset([v]): 2}
    assert found["b_total"] == {frozenset(): 3}
    assert found["c"] == {frozenset(): 1.5}
    bucket = {dict(labels)["le"]: n for labels, n in found["d_bucket"].items()}
    assert bucket == {"1.0": 2, "2.5": 3, "+Inf": 4}
    assert found["d_count"] == {frozenset([v]): 4}
    assert found["d_sum"] == {frozenset([v]): 9.5}


def test_a_program_cannot_make_a_page_that_prometheus_refuses():
    found = shown(
        ["ract_nodes", "gauge", "Nodes", [], [[["State", "ALIVE"], 1]]],
        ["ract_nodes", "gauge", "mine", [], [[[], 7]]],
        ["x", "histogram", 'a\nb "\\', [1], [[["le", "1", "a-b", '"\n\\'], [1, 0, 1]]]],
        ["x_count", "gauge", "", [], [[[], 7]]],
        ["no name", "gauge", "", [], [[[], 7]]],
        ["y", "gauge", "", [], [[["1", "a", "", "b", "__c", "d"], float("nan")]]],
    )
    assert found["ract_nodes"] == {frozenset([("State", "ALIVE")]): 1}
    assert found["x_count"] == {frozenset([("le_", "1"), ("a_b", '"\n\\')]): 1}
    assert set(found) == {"ract_nodes", "x_bucket", "x_count", "x_sum", "y"}
    [labels] = found["y"]
    assert dict(labels) == {"tag_1": "a", "tag_": "b", "tag___c": "d"}


def test_a_busy_loop_is_late():
    async def run():
        lag = LoopLag()
        await asyncio.sleep(0)
        assert lag.seconds == 0
        time.sleep(metrics.LAG_PERIOD_S + 0.2)  # what a loop must not do
        while not lag.seconds:
            await asyncio.sleep(0.01)
        assert lag.seconds >= 0.15

    asyncio.run(run())


def test_the_look_at_the_loop_ends_with_what_it_is_for():
    async def run():
        asked = []
        lag = LoopLag(lambda: not asked.append(1))
        while not asked:
            await asyncio.sleep(0.01)
        assert lag._timer.when() <= asyncio.get_running_loop().time()

    asyncio.run(run())


# --------------------------------------------------------------------------- a real cluster


@pytest.fixture(scope="module")
def page():
    """Reads the page of a running cluster, with the token."""
    context = ract.init(num_cpus=2, object_store_memory=100 * MIB)
    url = context.dashboard_url.partition("/ract/")[0] + "/metrics"

    def read(**headers):
        headers = headers or {"Authorization": f"Bearer {load_token()}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return parsed(answer.read().decode())

    read.url = url
    yield read
    ract.shutdown()


def value(found, name, **labels):
    """The sum of what has these labels."""
    return sum(n for have, n in found.get(name, {}).items() if labels.items() <= dict(have).items())


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "y"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic wrong"},
        {"Cookie": "ract=wrong"},
    ],
)
def test_without_the_token_nothing_is_told(page, headers):
    with pytest.raises(urllib.error.HTTPError) as refused:
        page(**headers)
    assert refused.value.code == 401


def test_with_the_token_but_another_host_nothing_is_told(page):
    with pytest.raises(urllib.error.HTTPError) as refused:
        page(Authorization=f"Bearer {load_token()}", Host="evil.example")
    assert refused.value.code == 403


@ract.remote(num_cpus=0)
class Box:
    def done(self):
        return None


@ract.remote(num_cpus=0)
def square(x):
    if x < 0:
        raise ValueError(x)
    return x * x


@ract.remote(num_cpus=0)
def wait(signal):
    ract.get(signal.wait.remote())


def test_numbers_are_the_truth(page):
    boxes = [Box.remote() for _ in range(3)]
    ract.get([box.done.remote() for box in boxes])
    ract.get([square.remote(i) for i in range(25)])
    for _ in range(2):
        with pytest.raises(ValueError, match="-1"):
            ract.get(square.remote(-1))
    kept = ract.put(np.zeros(8 * MIB, np.uint8))
    # A process that is killed takes along what it has not told yet.
    wait_for_condition(lambda: value(page(), "ract_tasks_finished_total", Name="Box.done") == 3)
    ract.kill(boxes[0])

    expected = {
        ("ract_tasks_finished_total", "square"): 25,
        ("ract_tasks_failed_total", "square"): 2,
        ("ract_tasks_finished_total", "Box.done"): 3,
        ("ract_actors", "ALIVE"): 2,
        ("ract_actors", "DEAD"): 1,
        ("ract_executors", "actor"): 2,
    }
    labels = {"ract_actors": "State", "ract_executors": "Kind"}

    def said():
        found = page()
        return {
            (name, which): value(found, name, **{labels.get(name, "Name"): which})
            for name, which in expected
        }

    with contextlib.suppress(RuntimeError):  # then the comparison says what is missing
        wait_for_condition(lambda: said() == expected, timeout=30)
    assert said() == expected
    wait_for_condition(lambda: value(page(), "ract_object_store_pinned_bytes") >= 8 * MIB)
    found = page()
    node = ract.get_runtime_context().get_node_id()
    assert value(found, "ract_nodes", State="ALIVE") == 1
    assert value(found, "ract_node_info", NodeId=node) == 1
    assert value(found, "ract_resources", Name="CPU") == 2
    assert value(found, "ract_resources", Name="CPU", State="AVAILABLE") == 2
    assert value(found, "ract_jobs", State="RUNNING") == 1
    assert value(found, "ract_processes", Kind="driver") == 1
    assert value(found, "ract_object_store_capacity_bytes", NodeId=node) == 100 * MIB
    assert value(found, "ract_objects") == len(state_objects())
    used = value(found, "ract_object_store_used_bytes", NodeId=node)
    assert 8 * MIB <= used <= 100 * MIB
    assert 0 <= value(found, LAG) < 60
    assert value(found, "dask_scheduler_workers") == 1  # Dask's own are there too
    del kept


def state_objects():
    answer = ract.util.testing._runtime().link.request("objects", limit=10_000)
    return {row["object_id"] for row in answer["rows"]}


def test_resources_and_leases_in_use_are_told(page):
    from ract.testing import SignalActor

    signal = SignalActor.remote()
    running = [wait.options(num_cpus=1).remote(signal) for _ in range(4)]

    def is_busy():
        found = page()
        # `wait` lends its CPUs while it waits, so that all four are there at last.
        return value(found, "ract_leases") == 4

    wait_for_condition(is_busy)
    ract.get(signal.send.remote())
    ract.get(running)
    wait_for_condition(lambda: value(page(), "ract_leases") == 0)
    assert value(page(), "ract_resources", Name="CPU", State="USED") == 0


def test_leases_that_wait_are_told(page):
    impossible = square.options(num_cpus=100).remote(1)
    wait_for_condition(lambda: value(page(), "ract_leases_waiting") == 1)
    ract.cancel(impossible)
    wait_for_condition(lambda: value(page(), "ract_leases_waiting") == 0)


def test_metrics_of_programs_are_shown(page):
    from ract.util.metrics import Counter, Histogram

    Counter("shown", "with a tag", ("a",)).inc(2, {"a": "x"})
    Histogram("took", boundaries=[1, 10]).observe(5)
    wait_for_condition(lambda: "ract_shown_total" in (found := page()) and "ract_took_sum" in found)
    found = page()
    job = ract.get_runtime_context().get_job_id()
    assert value(found, "ract_shown_total", a="x", JobId=job) == 2
    assert value(found, "ract_took_bucket", le="1.0") == 0
    assert value(found, "ract_took_bucket", le="+Inf") == 1


def test_documented_families_have_the_documented_labels(page):
    wait_for_condition(lambda: "ract_executors_rss_bytes" in page())
    found = page()
    for name, (kind, _, labels) in system_metrics.FAMILIES.items():
        for have in found.get(f"{name}_total" if kind == "counter" else name, ()):
            assert sorted(dict(have)) == sorted(labels), name
    text = (DOCS / "metrics.md").read_text()
    for name, (kind, _, labels) in system_metrics.FAMILIES.items():
        whole = f"{name}_total" if kind == "counter" else name
        assert f"`{whole}`" in text, f"{whole} is not documented"
        assert all(f"`{label}`" in text for label in labels)


# --------------------------------------------------------------------------- Grafana, Prometheus


def queries():
    """(where it stands, expression) of every query of the dashboard."""
    grafana = json.loads((DOCS / "grafana" / "ract.json").read_text())

    def panels(found):
        for panel in found:
            yield panel
            yield from panels(panel.get("panels", ()))

    for panel in panels(grafana["panels"]):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def exported():
    names = {LAG}
    for name, (kind, _, _) in system_metrics.FAMILIES.items():
        names.add(f"{name}_total" if kind == "counter" else name)
    return names


def test_queries_of_the_grafana_dashboard_ask_for_names_that_are_exported():
    found = list(queries())
    assert len(found) >= 15
    used = set()
    for title, expression in found:
        names = set(re.findall(r"\bract_\w+", expression))
        assert names, title
        assert names <= exported(), title
        used |= names
    assert {"ract_nodes", "ract_tasks_finished_total", "ract_object_store_used_bytes"} <= used


def test_queries_group_by_labels_that_the_names_have():
    labels_of = {
        (f"{name}_total" if kind == "counter" else name): set(labels)
        for name, (kind, _, labels) in system_metrics.FAMILIES.items()
    }
    for title, expression in queries():
        names = re.findall(r"\bract_\w+", expression)
        known = set().union(*(labels_of.get(name, set()) for name in names))
        grouped = re.findall(r"by \(([^)]*)\)", expression)
        asked = {label.strip() for each in grouped for label in each.split(",")}
        asked |= set(re.findall(r"(\w+)\s*(?:=~?|!=)\s*\"", expression))
        assert asked <= known, title


def test_the_scrape_file_asks_the_page_with_the_token(page):
    scrape = yaml.safe_load((DOCS / "prometheus.yml").read_text())
    [job] = scrape["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"]["type"] == "Bearer"
    assert "token" in job["authorization"]["credentials_file"]
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:8787"]
    assert page(Authorization=f"{job['authorization']['type']} {load_token()}")
