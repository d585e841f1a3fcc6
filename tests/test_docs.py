"""The examples in the documentation run, and print what they say.

The ```python blocks of a page run from top to bottom in a process of their own, on a cluster with
two CPUs unless the page starts one. A block below the line ``<!-- not run -->`` is passed over.
Lines such as ``print(x)  # 3`` say what is printed, in this order; ``...`` stands for anything.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 60
NOT_RUN = "<!-- not run -->"
STARTS_A_CLUSTER = re.compile(r"\b(ract|ray)\.init\(|\bCluster\(")
PRINTED = re.compile(r"^\s*print\(.*\)\s+# (.+)$")

#: Reads [[first line, source], ...] from stdin. Lines keep their numbers, so that a traceback
#: names the page and the line.
RUNNER = """
import json, sys
page, *start = sys.argv[1:]
blocks = json.load(sys.stdin)
if start:
    import ract
    ract.init(num_cpus=2)
for line, source in blocks:
    exec(compile("\\n" * (line - 1) + source, page, "exec"))
if "ract" in sys.modules:
    sys.modules["ract"].shutdown()
"""


def blocks_of(page):
    """[(number of the first line, source), ...] of the blocks to be run."""
    found, block, skip = [], None, False
    previous = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if block is None and line.rstrip() == "```python":
            block, first, skip = [], number + 1, previous == NOT_RUN
        elif block is not None and line.rstrip() == "```":
            if not skip:
                found.append((first, "\n".join(block) + "\n"))
            block = None
        elif block is not None:
            block.append(line)
        previous = line.strip() or previous
    assert block is None, f"{page}: a block is not closed"
    return found


PAGES = {
    str(page.relative_to(ROOT)): blocks
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if (blocks := blocks_of(page))
}


def promises(blocks):
    """(line number, text) of what the page says is printed."""
    for first, source in blocks:
        for number, line in enumerate(source.splitlines(), first):
            if found := PRINTED.match(line):
                yield number, found[1]


@pytest.mark.parametrize("name", PAGES)
def test_the_examples_of_a_page_run_and_print_what_they_say(name, tmp_path):
    blocks = PAGES[name]
    starts = any(STARTS_A_CLUSTER.search(source) for _, source in blocks)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(ROOT / name), *([] if starts else ["start"])],
        input=json.dumps(blocks),
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{name}:\n{done.stderr}"
    printed = iter(done.stdout.splitlines())
    for number, text in promises(blocks):
        wanted = re.compile(".*".join(map(re.escape, text.split("..."))))
        assert any(map(wanted.fullmatch, printed)), (
            f"{name}, line {number}: {text!r} is not printed there, but:\n{done.stdout}"
        )


def test_blocks_are_found_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"x\n```python\na\nb\n```\n{NOT_RUN}\n```python\nc\n```\n\n```python\nd\n```\n")
    assert blocks_of(page) == [(3, "a\nb\n"), (12, "d\n")]
    assert list(promises([(3, "x\nprint(1)  # 1\n")])) == [(4, "1")]
