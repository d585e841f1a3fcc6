"""``ract memory``: objects by size, who holds them, where they were made and where they lie."""

from __future__ import annotations

import click

from ract.commands.common import address_option, explained, out, warn
from ract.util.memory_report import GROUPS, SORTS, UNITS, MemoryReport


@click.command("memory")
@address_option
@click.option(
    "--group-by",
    type=click.Choice(GROUPS),
    default="NODE_ADDRESS",
    show_default=True,
    help="A table per node of the holder, or per call site.",
)
@click.option("--sort-by", type=click.Choice(SORTS), default="OBJECT_SIZE", show_default=True)
@click.option("--units", type=click.Choice(UNITS), help="Default: what fits.")
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
        report = MemoryReport(address, stats_only=stats_only)
    how = group_by, sort_by, units or "", num_entries
    out(list(report.lines(*how, with_tables=not no_format)))
    for problem in report.problems:
        warn(problem)


COMMANDS = {"memory": memory}
