"""Put ract's pages, and the guard, on the HTTP server that distributed's scheduler has anyway.

Bokeh costs 0.3 to 0.7 s to import and is needed by people who look. So the pages with plots, and
Dask's own if the scheduler was started without, are made when the first of them is asked for; the
import runs in a thread, so that the cluster goes on meanwhile. Pages without plots are plain HTML.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Collection
from functools import partial
from typing import Any

from tornado import web
from tornado.ioloop import IOLoop
from tornado.routing import Rule

from ract.dashboard import data, metrics
from ract.dashboard.access import Access
from ract.dashboard.guard import Guard
from ract.dashboard.source import Source

logger = logging.getLogger(__name__)

#: Paths below these are no pages: they are answered without Bokeh.
PLAIN_PATHS = (
    *("/ract/api/", "/ract/data/", "/ract/logs/", "/ract/assets/", "/ract/key"),
    *("/health", "/metrics", "/info/", "/json/", "/api/", "/sitemap.json"),
)


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
            documents = await loop.run_in_executor(None, _import_documents)
            self._add_pages(documents)
            await self._make_dask_pages()
        except Exception:
            # No pages, then: 404. The scheduler has more important things to do than to fail.
            logger.exception("the dashboard's pages could not be made")

    def _add_pages(self, documents: Any) -> None:
        from distributed.dashboard.core import BokehApplication

        from ract.dashboard.pages import PAGES
        from ract.dashboard.plots import PLOTS

        applications = {
            f"/ract/{page.name}": partial(documents.page_document, page, self._source)
            for page in PAGES.values()
            if page.plots
        }
        for name in PLOTS:
            alone = partial(documents.plot_document, name, self._source)
            applications[f"/ract/individual/{name}"] = alone
        plain = {page.name: page for page in PAGES.values() if not page.plots}
        self._scheduler.http_application.add_handlers(
            r".*", [(rf"/ract/({'|'.join(plain)})", _PlainPage, {"pages": plain})]
        )
        self._add(BokehApplication(applications, self._scheduler))

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


def _import_documents() -> Any:
    from ract.dashboard import documents

    return documents


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
    application = scheduler.http_application
    application.add_handlers(
        r".*",
        [
            (r"/ract/?", web.RedirectHandler, {"url": "/ract/overview", "permanent": False}),
            *data.routes(source, access),
        ],
    )
    # Dask has this path already, and the first rule that fits wins.
    plots = web.URLSpec(r"/individual-plots\.json", _IndividualPlots, {"scheduler": scheduler})
    application.default_router.rules.insert(
        0, Rule(plots.matcher, plots.target, plots.target_kwargs)
    )
    metrics.install(scheduler, source)
    scheduler.http_server.request_callback = Guard(application, access, dashboard.prepare)
    return dashboard


class _PlainPage(web.RequestHandler):
    """A page without plots."""

    def initialize(self, pages: dict[str, Any]) -> None:
        self._pages = pages

    def get(self, name: str) -> None:
        from ract.dashboard import shell

        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(shell.document(self._pages[name]))


class _IndividualPlots(web.RequestHandler):
    """``/individual-plots.json``: where JupyterLab's Dask extension finds plots, Dask's and ours.

    To be on its list, an address has to begin with ``individual`` below the dashboard's root.
    """

    def initialize(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def get(self) -> None:
        found = {}
        for application in self._scheduler.http_application.applications:
            for path in getattr(application, "app_paths", ()):
                last = path.rpartition("/")[2]
                if path.startswith("/ract/individual/") and not last.startswith(
                    ("node-", "actor-")
                ):
                    found[f"Ract {last.replace('-', ' ').title()}"] = path
                elif path.startswith("/individual-"):
                    found[path.strip("/").replace("-", " ").title()] = path
        self.finish(found)
