"""What plots share: figures that fit both themes, axes of time and of bytes.

Colours of axes and texts are set by the browser's script, which knows whether it is dark; those of
data are chosen to stand out on both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bokeh.models import (
    AdaptiveTicker,
    CustomJSHover,
    CustomJSTickFormatter,
    DatetimeTicker,
    HoverTool,
    Label,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure

from ract.dashboard.source import Source

HEIGHT = 190
BLUE, GREEN, RED, ORANGE, GREY = "#4a90d9", "#3f9f6b", "#d6544d", "#e09a2d", "#8a95a3"
PALETTE = (
    *("#4a90d9", "#e09a2d", "#3f9f6b", "#b06bc9", "#2aa5a0", "#d96b8f", "#8f8d2c", "#7b7fd6"),
    *("#c0763c", "#5aa6c8", "#9c9c9c", "#6fae3a"),
)
DIM = "#7d8896"
FONT = "system-ui, sans-serif"

_BYTES_JS = """
let n = Math.abs(VALUE), i = 0;
const units = ["B", "KiB", "MiB", "GiB", "TiB"];
while (n >= 1024 && i < 4) { n /= 1024; i += 1; }
const digits = n >= 100 || Number.isInteger(n) ? 0 : 1;
return (VALUE < 0 ? "-" : "") + n.toFixed(digits) + " " + units[i];
"""
_CLOCK_JS = """
const d = new Date(VALUE), two = (n) => String(n).padStart(2, "0");
return two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds());
"""


@dataclass(frozen=True)
class Given:
    """What a plot is made from: the source, and the arguments of its page."""

    source: Source
    args: Mapping[str, str] = field(default_factory=dict)


class Drawing(Protocol):
    """A plot in a document of one viewer."""

    view: Any  #: the figure

    def update(self) -> None:
        """Show what is new."""


def new_figure(**options: Any) -> Any:
    """A figure without frills that takes the width of its place."""
    given = {
        "height": HEIGHT,
        "sizing_mode": "stretch_width",
        "toolbar_location": None,
        "tools": "",
        "background_fill_color": None,
        "border_fill_color": None,
        "outline_line_color": None,
        "min_border_left": 6,
        "min_border_right": 10,
        "min_border_top": 6,
        **options,
    }
    fig = figure(**given)
    for axis in fig.axis:
        axis.axis_line_color = DIM
        axis.major_tick_line_color = DIM
        axis.minor_tick_line_color = None
        axis.major_label_text_color = DIM
        axis.major_label_text_font_size = "11px"
        axis.major_label_text_font = FONT
    for grid in fig.grid:
        grid.grid_line_color = DIM
        grid.grid_line_alpha = 0.35
    fig.xgrid.grid_line_color = None
    return fig


def time_figure(kind: str = "number", **options: Any) -> Any:
    """A figure over time; ``kind`` is that of the values. `show_span` says what it shows."""
    fig = new_figure(x_range=Range1d(0, 1), y_range=Range1d(0, 1), **options)
    fig.xaxis.ticker = DatetimeTicker(desired_num_ticks=6)
    fig.xaxis.formatter = CustomJSTickFormatter(code=_CLOCK_JS.replace("VALUE", "tick"))
    format_axis(fig.yaxis, kind)
    return fig


def show_span(fig: Any, times_ms: Sequence[float], highest: float, span_s: float) -> None:
    """Show the time up to the newest sample, ``span_s`` at most, and values from 0.

    Bokeh's own ranges cannot be set while there is nothing, and complain.
    """
    end = times_ms[-1] if times_ms else 1000 * time.time()
    begin = max(end - 1000 * span_s, times_ms[0] if times_ms else 0.0)
    fig.x_range.update(start=min(begin, end - 60_000), end=end)
    top = 1.08 * highest if highest > 0 else 1.0
    # Not at every sample a little more or less: that would be restless.
    if top > fig.y_range.end or top < 0.6 * fig.y_range.end or fig.y_range.end == 1:
        fig.y_range.end = top


def format_axis(axis: Any, kind: str) -> None:
    """Write an axis in numbers, bytes, bytes per second or percent."""
    if kind in ("bytes", "bytes/s"):
        axis.ticker = AdaptiveTicker(
            base=1024, mantissas=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], desired_num_ticks=4
        )
        axis.formatter = CustomJSTickFormatter(code=_BYTES_JS.replace("VALUE", "tick"))
    else:
        axis.ticker.desired_num_ticks = 4
        axis.formatter = NumeralTickFormatter(format="0 %" if kind == "part" else "0.[00]a")


def bytes_hover(field: str) -> CustomJSHover:
    """Write what hovers in bytes."""
    return CustomJSHover(code=_BYTES_JS.replace("VALUE", "value"))


def clock_hover() -> CustomJSHover:
    """Write what hovers as a time of day."""
    return CustomJSHover(code=_CLOCK_JS.replace("VALUE", "value"))


def hover(tooltips: list[tuple[str, str]], **options: Any) -> HoverTool:
    """What is told of the thing under the pointer."""
    return HoverTool(tooltips=tooltips, **options)


class Remark:
    """A line of text in place of a figure's axes, for when there is nothing to draw."""

    def __init__(self, fig: Any) -> None:
        self._fig = fig
        self._label = Label(
            x=6,
            y=12,
            x_units="screen",
            y_units="screen",
            text="",
            text_color=DIM,
            text_font=FONT,
            text_font_size="12px",
        )
        fig.add_layout(self._label)

    def say(self, text: str) -> None:
        """Show the text; "" shows the axes."""
        if self._label.text != text:
            self._label.text = text
            for part in (*self._fig.axis, *self._fig.grid, *self._fig.legend):
                part.visible = not text


def legend_above(fig: Any) -> None:
    """Put the legend on a line of its own above the figure."""
    legend = fig.legend
    legend.orientation = "horizontal"
    legend.label_text_font_size = "11px"
    legend.label_text_font = FONT
    legend.background_fill_alpha = 0.0
    legend.border_line_color = None
    legend.padding = 0
    legend.margin = 2
    legend.spacing = 10
    legend.glyph_width = 14
    legend.glyph_height = 12
    legend.label_height = 12
    fig.add_layout(legend[0], "above")


def plain_text(size: str = "11px", **options: Any) -> dict[str, Any]:
    """The options of texts in a figure that follow the theme."""
    return {
        "text_font_size": size,
        "text_font": {"value": FONT},
        "tags": ["text"],
        **options,
    }
