"""What tasks and actors print last reaches the driver, also if it leaves right afterwards."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, ract
ract.init(num_cpus=2)
@ract.remote
def task(): print("from a task")
@ract.remote
class Actor:
    def speak(self): print("from an actor", file=sys.stderr)
actor = Actor.remote()
ract.get([task.remote(), actor.speak.remote()])
if sys.argv[1] == "shutdown": ract.shutdown()
"""


@pytest.mark.parametrize("how", ["shutdown", "exit"])
def test_last_lines_are_shown(how):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    assert "from a task" in ran.stdout + ran.stderr
    assert "from an actor" in ran.stdout + ran.stderr
