"""``ract explain``, ``ract stack``, ``ract timeline``: why it waits, what it does, when it ran."""

from __future__ import annotations

import datetime
import json
from typing import Any

import click

from ract.client.api.timeline import trace
from ract.commands.common import (
    address_option,
    as_json,
    explained,
    session_option,
    timeout_option,
    warn,
)
from ract.core import history as sessions
from ract.scheduler.durable import history
from ract.util.state.api import ask


@click.command("explain")
@click.argument("id")
@click.option("--json", "in_json", is_flag=True, help="All that is known, as one JSON object.")
@timeout_option
@address_option
def explain(id: str, in_json: bool, timeout: int, address: str | None) -> None:
    """Say why a task, actor, object or placement group waits, or that it does not.

    The demand that waits, the nodes that were looked at, and what each of them lacks.
    """
    with explained():
        found: dict[str, Any] = ask(address, "explain", timeout, id=id)
    if in_json:
        click.echo(as_json(found))
    else:
        click.echo(f"{found['kind']} {found['id']}: {found['state']}")
        click.echo(found["text"])
    if found["state"] == "UNKNOWN":
        raise SystemExit(1)


@click.command("stack")
@click.option("-pid", "--pid", type=int, help="Of this process only.")
@click.option("--actor-id", help="Of this actor only.")
@click.option("-id", "--node-id", help="Of this node only: its id, or the first digits.")
@timeout_option
@address_option
def stack(
    pid: int | None, actor_id: str | None, node_id: str | None, timeout: int, address: str | None
) -> None:
    """Show what the threads of all executors do right now."""
    with explained():
        found = ask(address, "stacks", timeout, pid=pid, actor_id=actor_id, node_id=node_id)
    count = 0
    for node, executors in found["stacks"].items():
        for executor in executors:
            count += 1
            click.echo(f"=== pid {executor['pid']} ({executor['state']}) on node {node[:8]}")
            click.echo(executor["text"])
    if pid is not None and count:
        return
    for node, error in found["errors"].items():
        warn(f"node {node[:8]}: {error}")
    if not count:
        raise click.ClickException("no executor is there to be asked")


@click.command("timeline")
@click.argument("file", required=False, type=click.Path(dir_okay=False, writable=True))
@timeout_option
@address_option
@session_option
def timeline(file: str | None, timeout: int, address: str | None, session: str | None) -> None:
    """Write when which task ran where as a Chrome trace, for ui.perfetto.dev or chrome://tracing."""
    with explained():
        if session is not None:
            spans = history.spans(sessions.find(session))
        else:
            spans = ask(address, "task_spans", timeout)
        events = list(trace(spans))
        if file is None:
            file = f"ract-timeline-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}.json"
        with open(file, "w") as opened:
            json.dump(events, opened)
    tasks = sum(event["ph"] == "X" for event in events)
    click.echo(f"{tasks} tasks written to {file}; ui.perfetto.dev or chrome://tracing opens it")
    if spans["forgotten"]:
        warn(
            f"{spans['forgotten']} older tasks are not in memory any more; --session current has "
            "what the history kept of them."
        )


COMMANDS = {"explain": explain, "stack": stack, "timeline": timeline}
