"""Who calls whom, in one job: single calls, or functions if there are many."""

from __future__ import annotations

import math
import time
from typing import Any

from bokeh.models import ColumnDataSource, Range1d

from ract.dashboard.plots import base
from ract.dashboard.plots.base import BLUE, GREEN, GREY, RED, Given
from ract.dashboard.source import look

WIDTH, TALL = 0.74, 0.66
ROW_HEIGHT = 46
REMARK_HEIGHT = 20
COUNTS_PERIOD_S = 10.0
COLORS = {"driver": GREY, "task": BLUE, "method": GREEN}


class TaskGraph:
    """Boxes in columns, by how many calls they are away from the driver."""

    def __init__(self, given: Given) -> None:
        self._source = given.source
        self._args = {"job_id": given.args.get("id", "")}
        self._boxes = ColumnDataSource(
            {key: [] for key in ("x", "y", "name", "label", "note", "fill", "line", "calls")}
        )
        edges = ("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1", "width", "what")
        self._edges = ColumnDataSource({key: [] for key in edges})
        self.view = base.new_figure(x_range=Range1d(-0.5, 1.5), y_range=Range1d(-1, 1), height=160)
        self.view.axis.visible = False
        self.view.grid.visible = False
        self._draw()
        self._remark = base.Remark(self.view)
        self._last: Any = None
        self._shape: list[Any] | None = None
        self._drawn_at = 0.0
        self.update()

    def _draw(self) -> None:
        self.view.bezier(
            *("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1"),
            source=self._edges,
            line_color=GREY,
            line_width="width",
            line_alpha=0.7,
        )
        self.view.scatter(
            "x1",
            "y1",
            source=self._edges,
            marker="triangle",
            angle=-math.pi / 2,
            size=8,
            color=GREY,
        )
        boxes = self.view.rect(
            *("x", "y"),
            source=self._boxes,
            width=WIDTH,
            height=TALL,
            fill_color="fill",
            fill_alpha=0.16,
            line_color="line",
            line_width=1.3,
            border_radius=4,
        )
        for field, offset, size in (("label", -7, "12px"), ("note", 8, "11px")):
            self.view.text(
                *("x", "y"),
                text=field,
                source=self._boxes,
                text_align="center",
                text_baseline="middle",
                y_offset=offset,
                **base.plain_text(size),
            )
        self.view.add_tools(
            base.hover([("", "@name"), ("calls", "@calls{0,0}"), ("", "@note")], renderers=[boxes])
        )

    def update(self) -> None:
        """Lay it out anew if it has changed; if only numbers have, now and then."""
        found = look(self._source, "graph", self._args)
        shape = [{**node, "calls": 0} for node in found["nodes"]]
        shape += [{**edge, "calls": 0} for edge in found["edges"]]
        now = time.monotonic()
        is_due = shape != self._shape or now - self._drawn_at >= COUNTS_PERIOD_S
        if found == self._last or not is_due:
            return
        self._last, self._shape, self._drawn_at = found, shape, now
        places = _placed(found)
        data: dict[str, list[Any]] = {key: [] for key in self._boxes.data}
        for node in found["nodes"]:
            x, y = places[node["id"]]
            note = _of_call(node) if "state" in node else _of_function(node)
            color = COLORS[node["kind"]]
            values = (x, y, node["name"], _cut(node["name"]), note, color)
            line = RED if node["failed"] else color
            for key, value in zip(data, (*values, line, node["calls"]), strict=True):
                data[key].append(value)
        self._boxes.data = data
        self._edges.data = _curves(found["edges"], places)
        columns = max((x for x, _ in places.values()), default=1)
        rows = max((abs(y) for _, y in places.values()), default=0)
        self.view.x_range.update(start=-0.5, end=max(2.5, columns + 0.5))
        high = max(2, 2 * rows + 1) * ROW_HEIGHT + 40
        below = REMARK_HEIGHT * (2 * rows + 1.2) / high  # in the units of the boxes
        self.view.y_range.update(start=-rows - 0.6 - below, end=rows + 0.6)
        self.view.height = int(high + REMARK_HEIGHT)
        what = "One box per call." if found["by"] == "call" else "One box per function."
        self._remark.say(what if places else "No call of this job is remembered.")
        self.view.axis.visible = self.view.grid.visible = False


def _of_function(node: dict[str, Any]) -> str:
    failed = f", {node['failed']:,} failed" if node["failed"] else ""
    return "" if node["kind"] == "driver" else f"{node['calls']:,} calls{failed}"


def _of_call(node: dict[str, Any]) -> str:
    took = "" if node["took_s"] is None else f", {_seconds(node['took_s'])}"
    again = f", {node['calls']} attempts" if node["calls"] > 1 else ""
    return f"{node['state'].lower().replace('_', ' ')}{took}{again}"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _placed(found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Where each box stands: right of all who call it, in rows around 0."""
    calls: dict[str, list[str]] = {}
    for edge in found["edges"]:
        calls.setdefault(edge["from"], []).append(edge["to"])
    names = [node["id"] for node in found["nodes"]]
    column = dict.fromkeys(names, 0)
    order = _without_cycles(names, calls)
    for name, called in order:
        for each in called:
            column[each] = max(column[each], column[name] + 1)
    rows: dict[int, list[str]] = {}
    for name in names:
        rows.setdefault(column[name], []).append(name)
    return {
        name: (float(x), (len(inside) - 1) / 2 - i)
        for x, inside in rows.items()
        for i, name in enumerate(inside)
    }


def _without_cycles(names: list[str], calls: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Each function with those it calls, callers first; calls back to a caller are left out."""
    forward: dict[str, list[str]] = {name: [] for name in names}
    done: dict[str, None] = {}
    open_: dict[str, None] = {}
    for first in names:
        path = [(first, iter(calls.get(first, ())))] if first not in done else []
        open_.update({name: None for name, _ in path})
        while path:
            name, rest = path[-1]
            called = next(rest, None)
            if called is None:
                path.pop()
                del open_[name]
                done[name] = None
            elif called not in open_:
                forward[name].append(called)
                if called not in done:
                    open_[called] = None
                    path.append((called, iter(calls.get(called, ()))))
    return [(name, forward[name]) for name in reversed(done)]


def _curves(
    edges: list[dict[str, Any]], places: dict[str, tuple[float, float]]
) -> dict[str, list[Any]]:
    keys = ("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1", "width", "what")
    data: dict[str, list[Any]] = {key: [] for key in keys}
    for edge in edges:
        (x0, y0), (x1, y1) = places[edge["from"]], places[edge["to"]]
        begin, end = x0 + WIDTH / 2, x1 - WIDTH / 2 - 0.02
        if x1 > x0:
            bend = (end - begin) / 2
            middle = (begin + bend, y0, end - bend, y1)
        else:  # back, or to itself: around below
            middle = (begin + 0.35, y0 - 0.9, end - 0.35, y1 - 0.9)
        width = 1 + min(4.0, math.log10(edge["calls"]) if edge["calls"] > 1 else 0.0)
        values = (begin, y0, end, y1, *middle, width, f"{edge['from']} → {edge['to']}")
        for key, value in zip(keys, values, strict=True):
            data[key].append(value)
    return data


def _cut(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
