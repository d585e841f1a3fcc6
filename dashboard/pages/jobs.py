"""All jobs, and one."""

from __future__ import annotations

from ract.dashboard.pages.actors import ACTOR_COLUMNS
from ract.dashboard.pages.nodes import PROCESS_COLUMNS
from ract.dashboard.parts import NODE, STATE, Column, Facts, Page, Plot, Table

PAGES = (
    Page(
        "jobs",
        "Jobs",
        (
            Table(
                "jobs",
                "Jobs",
                (
                    Column("job", "Job", "id", "job?id={job}"),
                    STATE,
                    Column("entrypoint", "Program", "clip", "job?id={job}", wide=True),
                    NODE,
                    Column("pid", "Pid", "plain"),
                    Column("actors", "Actors", "number", sort=True),
                    Column("executors", "Executors", "number", sort=True),
                    Column("started_ms", "Started", "time", sort=True),
                    Column("lasted_s", "Lasts", "seconds"),
                    Column("message", "How it ended", optional=True),
                ),
                empty="No driver has connected. ract.init() in a program starts a job.",
                facets=(("state", "State"),),
            ),
        ),
    ),
    Page(
        "job",
        "Job",
        (
            Facts(
                "job",
                "Job",
                (
                    Column("job", "Job", "mono"),
                    Column("state", "State", "state"),
                    Column("entrypoint", "Program", "mono"),
                    Column("namespace", "Namespace", "mono"),
                    Column("node", "Node", link="node?id={node_id}"),
                    Column("pid", "Pid", "plain"),
                    Column("started_ms", "Started", "time"),
                    Column("lasted_s", "Lasts", "seconds"),
                    Column("message", "How it ended"),
                    Column("metadata", "Metadata", "clip"),
                    Column("job", "Calls", "log", "tasks?job_id={job}#calls"),
                ),
            ),
            Plot("task-graph", "Who calls whom", wide=True),
            Table(
                "actors",
                "Actors",
                ACTOR_COLUMNS,
                args=(("job_id", "{id}"),),
                empty="This job has made no actors.",
                facets=(("state", "State"),),
                size=10,
            ),
            Table(
                "processes",
                "Processes",
                (NODE, *PROCESS_COLUMNS),
                args=(("job_id", "{id}"),),
                empty="No process works for this job.",
                facets=(("state", "State"),),
                size=10,
            ),
        ),
        under="jobs",
    ),
)
