"""The pages, their data and the guard on a real scheduler, with a fed machine behind them."""

import asyncio
import json
import queue
import re
import subprocess
import sys
import threading

import pytest
from distributed import Scheduler
from fed_cluster import BAD_NAME, BEARER, FedSource, small_cluster, with_dashboard
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from ract.core import messages as m
from ract.dashboard import app
from ract.dashboard.pages import NAVIGATION, PAGES
from ract.dashboard.parts import Block, Facts, Plot, Table
from ract.dashboard.plots import PLOTS
from ract.dashboard.views import VIEWS

TOKEN = "a-token-for-tests-0123456789"
NODE = "00" * 27 + "01"
PLOTTED = [f"/ract/{page.name}" for page in PAGES.values() if page.plots]
PLAIN = [f"/ract/{page.name}" for page in PAGES.values() if not page.plots]
INDIVIDUAL = [f"/ract/individual/{name}" for name in PLOTS]
DATA = [f"/ract/data/{name}" for name in VIEWS]
LOGS = [f"/ract/logs/{what}?node_id={NODE}&name=a.out&q=x" for what in ("files", "read", "search")]
OTHERS = ["/ract", "/ract/", "/ract/api/nodes", "/ract/key", "/individual-plots.json"]
ASSETS = ["/ract/assets/ract.css", "/ract/assets/ract.js"]
DASK = ["/", "/status", "/workers", "/metrics", "/json/counts.json", "/sitemap.json"]
SOCKETS = [f"{path}/ws" for path in PLOTTED]
EVERYTHING = [
    *PLOTTED,
    *PLAIN,
    *INDIVIDUAL,
    *DATA,
    *LOGS,
    *OTHERS,
    *ASSETS,
    *DASK,
    *SOCKETS,
    "/static/js/bokeh.min.js",
    "/nowhere",
]


@pytest.mark.parametrize("dashboard", [False, True])
def test_every_path_needs_the_token_and_a_proper_host_and_origin(dashboard):
    async def story(scheduler, made, source, fetch):
        asked = source.asked
        for path in EVERYTHING:
            for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
                body = b"x" * 1000 if method == "POST" else None
                foreign = {**BEARER, "Origin": "http://evil.example"}
                rebound = {**BEARER, "Host": f"evil.example:{scheduler.http_server.port}"}
                answers = await asyncio.gather(
                    fetch(path, method, {}, body=body),
                    fetch(path, method, foreign, body=body),
                    fetch(path, method, rebound, body=body),
                )
                assert [answer.code for answer in answers] == [401, 403, 403], (path, method)
        assert source.asked == asked
        assert (await fetch("/health", headers={})).body == b"ok"

    with_dashboard(story, dashboard)


@pytest.mark.parametrize("path", [*PLOTTED, *PLAIN, *INDIVIDUAL])
def test_page_is_there_with_the_token_and_so_is_all_that_it_refers_to(path, pages):
    """Bokeh's script, too, which is not where Bokeh thinks."""
    page = pages(path)
    assert page.code == 200, path
    assert BAD_NAME.encode() not in page.body
    found = re.findall(r'(?:src|href)="([^"#]+)"', page.body.decode())
    assert found
    for address in found:
        folder = path.rpartition("/")[0]
        while address.startswith("../"):
            address, folder = address[3:], folder.rpartition("/")[0]
        full = address if address.startswith("/") else f"{folder}/{address}"
        if address.startswith("data:") or full == path or full in PLOTTED:
            continue
        assert pages(full).code == 200, full


@pytest.fixture(scope="module")
def pages():
    """Fetches from one scheduler with a dashboard, which the tests of this fixture share."""
    wanted, found = queue.Queue(), queue.Queue()

    async def story(scheduler, made, source, fetch):
        while path := await asyncio.to_thread(wanted.get):
            found.put(await fetch(path))

    thread = threading.Thread(target=with_dashboard, args=(story, False, None, 1000))
    thread.start()
    known = {}

    def get(path):
        if path not in known:
            wanted.put(path)
            known[path] = found.get(timeout=100)
        return known[path]

    yield get
    wanted.put("")
    thread.join(60)
    assert not thread.is_alive()


def test_other_addresses_are_none(pages):
    moved = pages("/ract/")
    assert (moved.code, moved.headers["Location"]) == (302, "/ract/overview")
    for path in ("/ract/nowhere", "/ract/assets/app.py", "/ract/assets/..%2fapp.py"):
        assert pages(path).code == 404, path


@pytest.mark.parametrize("name", ["actor", "job", "node", "tasks"])
def test_page_with_what_is_no_id_is_there_to_say_so(name, pages):
    assert pages(f"/ract/{name}?id=xyz&job_id=xyz").code == 200


def test_pages_are_there_beside_those_of_a_dask_dashboard_too():
    async def story(scheduler, made, source, fetch):
        for path in ("/ract/overview", "/status", "/workers", "/static/js/bokeh.min.js"):
            assert (await fetch(path)).code == 200, path

    with_dashboard(story, dashboard=True)


def test_pages_show_views_that_exist_and_columns_that_rows_have():
    cluster = small_cluster()
    ids = {
        "actor": cluster.counter.hex(),
        "node": NODE,
        "group": (b"g" * 18).hex(),
        "object": (b"o" * 28).hex(),
        "job": cluster.machine.processes.jobs and next(iter(cluster.machine.processes.jobs)).hex(),
    }
    args = {"nodes": {"id": NODE}}
    assert {page.name for page in NAVIGATION} == {
        *("overview", "nodes", "actors", "tasks", "memory", "groups", "jobs", "logs")
    }
    seen = set()
    for page in PAGES.values():
        for part in page.parts:
            if isinstance(part, Plot):
                assert part.name in PLOTS
                continue
            if isinstance(part, Block) and not part.view:
                continue
            seen.add(part.view)
            given = dict(args.get(page.name, {}), id=ids.get(page.name, ""))
            if page.name == "task":
                given["id"] = VIEWS["tasks"](cluster.machine.cluster, {})["rows"][0]["task_id"]
            value = VIEWS[part.view](cluster.machine.cluster, given)
            if isinstance(part, Table):
                for key in [column.key for column in part.columns]:
                    assert all(key in row for row in value["rows"]), (page.name, part.view, key)
                assert len({row["key"] for row in value["rows"]}) == len(value["rows"])
                sorts = getattr(VIEWS[part.view], "sorts", {})
                wanted = {column.key for column in part.columns if column.sort}
                assert wanted <= set(sorts), (page.name, part.view)
                assert part.sort.lstrip("-") in {"", *sorts}
                assert {name for name, _ in part.facets} <= set(value["facets"])
            elif isinstance(part, Facts):
                for column in part.columns:
                    assert column.key in value, (page.name, column.key)
            json.dumps(value)
    assert {"tiles", "alerts", "actors", "functions", "objects", "groups", "jobs"} <= seen


def test_pages_asked_for_at_once_are_made_once():
    async def story(scheduler, made, source, fetch):
        pages = await asyncio.gather(*(fetch("/ract/overview") for _ in range(3)))
        assert [page.code for page in pages] == [200] * 3
        assert len(scheduler.http_application.applications) == 2  # ours, Dask's

    with_dashboard(story)


def test_api_answers_plain_questions_as_json():
    async def story(scheduler, made, source, fetch):
        answer = await fetch("/ract/api/nodes")
        assert [node["NodeID"] for node in json.loads(answer.body)][1] == NODE
        assert (await fetch("/ract/api/kill_node")).code == 404
        assert (await fetch("/ract/api/nodes", "POST", body=b"")).code == 405

    with_dashboard(story)


def test_data_says_what_is_wrong_with_a_question():
    async def story(scheduler, made, source, fetch):
        async def error(path, code):
            answer = await fetch(path)
            assert answer.code == code, answer.body
            assert answer.headers["Content-Type"].startswith("application/json")
            return json.loads(answer.body)["error"]

        assert "there are" in await error("/ract/data/nothing", 404)
        assert "hexadecimal" in await error("/ract/data/actor?id=xyz", 400)
        assert "no actor" in await error("/ract/data/actor?id=00", 404)
        assert "no task" in await error("/ract/data/task?id=00", 404)
        assert "cannot sort" in await error("/ract/data/actors?sort=-nothing", 400)
        assert "nothing" not in await error("/ract/data/actors?page=one", 400)
        value = json.loads((await fetch("/ract/data/actors?page=-5&size=100000")).body)["value"]
        assert (value["page"], value["size"]) == (0, 200)

    with_dashboard(story)


def test_nodes_say_where_they_have_an_object():
    cluster = small_cluster()
    one, two = cluster.ids
    holds = [m.Hold(b"s" * 28, 1, 1)]
    cluster.say(m.ObjectStored(one, b"s" * 28, 100, [], holds))
    cluster.say(m.ObjectStored(two, b"s" * 28, 100, [], [], is_copy=True))
    source = FedSource(cluster)
    source.places = {one.hex(): {"is_away": False, "is_spilled": True, "place": "/disk/7"}}

    async def story(scheduler, made, source, fetch):
        answer = await fetch(f"/ract/data/object_copies?id={(b's' * 28).hex()}")
        told = [(row["where"], row["place"]) for row in json.loads(answer.body)["value"]["rows"]]
        assert told == [("on disk", "/disk/7"), ("", "not known: it does not answer")]

    with_dashboard(story, source=source)


@pytest.mark.parametrize("dashboard", [False, True])
def test_metrics_stand_beside_dasks_own_though_dask_has_a_route_for_them(dashboard):
    async def story(scheduler, made, source, fetch):
        for _ in range(2):
            text = (await fetch("/metrics")).body.decode()
            assert 'ract_jobs{State="RUNNING"} 1.0' in text
            assert "dask_scheduler_workers{" in text
        assert source.asked == 2

    with_dashboard(story, dashboard)


def test_link_gives_a_browser_the_cookie_once():
    async def story(scheduler, made, source, fetch):
        path = made.login_url().partition(made.address)[2]
        first = await fetch(path, headers={})
        assert (first.code, first.headers["Location"]) == (302, "/ract/")
        cookie = {"Cookie": first.headers["Set-Cookie"].split(";")[0]}
        assert (await fetch("/ract/api/nodes", headers=cookie)).code == 200
        assert (await fetch("/ract/data/nodes", headers=cookie)).code == 200
        assert (await fetch(path, headers={})).code == 401

    with_dashboard(story)


def test_further_links_are_for_who_has_the_token():
    async def story(scheduler, made, source, fetch):
        assert (await fetch("/ract/key")).code == 405
        assert (await fetch("/ract/key", "POST", {}, body=b"")).code == 401
        key = json.loads((await fetch("/ract/key", "POST", body=b"")).body)["key"]
        assert (await fetch(f"/ract/actors?key={key}", headers={})).code == 302
        assert (await fetch(f"/ract/actors?key={key}", headers={})).code == 401

    with_dashboard(story)


def test_plots_are_on_the_list_that_jupyterlab_reads():
    async def story(scheduler, made, source, fetch):
        await fetch("/ract/overview")
        found = json.loads((await fetch("/individual-plots.json")).body)
        assert found["Ract Task Stream"] == "/ract/individual/task-stream"
        assert found["Individual Task Stream"] == "/individual-task-stream"
        assert not any("node-" in path for path in found.values())
        ours = {path for path in found.values() if path.startswith("/ract/")}
        assert ours <= set(INDIVIDUAL)

    with_dashboard(story)


@pytest.mark.parametrize("path", ["/ract/overview", "/ract/individual/cpus"])
def test_live_updates_come_through_the_guard_and_only_with_the_token(path):
    async def story(scheduler, made, source, fetch):
        page = await fetch(path)
        session = page.body.decode().partition('"token":"')[2].partition('"')[0]
        assert session
        url = f"ws://127.0.0.1:{scheduler.http_server.port}{path}/ws"

        async def connect(**headers) -> WebSocketClientConnection:
            request = HTTPRequest(url, headers=headers)
            return await websocket_connect(request, subprotocols=["bokeh", session])

        for headers in (
            {},
            {**BEARER, "Origin": "http://evil.example"},
            {**BEARER, "Host": f"evil.example:{scheduler.http_server.port}"},
        ):
            with pytest.raises(Exception, match=r"HTTP 40[13]"):
                await connect(**headers)
        connection = await connect(**BEARER)
        assert await connection.read_message() is not None  # the acknowledgement of Bokeh
        seen = []
        while "ColumnsStreamed" not in "".join(seen):
            source.fed.wait(2)
            source.history.sample(source.fed.time)
            text = await connection.read_message()
            seen.append(text if isinstance(text, str) else "")
        connection.close()

    with_dashboard(story)


def test_logs_are_followed_and_searched(tmp_path):
    lines = [f"line {i} ünïcode" for i in range(5000)]
    log = tmp_path / "worker-7-42.out"
    log.write_text("\n".join(lines) + "\n")
    (tmp_path / "folder").mkdir()
    source = FedSource(small_cluster(), tmp_path)

    async def story(scheduler, made, source, fetch):
        async def get(what, **args):
            query = "&".join(f"{key}={value}" for key, value in args.items())
            answer = await fetch(f"/ract/logs/{what}?node_id={NODE}&{query}")
            return answer.code, json.loads(answer.body)

        code, found = await get("files")
        assert [(file["name"], file["process"]) for file in found["files"]] == [(log.name, 7)]
        code, tail = await get("read", name=log.name, tail=10)
        assert (code, tail["text"].splitlines()) == (200, lines[-10:])
        with log.open("a") as file:
            file.write("more\nand unfinished")
        code, new = await get("read", name=log.name, offset=tail["next"])
        assert new["text"] == "more\n"
        code, rest = await get("read", name=log.name, offset=new["next"], rest=1)
        assert (rest["text"], rest["next"]) == ("and unfinished", rest["end"])
        code, found = await get("search", name=log.name, q="LINE%20499")
        assert found["lines"] == [line for line in lines if line.startswith("line 499")]
        assert found["is_done"]
        assert (await get("search", name=log.name, q=""))[0] == 400
        for bad in ("folder", "..", "../secret", "%2fetc%2fpasswd", "nothing"):
            assert (await get("read", name=bad))[0] == 404, bad

    with_dashboard(story, source=source)


def test_source_that_fails_does_not_take_the_page_along():
    cluster = small_cluster()

    class Ending(FedSource):
        ended = False

        @property
        def cluster(self):
            if self.ended:
                raise RuntimeError("the scheduler is ending")
            return self.fed.machine.cluster

    async def story(scheduler, made, source, fetch):
        assert (await fetch("/ract/overview")).code == 200
        source.ended = True
        assert (await fetch("/ract/actors")).code == 200
        assert (await fetch("/ract/data/actors")).code == 500

    with_dashboard(story, source=Ending(cluster))


def test_bokeh_is_imported_when_somebody_looks_and_not_before():
    script = f"""
import asyncio, sys
sys.path.insert(0, {__file__.rpartition("/")[0].rpartition("/")[0]!r})
from fed_cluster import with_dashboard

async def story(scheduler, made, source, fetch):
    assert (await fetch("/ract/api/nodes")).code == 200
    assert (await fetch("/ract/overview", headers={{}})).code == 401
    assert "bokeh" not in sys.modules
    assert (await fetch("/ract/overview")).code == 200
    assert "bokeh" in sys.modules

with_dashboard(story)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, cwd="/"
    )
    assert done.returncode == 0, done.stderr


def test_guard_closes_the_http_server_of_a_worker_too():
    async def run():
        from distributed import Worker

        from ract.dashboard.access import Access

        scheduler = Scheduler(protocol="tcp://", host="127.0.0.1", port=0, dashboard=False)
        async with scheduler, Worker(scheduler.address, dashboard=False) as worker:
            app.guard(worker, Access(TOKEN))
            url = f"http://127.0.0.1:{worker.http_server.port}/metrics"
            client = AsyncHTTPClient(force_instance=True)
            assert (await client.fetch(url, raise_error=False)).code == 401
            answer = await client.fetch(url, headers=BEARER, raise_error=False)
            assert answer.code == 200

    asyncio.run(asyncio.wait_for(run(), 60))


def test_sizes_are_in_binary_units():
    from ract.dashboard.views.table import size_text

    assert [size_text(n) for n in (0, 1023, 1536, 5 * 2**20, 3 * 2**50)] == [
        *("0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3072.0 TiB")
    ]
