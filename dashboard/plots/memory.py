"""What the nodes store, and what moved between them."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, FactorRange, LinearColorMapper, Range1d

from ract.dashboard.plots import base
from ract.dashboard.plots.base import BLUE, DIM, GREEN, ORANGE, Given
from ract.dashboard.source import look
from ract.dashboard.views.table import size_text

NODES_MAX = 30
ROW_HEIGHT = 26
KINDS = {
    "pinned": ("pinned", BLUE, 0.95),
    "copies": ("copies", GREEN, 0.9),
    "reusable": ("reusable", DIM, 0.6),
    "free": ("free", DIM, 0.18),
    "spilled": ("on disk", ORANGE, 0.9),
}


class Stores:
    """One bar per node: what its store holds, has room for, and has put on disk."""

    def __init__(self, given: Given) -> None:
        self._source = given.source
        self._data = ColumnDataSource({"node": [], **{key: [] for key in KINDS}})
        self._nodes = FactorRange()
        self.view = base.new_figure(y_range=self._nodes, x_range=Range1d(0, 1), height=150)
        drawn = self.view.hbar_stack(
            list(KINDS),
            y="node",
            height=0.6,
            source=self._data,
            color=[color for _, color, _ in KINDS.values()],
            fill_alpha=[alpha for _, _, alpha in KINDS.values()],
            line_color=None,
            legend_label=[title for title, _, _ in KINDS.values()],
        )
        for bars, (key, (title, _, _)) in zip(drawn, KINDS.items(), strict=True):
            self.view.add_tools(
                base.hover(
                    [("", "@node"), (title, f"@{key}{{custom}}")],
                    renderers=[bars],
                    formatters={f"@{key}": base.bytes_hover(key)},
                )
            )
        base.format_axis(self.view.xaxis, "bytes")
        self.view.ygrid.grid_line_color = None
        base.legend_above(self.view)
        self._remark = base.Remark(self.view)
        self.update()

    def update(self) -> None:
        """Show the newest reports, of the fullest nodes if there are many."""
        rows = look(self._source, "stores", {})["rows"]
        rows = sorted(rows, key=lambda row: -row["used"])[:NODES_MAX]
        rows.sort(key=lambda row: row["node"])
        names = [row["node"] for row in rows][::-1]
        if list(self._nodes.factors) != names:
            self._nodes.factors = names
            self.view.height = 84 + ROW_HEIGHT * max(3, len(names))
        data = {"node": [row["node"] for row in rows]}
        data |= {key: [row[key] for row in rows] for key in KINDS}
        if data != self._data.data:
            self._data.data = data
            self.view.x_range.end = max([1, *(row["total"] + row["spilled"] for row in rows)])
        text = "" if rows else "No node has reported its store yet."
        self._remark.say(text)


class Transfers:
    """A matrix: who has received how much from whom."""

    def __init__(self, given: Given) -> None:
        self._source = given.source
        keys = ("to", "from", "bytes", "text")
        self._data = ColumnDataSource({key: [] for key in keys})
        self._from, self._to = FactorRange(), FactorRange()
        self.view = base.new_figure(x_range=self._from, y_range=self._to, height=150)
        self._mapper = LinearColorMapper(palette=_shades(), low=0, high=1)
        cells = self.view.rect(
            x="from",
            y="to",
            width=0.96,
            height=0.92,
            source=self._data,
            fill_color={"field": "bytes", "transform": self._mapper},
            line_color=None,
        )
        self.view.text(
            x="from",
            y="to",
            text="text",
            source=self._data,
            text_align="center",
            text_baseline="middle",
            **base.plain_text("11px"),
        )
        self.view.add_tools(
            base.hover([("from", "@from"), ("to", "@to"), ("", "@text")], renderers=[cells])
        )
        self.view.grid.grid_line_color = None
        self.view.xaxis.axis_label = "from"
        self.view.yaxis.axis_label = "to"
        self.view.axis.axis_label_text_color = DIM
        self.view.axis.axis_label_text_font_size = "11px"
        self.view.axis.axis_label_text_font_style = "normal"
        self._remark = base.Remark(self.view)
        self.update()

    def update(self) -> None:
        """Show the newest sums, of the nodes that moved most if there are many."""
        found = look(self._source, "transfers", {})
        moved: dict[str, int] = {}
        for cell in found["cells"]:
            for name in (cell["from"], cell["to"]):
                moved[name] = moved.get(name, 0) + cell["bytes"]
        names = sorted(sorted(moved, key=lambda name: -moved[name])[:NODES_MAX])
        if list(self._from.factors) != names:
            self._from.factors = names
            self._to.factors = names[::-1]
            self.view.height = 84 + ROW_HEIGHT * max(3, len(names))
        kept = [c for c in found["cells"] if c["from"] in moved and c["to"] in moved]
        kept = [c for c in kept if c["from"] in names and c["to"] in names]
        data: dict[str, list[Any]] = {
            "to": [cell["to"] for cell in kept],
            "from": [cell["from"] for cell in kept],
            "bytes": [cell["bytes"] for cell in kept],
            "text": [size_text(cell["bytes"]) for cell in kept],
        }
        if data != self._data.data:
            self._mapper.high = max([1, *data["bytes"]])
            self._data.data = data
        text = "Nothing has moved between nodes."
        if not found["is_reported"]:
            text = "Transfers are not reported by the nodes."
        self._remark.say("" if kept else text)


def _shades() -> list[str]:
    """From faint to strong; see-through, so that it fits light and dark."""
    return [f"#4a90d9{alpha:02x}" for alpha in range(24, 200, 8)]
