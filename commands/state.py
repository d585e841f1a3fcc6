"""``ract list``, ``ract get``, ``ract summary``: tables of a cluster, or of one that has ended."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import click

from ract.commands.common import (
    address_option,
    as_json,
    as_yaml,
    explained,
    format_option,
    out,
    readable,
    session_option,
    table,
    timeout_option,
    warn,
)
from ract.core import history
from ract.util.memory_report import size_text
from ract.util.state import api
from ract.util.state.common import DEFAULT_LIMIT, MAX_LIMIT, Rows, StateResource

RULE = "-" * 30
RESOURCES = [each.value.replace("_", "-") for each in StateResource]
WORDS = {"token_normalize_func": lambda word: word.replace("_", "-")}
"""Names of tables may be written as the state API has them."""

SESSION_COLUMNS = ("name", "state", "started", "ended", "size", "path")


def resource_of(name: str) -> StateResource:
    """The table that a word of the command line names."""
    return StateResource(name.replace("-", "_"))


def parse_filter(text: str) -> tuple[str, str, str]:
    """``key=value`` or ``key!=value``.

    Raises:
        click.BadParameter: it is neither.
    """
    key, sign, value = text.partition("=")
    if sign and key.endswith("!"):
        key, sign = key[:-1], "!="
    if not sign or not key.strip() or key.rstrip()[-1] in "<>!":
        raise click.BadParameter(f"{text!r} is not key=value or key!=value", param_hint="--filter")
    return key.strip(), sign, value.strip()


@click.command("list", context_settings=WORDS)
@click.argument("resource", type=click.Choice([*RESOURCES, "sessions"]))
@format_option()
@click.option("-f", "--filter", "filters", multiple=True, help="key=value or key!=value; all hold.")
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, help="At most so many rows.")
@click.option("--offset", default=0, help="Pass over so many rows.")
@click.option("--sort", default="", help="By this column; with '-' in front, the largest first.")
@click.option("--detail", is_flag=True, help="All columns; as YAML, if no format is given.")
@timeout_option
@address_option
@session_option
def list_(
    resource: str,
    form: str,
    filters: tuple[str, ...],
    limit: int,
    offset: int,
    sort: str,
    detail: bool,
    timeout: int,
    address: str | None,
    session: str | None,
) -> None:
    """List actors, tasks, objects, nodes, workers, jobs, ... and what was said of their ends."""
    if resource == "sessions":
        with explained():
            _list_sessions(form)
        return
    kind = resource_of(resource)
    wanted = [parse_filter(each) for each in filters]
    with explained():
        if session is not None and sort:
            raise ValueError("--sort is for clusters that run: the history is in order of time")
        found = api.rows(kind, address, wanted, limit, timeout, session, offset, sort)
    out(_listed(kind, found, form, detail))
    rest = found.total - offset - len(found)
    if rest > 0:
        more = f"--limit (up to {MAX_LIMIT}), --offset or --filter"
        warn(f"{len(found)} of {found.total} {resource} are shown; use {more} to see the others.")
    if found.note:
        warn(f"{found.note}.")


def _listed(kind: StateResource, found: Rows[Any], form: str, detail: bool) -> Iterator[str]:
    row_type = api.KINDS[kind][1]
    columns = list(row_type.COLUMNS)
    if detail and found:
        columns += [name for name in found[0] if name not in columns]
    rows = [{name: row.get(name) for name in columns} for row in found]
    if form == "json":
        yield as_json(rows)
        return
    if form == "yaml" or (form == "default" and detail):
        yield as_yaml([readable(row) for row in rows]).rstrip()
        return
    if not rows:
        yield "No resource in the cluster"
        return
    yield f"\n{'=' * 8} List: {datetime.datetime.now()} {'=' * 8}"
    yield "Stats:"
    yield RULE
    yield f"Total: {found.total}"
    yield "\nTable:"
    yield RULE
    yield from table([readable(row) for row in rows], columns)
    yield ""


def _list_sessions(form: str) -> None:
    rows = [
        {
            "name": session.name,
            "state": "RUNNING" if session.is_running else "ENDED",
            "started": _when(session.started),
            "ended": _when(session.ended),
            "size": size_text(session.bytes),
            "path": str(session.path),
        }
        for session in history.sessions()
    ]
    if form == "json":
        click.echo(as_json(rows))
    elif form == "yaml":
        click.echo(as_yaml(rows))
    elif not rows:
        click.echo(f"No sessions are remembered in {history.folder()}")
    else:
        out(list(table(rows, SESSION_COLUMNS)))


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).isoformat(sep=" ", timespec="seconds") if at else ""


# --------------------------------------------------------------------------- get


@click.command("get", context_settings=WORDS)
@click.argument("resource", type=click.Choice(RESOURCES))
@click.argument("id")
@format_option("yaml")
@timeout_option
@address_option
@session_option
def get(
    resource: str, id: str, form: str, timeout: int, address: str | None, session: str | None
) -> None:
    """Show one actor, task, object, node, ... by its id, with all that is known of it."""
    kind = resource_of(resource)
    key = api.KINDS[kind][1].ID
    with explained():
        found = api.rows(kind, address, [(key, "=", id)], MAX_LIMIT, timeout, session)
    if not found:
        raise click.ClickException(f"Resource with id={id} not found in the cluster.")
    rows = [row.asdict() for row in found]
    if form == "json":
        click.echo(as_json(rows if len(rows) > 1 else rows[0]))
    elif form == "table":
        out(list(table([readable(row) for row in rows], list(rows[0]))))
    else:
        for row in rows:
            click.echo(as_yaml(readable(row)), nl=False)


# --------------------------------------------------------------------------- summary


@click.group("summary")
def summary() -> None:
    """Count tasks, actors or objects by name and state."""


@summary.command("tasks")
@format_option()
@timeout_option
@address_option
def summary_tasks(form: str, timeout: int, address: str | None) -> None:
    """Tasks by function and state; all that there were."""
    with explained():
        found = api.summarize_tasks(address, timeout)["cluster"]
    totals = {
        "total_tasks": found["total_tasks"],
        "total_actor_tasks": found["total_actor_tasks"],
        "total_actor_scheduled": found["total_actor_scheduled"],
    }
    rows = [
        {**entry, "state_counts": _counts(entry["state_counts"])}
        for entry in found["summary"].values()
    ]
    _summarized("Tasks", found, totals, rows, ("func_or_class_name", "state_counts", "type"), form)


@summary.command("actors")
@format_option()
@timeout_option
@address_option
def summary_actors(form: str, timeout: int, address: str | None) -> None:
    """Actors by class and state."""
    with explained():
        found = api.summarize_actors(address, timeout)["cluster"]
    rows = [
        {**entry, "state_counts": _counts(entry["state_counts"])}
        for entry in found["summary"].values()
    ]
    totals = {"total_actors": found["total_actors"]}
    _summarized("Actors", found, totals, rows, ("class_name", "state_counts"), form)


@summary.command("objects")
@format_option()
@timeout_option
@address_option
def summary_objects(form: str, timeout: int, address: str | None) -> None:
    """Objects by call site: how many, and how large."""
    with explained():
        found = api.summarize_objects(address, timeout)["cluster"]
    rows = [
        {
            "callsite": site,
            "objects": entry["total_objects"],
            "size": size_text(entry["total_size"]),
            "workers": entry["total_num_workers"],
            "nodes": entry["total_num_nodes"],
            "states": _counts(entry["task_state_counts"]),
        }
        for site, entry in found["summary"].items()
    ]
    totals = {
        "total_objects": found["total_objects"],
        "total_size_mb": round(found["total_size_mb"], 3),
        "callsite_enabled": found["callsite_enabled"],
    }
    columns = ("callsite", "objects", "size", "workers", "nodes", "states")
    _summarized("Objects", found, totals, rows, columns, form)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{state}: {n}" for state, n in sorted(counts.items()))


def _summarized(
    what: str,
    found: dict[str, Any],
    totals: dict[str, Any],
    rows: list[dict[str, Any]],
    columns: tuple[str, ...],
    form: str,
) -> None:
    if form == "json":
        click.echo(as_json(found))
        return
    if form == "yaml":
        click.echo(as_yaml(found), nl=False)
        return
    click.echo(f"\n{'=' * 8} {what} Summary: {datetime.datetime.now()} {'=' * 8}")
    click.echo(f"Stats:\n{RULE * 2}")
    for name, value in totals.items():
        click.echo(f"{name}: {value}")
    click.echo(f"\nTable (group by {found['summary_by']}):\n{RULE * 2}")
    out(list(table(rows, columns)))


COMMANDS = {"list": list_, "get": get, "summary": summary}
