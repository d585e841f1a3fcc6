"""The pages on a scheduler of ours, by preload alone."""

import asyncio
import json

import dask
from distributed import Scheduler
from tornado.httpclient import AsyncHTTPClient

TOKEN = "a-token-for-tests-0123456789"
PRELOADS = ["ract.scheduler.preload", "ract.dashboard.preload"]


def test_pages_show_the_machine_of_the_scheduler():
    async def run():
        with dask.config.set({"ract.token": TOKEN}):
            async with Scheduler(
                protocol="tcp://", host="127.0.0.1", port=0, dashboard=False, preload=PRELOADS
            ) as scheduler:
                link = scheduler.plugins["ract"].dashboard_url
                client = AsyncHTTPClient(force_instance=True)
                first = await client.fetch(link, follow_redirects=False, raise_error=False)
                assert first.code == 302
                base = link.partition("/ract/")[0]
                headers = {"Cookie": first.headers["Set-Cookie"].split(";")[0]}
                answer = await client.fetch(f"{base}/ract/api/status", headers=headers)
                assert json.loads(answer.body)["nodes"] == []
                for page in ("overview", "actors", "memory"):
                    shown = await client.fetch(f"{base}/ract/{page}", headers=headers)
                    assert shown.code == 200

    asyncio.run(asyncio.wait_for(run(), 60))
