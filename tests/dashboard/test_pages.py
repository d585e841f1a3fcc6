"""The pages and the guard on a real, stock scheduler, with an invented cluster behind them."""

import asyncio
import json
import subprocess
import sys

import pytest
from distributed import Scheduler
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from ract.dashboard import app

TOKEN = "a-token-for-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NODE = "ab" * 28
BAD_NAME = "<script>alert(1)</script>"


class FakeSource:
    """Two tables and a status in the shapes of `ract.scheduler.queries`."""

    def __init__(self):
        self.asked = []
        self.broken = False

    def query(self, op, args):
        self.asked.append(op)
        if self.broken:
            raise RuntimeError("the scheduler is ending")
        return {
            "nodes": [
                {
                    "NodeID": NODE,
                    "Alive": True,
                    "NodeName": BAD_NAME,
                    "Address": "tls://127.0.0.1:1",
                    "pid": 42,
                    "Resources": {"CPU": 2.0, "memory": 2.0**30, "node:127.0.0.1": 1.0},
                }
            ],
            "store": {NODE: {"objects": 3, "object_bytes": 5 * 2**20, "note": "text"}},
            "status": {
                "resources": {"CPU": {"used": 1.0, "total": 2.0}},
                "pending_demands": [{"count": 2, "text": "4 CPU", "names": [BAD_NAME]}],
                "actors": {"ALIVE": 1},
                "jobs": 1,
                "leases": 1,
                "objects": 3,
            },
            "actors": {
                "rows": [
                    {
                        "actor_id": "cd" * 16,
                        "class_name": "Counter",
                        "state": "DEAD",
                        "node_id": None,
                        "death_cause": {"kind": "crashed", "detail": "signal 9"},
                    }
                ],
                "total": 900,
            },
            "objects": {
                "rows": [
                    {"object_id": "ef" * 28, "object_size": 2048, "locations": [NODE], "pid": 7}
                ],
                "total": 1,
            },
            "metrics": [["ract_jobs", "gauge", "Jobs", [], [[["State", "RUNNING"], 1]]]],
        }[op]


def with_dashboard(story, dashboard=False):
    """Run ``story(scheduler, dashboard, source, fetch)`` beside a started scheduler."""

    async def run():
        async with Scheduler(
            protocol="tcp://", host="127.0.0.1", port=0, dashboard=dashboard, dashboard_address=":0"
        ) as scheduler:
            source = FakeSource()
            made = app.install(scheduler, source, TOKEN)
            port = scheduler.http_server.port

            async def fetch(path, method="GET", headers=BEARER, **kwargs):
                request = HTTPRequest(
                    f"http://127.0.0.1:{port}{path}",
                    method=method,
                    headers=headers,
                    follow_redirects=False,
                    allow_nonstandard_methods=True,
                    **kwargs,
                )
                return await AsyncHTTPClient(force_instance=True).fetch(request, raise_error=False)

            await story(scheduler, made, source, fetch)

    asyncio.run(asyncio.wait_for(run(), 60))


DASK_PATHS = ["/", "/status", "/workers", "/metrics", "/json/counts.json", "/sitemap.json"]
RACT_PATHS = [
    "/ract",
    "/ract/",
    "/ract/overview",
    "/ract/actors",
    "/ract/memory",
    "/ract/api/nodes",
]


@pytest.mark.parametrize("dashboard", [False, True])
def test_every_path_needs_the_token_and_a_proper_host_and_origin(dashboard):
    async def story(scheduler, made, source, fetch):
        for path in [*RACT_PATHS, *DASK_PATHS, "/static/js/bokeh.min.js", "/nowhere"]:
            for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
                body = b"x" * 100_000 if method == "POST" else None
                assert (await fetch(path, method, {}, body=body)).code == 401, path
                foreign = {**BEARER, "Origin": "http://evil.example"}
                assert (await fetch(path, method, foreign, body=body)).code == 403, path
                rebound = {**BEARER, "Host": f"evil.example:{scheduler.http_server.port}"}
                assert (await fetch(path, method, rebound, body=body)).code == 403, path
        assert source.asked == []
        assert (await fetch("/health", headers={})).body == b"ok"

    with_dashboard(story, dashboard)


@pytest.mark.parametrize("dashboard", [False, True])
def test_pages_are_there_with_the_token(dashboard):
    async def story(scheduler, made, source, fetch):
        moved = await fetch("/ract/")
        assert (moved.code, moved.headers["Location"]) == (302, "/ract/overview")
        for path in ("/ract/overview", "/ract/actors", "/ract/memory", "/status", "/workers"):
            page = await fetch(path)
            assert page.code == 200, path
            assert b"bokeh" in page.body.lower()
            assert BAD_NAME.encode() not in page.body
        assert (await fetch("/static/js/bokeh.min.js")).code == 200
        assert (await fetch("/ract/nowhere")).code == 404

    with_dashboard(story, dashboard)


def test_pages_asked_for_at_once_are_made_once():
    async def story(scheduler, made, source, fetch):
        pages = await asyncio.gather(*(fetch("/ract/overview") for _ in range(5)))
        assert [page.code for page in pages] == [200] * 5
        assert len(scheduler.http_application.applications) == 2  # ours, Dask's

    with_dashboard(story)


def test_api_answers_plain_questions_as_json():
    async def story(scheduler, made, source, fetch):
        answer = await fetch("/ract/api/nodes")
        assert json.loads(answer.body)[0]["NodeID"] == NODE
        assert (await fetch("/ract/api/kill_node")).code == 404
        assert (await fetch("/ract/api/nodes", "POST", body=b"")).code == 405
        assert source.asked == ["nodes"]

    with_dashboard(story)


@pytest.mark.parametrize("dashboard", [False, True])
def test_metrics_stand_beside_dasks_own_though_dask_has_a_route_for_them(dashboard):
    async def story(scheduler, made, source, fetch):
        for _ in range(2):
            text = (await fetch("/metrics")).body.decode()
            assert 'ract_jobs{State="RUNNING"} 1.0' in text
            assert "dask_scheduler_workers{" in text
        assert source.asked == ["metrics", "metrics"]

    with_dashboard(story, dashboard)


def test_link_gives_a_browser_the_cookie_once():
    async def story(scheduler, made, source, fetch):
        path = made.login_url().partition(made.address)[2]
        first = await fetch(path, headers={})
        assert (first.code, first.headers["Location"]) == (302, "/ract/")
        cookie = {"Cookie": first.headers["Set-Cookie"].split(";")[0]}
        assert (await fetch("/ract/api/nodes", headers=cookie)).code == 200
        assert (await fetch(path, headers={})).code == 401

    with_dashboard(story)


def test_live_updates_come_through_the_guard_and_only_with_the_token():
    async def story(scheduler, made, source, fetch):
        page = await fetch("/ract/overview")
        session = page.body.decode().partition('"token":"')[2].partition('"')[0]
        assert session
        url = f"ws://127.0.0.1:{scheduler.http_server.port}/ract/overview/ws"

        async def connect(**headers) -> WebSocketClientConnection:
            request = HTTPRequest(url, headers=headers)
            return await websocket_connect(request, subprotocols=["bokeh", session])

        for headers in ({}, {**BEARER, "Origin": "http://evil.example"}):
            with pytest.raises(Exception, match=r"HTTP 40[13]"):
                await connect(**headers)
        connection = await connect(**BEARER)
        assert await connection.read_message() is not None  # the acknowledgement of Bokeh
        before = len(source.asked)
        while len(source.asked) == before:
            await asyncio.sleep(0.05)
        connection.close()

    with_dashboard(story)


def test_source_that_fails_does_not_take_the_page_along():
    async def story(scheduler, made, source, fetch):
        source.broken = True
        assert (await fetch("/ract/overview")).code == 200

    with_dashboard(story)


def test_bokeh_is_imported_when_somebody_looks_and_not_before():
    script = f"""
import asyncio, sys
sys.path.insert(0, {__file__.rpartition("/")[0]!r})
from test_pages import with_dashboard

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
    from ract.dashboard.pages import size_text

    assert [size_text(n) for n in (0, 1023, 1536, 5 * 2**20, 3 * 2**50)] == [
        *("0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3072.0 TiB")
    ]
