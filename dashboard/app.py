"""Put ract's pages, and the guard, on the HTTP server that distributed's scheduler has anyway.

Bokeh costs 0.3 to 0.7 s to import and is needed by people who look. So the pages, and Dask's own if
the scheduler was started without, are made when the first of them is asked for; the import runs in
a thread, so that the cluster goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from collections.abc import Awaitable, Collection
from functools import partial
from typing import Any, Protocol

from tornado import web
from tornado.ioloop import IOLoop

from ract.dashboard import metrics
from ract.dashboard.access import Access
from ract.dashboard.guard import Guard

logger = logging.getLogger(__name__)

#: What /ract/api/ answers; other questions of the scheduler can change something.
API_OPS = frozenset({"nodes", "actors", "tasks", "objects", "workers", "jobs", "store", "status"})
#: Paths below these are no pages: they are answered without Bokeh.
PLAIN_PATHS = ("/ract/api/", "/health", "/metrics", "/info/", "/json/", "/api/", "/sitemap.json")


class Source(Protocol):
    """Whoever knows the cluster: the scheduler's adapter."""

    def query(self, op: str, args: dict[str, Any]) -> Any:
        """Answer a question of `ract.scheduler.queries` with plain data."""


class Dashboard:
    """What `install` made: where the pages are, and links that let a person in."""

    def __init__(self, scheduler: Any, source: Source, access: Access) -> None:
        self.access = access
        self._scheduler = scheduler
        self._source = source
        self._pages_made: asyncio.Future[None] | None = None

    @property
    def address(self) -> str:
        """``host:port``, as a browser on this machine can ask it."""
        host, port = self._scheduler.http_server.address, self._scheduler.http_server.port
        if host in ("0.0.0.0", "::", ""):
            host = "127.0.0.1"
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def login_url(self) -> str:
        """A link that works once and gives the browser that follows it the cookie."""
        return f"http://{self.address}/ract/?key={self.access.new_key()}"

    def prepare(self, path: str) -> Awaitable[None] | None:
        """Make the pages, if this is the first time that one is asked for."""
        made = self._pages_made
        if made is None:
            if path.startswith(PLAIN_PATHS):
                return None
            made = self._pages_made = asyncio.ensure_future(self._make_pages())
        return None if made.done() else asyncio.shield(made)

    async def _make_pages(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, importlib.import_module, "distributed.dashboard.core")
            pages = await loop.run_in_executor(
                None, importlib.import_module, "ract.dashboard.pages"
            )
            from distributed.dashboard.core import BokehApplication

            self._add(
                BokehApplication(
                    {
                        f"/ract/{name}": partial(page, self._source)
                        for name, page in pages.PAGES.items()
                    },
                    self._scheduler,
                )
            )
            await self._make_dask_pages()
        except Exception:
            # No pages, then: 404. The scheduler has more important things to do than to fail.
            logger.exception("the dashboard's pages could not be made")

    async def _make_dask_pages(self) -> None:
        application = self._scheduler.http_application
        if any("/status" in getattr(app, "app_paths", ()) for app in application.applications):
            return
        dask_pages = await asyncio.get_running_loop().run_in_executor(
            None, importlib.import_module, "distributed.dashboard.scheduler"
        )
        dask_pages.connect(application, self._scheduler.http_server, self._scheduler)

    def _add(self, bokeh_application: Any) -> None:
        self._scheduler.http_application.add_application(bokeh_application)
        bokeh_application.initialize(IOLoop.current())
        bokeh_application.start()


def guard(server: Any, access: Access) -> None:
    """Let nobody ask the HTTP server of a scheduler or worker without the token."""
    server.http_server.request_callback = Guard(server.http_application, access)


def install(scheduler: Any, source: Source, token: str, hosts: Collection[str] = ()) -> Dashboard:
    """Add ``/ract/`` and ``/metrics`` to the scheduler's HTTP server and guard all of it.

    Args:
        scheduler: A started `distributed.Scheduler`.
        source: Answers the pages' questions.
        token: The cluster's join token, which requests must carry.
        hosts: Further names by which this machine is asked; see `Access`.
    """
    access = Access(token, hosts)
    dashboard = Dashboard(scheduler, source, access)
    scheduler.http_application.add_handlers(
        r".*",
        [
            (r"/ract/?", web.RedirectHandler, {"url": "/ract/overview", "permanent": False}),
            (r"/ract/api/([a-z_]+)", _Api, {"source": source}),
        ],
    )
    metrics.install(scheduler, source)
    scheduler.http_server.request_callback = Guard(
        scheduler.http_application, access, dashboard.prepare
    )
    return dashboard


class _Api(web.RequestHandler):
    """``GET /ract/api/<op>``: what the pages show, as JSON."""

    def initialize(self, source: Source) -> None:
        self._source = source

    def get(self, op: str) -> None:
        if op not in API_OPS:
            self.set_status(404)
            self.finish({"error": f"no such question; there are {', '.join(sorted(API_OPS))}"})
            return
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        value = self._source.query(op, {"limit": 10_000})
        self.finish(json.dumps(value, default=_plain))


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
