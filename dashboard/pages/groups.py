"""All placement groups, and one."""

from __future__ import annotations

from ract.dashboard.pages.actors import ACTOR_COLUMNS
from ract.dashboard.parts import JOB, STATE, Column, Facts, Page, Table

PAGES = (
    Page(
        "groups",
        "Placement groups",
        (
            Table(
                "groups",
                "Placement groups",
                (
                    Column("group_id", "Id", "id", "group?id={group_id}"),
                    Column("name", "Name", link="group?id={group_id}", sort=True),
                    STATE,
                    Column("strategy", "Strategy"),
                    Column("placed", "Bundles placed", "of", of="bundle_count"),
                    Column("demand", "Resources", wide=True),
                    Column("actors", "Actors", "number"),
                    Column("waited_s", "Waited", "seconds"),
                    Column("created_ms", "Created", "ago", sort=True),
                    JOB,
                    Column("detail", "Remark", optional=True),
                ),
                empty="No placement groups. ract.util.placement_group([{'CPU': 1}]) makes one.",
                facets=(("state", "State"), ("strategy", "Strategy")),
                more="bundles",
            ),
        ),
    ),
    Page(
        "group",
        "Placement group",
        (
            Facts(
                "group",
                "Placement group",
                (
                    Column("group_id", "Id", "mono"),
                    Column("name", "Name"),
                    Column("state", "State", "state"),
                    Column("strategy", "Strategy"),
                    Column("demand", "Resources"),
                    Column("placed", "Bundles placed", "of", of="bundle_count"),
                    Column("detached", "Detached", "yes"),
                    Column("job", "Job", "id", "job?id={job}"),
                    Column("created_ms", "Created", "time"),
                    Column("waited_s", "Waited", "seconds"),
                    Column("detail", "Remark"),
                ),
            ),
            Table(
                "bundles",
                "Bundles",
                (
                    Column("index", "Bundle", "plain"),
                    Column("resources", "Resources", wide=True),
                    Column("node", "Node", link="node?id={node_id}"),
                    Column("used", "Taken of it", wide=True),
                ),
                args=(("id", "{id}"),),
                empty="It has no bundles.",
                search=False,
            ),
            Table(
                "actors",
                "Actors in it",
                ACTOR_COLUMNS,
                args=(("group_id", "{id}"),),
                empty="No actor was placed in this group.",
                facets=(("state", "State"),),
            ),
        ),
        under="groups",
    ),
)
