"""The plain HTTP routes below ``/ract/``: data for the pages, logs, the style, the script.

Nothing here needs Bokeh. Who may ask is decided before (`ract.dashboard.guard`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

from tornado import web

from ract.dashboard.access import Access
from ract.dashboard.source import Source, look

logger = logging.getLogger(__name__)

#: What /ract/api/ answers; other questions of the scheduler can change something.
API_OPS = frozenset({"nodes", "actors", "tasks", "objects", "workers", "jobs", "store", "status"})
STATIC = Path(__file__).parent / "static"
ASSETS = {
    "ract.css": "text/css; charset=utf-8",
    "ract.js": "text/javascript; charset=utf-8",
}

POLL_MS_MIN = 3000
COST_PART = 0.02
"""Of the scheduler's time a viewer of a table may take: what is slow is asked for less often."""

PIECE_BYTES_MAX = 256 * 1024
SEARCHED_BYTES_MAX = 8 * 2**20
FOUND_MAX = 500

COPIES_ASKED_MAX = 50
"""So many nodes are asked where they have an object."""


def routes(source: Source, access: Access) -> list[Any]:
    """For ``tornado.web.Application.add_handlers``."""
    return [
        (r"/ract/api/([a-z_]+)", Api, {"source": source}),
        (r"/ract/data/([a-z_]+)", Data, {"source": source}),
        (r"/ract/logs/(files|read|search)", Logs, {"source": source}),
        (r"/ract/assets/([a-z]+\.[a-z]+)", Asset),
        (r"/ract/key", Key, {"access": access}),
    ]


class _Plain(web.RequestHandler):
    """What is never kept by browsers, nor taken for something else than it is."""

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")

    def answer(self, value: Any, status: int = 200) -> None:
        """Finish with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(value, default=_plain))

    def arguments(self) -> dict[str, str]:
        """The query's, the last of each name."""
        return {name: self.get_query_argument(name) for name in self.request.query_arguments}


class Api(_Plain):
    """``GET /ract/api/<op>``: answers of `ract.scheduler.queries.queries`, as JSON."""

    def initialize(self, source: Source) -> None:
        self._source = source

    def get(self, op: str) -> None:
        if op not in API_OPS:
            there_are = ", ".join(sorted(API_OPS))
            self.answer({"error": f"no such question; there are {there_are}"}, 404)
            return
        self.answer(self._source.query(op, {"limit": 10_000}))


class Data(_Plain):
    """``GET /ract/data/<view>?...``: what a view says, and when to ask again (``poll_ms``)."""

    def initialize(self, source: Source) -> None:
        self._source = source

    async def get(self, view: str) -> None:
        from ract.dashboard.views import VIEWS

        if view not in VIEWS:
            self.answer({"error": f"no such view; there are {', '.join(sorted(VIEWS))}"}, 404)
            return
        began = time.perf_counter()
        try:
            value = look(self._source, view, self.arguments())
        except LookupError as error:
            self.answer({"error": str(error.args[0] if error.args else error)}, 404)
            return
        except ValueError as error:
            self.answer({"error": str(error)}, 400)
            return
        cost_ms = 1000 * (time.perf_counter() - began)
        poll_ms = max(POLL_MS_MIN, round(cost_ms / COST_PART))
        if view == "object_copies":
            await _tell_places(self._source, value["rows"])
        self.answer({"value": value, "poll_ms": poll_ms})


async def _tell_places(source: Source, copies: list[dict[str, Any]]) -> None:
    """Have nodes say where they have an object, in memory or not: only they know."""

    async def ask(copy: dict[str, Any]) -> None:
        try:
            said = await source.stored(copy["node_id"], copy["object_id"])
        except LookupError as error:
            copy["place"] = f"not known: {error.args[0] if error.args else error}"
            return
        where = "behind a URL" if said["is_away"] else "on disk" if said["is_spilled"] else "memory"
        copy.update(where=where, place=said["place"])

    await asyncio.gather(*(ask(copy) for copy in copies[:COPIES_ASKED_MAX] if copy["node_id"]))


class Logs(_Plain):
    """``GET /ract/logs/``: ``files`` of a node, ``read`` a piece of one, ``search`` one."""

    def initialize(self, source: Source) -> None:
        self._source = source

    async def get(self, what: str) -> None:
        try:
            self.answer(await getattr(self, f"_{what}")())
        except LookupError as error:
            self.answer({"error": str(error.args[0])}, 404)
        except ValueError as error:
            self.answer({"error": str(error)}, 400)

    async def _files(self) -> dict[str, Any]:
        return {"files": await self._source.log_files(self._node_id())}

    async def _read(self) -> dict[str, Any]:
        """Whole lines: the last ``tail`` ones, or from ``offset``; ``rest``: an unfinished one."""
        wanted: dict[str, Any] = {"bytes": PIECE_BYTES_MAX}
        for name in ("offset", "tail", "rest"):
            if given := self.get_query_argument(name, ""):
                wanted[name] = max(0, int(given))
        name = self.get_query_argument("name")
        piece = await self._source.read_log(self._node_id(), name, **wanted)
        text = bytes(piece["data"]).decode("utf-8", "replace")
        return {"text": text, "next": piece["offset"], "end": piece["size"]}

    async def _search(self) -> dict[str, Any]:
        """Lines with ``q``, from ``offset`` on; how far it was searched, and where the end is."""
        wanted = self.get_query_argument("q").lower().encode()
        if not wanted:
            raise ValueError("q is empty: say what to search for")
        name, node_id = self.get_query_argument("name"), self._node_id()
        begin = at = max(0, int(self.get_query_argument("offset", "0")))
        found: list[str] = []
        while True:
            piece = await self._source.read_log(node_id, name, offset=at, bytes=PIECE_BYTES_MAX)
            for line in bytes(piece["data"]).splitlines():
                if wanted in line.lower():
                    found.append(line.decode("utf-8", "replace"))
            is_done = piece["offset"] <= at or piece["offset"] >= piece["size"]
            at = piece["offset"]
            if is_done or at - begin >= SEARCHED_BYTES_MAX or len(found) >= FOUND_MAX:
                return {"lines": found, "offset": at, "end": piece["size"], "is_done": is_done}

    def _node_id(self) -> str:
        node_id = self.get_query_argument("node_id")
        bytes.fromhex(node_id)  # raises ValueError
        return node_id


class Asset(_Plain):
    """``GET /ract/assets/<file>``: the style and the script."""

    def get(self, name: str) -> None:
        if name not in ASSETS:
            raise web.HTTPError(404)
        self.set_header("Content-Type", ASSETS[name])
        self.set_header("Cache-Control", "no-cache")
        self.finish((STATIC / name).read_bytes())


class Key(_Plain):
    """``POST /ract/key``: a key for one more link, to who has the token (``display`` asks)."""

    def initialize(self, access: Access) -> None:
        self._access = access

    def post(self) -> None:
        self.answer({"key": self._access.new_key()})


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
