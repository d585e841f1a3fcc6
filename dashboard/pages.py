"""The pages: Bokeh documents with live tables, one function per page.

A page asks its source once a second and shows the answer; it keeps nothing. Import this lazily: it
imports Bokeh.
"""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bokeh.document import Document
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, DataTable, Div, TableColumn

if TYPE_CHECKING:
    from ract.dashboard.app import Source

logger = logging.getLogger(__name__)

REFRESH_MS = 1000
ROWS_MAX = 500
"""A browser shows more than this slowly, and a person not at all."""

Row = dict[str, Any]
Page = Callable[["Source", Any, dict[str, Any], Document], None]


class _Table:
    """A live table: ``columns`` are (key of a row, title, width in pixels)."""

    def __init__(self, columns: Sequence[tuple[str, str, int]]) -> None:
        self._keys = [key for key, _, _ in columns]
        self._data = ColumnDataSource({key: [] for key in self._keys})
        self.view = DataTable(
            source=self._data,
            columns=[TableColumn(field=key, title=title, width=w) for key, title, w in columns],
            index_position=None,
            sizing_mode="stretch_width",
            height=420,
            selectable=False,
        )

    def show(self, rows: Sequence[Row]) -> None:
        """Replace the rows; nothing is sent if they are the same."""
        data = {key: [_text(row.get(key)) for row in rows] for key in self._keys}
        if data != self._data.data:
            self._data.data = data


def overview(source: Source, scheduler: Any, extra: dict[str, Any], doc: Document) -> None:
    """Resources, what waits, and the nodes."""
    summary = Div()
    table = _Table(
        [
            ("node", "Node", 90),
            ("name", "Name", 160),
            ("address", "Address", 190),
            ("pid", "Pid", 70),
            ("state", "State", 80),
            ("resources", "Resources", 260),
            ("objects", "Objects", 80),
            ("bytes", "In store", 90),
        ]
    )

    def update() -> None:
        status = source.query("status", {})
        store = source.query("store", {})
        summary.text = _summary(status)
        table.show([_node_row(node, store) for node in source.query("nodes", {})])

    _live(doc, "Overview", update, summary, table.view)


def actors(source: Source, scheduler: Any, extra: dict[str, Any], doc: Document) -> None:
    """Every actor, the dead ones included."""
    count = Div()
    table = _Table(
        [
            ("actor", "Actor", 110),
            ("class_name", "Class", 180),
            ("name", "Name", 120),
            ("state", "State", 140),
            ("node", "Node", 90),
            ("pid", "Pid", 70),
            ("num_restarts", "Restarts", 70),
            ("cause", "Why it ended", 300),
        ]
    )

    def update() -> None:
        answer = source.query("actors", {"limit": ROWS_MAX})
        rows = answer["rows"]
        count.text = _count(len(rows), answer["total"], "actors")
        table.show(
            [
                {
                    **row,
                    "actor": _short(row.get("actor_id"), 12),
                    "node": _short(row.get("node_id")),
                    "cause": _cause(row.get("death_cause")),
                }
                for row in rows
            ]
        )

    _live(doc, "Actors", update, count, table.view)


def memory(source: Source, scheduler: Any, extra: dict[str, Any], doc: Document) -> None:
    """What each node stores, and every published object with who holds it."""
    count = Div()
    stores = Div()
    table = _Table(
        [
            ("object_id", "Object", 420),
            ("size", "Size", 90),
            ("task_status", "State", 90),
            ("reference_type", "Held as", 170),
            ("pid", "By pid", 70),
            ("on", "Stored on", 160),
            ("call_site", "Made by", 160),
        ]
    )

    def update() -> None:
        answer = source.query("objects", {"limit": ROWS_MAX})
        rows = answer["rows"]
        count.text = _count(len(rows), answer["total"], "references")
        stores.text = _stores(source.query("store", {}))
        table.show(
            [
                {
                    **row,
                    "size": size_text(row.get("object_size") or 0),
                    "on": ", ".join(_short(node) for node in row.get("locations", ())),
                }
                for row in rows
            ]
        )

    _live(doc, "Memory", update, stores, count, table.view)


PAGES: dict[str, Page] = {"overview": overview, "actors": actors, "memory": memory}


# --------------------------------------------------------------------------- parts of pages


def _live(doc: Document, title: str, update: Callable[[], None], *parts: Any) -> None:
    """Lay a page out and refresh it as long as somebody looks."""
    trouble = Div()

    def refresh() -> None:
        # A source that cannot answer (the scheduler is ending) must not end the page.
        try:
            update()
        except Exception as error:
            logger.debug("a page could not be refreshed", exc_info=True)
            trouble.text = f"<b>No news since {time.strftime('%H:%M:%S')}</b>: {_escape(error)}"
        else:
            trouble.text = ""

    refresh()
    doc.title = f"ract: {title}"
    doc.add_root(column(Div(text=_navigation(title)), trouble, *parts, sizing_mode="stretch_width"))
    doc.add_periodic_callback(refresh, REFRESH_MS)


def _navigation(current: str) -> str:
    links = [
        f"<b>{name.title()}</b>"
        if name.title() == current
        else f'<a href="{name}">{name.title()}</a>'
        for name in PAGES
    ]
    return " &middot; ".join(["<b>ract</b>", *links, '<a href="/status">Dask</a>'])


def _summary(status: Row) -> str:
    resources = "".join(
        f"<li>{_escape(name)}: {use['used']:g} of {use['total']:g} used</li>"
        for name, use in sorted(status.get("resources", {}).items())
    )
    demands = "".join(
        f"<li>{demand['count']} &times; {_escape(demand['text'])} "
        f"({_escape(', '.join(demand['names']) or 'unnamed')})</li>"
        for demand in status.get("pending_demands", ())
    )
    actors_by_state = ", ".join(
        f"{n} {_escape(state)}" for state, n in sorted(status.get("actors", {}).items())
    )
    return (
        f"<ul>{resources}</ul>"
        f"Actors: {actors_by_state or 'none'}. Jobs running: {status.get('jobs', 0)}. "
        f"Leases: {status.get('leases', 0)}. Published objects: {status.get('objects', 0)}."
        + (f"<br>Waiting for resources:<ul>{demands}</ul>" if demands else "")
    )


def _node_row(node: Row, store: dict[str, Row]) -> Row:
    kept = store.get(node["NodeID"], {})
    return {
        "node": _short(node["NodeID"]),
        "name": node.get("NodeName") or node.get("NodeManagerHostname"),
        "address": node.get("Address"),
        "pid": node.get("pid"),
        "state": "alive" if node.get("Alive") else node.get("DeathReasonMessage") or "dead",
        "resources": _amounts(node.get("Resources", {})),
        "objects": kept.get("objects", 0),
        "bytes": size_text(kept.get("object_bytes", 0)),
    }


def _stores(stores: dict[str, Row]) -> str:
    lines = []
    for node_id, stats in stores.items():
        facts = ", ".join(
            f"{_escape(key)} {size_text(value) if key.endswith('bytes') else value}"
            for key, value in sorted(stats.items())
            if isinstance(value, int | float)
        )
        lines.append(f"<li>{_short(node_id)}: {facts}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {size_text(n) if name in ('memory', 'object_store_memory') else f'{n:g}'}"
        for name, n in sorted(resources.items())
        if not name.startswith("node:")
    )


def _cause(cause: Row | None) -> str:
    if not cause:
        return ""
    return f"{cause.get('kind', '')}: {cause.get('detail', '')}".rstrip(": ")


def _count(shown: int, total: int, what: str) -> str:
    return f"{total} {what}" + (f", the first {shown} shown" if shown < total else "")


def size_text(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _short(hex_id: str | None, digits: int = 8) -> str:
    return (hex_id or "")[:digits]


def _text(value: Any) -> str | int | float:
    return value if isinstance(value, int | float) else "" if value is None else str(value)


def _escape(value: object) -> str:
    return html.escape(str(value))
