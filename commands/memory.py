"""``ract memory``: objects by size, who holds them, where they were made and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ract.commands.common import address_option, explained, out, size_text, table, warn
from ract.util.state.api import ask, rows
from ract.util.state.common import MAX_LIMIT, Rows, StateResource

TIMEOUT_S = 30
SORTS = ("OBJECT_SIZE", "PID", "REFERENCE_TYPE")
COLUMNS = ("ip", "pid", "type", "call_site", "status", "size", "where", "reference", "object_ref")


@click.command("memory")
@address_option
@click.option(
    "--group-by",
    type=click.Choice(["NODE_ADDRESS", "STACK_TRACE"]),
    default="NODE_ADDRESS",
    show_default=True,
    help="A table per node of the holder, or per call site.",
)
@click.option("--sort-by", type=click.Choice(SORTS), default="OBJECT_SIZE", show_default=True)
@click.option("--units", type=click.Choice(["B", "KB", "MB", "GB"]), help="Default: what fits.")
@click.option("--no-format", is_flag=True, help="One line per object, without tables.")
@click.option("--stats-only", is_flag=True, help="Only what the nodes' stores hold in total.")
@click.option("-n", "--num-entries", "--n", type=int, help="At most so many objects per table.")
def memory(
    address: str | None,
    group_by: str,
    sort_by: str,
    units: str | None,
    no_format: bool,
    stats_only: bool,
    num_entries: int | None,
) -> None:
    """Show the objects of a cluster, the largest first.

    Small values that have never left the process that made them are known to that process only.
    """
    with explained():
        nodes = ask(address, "memory", TIMEOUT_S, limit=1 if stats_only else MAX_LIMIT)
        found: Rows[Any] = Rows([], 0)
        if not stats_only:
            found = rows(
                StateResource.OBJECTS, address, limit=MAX_LIMIT, timeout=TIMEOUT_S,
                sort="-object_size",
            )  # fmt: skip
    places = _places(nodes["nodes"])
    lines = [_line(row, places, units or "") for row in found]
    key = {"OBJECT_SIZE": "bytes", "PID": "pid", "REFERENCE_TYPE": "reference"}[sort_by]
    lines.sort(key=lambda line: line[key], reverse=key == "bytes")
    out(list(_tables(lines, group_by, num_entries, no_format)))
    out(list(_stores(nodes["nodes"], units or "")))
    if found.total > len(found):
        what = f"the {len(found)} largest of {found.total} references are shown"
        warn(f"{what}; ract list objects --offset {len(found)} lists the others.")
    for node, error in nodes["errors"].items():
        warn(f"node {node[:8]}: {error}")


def _places(nodes: dict[str, Any]) -> dict[str, list[str]]:
    """Object -> where it lies, in words."""
    found: dict[str, list[str]] = {}
    for node, store in nodes.items():
        for object_id, stored in store["objects"].items():
            how = "on disk" if stored["is_spilled"] else "in memory"
            how += ", a copy" if stored["is_copy"] else ", pinned"
            found.setdefault(object_id, []).append(f"{node[:8]} {how}")
    return found


def _line(row: Any, places: dict[str, list[str]], units: str) -> dict[str, Any]:
    return {
        "ip": row.ip,
        "pid": row.pid,
        "type": row.type,
        "call_site": row.call_site or "disabled",
        "status": row.task_status,
        "size": size_text(row.object_size, units),
        "bytes": row.object_size,
        "where": "; ".join(places.get(row.object_id, ["inline"] if not row.locations else [])),
        "reference": row.reference_type,
        "object_ref": row.object_id,
    }


def _tables(
    lines: list[dict[str, Any]], group_by: str, most: int | None, no_format: bool
) -> Iterator[str]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        key = line["ip"] or "nobody" if group_by == "NODE_ADDRESS" else line["call_site"]
        groups.setdefault(key, []).append(line)
    what = "node address" if group_by == "NODE_ADDRESS" else "stack trace"
    for key, group in groups.items():
        shown = group[:most] if most is not None else group
        total = size_text(sum({line["object_ref"]: line["bytes"] for line in group}.values()))
        yield f"--- Summary for {what}: {key} ---"
        yield f"{len(group)} references, {total}"
        if no_format:
            yield from ("  ".join(str(line[name]) for name in COLUMNS) for line in shown)
        else:
            yield from table(shown, COLUMNS)
        if len(group) > len(shown):
            yield f"and {len(group) - len(shown)} more: -n {len(group)} shows them"
        yield ""
    if not lines:
        yield ""


def _stores(nodes: dict[str, Any], units: str) -> Iterator[str]:
    yield "--- Aggregate object store stats across all nodes ---"
    count = sum(store["count"] for store in nodes.values())
    total = {
        key: sum(store[key] for store in nodes.values())
        for key in ("used", "capacity", "spilled", "bytes")
    }
    full = 100 * total["used"] / total["capacity"] if total["capacity"] else 0.0
    yield (
        f"Plasma memory usage {size_text(total['used'], units)}, {count} objects, {full:.2f}% full"
        f" of {size_text(total['capacity'], units)}"
    )
    yield f"Spilled {size_text(total['spilled'], units)} to disk"
    for node, store in nodes.items():
        yield (
            f"  node {node[:8]}: {size_text(store['used'], units)} of "
            f"{size_text(store['capacity'], units)} used, {store['count']} objects, "
            f"{size_text(store['spilled'], units)} on disk"
        )


COMMANDS = {"memory": memory}
