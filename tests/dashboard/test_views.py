"""What views say, and that it costs and sends no more than a page however much there is."""

import json
from dataclasses import replace

import pytest
from fed_cluster import JOB, FedCluster, FedSource, small_cluster

from ract.core import messages as m
from ract.dashboard.history import NODE_SAMPLES_MAX, History, Ring, plain
from ract.dashboard.views import VIEWS


def ask(cluster, view, **args):
    """As the browser does: what cannot be JSON is an error."""
    value = VIEWS[view](cluster.machine.cluster, {key: str(value) for key, value in args.items()})
    return json.loads(json.dumps(value))


@pytest.fixture
def small():
    return small_cluster()


# --------------------------------------------------------------------------- tables


def test_actors_are_searched_filtered_and_sorted(small):
    found = ask(small, "actors")
    assert (found["total"], found["matched"]) == (3, 3)
    assert found["facets"]["state"] == {"ALIVE": 2, "DEAD": 1}
    assert [row["class_name"] for row in ask(small, "actors", q="counter")["rows"]] == ["Counter"]
    dead = ask(small, "actors", state="DEAD")
    assert [row["class_name"] for row in dead["rows"]] == ["Doomed"]
    assert dead["facets"]["state"]["ALIVE"] == 2, "what else could be chosen is still said"
    busiest = ask(small, "actors", sort="-calls")["rows"][0]
    assert (busiest["class_name"], busiest["calls"]) == ("Counter", 200)
    names = [row["class_name"] for row in ask(small, "actors", sort="class_name")["rows"]]
    assert names == sorted(names)


def test_page_beyond_the_end_is_the_last_one():
    cluster = FedCluster(1)
    for i in range(7):
        cluster.actor_up(f"A{i}")
    found = ask(cluster, "actors", size=3, page=99, sort="class_name")
    assert (found["page"], found["pages"]) == (2, 3)
    assert [row["class_name"] for row in found["rows"]] == ["A6"]


def test_actor_of_a_node_job_or_group_only(small):
    node_id = small.machine.actors.table[small.counter].body.node.node_id.hex()
    rows = ask(small, "actors", node_id=node_id)["rows"]
    assert "Counter" in {row["class_name"] for row in rows}
    assert all(row["node_id"] == node_id for row in rows)
    assert ask(small, "actors", group_id="00" * 18)["total"] == 0
    assert ask(small, "actors", job_id=JOB.hex())["total"] == 3


def test_actor_page_says_why_it_died(small):
    found = ask(small, "actor", id=small.dead.hex())
    assert found["state"] == "DEAD"
    assert found["death"]["kind"] == "killed"
    assert found["node_id"]
    assert ask(small, "actor", id=small.counter.hex())["death"] is None
    told = ask(small, "actor_story", id=small.dead.hex())["rows"]
    assert [row["state"] for row in told][:2] == ["DEAD", "ALIVE"], "the newest first"
    methods = ask(small, "actor_methods", id=small.counter.hex())["rows"]
    assert [(row["name"], row["finished"]) for row in methods] == [("Counter.add", 200)]


def test_functions_show_what_waits_though_nothing_has_run(small):
    rows = {row["name"]: row for row in ask(small, "functions")["rows"]}
    assert rows["work"]["finished"] == rows["work"]["total"] == 50
    [waiting] = [row for row in rows.values() if row["waiting"]]
    assert (waiting["waiting"], waiting["total"], waiting["failed"]) == (3, 4, 1)


def test_calls_are_paged_across_batches_newest_first():
    cluster = FedCluster(1)
    cluster.wait(100)
    worker = cluster.executor()
    for name in ("a", "b", "c"):
        cluster.ran(worker, name, 10)
        cluster.wait(1)
    cluster.failed(worker, "bad", "ValueError: x")
    seen = []
    for page in range(11):
        found = ask(cluster, "tasks", size=3, page=page)
        assert (found["matched"], found["pages"]) == (31, 11)
        seen += found["rows"]
    assert len({row["key"] for row in seen}) == 31
    assert [row["name"] for row in seen] == ["bad", *"c" * 10, *"b" * 10, *"a" * 10]
    starts = [row["start_ms"] for row in seen[1:]]
    assert starts == sorted(starts, reverse=True)
    assert {row["name"] for row in ask(cluster, "tasks", q="b", state="FINISHED")["rows"]} == {"b"}
    one = ask(cluster, "task", id=seen[5]["task_id"])
    assert (one["key"], one["name"]) == (seen[5]["key"], "c")


def test_failures_have_messages_and_examples(small):
    [row] = ask(small, "failures")["rows"]
    assert (row["count"], row["kind"]) == (1, "ValueError")
    assert row["examples"][0]["message"].startswith("ValueError")


def test_objects_are_largest_first_and_say_who_holds_them(small):
    other = small.executor()
    holds = [m.Hold(b"b" * 28, other, 1), m.Hold(b"b" * 28, 1, 2)]
    node_id = small.ids[0]
    small.say(m.ObjectStored(node_id, b"b" * 28, 10**6, [], holds))
    rows = ask(small, "objects", sort="-size")["rows"]
    assert [row["size"] for row in rows] == [10**6, 2048]
    assert [holder["text"].split()[0] for holder in rows[0]["holders"]] == ["executor", "driver"]
    assert rows[0]["where"][0]["link"] == f"node?id={node_id.hex()}"
    assert rows[1]["where"] == [{"text": "scheduler"}]
    assert ask(small, "objects", node_id=node_id.hex())["total"] == 1


def test_object_page_says_what_made_it_where_it_lies_and_who_holds_it(small):
    small.ran(small.worker, "make", 1)
    [task] = ask(small, "tasks", q="make")["rows"]
    object_id = bytes.fromhex(task["task_id"]) + b"\0\0\0\1"
    inner, one, two = b"o" * 28, *small.ids
    holds = [m.Hold(object_id, small.worker, 1), m.Hold(object_id, 1, 2)]
    contains = [m.Contained(inner, 1), m.Contained(small.counter, 1)]
    small.say(m.ObjectStored(one, object_id, 10**6, contains, holds, call_site="p.py:7 f"))
    small.say(m.ObjectStored(two, object_id, 10**6, [], [], is_copy=True))
    ident = object_id.hex()
    found = ask(small, "object", id=ident)
    assert (found["state"], found["size"], found["site"]) == ("READY", 10**6, "p.py:7 f")
    assert found["made_by"] == [{"text": "make", "link": f"task?id={task['task_id']}"}]
    assert found["maker"][0]["text"].startswith("driver ")
    assert [each["link"] for each in found["contains"]] == [
        f"object?id={inner.hex()}",
        f"actor?id={small.counter.hex()}",
    ]
    copies = ask(small, "object_copies", id=ident)["rows"]
    assert [(copy["node_id"], copy["role"]) for copy in copies] == [
        (one.hex(), "lives here"),
        (two.hex(), "a copy, may be evicted"),
    ]
    holders = ask(small, "object_holders", id=ident, sort="-count")["rows"]
    assert [(row["what"], row["count"]) for row in holders] == [("driver", 2), ("executor", 1)]
    put = ask(small, "object", id=inner.hex())
    assert (put["contained"], put["made_by"][0].get("link")) == (1, None)
    [inline] = ask(small, "object_copies", id=inner.hex())["rows"]
    assert (inline["node"], inline["node_id"]) == ("scheduler", "")
    with pytest.raises(LookupError, match="no object 00"):
        ask(small, "object", id="00")


def test_pages_say_where_things_were_made_if_that_is_known(small):
    site = "/home/me/program.py:7 main"
    holds = [m.Hold(b"c" * 28, 1, 1)]
    small.say(m.ObjectStored(small.ids[0], b"c" * 28, 10**6, [], holds, call_site=site))
    rows = ask(small, "objects", q="program.py")["rows"]
    assert [(row["object_id"], row["site"]) for row in rows] == [("63" * 28, site)]
    small.machine.actors.table[small.counter].spec = replace(
        small.machine.actors.table[small.counter].spec, call_site=site
    )
    assert ask(small, "actor", id=small.counter.hex())["site"] == site


def test_actor_page_says_what_the_actor_calls_itself(small):
    actor_id, _ = small.actor_up("Shown", repr_name="Shown(7)")
    assert ask(small, "actor", id=actor_id.hex())["repr_name"] == "Shown(7)"
    assert ask(small, "actor", id=small.counter.hex())["repr_name"] == ""


def test_groups_and_their_bundles(small):
    [group] = ask(small, "groups")["rows"]
    assert (group["state"], group["placed"], group["bundle_count"]) == ("CREATED", 2, 2)
    bundles = ask(small, "bundles", id=group["group_id"])["rows"]
    assert [bundle["used"] for bundle in bundles] == ["CPU 0 of 1", "CPU 0 of 1"]


# --------------------------------------------------------------------------- overview


def test_overview_counts_what_the_state_api_counts(small):
    found = ask(small, "overview")
    assert found["actors"] == {"ALIVE": 2, "DEAD": 1}
    assert found["nodes"] == {"ALIVE": 2}
    assert (found["finished"], found["failed"], found["waiting"]) == (250, 1, 3)
    assert found["resources"]["CPU"] == {"used": 2.0, "total": 8.0}


def test_alerts_tell_of_what_can_never_run_and_of_deaths(small):
    texts = {alert["what"]: alert["text"] for alert in ask(small, "alerts")["rows"]}
    assert list(texts) == ["Infeasible demand"]
    assert "GPU: 4" in texts["Infeasible demand"]
    small.say(m.NodeStats(small.ids[0], {"store_spilled": 5 * 2**20}))
    killed = small.executor(0)
    cause = m.ExitCause("out_of_memory", "the node was at 97 %")
    small.say(m.ProcessExited(small.ids[0], killed, cause))
    from ract.scheduler.books.turn import NodeLost

    small.say(NodeLost(small.ids[1], m.ExitCause("node_died", "no heartbeat")))
    alerts = ask(small, "alerts")["rows"]
    found = {alert["what"]: (alert["level"], alert["text"]) for alert in alerts}
    assert found["Spilling"][0] == "warn"
    assert "5.0 MiB" in found["Spilling"][1]
    assert "97 %" in found["Out of memory"][1]
    assert "no heartbeat" in found["Node died"][1]
    assert len({alert["key"] for alert in alerts}) == len(alerts)
    small.wait(4000)
    assert {alert["what"] for alert in ask(small, "alerts")["rows"]} <= {
        "Infeasible demand",
        "Spilling",
    }


def test_demands_say_who_waits_for_what(small):
    [row] = ask(small, "demands")["rows"]
    assert (row["state"], row["count"], row["kind"]) == ("INFEASIBLE", 3, "tasks")


# --------------------------------------------------------------------------- nodes, memory


NEW_STATS = {
    "cpu_percent": 12.5,
    "memory_used_bytes": 3,
    "memory_total_bytes": 4,
    "disk_used_bytes": 5,
    "disk_total_bytes": 10,
    "network_received_bytes_per_s": 7.0,
    "gpus": [
        {"index": 0, "utilization_percent": 50, "memory_used_bytes": 1, "memory_total_bytes": 8},
        {"index": 1, "utilization_percent": 100, "memory_used_bytes": 2, "memory_total_bytes": 8},
    ],
}


def test_what_a_node_does_not_report_is_none_and_the_rest_is_shown(small):
    small.say(m.NodeStats(small.ids[0], NEW_STATS))
    rows = {row["node_id"]: row for row in ask(small, "nodes")["rows"]}
    one, other = (rows[node_id.hex()] for node_id in small.ids)
    assert (one["cpu_percent"], one["memory_used"], one["disk_total"]) == (12.5, 3, 10)
    assert (one["gpu_percent"], one["gpu_memory_used"], one["gpu_memory_total"]) == (75, 3, 16)
    assert one["sent"] is None
    assert other["cpu_percent"] is None
    assert ask(small, "nodes", sort="-cpu_percent")["rows"][0]["node_id"] == one["node_id"]


def test_store_is_divided_into_what_is_pinned_copied_reusable_free_and_spilled(small):
    node_id = small.ids[0]
    small.say(m.ObjectStored(node_id, b"p" * 28, 300, [], [m.Hold(b"p" * 28, 1, 1)]))
    stats = {"store_capacity": 1000, "store_used": 600, "store_object_bytes": 450}
    small.say(m.NodeStats(node_id, {**stats, "store_spilled": 50, "store_objects": 2}))
    [row] = ask(small, "stores")["rows"]
    parts = {key: row[key] for key in ("pinned", "copies", "reusable", "free", "spilled")}
    assert parts == {"pinned": 300, "copies": 100, "reusable": 200, "free": 400, "spilled": 50}


def test_transfers_are_a_matrix(small):
    assert ask(small, "transfers")["is_reported"] is False
    one, two = small.ids
    small.say(m.NodeStats(one, {"received_from_bytes": {two.hex(): 500, "ff" * 28: 1}}))
    found = ask(small, "transfers")
    assert [(cell["from"], cell["bytes"]) for cell in found["cells"]] == [
        (small.machine.nodes.table[two].short, 500),
        ("ffffffff", 1),
    ]


def test_processes_of_a_node_and_what_it_says_of_them(small):
    executors = [{"process": small.worker, "pid": 1, "cpu_percent": 3.0, "rss_bytes": 99}]
    small.say(m.NodeStats(small.ids[0], {"executors": executors}))
    rows = ask(small, "processes", node_id=small.ids[0].hex())["rows"]
    [row] = [row for row in rows if row["process"] == small.worker]
    assert (row["cpu_percent"], row["rss"], row["kind"]) == (3.0, 99, "executor")
    assert {row["node_id"] for row in rows} == {small.ids[0].hex()}


# --------------------------------------------------------------------------- stream and graph


def test_calls_that_follow_closely_are_one_bar_and_none_is_lost(small):
    found = ask(small, "stream", window_s=60)
    assert sum(bar[2] for bar in found["bars"]) == found["calls"] == 251
    assert len(found["bars"]) < 60
    assert {bar[5] for bar in found["bars"]} == {"FINISHED", "FAILED"}
    assert all(bar[0] <= bar[1] for bar in found["bars"])
    small.wait(120)
    assert ask(small, "stream", window_s=60)["bars"] == []


def test_separate_calls_are_separate_bars():
    cluster = FedCluster(1)
    cluster.wait(100)
    worker = cluster.executor()
    for _ in range(5):
        cluster.ran(worker, "f", took=0.5)
        cluster.wait(3)
    bars = ask(cluster, "stream", window_s=60)["bars"]
    assert [bar[2] for bar in bars] == [1] * 5


def test_a_call_that_began_nobody_knows_when_is_no_long_bar():
    cluster = FedCluster(1)
    cluster.wait(100)
    worker = cluster.executor()
    cluster.failed(worker, "f", "crashed: exit code 5", "WORKER_DIED", is_start_known=False)
    ((start, end, *_),) = ask(cluster, "stream", window_s=60)["bars"]
    assert cluster.time - 1 < start < end


def test_graph_says_who_calls_whom():
    cluster = FedCluster(1)
    cluster.wait(100)
    job = cluster.machine.processes.jobs
    [job_id] = job
    worker = cluster.executor()
    actor, body = cluster.actor_up()
    for run in (
        (worker, "outer", 3, b"", 1),
        (worker, "inner", 52, b"", worker),
        (body, "Counter.add", 5, actor, worker),
        (worker, "called_by_actor", 2, b"", body),
    ):
        executor, name, count, actor_id, caller = run
        cluster.ran(executor, name, count, actor_id=actor_id, caller=caller)
    for run in cluster.machine.tasks.runs:
        run.job_id = job_id
    found = ask(cluster, "graph")
    edges = {(edge["from"], edge["to"]): edge["calls"] for edge in found["edges"]}
    assert edges["driver", "outer"] == 3
    assert edges["Counter.add", "called_by_actor"] == 2
    assert sum(edges.values()) == found["calls"] == 62
    assert found["by"] == "function"
    kinds = {node["name"]: node["kind"] for node in found["nodes"]}
    assert kinds["driver"] == "driver"
    assert kinds["Counter.add"] == "method"


def call_graph(calls):
    """The graph of calls, each (number, number of the caller, name, further fields by place)."""
    cluster = FedCluster(1)
    [job_id] = cluster.machine.processes.jobs
    worker = cluster.executor()
    for i, (number, parent, name, *more) in enumerate(calls):
        task_id = number.to_bytes(8, "big") + b"\xff" * 12 + job_id
        state, attempt = [*more, "FINISHED", 0][:2] if more else ("FINISHED", 0)
        head = [task_id, attempt, name, name, "NORMAL_TASK", state, 5.0 + i, 5.25 + i]
        cluster.say(m.TaskEvents(worker, [[*head, parent, b"", "", "", {}]]))
    return cluster, ask(cluster, "graph")


def test_graph_of_few_calls_shows_each_of_them():
    top, left, right = (1 << 36 | i for i in (1, 2, 3))
    lost = 1 << 36 | 99
    calls = [(top, 0, "top"), (left, top, "leaf", "FAILED", 0), (left, top, "leaf", "FINISHED", 1)]
    calls += [(right, top, "leaf"), (1 << 36 | 4, lost, "orphan")]
    cluster, found = call_graph(calls)
    assert (found["by"], found["calls"]) == ("call", 5)
    parents = {row["parent"] for row in ask(cluster, "tasks", q="leaf")["rows"]}
    assert [ask(cluster, "task", id=parent)["name"] for parent in parents] == ["top"]
    names = {node["id"]: node["name"] for node in found["nodes"]}
    assert sorted(names.values()) == ["driver", "leaf", "leaf", "orphan", "top"]
    drawn = sorted((names[edge["from"]], names[edge["to"]]) for edge in found["edges"])
    assert drawn == [("driver", "orphan"), ("driver", "top"), ("top", "leaf"), ("top", "leaf")]
    [again] = [node for node in found["nodes"] if node["calls"] == 2]
    assert (again["failed"], again["state"], again["took_s"]) == (1, "FINISHED", 0.25)


def test_graph_of_calls_that_go_deep_is_one_of_functions():
    numbers = [1 << 36 | i for i in range(1, 10)]
    _, found = call_graph([(n, p, "f") for n, p in zip(numbers, [0, *numbers], strict=False)])
    assert found["by"] == "function"
    assert {(edge["from"], edge["to"]) for edge in found["edges"]} == {("driver", "f"), ("f", "f")}


def test_graph_is_drawn_with_a_box_per_call_and_says_so():
    from ract.dashboard.plots.base import Given
    from ract.dashboard.plots.graph import TaskGraph

    top = 1 << 36 | 1
    calls = [(top, 0, "top"), (top + 1, top, "leaf"), (top + 2, top, "leaf", "RUNNING", 0)]
    cluster, _ = call_graph(calls)
    graph = TaskGraph(Given(FedSource(cluster)))
    boxes = graph._boxes.data
    assert boxes["name"] == ["driver", "top", "leaf", "leaf"]
    assert boxes["x"] == [0.0, 1.0, 2.0, 2.0]
    assert boxes["note"][1:3] == ["finished, 250 ms"] * 2
    assert graph._remark._label.text == "One box per call."


# --------------------------------------------------------------------------- large


@pytest.fixture(scope="module")
def large():
    """10,000 actors, and 1,000,000 finished tasks of which the machine remembers 100,000."""
    cluster = FedCluster(100)
    cluster.remember(100_000)
    cluster.wait(1000)
    for i in range(10_000):
        actor_id, executor = cluster.actor_up(f"Class{i % 50}", f"actor-{i}")
        if i % 100 == 0:
            cluster.ran(executor, f"Class{i % 50}.step", 3, actor_id=actor_id)
    workers = [cluster.executor(i) for i in range(20)]
    for i in range(100):
        cluster.ran(workers[i % 20], f"task_{i % 7}", 10_000, took=1e-4)
    return cluster


def test_10_000_actors_and_1_000_000_tasks_are_sent_a_page_at_a_time(large):
    for view, total in (("actors", 10_000), ("tasks", None), ("functions", None)):
        found = ask(large, view, size=25)
        assert len(found["rows"]) <= 25
        assert total is None or found["total"] == total
        assert len(json.dumps(found)) < 40_000, view
    rows = ask(large, "functions", size=100, q="task_")["rows"]
    assert sum(row["finished"] for row in rows) == 1_000_000
    assert ask(large, "overview")["finished"] == 1_000_300
    found = ask(large, "tasks", page=3_000, size=25)
    assert (len(found["rows"]), found["page"]) == (25, 3_000)
    assert found["forgotten"] + found["total"] == 1_000_300
    [one] = ask(large, "actors", q="actor-4711")["rows"]
    assert one["class_name"] == "Class11"
    by_name = ask(large, "actors", sort="-name", page=399)["rows"]
    assert by_name[-1]["name"] == "actor-0"
    assert len(json.dumps(ask(large, "stream"))) < 600_000
    assert len(ask(large, "graph", job_id=JOB.hex())["nodes"]) <= 61


def test_paging_makes_no_more_rows_than_are_shown(large, monkeypatch):
    from ract.dashboard.views import actors

    made = []

    def row(machine, seen):
        made.append(seen)
        return {"key": ""}

    counted = replace(actors.ACTORS, row=row)
    counted(large.machine, {"page": "100", "sort": "class_name", "size": "25"})
    assert len(made) == 25


def test_plots_of_a_large_cluster_stay_small(large):
    from bokeh.document import Document

    from ract.dashboard.plots import PLOTS
    from ract.dashboard.plots.base import Given

    source = FedSource(large)
    for _ in range(3):
        large.wait(2)
        source.history.sample(large.time)
    for name, make in PLOTS.items():
        doc = Document()
        doc.add_root(make(Given(source, {"id": large.ids[0].hex(), "job_id": JOB.hex()})).view)
        assert len(json.dumps(doc.to_json(), default=str)) < 1_500_000, name


# --------------------------------------------------------------------------- history


def test_ring_keeps_the_newest_and_gives_what_is_new():
    ring = Ring(["a"], 4)
    for i in range(10):
        ring.add(float(i), {"a": float(i) if i != 8 else None})
    assert ring.since(0, ["a"])["time"] == [6.0, 7.0, 8.0, 9.0]
    new = ring.since(8, ["a"])
    assert new["time"] == [8.0, 9.0]
    assert plain(new)["a"] == [None, 9.0]
    assert ring.since(10, ["a"])["time"] == []
    assert ring.last("a") == 9.0


def test_history_is_sampled_from_what_the_machine_has(small):
    history = History(small.machine.cluster)
    small.say(m.NodeStats(small.ids[0], {"cpu_percent": 40.0, "memory_used": 100}))
    history.sample(1000.0)
    worker = small.executor()
    small.ran(worker, "f", 20)
    history.sample(1002.0)
    found = history.cluster.since(0, ["cpu_total", "finished_per_s", "memory_used", "waiting"])
    assert found["cpu_total"] == [8.0, 8.0]
    assert found["finished_per_s"] == [0.0, 10.0]
    assert found["memory_used"] == [100.0, 100.0]
    assert found["waiting"] == [3.0, 3.0]
    assert list(history.nodes[small.ids[0]].since(0, ["cpu_percent"])["cpu_percent"]) == [40.0] * 2


def test_rings_of_dead_nodes_go_and_large_clusters_are_sampled_less_often(small):
    from ract.scheduler.books.turn import NodeLost

    history = History(small.machine.cluster)
    for node_id in small.ids:
        small.say(m.NodeStats(node_id, {"cpu_percent": 1.0}))
    for i in range(NODE_SAMPLES_MAX + 10):
        history.sample(1000.0 + 2 * i)
    ring = history.nodes[small.ids[0]]
    assert len(ring.since(0, [])["time"]) == NODE_SAMPLES_MAX
    period = history.period_s
    small.say(NodeLost(small.ids[1], m.ExitCause("node_died")))
    history.sample(9000.0)
    assert list(history.nodes) == [small.ids[0]]
    assert History(FedCluster(250).machine.cluster).period_s == 3 * period
