"""When calls ran, and where: one row per executor."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, CustomJSTickFormatter, FactorRange, Range1d

from ract.dashboard.plots import base
from ract.dashboard.plots.base import PALETTE, RED, Given
from ract.dashboard.source import look
from ract.dashboard.views.stream import SUMMED

ROW_HEIGHT = 17
ROWS_MAX = 40
STATES = {SUMMED: "finished, at some time within the bar"}


class TaskStream:
    """The calls of the last minute."""

    def __init__(self, given: Given, **args: str) -> None:
        self._source = given.source
        self._args = {"window_s": "60", **args}
        self._colors: dict[str, str] = {}
        keys = ("left", "right", "lane", "name", "calls", "took", "state", "color", "alpha")
        self._data = ColumnDataSource({key: [] for key in keys})
        self._lanes = FactorRange()
        self._span = Range1d(0, 1)
        self.view = base.new_figure(x_range=self._span, y_range=self._lanes, height=120)
        self.view.hbar(
            y="lane",
            left="left",
            right="right",
            height=0.74,
            fill_color="color",
            fill_alpha="alpha",
            line_color="color",
            line_alpha="alpha",
            source=self._data,
        )
        self.view.add_tools(
            base.hover([("", "@name"), ("calls", "@calls{0,0}"), ("took", "@took"), ("", "@state")])
        )
        axis = self.view.xaxis
        axis.formatter = CustomJSTickFormatter(
            args={"span": self._span},
            code="const s = Math.round(tick); return s === 0 ? 'now' : s + ' s'",
        )
        axis.ticker.desired_num_ticks = 7
        self.view.ygrid.grid_line_color = None
        self.view.yaxis.major_label_text_font_size = "10px"
        self._remark = base.Remark(self.view)
        self._last: Any = None
        self.update()

    def update(self) -> None:
        """Show the newest bars."""
        found = look(self._source, "stream", self._args)
        until = found["until_ms"] / 1000
        window = float(self._args["window_s"])
        if (self._span.start, self._span.end) != (-window, 0.0):
            self._span.update(start=-window, end=0.0)
        mark = (
            len(found["bars"]),
            found["calls"],
            found["bars"][0] if found["bars"] else round(until),
        )
        if not found["bars"] and self._last == ():
            return
        self._last = mark if found["bars"] else ()
        lanes = found["lanes"][:ROWS_MAX]
        if list(self._lanes.factors) != lanes[::-1]:
            self._lanes.factors = lanes[::-1]
            self.view.height = 60 + ROW_HEIGHT * max(3, len(lanes))
        kept = set(lanes)
        bars = [bar for bar in found["bars"] if bar[4] in kept]
        self._data.data = {
            "left": [max(-window, start - until) for start, *_ in bars],
            "right": [min(0.0, end - until) for _, end, *_ in bars],
            "lane": [bar[4] for bar in bars],
            "name": [bar[3] for bar in bars],
            "calls": [bar[2] for bar in bars],
            "took": [_seconds(bar[1] - bar[0]) for bar in bars],
            "state": [STATES.get(bar[5], bar[5].lower()) for bar in bars],
            "color": [self._color(bar[3], bar[5]) for bar in bars],
            "alpha": [0.35 if bar[5] == SUMMED else 1.0 for bar in bars],
        }
        text = "" if bars else "No call has ended in the last minute."
        self._remark.say(text)

    def _color(self, name: str, state: str) -> str:
        if state == "FAILED":
            return RED
        return self._colors.setdefault(name, PALETTE[len(self._colors) % len(PALETTE)])


class ActorStream(TaskStream):
    """The calls of one actor."""

    def __init__(self, given: Given) -> None:
        super().__init__(given, actor_id=given.args.get("id", ""))


def _seconds(s: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if s >= size:
            return f"{s / size:.3g} {unit}"
    return f"{s * 1e6:.3g} µs"
