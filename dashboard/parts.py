"""What pages are made of: declarations, which the browser's script turns into tables and facts.

A page says which views (`ract.dashboard.views`) it shows and how; it has no code of its own for the
browser. Plots are named here and made by `ract.dashboard.plots`, so that a page without plots needs
no Bokeh.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column of a table, or one fact.

    Attributes:
        key: What it shows of a row.
        title: Its heading.
        kind: How it is written: see ``KINDS`` in ``static/ract.js``.
        link: Where it leads; ``{key}`` stands for what the row has under ``key``.
        of: For bars, the key of the whole.
        sort: Whether the view can sort by it.
        wide: Whether it takes the room that others leave.
        optional: Whether it is left out while no row on the page has it.
        help: What it means.
    """

    key: str
    title: str
    kind: str = "text"
    link: str = ""
    of: str = ""
    sort: bool = False
    wide: bool = False
    optional: bool = False
    help: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a view that answers with rows.

    Attributes:
        args: Further arguments of the view; ``{id}`` stands for the page's own ``id``.
        facets: What can be filtered by: (name, title).
        empty: What to say, and do, when there is nothing.
        more: The key of a row's list of further facts, which opens below it.
    """

    view: str
    title: str
    columns: tuple[Column, ...]
    empty: str
    args: tuple[tuple[str, str], ...] = ()
    facets: tuple[tuple[str, str], ...] = ()
    search: bool = True
    sort: str = ""
    size: int = 25
    more: str = ""
    anchor: str = ""
    note: str = ""
    type: str = "table"


@dataclass(frozen=True)
class Facts:
    """What a view says of one thing, as a list of terms."""

    view: str
    title: str
    columns: tuple[Column, ...]
    type: str = "facts"


@dataclass(frozen=True)
class Block:
    """Something that the script knows how to show: ``tiles``, ``alerts``, ``death``, ``log``."""

    type: str
    title: str = ""
    view: str = ""
    args: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Plot:
    """A plot of `ract.dashboard.plots.PLOTS`; ``wide`` ones take a whole row."""

    name: str
    title: str
    wide: bool = False
    note: str = ""
    type: str = "plot"


Part = Table | Facts | Block | Plot


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: The last part of its address.
        title: What it is called.
        parts: From top to bottom.
        under: The page in the navigation that it belongs to; itself if it stands there.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    under: str = ""

    @property
    def plots(self) -> list[str]:
        """The names of its plots."""
        return [part.name for part in self.parts if isinstance(part, Plot)]

    def described(self) -> dict[str, Any]:
        """For the script."""
        return {"name": self.name, "title": self.title, "parts": [asdict(p) for p in self.parts]}


# --------------------------------------------------------------------------- columns in many tables

NODE = Column("node", "Node", link="node?id={node_id}")
OBJECT = Column("object_id", "Object", "id", "object?id={object_id}")
PID = Column("pid", "Pid", "plain")
ACTOR_PID = Column("pid", "Pid", "plain", "logs?node_id={node_id}&process={process}", sort=True)
STATE = Column("state", "State", "state", sort=True)
JOB = Column("job", "Job", "id", "job?id={job}")
PROCESS_LOG = Column("process", "Log", "log", "logs?node_id={node_id}&process={process}&pid={pid}")

CALLS = (
    Column("finished", "Finished", "number", sort=True),
    Column("failed", "Failed", "failures", sort=True),
    Column("rate", "Calls/s", "rate", sort=True),
    Column("mean_s", "Mean", "seconds", sort=True),
    Column("p50_s", "p50", "seconds", help="half of the calls are faster: an estimate"),
    Column("p95_s", "p95", "seconds"),
    Column("p99_s", "p99", "seconds"),
    Column("longest_s", "Longest", "seconds", sort=True),
    Column("last_ms", "Last", "ago", sort=True),
)
