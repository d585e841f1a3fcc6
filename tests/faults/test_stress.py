"""A short form of ``make stress``: processes whose threads take turns in microseconds."""

import subprocess
import sys

import pytest

from ract.util.stress.flows import FLOWS
from ract.util.stress.lives import LIVES
from ract.util.stress.main import PHASES, covering
from ract.util.stress.sessions import SESSIONS
from ract.util.stress.travels import TRAVELS

HANG_S = 120  # the machine may be busy with other tests


@pytest.mark.slow
@pytest.mark.timeout(1200)  # what hangs is told of long before
@pytest.mark.parametrize("phase", [phase.name for phase in PHASES])
def test_nothing_hangs_fails_or_is_left(phase):
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "ract.util.stress", "--short", "--seed", "1"),
            *("--only", f"{phase}:", "--hang", str(HANG_S), "--busy", "0"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed, 0 hung, left: nothing" in done.stdout


def test_few_cells_combine_what_all_combine():
    few = covering(TRAVELS, 2, seed=1)
    assert len(few) < 100
    for cell in TRAVELS:
        facts = (cell.maker, cell.leaves), (cell.value, cell.time), (cell.reader, cell.place)
        for i, pair in enumerate(facts):
            others = (
                ((each.maker, each.leaves), (each.value, each.time), (each.reader, each.place))[i]
                for each in few
            )
            assert pair in others
    assert {each.use for each in covering(SESSIONS, 1, seed=1)} == {each.use for each in SESSIONS}


def test_each_cell_has_a_name_of_its_own():
    for cells in (TRAVELS, FLOWS, LIVES, SESSIONS):
        assert len(set(map(str, cells))) == len(cells)
