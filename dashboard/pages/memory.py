"""Stores, objects and transfers."""

from __future__ import annotations

from ract.dashboard.parts import NODE, Column, Page, Plot, Table

PAGE = Page(
    "memory",
    "Memory",
    (
        Plot("store", "Object store by node"),
        Plot("transfers", "Transfers between nodes", note="Bytes since the receiver started."),
        Table(
            "stores",
            "Object stores",
            (
                NODE,
                Column("used", "Used", "use", of="total"),
                Column("pinned", "Pinned", "bytes", help="objects that live here"),
                Column("copies", "Copies", "bytes", help="of objects of other nodes; evictable"),
                Column("reusable", "Reusable", "bytes", help="mapped, free for new objects"),
                Column("free", "Free", "bytes"),
                Column("spilled", "Spilled", "bytes", help="on disk, beyond what is used"),
                Column("objects", "Objects", "number"),
            ),
            empty="No node has reported its store yet.",
            search=False,
        ),
        Table(
            "objects",
            "Objects",
            (
                Column("size", "Size", "bytes", sort=True),
                Column("object_id", "Object", "id"),
                Column("state", "State", "state", sort=True),
                Column("made_by", "Made by", link="tasks?q={task_name}#calls", sort=True),
                Column("site", "Made at", "clip", sort=True, optional=True),
                Column("where", "Stored on", "links"),
                Column("holders", "Held by", "links", wide=True),
                Column("waiting", "Nodes waiting", "number"),
            ),
            empty="No object has left its process. ract.put and large results show up here.",
            facets=(("state", "State"),),
            sort="-size",
            note="Small values that only their maker holds are not published.",
        ),
    ),
)
