"""All actors, and one."""

from __future__ import annotations

from ract.dashboard.parts import (
    ACTOR_PID,
    CALLS,
    STATE,
    Block,
    Column,
    Facts,
    Page,
    Plot,
    Table,
)

ACTOR_COLUMNS = (
    Column("class_name", "Class", link="actor?id={actor_id}", sort=True),
    Column("name", "Name", link="actor?id={actor_id}", sort=True, optional=True),
    STATE,
    Column("node", "Node", link="node?id={node_id}", sort=True),
    ACTOR_PID,
    Column("restarts", "Restarts", "number", sort=True),
    Column(
        "waiting",
        "Mailbox",
        "number",
        help="calls that were sent and not answered, the running ones included",
    ),
    Column("rate", "Calls/s", "rate", sort=True),
    Column("calls", "Calls", "number", sort=True),
    Column("resources", "Resources"),
    Column("created_ms", "Created", "ago", sort=True),
    Column("cause", "Why it ended or restarted", wide=True),
    Column("actor_id", "Id", "id", "actor?id={actor_id}"),
)

PAGES = (
    Page(
        "actors",
        "Actors",
        (
            Table(
                "actors",
                "Actors",
                ACTOR_COLUMNS,
                empty="No actors yet. A class becomes one with @ract.remote and Class.remote().",
                facets=(("state", "State"), ("class_name", "Class")),
            ),
        ),
    ),
    Page(
        "actor",
        "Actor",
        (
            Facts(
                "actor",
                "Actor",
                (
                    Column("class_name", "Class"),
                    Column("name", "Name"),
                    Column("repr_name", "Calls itself"),
                    Column("state", "State", "state"),
                    Column("actor_id", "Id", "mono"),
                    Column("node", "Node", link="node?id={node_id}"),
                    Column("pid", "Pid", "plain"),
                    Column("restarts", "Restarts", "of", of="max_restarts"),
                    Column("waiting", "Mailbox", "number"),
                    Column("rate", "Calls/s", "rate"),
                    Column("calls", "Calls", "number"),
                    Column("resources", "Resources"),
                    Column("namespace", "Namespace", "mono"),
                    Column("detached", "Detached", "yes"),
                    Column("owner", "Created by"),
                    Column("site", "Created at", "mono"),
                    Column("job", "Job", "id", "job?id={job}"),
                    Column("group_id", "Placement group", "id", "group?id={group_id}"),
                    Column("created_ms", "Created", "time"),
                    Column("died_ms", "Died", "time"),
                ),
            ),
            Block("death", "Why it ended", view="actor"),
            Table(
                "actor_story",
                "Story",
                (
                    Column("at_ms", "When", "time"),
                    Column("state", "State", "state"),
                    Column("what", "What happened", wide=True),
                ),
                args=(("id", "{id}"),),
                empty="Nothing is known.",
                search=False,
            ),
            Table(
                "actor_methods",
                "Methods",
                (Column("name", "Method", link="tasks?q={name}", sort=True), *CALLS),
                args=(("id", "{id}"),),
                empty="No call of this actor has ended yet; calls show up within a second.",
                search=False,
            ),
            Plot("actor-stream", "Calls in the last minute", wide=True),
            Block("log", "Log"),
        ),
        under="actors",
    ),
)
