"""Numbers over time: of the cluster, of the nodes side by side, of one node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool

from ract.dashboard.history import NODE_SAMPLES_MAX, SAMPLES_MAX, Ring
from ract.dashboard.plots import base
from ract.dashboard.plots.base import BLUE, GREEN, GREY, ORANGE, PALETTE, RED, Given

NODES_SHOWN_MAX = 10
SPAN_S = 900.0
"""What is shown at first of what there is."""


@dataclass(frozen=True)
class Line:
    """One series of a ring."""

    name: str
    title: str
    color: str
    is_limit: bool = False  #: what the others cannot exceed
    is_area: bool = False


class Lines:
    """Series of one ring, streamed.

    Args:
        ring: Where they are; None if there are none (any more).
        lines: Which.
        kind: What they are written as: "number", "bytes", "bytes/s" or "percent".
        empty: What to say if nothing was ever reported.
    """

    def __init__(
        self, ring: Ring | None, lines: Sequence[Line], kind: str, empty: str, most: int
    ) -> None:
        self._ring = ring
        self._names = [line.name for line in lines]
        self._seen = 0
        self._most = most
        self._data = ColumnDataSource({"time": [], **{name: [] for name in self._names}})
        self.view = base.time_figure(kind)
        for line in lines:
            self._draw(line)
        self._label(kind, lines)
        self._empty = empty
        self._remark = base.Remark(self.view)
        self.update()

    def _draw(self, line: Line) -> None:
        if line.is_area:
            self.view.varea(
                x="time", y1=0, y2=line.name, source=self._data, color=line.color, fill_alpha=0.22
            )
        drawn = self.view.line(
            x="time",
            y=line.name,
            source=self._data,
            color=line.color,
            line_width=1.2 if line.is_limit else 1.8,
            line_dash="dashed" if line.is_limit else "solid",
            legend_label=line.title,
        )
        drawn.name = line.name

    def _label(self, kind: str, lines: Sequence[Line]) -> None:
        style = "{custom}" if kind in ("bytes", "bytes/s") else "{0.[00]}"
        formats: dict[str, Any] = {"@time": base.clock_hover()}
        for line in lines:
            if style == "{custom}":
                formats[f"@{line.name}"] = base.bytes_hover(line.name)
        tips = [("", "@time{custom}"), *((line.title, f"@{line.name}{style}") for line in lines)]
        first = self.view.select(name=lines[0].name)
        self.view.add_tools(
            HoverTool(renderers=list(first), tooltips=tips, formatters=formats, mode="vline")
        )
        base.legend_above(self.view)

    def update(self) -> None:
        """Stream what is new."""
        ring = self._ring
        if ring is None:
            self._remark.say("It is gone; there is nothing new to show.")
            return
        new = ring.since(self._seen, self._names)
        if new["time"]:
            self._seen = ring.count
            new["time"] = [1000 * at for at in new["time"]]
            self._data.stream(new, rollover=self._most)
        columns = self._data.data
        values = [v for name in self._names for v in columns[name] if not math.isnan(v)]
        base.show_span(self.view, columns["time"], max(values, default=0.0), SPAN_S)
        text = "" if values else self._empty
        self._remark.say(text)


def _cluster(given: Given, lines: Sequence[Line], kind: str = "number") -> Lines:
    empty = "The first sample comes within seconds."
    return Lines(given.source.history.cluster, lines, kind, empty, SAMPLES_MAX)


def cpus(given: Given) -> Lines:
    """CPUs that are taken, of those there are, and how busy the machines are."""
    return _cluster(
        given,
        [
            Line("cpu_used", "taken", BLUE, is_area=True),
            Line("cpu_total", "total", GREY, is_limit=True),
        ],
    )


def throughput(given: Given) -> Lines:
    """Calls that ended, per second."""
    return _cluster(
        given,
        [
            Line("finished_per_s", "finished", GREEN, is_area=True),
            Line("failed_per_s", "failed", RED),
        ],
    )


def cluster_memory(given: Given) -> Lines:
    """Memory of all nodes."""
    return _cluster(
        given,
        [
            Line("memory_used", "machines", BLUE),
            Line("store_used", "object store", GREEN, is_area=True),
            Line("spilled", "spilled", ORANGE),
        ],
        "bytes",
    )


def waiting(given: Given) -> Lines:
    """Tasks."""
    return _cluster(
        given,
        [
            Line("running", "running", BLUE, is_area=True),
            Line("waiting", "waiting", ORANGE),
            Line("actors", "actors up", GREEN),
        ],
    )


# --------------------------------------------------------------------------- one node


def _node(given: Given, lines: Sequence[Line], kind: str, empty: str) -> Lines:
    try:
        node_id = bytes.fromhex(given.args.get("id", ""))
    except ValueError:
        node_id = b""
    return Lines(given.source.history.node(node_id), lines, kind, empty, NODE_SAMPLES_MAX)


NOT_REPORTED = "Not reported by this node."


def node_cpu(given: Given) -> Lines:
    """How busy its CPUs are."""
    return _node(given, [Line("cpu_percent", "CPU, %", BLUE, is_area=True)], "number", NOT_REPORTED)


def node_memory(given: Given) -> Lines:
    """Its memory and its store."""
    found = [
        Line("memory_used", "memory", BLUE),
        Line("store_used", "object store", GREEN, is_area=True),
        Line("spilled", "spilled", ORANGE),
    ]
    return _node(given, found, "bytes", NOT_REPORTED)


def node_disk(given: Given) -> Lines:
    """What it reads and writes."""
    found = [Line("disk_read", "read/s", BLUE), Line("disk_written", "written/s", ORANGE)]
    return _node(given, found, "bytes/s", NOT_REPORTED)


def node_network(given: Given) -> Lines:
    """What it receives and sends."""
    found = [Line("received", "in/s", BLUE), Line("sent", "out/s", ORANGE)]
    return _node(given, found, "bytes/s", NOT_REPORTED)


def node_gpu(given: Given) -> Lines:
    """How busy its GPUs are."""
    empty = "No GPU is reported by this node."
    return _node(given, [Line("gpu_percent", "GPU, %", GREEN, is_area=True)], "number", empty)


def node_gpu_memory(given: Given) -> Lines:
    """Memory of its GPUs."""
    empty = "No GPU is reported by this node."
    found = [Line("gpu_memory_used", "GPU memory", GREEN, is_area=True)]
    return _node(given, found, "bytes", empty)


# --------------------------------------------------------------------------- nodes side by side


class NodeLines:
    """One series of several nodes: of those where it is highest now.

    Args:
        name: The series.
        kind: What it is written as.
    """

    def __init__(self, given: Given, name: str, kind: str) -> None:
        self._source = given.source
        self._name = name
        self._data = ColumnDataSource({"xs": [], "ys": [], "node": [], "color": []})
        self._colors: dict[bytes, str] = {}
        self.view = base.time_figure(kind)
        self.view.multi_line(
            xs="xs",
            ys="ys",
            line_color="color",
            line_width=1.8,
            source=self._data,
            legend_field="node",
        )
        self.view.add_tools(base.hover([("", "@node")], line_policy="nearest"))
        base.legend_above(self.view)
        self._remark = base.Remark(self.view)
        self._last: Any = None
        self.update()

    def update(self) -> None:
        """Show the newest samples."""
        rings = self._source.history.nodes
        mark = [ring.count for ring in rings.values()]
        if mark == self._last:
            return
        self._last = mark
        known = [
            (ring.last(self._name), node_id)
            for node_id, ring in rings.items()
            if not math.isnan(ring.last(self._name))
        ]
        shown = sorted(sorted(known, reverse=True)[:NODES_SHOWN_MAX], key=lambda each: each[1])
        data: dict[str, list[Any]] = {"xs": [], "ys": [], "node": [], "color": []}
        for _, node_id in shown:
            found = rings[node_id].since(0, [self._name])
            color = self._colors.setdefault(node_id, PALETTE[len(self._colors) % len(PALETTE)])
            node = self._source.cluster.nodes.get(node_id)
            data["xs"].append([1000 * at for at in found["time"]])
            data["ys"].append(found[self._name])
            data["node"].append(node.short if node is not None else node_id.hex()[:8])
            data["color"].append(color)
        self._data.data = data
        highest = max((v for ys in data["ys"] for v in ys if not math.isnan(v)), default=0.0)
        newest: list[float] = max(data["xs"], key=lambda xs: xs[-1], default=[])
        base.show_span(self.view, newest, highest, SPAN_S)
        text = "" if shown else "No node reports this."
        self._remark.say(text)


def nodes_cpu(given: Given) -> NodeLines:
    """How busy the busiest nodes are."""
    return NodeLines(given, "cpu_percent", "number")


def nodes_memory(given: Given) -> NodeLines:
    """Memory of the fullest nodes."""
    return NodeLines(given, "memory_used", "bytes")


def nodes_store(given: Given) -> NodeLines:
    """Object stores of the fullest nodes."""
    return NodeLines(given, "store_used", "bytes")


def nodes_network(given: Given) -> NodeLines:
    """What the busiest nodes receive."""
    return NodeLines(given, "received", "bytes/s")
