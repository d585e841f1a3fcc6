"""Many seeds: ``PYTHONPATH=tests python -m simulation 1-1000`` looks for new failures.

Each seed is run in three ways, as in `test_simulation.py`; ``--way`` chooses one. It prints how
many faults of which kind befell the worlds that ran clean, and which seeds did not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from simulation.simulator import World

WAYS = ("nothing_fails", "crashes", "scheduler_too")


def world_of(way: str, seed: int, folder: Path) -> World:
    """The world of a seed, in one of the `WAYS`."""
    if way == "nothing_fails":
        return World(seed, crashes=False)
    return World(seed, nodes=4, journal=folder / "journal" if way == "scheduler_too" else None)


def main() -> int:
    """Run the seeds; returns how many of them failed."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("seeds", help="as 7 or 1-1000")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--faults", type=int, help="stop after so many faults")
    parser.add_argument("--failures", type=int, default=10, help="stop after so many failures")
    parser.add_argument("--story", action="store_true", help="print what happened before a failure")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    faults: Counter[str] = Counter()
    failed, clean = 0, 0
    began = time.perf_counter()
    for seed in range(int(first), int(last or first) + 1):
        for way in [options.way] if options.way else WAYS:
            with tempfile.TemporaryDirectory() as folder:
                world = world_of(way, seed, Path(folder))
                told = io.StringIO()
                try:
                    with contextlib.redirect_stdout(told):
                        world.play(2.0 if way == "nothing_fails" else 3.0)
                except Exception as error:
                    failed += 1
                    if options.story:
                        print(told.getvalue())
                        traceback.print_exc()
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    place = f"{Path(where.filename).name}:{where.lineno}"
                    said = " ".join(str(error).split())[:300]
                    print(f"{way} {seed}: {place} {type(error).__name__}: {said}", flush=True)
                else:
                    clean += 1
                    faults += world.faults
        if failed >= options.failures or (options.faults and faults.total() >= options.faults):
            break
    took = time.perf_counter() - began
    print(f"{clean} worlds ran clean, {failed} did not, in {took:.0f} s: {faults.total()} faults")
    for kind, n in faults.most_common():
        print(f"{n:9} {kind}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
