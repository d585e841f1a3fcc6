"""How long a program takes until it has its first result, per system; one process per run."""

from __future__ import annotations

import json
import statistics
import subprocess

PROGRAM = """
import json, os, sys, time
start = time.perf_counter()
import {system} as api
imported = time.perf_counter()
options = dict(include_dashboard=False)
if {system!r} == "ray":
    options.update(log_to_driver=False, logging_level="error")
api.init(**options)
connected = time.perf_counter()
@api.remote
def first():
    return 1
assert api.get(first.remote()) == 1
result = time.perf_counter()
api.shutdown()
end = time.perf_counter()
print(json.dumps({{
    "import": imported - start,
    "init": connected - imported,
    "init to first result": result - imported,
    "shutdown": end - result,
}}), file=sys.stderr)
"""


def measure(python: str, system: str, env: dict[str, str]) -> dict[str, float]:
    """Seconds per step of one run."""
    done = subprocess.run(
        [python, "-c", PROGRAM.format(system=system)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stderr.strip().splitlines()[-1])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each step."""
    return {step: statistics.median(run[step] for run in runs) for step in runs[0]}
