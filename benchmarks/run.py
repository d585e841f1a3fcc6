"""Measure ract, alone or beside Ray and Dask, in one run.

    python -m ract.benchmarks.run [--peers PYTHON] [--before PYTHON] [--only TEXT] [--repeats N]
                                  [--json FILE] [--growth] [--far]

Every system gets one process that stays; operations are asked of them in turn, repeat by repeat, so
that whatever else the machine does hits all of them alike. What is printed are medians. ``--peers``
names a Python in whose environment Ray and Dask are installed (``make bench-peers`` makes one).
``--before`` names a Python that imports an older ract, and shows what a change has cost or gained.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ract.benchmarks import limits, operations, startup

LIMIT_OF = {
    "actor 1:1 sync": "raw ping-pong",
    "actor 1:1 async": "raw pipelined exchange",
    "put gigabytes": "warm memcpy",
}
"""The physical limit beside which an operation is put."""


BEFORE = "before"
"""An older ract is a system of this name."""


class Host:
    """The process of one system that carries out operations."""

    def __init__(self, system: str, python: str, far: bool = False) -> None:
        reader, writer = os.pipe()
        # By path: where Ray is installed, ract need not be.
        command = [
            python,
            operations.__file__,
            "--system",
            "ract" if system == BEFORE else system,
            "--fd",
            str(writer),
        ]
        if far:
            command.append("--far")
        quiet = None if system in ("ract", BEFORE) else subprocess.DEVNULL
        self.system = system
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=quiet,
            pass_fds=[writer],
            text=True,
        )
        os.close(writer)
        self._answers = os.fdopen(reader)
        first = self._answers.readline()
        if not first:
            raise click.ClickException(f"{system} did not start with {python}")
        self.idle_megabytes: float = json.loads(first)["idle"]

    def measure(self, name: str) -> dict[str, Any]:
        """Carry out one operation."""
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        answer = self._answers.readline()
        return json.loads(answer) if answer else {"name": name, "error": "the process has ended"}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._answers.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@click.command()
@click.option("--peers", help="A Python with Ray and Dask; without it, ract alone.")
@click.option("--before", help="A Python that imports an older ract.")
@click.option("--only", multiple=True, help="Only operations whose name contains this.")
@click.option("--repeats", default=3, show_default=True, help="Medians of so many.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write it here too.")
@click.option("--growth", is_flag=True, help="Also how costs grow (some minutes).")
@click.option("--far", is_flag=True, help="Two nodes: what is called is not where the driver is.")
def main(
    peers: str | None,
    before: str | None,
    only: tuple[str, ...],
    repeats: int,
    json_file: str | None,
    growth: bool,
    far: bool,
) -> None:
    """Measure ract, alone or beside Ray and Dask."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    pythons = {"ract": sys.executable}
    if peers:
        pythons |= {"ray": peers} if far else {"ray": peers, "dask": peers}
    if before:
        pythons[BEFORE] = before
    names = [n for n in operations.OPERATIONS if not only or any(part in n for part in only)]
    found: dict[str, Any] = {"systems": list(pythons), "cpus": os.cpu_count()}
    found["limits"] = {
        name: {"rate": rate, "unit": unit} for name, (rate, unit) in limits.all_limits().items()
    }
    if not only and not far:
        found["startup"] = _startup(pythons, repeats)
    hosts = [Host(system, python, far) for system, python in pythons.items()]
    found["idle_megabytes"] = {host.system: host.idle_megabytes for host in hosts}
    table = _table(pythons, found["limits"])
    found["operations"] = {}
    try:
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            row = found["operations"][name] = _measure(hosts, name, repeats)
            table.add_row(*_cells(name, row, found))
    finally:
        for host in hosts:
            host.close()
    console.print(table)
    _print_rest(console, found)
    if growth:
        found["growth"] = _growth(console)
    if json_file:
        Path(json_file).write_text(json.dumps(found, indent=2) + "\n")


def _startup(pythons: dict[str, str], repeats: int) -> dict[str, dict[str, float]]:
    systems = {
        system: python for system, python in pythons.items() if system not in ("dask", BEFORE)
    }
    runs: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for _ in range(repeats):
        for system, python in systems.items():
            runs[system].append(startup.measure(python, system, dict(os.environ)))
    return {system: startup.medians(each) for system, each in runs.items()}


def _measure(hosts: list[Host], name: str, repeats: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {}
    row: dict[str, Any] = {"unit": operations.OPERATIONS[name].unit, "errors": {}}
    for _ in range(repeats):
        for host in hosts:
            if host.system == "dask" and name not in operations.DASK:
                continue
            answer = host.measure(name)
            if "error" in answer:
                row["errors"][host.system] = answer["error"]
            else:
                rates.setdefault(host.system, []).append(answer["rate"])
    return row | {"rates": {system: statistics.median(each) for system, each in rates.items()}}


def ratio(row: dict[str, Any], other: str) -> float | None:
    """How many times better ract is."""
    mine, theirs = row["rates"].get("ract"), row["rates"].get(other)
    if not mine or not theirs:
        return None
    return theirs / mine if row["unit"] == "s" else mine / theirs


def _table(pythons: dict[str, str], limit_rates: dict[str, Any]) -> Table:
    table = Table(title="Operations, medians")
    table.add_column("operation")
    for system in pythons:
        table.add_column(system, justify="right")
    table.add_column("unit")
    for system in pythons:
        if system != "ract":
            table.add_column(f"x {system}", justify="right")
    table.add_column("of the limit", justify="right")
    return table


def _cells(name: str, row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    systems = found["systems"]
    cells = [name]
    for system in systems:
        rate = row["rates"].get(system)
        cells.append("" if rate is None else f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}")
    cells.append(row["unit"])
    for system in systems[1:]:
        times = ratio(row, system)
        cells.append(
            "" if times is None else f"{times:.2f}" if system == BEFORE else f"{times:.1f}"
        )
    limit = LIMIT_OF.get(name)
    mine = row["rates"].get("ract")
    share = mine / found["limits"][limit]["rate"] if limit and mine else None
    cells.append("" if share is None else f"{share:.0%} of {limit}")
    if row["errors"]:
        cells[0] += f" ({'; '.join(f'{s}: {e}' for s, e in row['errors'].items())})"
    return cells


def _print_rest(console: Console, found: dict[str, Any]) -> None:
    table = Table(title="The machine, start-up and idle memory")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, limit in found["limits"].items():
        table.add_row(f"limit: {name}", f"{limit['rate']:,.3g} {limit['unit']}")
    for system, steps in found.get("startup", {}).items():
        for step, seconds in steps.items():
            table.add_row(f"{system}: {step}", f"{seconds:.3f} s")
    for system, megabytes in found["idle_megabytes"].items():
        table.add_row(f"{system}: idle", f"{megabytes:.0f} MB")
    console.print(table)


def _growth(console: Console) -> list[dict[str, Any]]:
    from ract.benchmarks import growth

    rows = []
    for what, n, rate, unit in growth.rows():
        console.print(f"{what:36} {n:>9,} {rate:>12,.4g} {unit}")
        rows.append({"what": what, "n": n, "rate": rate, "unit": unit})
    return rows


if __name__ == "__main__":
    main()
