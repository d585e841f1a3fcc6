"""Stores, objects and transfers; and one object."""

from __future__ import annotations

from ract.dashboard.parts import JOB, NODE, OBJECT, PROCESS_LOG, Column, Facts, Page, Plot, Table

PAGES = (
    Page(
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
                    Column(
                        "copies", "Copies", "bytes", help="of objects of other nodes; evictable"
                    ),
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
                    OBJECT,
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
    ),
    Page(
        "object",
        "Object",
        (
            Facts(
                "object",
                "Object",
                (
                    Column("object_id", "Id", "mono"),
                    Column("state", "State", "state"),
                    Column("size", "Size", "bytes"),
                    Column("is_error", "An error", "yes"),
                    Column("made_by", "Made by", "links"),
                    Column("maker", "Called or put by", "links"),
                    Column("site", "Made at", "mono"),
                    Column("holders", "Held by", "number"),
                    Column("contained", "In other objects or actors", "number"),
                    Column("contains", "Contains", "links"),
                    Column("seekers", "Waited for on", "links"),
                ),
            ),
            Table(
                "object_copies",
                "Where it lies",
                (
                    NODE,
                    Column("role", "Role"),
                    Column("where", "In"),
                    Column("place", "Place", "mono", wide=True),
                ),
                args=(("id", "{id}"),),
                empty="Nowhere (yet, or any more).",
                search=False,
            ),
            Table(
                "object_holders",
                "Who holds it",
                (
                    Column("what", "Process", link="actor?id={actor_id}"),
                    NODE,
                    Column("pid", "Pid", "plain", sort=True),
                    Column("count", "Refs", "number", sort=True, help="of its own; not local ones"),
                    JOB,
                    PROCESS_LOG,
                ),
                args=(("id", "{id}"),),
                empty="No process: other objects or actors contain it, or it is about to go.",
                search=False,
            ),
        ),
        under="memory",
    ),
)
