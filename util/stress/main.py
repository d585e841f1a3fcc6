"""``make stress``: the phases one after the other, each in clusters of two nodes.

A phase ends with a look at what is left. A cluster in which a round hangs is told of and left; the
phase goes on in a new one, or not, as asked.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

import ract
from ract.testing import Cluster, collect_garbage, reference_counts
from ract.util.state import list_objects
from ract.util.stress.flows import FLOWS, FlowCast
from ract.util.stress.lives import LIVES
from ract.util.stress.rounds import Cell, Rounds
from ract.util.stress.sessions import SESSIONS
from ract.util.stress.travels import TRAVELS, Cast

SWITCH_INTERVAL_S = 1e-6
SETTLE_S = 60.0
OBJECTS_SHOWN_MAX = 8
NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 2**30}


@dataclass(frozen=True)
class Phase:
    """Cells that are done at a time in one cluster."""

    name: str
    cells: Sequence[Cell]
    cast: Callable[[], Any]  #: makes what they need
    share: float  #: of the time
    threads: int = 6  #: of the driver
    at_once: int = 6  #: rounds that each of them begins before it ends them
    is_joined: bool = True  #: whether the driver is in the cluster; else the rounds join it
    short: int | None = None  #: how many properties to combine in a short run; None: all cells


PHASES = (
    Phase("travels", TRAVELS, Cast, 0.5, short=4),
    Phase("flows", FLOWS, FlowCast, 0.2),
    Phase("lives", LIVES, lambda: None, 0.15),
    Phase("sessions", SESSIONS, lambda: None, 0.15, threads=1, at_once=1, is_joined=False, short=1),
)


@dataclass
class Found:
    """What came of a phase."""

    done: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, int, str]] = field(default_factory=list)
    hung: list[tuple[str, int]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0
    missing: int = 0  #: rounds that were asked for, and had no time

    @property
    def rounds(self) -> int:
        """All that have ended, well or not."""
        return self.done.total() + len(self.failed)

    @property
    def is_right(self) -> bool:
        """Whether nothing failed, hung, was left or left out."""
        return not (self.failed or self.hung or self.left or self.missing)


def chosen(phase: Phase, given: argparse.Namespace) -> list[Cell]:
    """The cells of a phase that are asked for."""
    cells = phase.cells
    if given.short and phase.short is not None:
        cells = covering(cells, phase.short, given.seed)
    return [
        cell
        for cell in cells
        if given.only in (name := f"{phase.name}: {cell}")
        and not (given.without and given.without in name)
    ]


def covering(cells: Sequence[Any], strength: int, seed: int) -> list[Any]:
    """Few of the cells, in which each combination of so many properties occurs that occurs in all.

    Args:
        cells: Instances of one dataclass, whose fields are the properties.
        strength: How many properties are combined.
        seed: Of the order in which the cells are looked at.
    """
    order = random.Random(seed).sample(cells, len(cells))
    combined = {
        cell: set(itertools.combinations(enumerate(dataclasses.astuple(cell)), strength))
        for cell in order
    }
    missing = set().union(*combined.values())
    chosen = []
    most = max(map(len, combined.values()))
    for least in range(most, 0, -1):  # first those with the most that is new
        for cell in order:
            if len(combined[cell] & missing) >= least:
                missing -= combined[cell]
                chosen.append(cell)
    return chosen


def run(phase: Phase, given: argparse.Namespace, seconds: float) -> Found:
    """Run a phase, in one cluster after another if rounds hang."""
    found = Found()
    cells = chosen(phase, given)
    if not cells:
        return found
    until = time.monotonic() + seconds
    rounds = given.rounds or int(given.short)
    goal = len(cells) * rounds if rounds else sys.maxsize
    seed = given.seed
    while found.rounds < goal and time.monotonic() < until:
        if found.hung and not given.go_on:
            break
        count = goal - found.rounds
        _run_once(phase, cells, found, given, seed, until - time.monotonic(), count)
        seed += 1
    if rounds:
        found.missing = goal - found.rounds
    found.seconds = seconds - (until - time.monotonic())
    return found


def _run_once(
    phase: Phase,
    cells: Sequence[Cell],
    found: Found,
    given: argparse.Namespace,
    seed: int,
    seconds: float,
    count: int,
) -> None:
    head = {**NODE, "resources": {"here": 1000}}
    with Cluster(True, head_node_args=head) as cluster:
        cluster.add_node(**NODE, resources={"there": 1000})
        os.environ["RACT_ADDRESS"] = cluster.address
        if phase.is_joined:
            ract.init()
        rounds = Rounds(
            cells,
            phase.cast(),
            seed,
            threads=phase.threads,
            hang_s=given.hang,
            at_once=phase.at_once,
            session_dir=cluster.list_all_nodes()[0].session_dir,
        )
        rounds.run(seconds=seconds, rounds=count)
        found.done += rounds.done
        found.failed += rounds.failed
        found.hung += rounds.hung
        if not rounds.hung:
            del rounds
            ract.init(ignore_reinit_error=True)
            left = emptied()
            found.left += left
            print(f"{phase.name}: left: {left or 'nothing'}", flush=True)
        ract.shutdown()
        heads = [psutil.Process(node.pid) for node in cluster.list_all_nodes()]
        processes = [*heads, *(child for head in heads for child in head.children(recursive=True))]
    found.left += [f"process {each.pid}" for each in processes if each.is_running()]


def emptied() -> list[str]:
    """What the cluster still has of a program that let go of everything; waits for its end."""
    for actor in ract.util.list_named_actors(all_namespaces=True):
        ract.kill(ract.get_actor(**actor))
    until = time.monotonic() + SETTLE_S
    gc.collect()
    left = what_is_left()
    while left and time.monotonic() < until:
        collect_garbage()
        time.sleep(0.2)
        left = what_is_left()
    return left


def what_is_left() -> list[str]:
    """Objects, holds, actors and reservations of the cluster, in words."""
    from ract.client.runtime import current_runtime

    runtime = current_runtime()
    assert runtime is not None
    link = runtime.link
    status = link.request("status")
    left = [f"{status[name]} {name}" for name in ("objects", "leases") if status[name]]
    left += [f"{n} actors {state}" for state, n in status["actors"].items() if state != "DEAD"]
    for name, amount in status["resources"].items():
        if amount["used"]:
            left.append(f"{amount['used']} of {name} taken")
    for node, store in link.request("store").items():
        if store.get("objects") or store.get("object_bytes"):
            left.append(f"{store['objects']} objects on node {node[:8]}")
    left += [f"ref {id} {counts}" for id, counts in reference_counts().items()]
    if status["objects"]:
        rows = list_objects(limit=1000)
        rows.sort(key=lambda row: row.reference_type != "ACTOR_HANDLE")
        left += [_who_holds(row) for row in rows[:OBJECTS_SHOWN_MAX]]
    return left


def _who_holds(row: Any) -> str:
    return (
        f"object {row.object_id}: {row.reference_type} of {row.type} {row.pid} on "
        f"{row.ip}, {row.task_status}, {row.object_size} bytes"
    )


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that only take time, at a lower priority."""
    code = "import os; os.nice(5)\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Run the phases and print what came of them; exit code 1 if anything was not right."""
    parser = argparse.ArgumentParser(prog="stress", description="Rounds of everything.")
    parser.add_argument("--seconds", type=float, default=1800.0, help="for all phases together")
    parser.add_argument("--rounds", type=int, default=0, help="per cell, then it ends")
    parser.add_argument("--short", action="store_true", help="few cells, that combine all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cells (phase: cell) that contain this")
    parser.add_argument("--without", default="", help="no cells that contain this")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 2, help="busy processes")
    parser.add_argument("--hang", type=float, default=60.0, help="seconds until a round hangs")
    parser.add_argument("--go-on", action="store_true", help="after a round that hangs")
    given = parser.parse_args()
    os.environ["RACT_SWITCH_INTERVAL_S"] = str(SWITCH_INTERVAL_S)
    phases = [phase for phase in PHASES if chosen(phase, given)]
    whole = sum(phase.share for phase in phases)
    results = {}
    with busy(given.busy):
        for phase in phases:
            print(f"{phase.name}: {len(phase.cells)} cells", flush=True)
            results[phase.name] = run(phase, given, given.seconds * phase.share / whole)
    for phase in phases:
        found = results[phase.name]
        done = found.done.total()
        per_s = done / max(found.seconds, 1e-9)
        print(
            f"{phase.name}: {done} rounds of {len(found.done)} cells in {found.seconds:.0f} s, "
            f"{per_s:.0f} per second; {len(found.failed)} failed, {len(found.hung)} hung, "
            f"left: {', '.join(found.left) or 'nothing'}"
            + (f"; no time for {found.missing} rounds" if found.missing else "")
        )
    sys.stdout.flush()
    # Threads of rounds that hang would keep the process.
    os._exit(0 if all(found.is_right for found in results.values()) else 1)
