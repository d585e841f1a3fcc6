"""Calls: progress by function, when they ran, how they failed; and one of them."""

from __future__ import annotations

from ract.dashboard.parts import CALLS, NODE, PID, Block, Column, Facts, Page, Plot, Table

PAGES = (
    Page(
        "tasks",
        "Tasks",
        (
            Table(
                "functions",
                "Progress by function",
                (
                    Column("name", "Function", link="tasks?q={name}#calls", sort=True),
                    Column("total", "Progress", "progress", wide=True),
                    Column("waiting", "Waiting", "number", sort=True),
                    Column("running", "Running", "number", sort=True),
                    *CALLS,
                ),
                empty="No calls yet. A function becomes a task with @ract.remote and f.remote().",
                facets=(("type", "Type"),),
                sort="-last_ms",
                size=10,
                note="Counts are of all calls since the start.",
            ),
            Plot(
                "task-stream",
                "Task stream, last minute",
                wide=True,
                note="One row per executor; red is failed. Calls that follow each other closely "
                "are one bar; pale bars sum up what is forgotten.",
            ),
            Table(
                "failures",
                "Failures by error",
                (
                    Column("count", "Count", "number", sort=True),
                    Column("function", "Function", link="tasks?q={function}#calls", sort=True),
                    Column("kind", "Error", sort=True),
                    Column("message", "Newest message", "clip", wide=True),
                    Column("first_ms", "First", "ago"),
                    Column("last_ms", "Last", "ago", sort=True),
                ),
                empty="No call has failed.",
                facets=(("error_type", "Type"),),
                sort="-last_ms",
                size=10,
                more="examples",
                anchor="failures",
            ),
            Table(
                "tasks",
                "Calls",
                (
                    Column("name", "Function", link="task?id={task_id}"),
                    Column("state", "State", "state"),
                    NODE,
                    PID,
                    Column("start_ms", "Started", "time"),
                    Column("took_s", "Took", "seconds"),
                    Column("message", "Error", "clip", wide=True),
                    Column("job", "Job", "id", "job?id={job}"),
                    Column("task_id", "Id", "id", "task?id={task_id}"),
                ),
                empty="No call is remembered that fits.",
                facets=(("state", "State"), ("type", "Type")),
                anchor="calls",
                note="What waits, runs or has failed first; then the newest.",
            ),
            Plot("task-graph", "Who calls whom, in the newest job", wide=True),
        ),
    ),
    Page(
        "task",
        "Task",
        (
            Facts(
                "task",
                "Task",
                (
                    Column("name", "Function", link="tasks?q={name}#calls"),
                    Column("state", "State", "state"),
                    Column("type", "Type"),
                    Column("task_id", "Id", "mono"),
                    Column("attempt", "Attempt", "plain"),
                    Column("actor_id", "Actor", "id", "actor?id={actor_id}"),
                    Column("node", "Node", link="node?id={node_id}"),
                    Column("pid", "Pid", "plain"),
                    Column("job", "Job", "id", "job?id={job}"),
                    Column("start_ms", "Started", "time"),
                    Column("took_s", "Took", "seconds"),
                    Column("error_type", "Error type"),
                    Column("site", "Called from", "mono"),
                    Column("parent", "Called by", "mono", "task?id={parent}"),
                    Column("message", "Error"),
                    Column("traceback", "Traceback", "pre"),
                ),
            ),
            Block("log", "Log of its process"),
        ),
        under="tasks",
    ),
)
