"""The first page: is all well, what is used, what waits."""

from __future__ import annotations

from ract.dashboard.parts import NODE, STATE, Block, Column, Page, Plot, Table

PAGE = Page(
    "overview",
    "Overview",
    (
        Block("tiles", view="tiles"),
        Block("alerts", "Alerts", view="alerts"),
        Plot("cpus", "CPUs taken"),
        Plot("throughput", "Calls per second"),
        Plot("cluster-memory", "Memory"),
        Plot("waiting", "Tasks running and waiting"),
        Table(
            "demands",
            "Waiting for resources",
            (
                Column("state", "State", "state"),
                Column("count", "Waiting", "number"),
                Column("kind", "What"),
                Column("text", "Demand, each"),
                Column("names", "Of", wide=True),
            ),
            empty="Nothing waits for resources.",
            search=False,
            anchor="demands",
        ),
        Table(
            "nodes",
            "Nodes",
            (
                NODE,
                STATE,
                Column("taken", "Taken", wide=True),
                Column("cpu_percent", "CPU", "percent"),
                Column("memory_used", "Memory", "use", of="memory_total"),
                Column("store_used", "Object store", "use", of="store_total"),
            ),
            empty="No node has joined. Start one with: rworker ADDRESS",
            search=False,
            size=10,
        ),
    ),
)
