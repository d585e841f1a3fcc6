"""The main job, for real: an inverted index of the standard library on an embedded cluster.

    python -m ract.util.demo

Tasks index chunks of files and cut what they find by word; each part goes straight from the task to
the actor that holds this shard of the index, without passing through the driver. The driver watches
the shards fill, asks them for their best words, merges, and at the end compares everything with a
plain run in one process. Any difference is an error exit.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import ract
from ract.util import demo_index
from ract.util.demo_index import Index, Statistics

TOP_WORDS = 10
LONGER_THAN = 4  #: shorter words are mostly Python's own
GET_TIMEOUT_S = 120.0


@ract.remote
def map_chunk(numbered, shards):
    """Index a chunk of files; returns one part per shard, then (statistics, pid)."""
    index, statistics = demo_index.index_files(numbered)
    return [*demo_index.cut(index, shards), (statistics, os.getpid())]


@ract.remote
class IndexShard:
    """Holds the part of the index that the hash of the words assigns to it."""

    def __init__(self):
        self.index: Index = {}

    def add(self, part):
        """Take in what one chunk of files has for this shard."""
        demo_index.merge(self.index, part)
        return len(part)

    def top(self, count, longer_than):
        """The best words of this shard. No other shard has them, so the driver just ranks."""
        return demo_index.top_words(self.index, count, longer_than)

    def contents(self):
        """The whole shard, and the process that holds it."""
        return self.index, os.getpid()


@dataclass
class Result:
    """What the cluster found, and how."""

    index: Index
    statistics: Statistics
    top: list[tuple[str, int, int]]
    executors: int
    tasks: int
    shards: int
    seconds: float


def run_on_cluster(files, cpus, console):
    """Build the index on the cluster that this process is connected to."""
    shards_count = max(2, min(cpus, 8))
    work = demo_index.chunks(files, max(16, 4 * cpus))
    start = time.perf_counter()
    # mypy does not know what decorators do to classes
    shards = [IndexShard.remote() for _ in range(shards_count)]  # type: ignore[attr-defined]
    added, counted = [], []
    for chunk in work:
        *parts, statistics = map_chunk.options(num_returns=shards_count + 1).remote(
            chunk, shards_count
        )
        counted.append(statistics)
        added += [shard.add.remote(part) for shard, part in zip(shards, parts, strict=True)]
        del parts  # the driver keeps no part of the index

    _watch(added, console)
    total, pids = Statistics(), set()
    for statistics, pid in ract.get(counted, timeout=GET_TIMEOUT_S):
        total += statistics
        pids.add(pid)
    best = ract.get(
        [shard.top.remote(TOP_WORDS, LONGER_THAN) for shard in shards], timeout=GET_TIMEOUT_S
    )
    top = sorted((entry for part in best for entry in part), key=lambda e: (-e[1], e[0]))
    seconds = time.perf_counter() - start

    index: Index = {}
    for part, pid in ract.get([shard.contents.remote() for shard in shards], timeout=GET_TIMEOUT_S):
        demo_index.merge(index, part)
        pids.add(pid)
    return Result(index, total, top[:TOP_WORDS], len(pids), len(work), shards_count, seconds)


def _watch(pending, console):
    """Show a progress bar until every ref is ready; the first failure is raised."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("indexing", total=len(pending))
        while pending:
            done, pending = ract.wait(pending, num_returns=min(8, len(pending)))
            ract.get(done)
            progress.advance(bar, len(done))


def run_plain(files):
    """The same job in this process alone: (index, statistics, top words, seconds)."""
    start = time.perf_counter()
    index, statistics = demo_index.index_files(enumerate(files))
    top = demo_index.top_words(index, TOP_WORDS, LONGER_THAN)
    return index, statistics, top, time.perf_counter() - start


def check(result, index, statistics, top):
    """What differs between the cluster's result and the plain one, as lines of text."""
    wrong = demo_index.differences(result.index, index)
    if result.statistics != statistics:
        wrong.append(f"statistics: {result.statistics}, expected {statistics}")
    if result.top != top:
        wrong.append(f"top words: {result.top}, expected {top}")
    return wrong


def report(result, console):
    """Print the table of results."""
    table = Table(title=f"Words of over {LONGER_THAN} letters")
    table.add_column("word")
    table.add_column("occurrences", justify="right")
    table.add_column("files", justify="right")
    for word, occurrences, in_files in result.top:
        table.add_row(word, f"{occurrences:,}", f"{in_files:,}")
    console.print(table)
    found = result.statistics
    console.print(
        f"{found.files:,} files, {found.lines:,} lines, {found.words:,} words "
        f"({len(result.index):,} different), {found.size_bytes / 1e6:.1f} MB"
    )


def main(argv=None):
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ract.util.demo", description=__doc__)
    parser.add_argument("--num-cpus", type=int, help="CPUs of the embedded cluster (all)")
    parser.add_argument("--files", type=int, help="index only so many files")
    options = parser.parse_args(argv)
    console = Console()

    files = demo_index.source_files()[: options.files]
    start = time.perf_counter()
    context = ract.init(num_cpus=options.num_cpus)
    try:
        cpus = int(ract.cluster_resources().get("CPU", 1))
        console.print(f"Cluster with {cpus} CPUs up in {time.perf_counter() - start:.2f} s.")
        if context.dashboard_url:
            console.print(f"Dashboard, while this runs: {_http(context.dashboard_url)}")
        result = run_on_cluster(files, max(cpus, 1), console)
    finally:
        ract.shutdown()

    report(result, console)
    console.print(
        f"{result.seconds:.2f} s on {result.executors} executors "
        f"({result.tasks} tasks, {result.shards} actors)."
    )
    index, statistics, top, seconds = run_plain(files)
    wrong = check(result, index, statistics, top)
    if wrong:
        console.print(f"[bold red]WRONG[/]: {len(wrong)} or more differences to the plain run:")
        for line in wrong:
            console.print(f"  {line}", markup=False)
        return 1
    console.print(f"Checked: equal to a plain run in one process, which took {seconds:.2f} s.")
    return 0


def _http(url):
    """Ray gives host:port; a link is what a terminal can open."""
    return url if "://" in url else f"http://{url}"


if __name__ == "__main__":
    sys.exit(main())
