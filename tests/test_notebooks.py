"""The notebooks run from top to bottom, and find what they say.

With nbclient and ipykernel in the environment each runs in a kernel of its own, as for a reader;
without them in a process of its own, which does with cells what a kernel does.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb"))
TIMEOUT_S = 110
HAS_KERNEL = all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel"))

#: What must hold in the notebook's namespace after its last cell.
CHECKS = {
    "tour": """
        assert submitted < elapsed and len(processes) == 2
        assert (total, awaited) == (6, 42)
        assert (first, unchanged, second) == ("metres", "metres", "feet")
        assert order == [0.1, 0.3, 0.7]
        assert isinstance(caught, ract.exceptions.RactTaskError) and ", in ratio" in str(caught)
        assert crashed.exit_code == 42
        assert balances == [15, 12] and balance == 20
        assert at_once == 10
        assert streamed == streamed_too == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
        assert abs(mean) < 0.01 and abs(variance - 1) < 0.01 and not any(writeable)
        assert "Telescope" in explanation
        assert isinstance(cancelled, ract.exceptions.TaskCancelledError)
    """,
    "services": """
        assert status["files"] == len(paths) and words > 100_000
        assert 1 <= status["most_loading"] <= 2
        assert answers["shuffle random choice"][0] == "random.py"
        assert answers["parse command line arguments"][0] in ("argparse.py", "optparse.py")
        assert beside < whole / 2
        assert found_by_name == ["tempfile.py"]
        assert over_http[:2] == [answers["cancel a coroutine"], answers[queries[1]]]
        assert len(over_http) == 100
        assert blocked_pages == list(range(8)) and submitting > 0.1
        assert refused + len(raised_pages) == shed + printed == 8 and refused and shed
        assert isinstance(timed_out, TimeoutError)
        assert pages == ["slow", "urgent", "normal 1", "normal 2"]
        assert isinstance(called_off, TaskCancelledError) and still_open == 0
    """,
    "parameter_server": """
        assert shared == [True] * WORKERS
        assert chance < 0.3
        assert min(sync_accuracy, sync_batch_accuracy, async_accuracy) > chance + 0.25
        assert difference < 1e-4
        assert updates >= sum(contributed.values()) - WORKERS
        assert contributed[uneven[-1]] == min(contributed.values())
    """,
    "pipeline": """
        assert made_freely > 15
        assert 0 < min(ahead) and max(ahead) <= LIMIT
        assert chunks > 15 and most_ahead <= LIMIT + 1
        assert lines == plain_lines and files == plain_files
        assert all(plain_names[name] == n for name, n in names)
        assert seen == ["first", "second"] and isinstance(failed.cause, OSError)
    """,
}

#: Runs the cells it reads from stdin in one namespace and on one event loop, as a kernel does.
AS_A_KERNEL = """
import ast, asyncio, inspect, json, linecache, sys

async def main():
    namespace = sys.modules["__main__"].__dict__
    for name, source in json.load(sys.stdin):
        linecache.cache[name] = len(source), None, source.splitlines(True), name
        code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waiting = eval(code, namespace)
        if inspect.isawaitable(waiting):
            await waiting

asyncio.run(main())
"""


def code_cells(path):
    """(name, source) of each cell of code, and of the check at the end."""
    cells = json.loads(path.read_text())["cells"]
    found = [
        (f"<{path.name}, cell {number}>", "".join(cell["source"]))
        for number, cell in enumerate(cells)
        if cell["cell_type"] == "code"
    ]
    check = CHECKS[path.stem].strip().replace("\n        ", "\n")
    return [*found, (f"<{__file__}, {path.stem}>", check)]


def run_in_a_process(path, folder):
    done = subprocess.run(
        [sys.executable, "-c", AS_A_KERNEL],
        input=json.dumps(code_cells(path)),
        capture_output=True,
        cwd=folder,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_in_a_kernel(path, folder):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(code_cells(path)[-1][1]))
    resources = {"metadata": {"path": str(folder)}}
    env = {**os.environ, "IPYTHONDIR": str(folder)}
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=resources
    )
    client.execute(env=env)


def test_every_notebook_is_checked():
    assert sorted(CHECKS) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_the_results_are_right(path, tmp_path):
    (run_in_a_kernel if HAS_KERNEL else run_in_a_process)(path, tmp_path)


# --------------------------------------------------------------------------- in a real kernel


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """Runs a cell in a kernel: ``cell(source)`` gives [(kind of output, text), ...]."""
    if not HAS_KERNEL:
        pytest.skip("needs nbclient and ipykernel")
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    found = []

    def note(message):
        content = message["content"]
        if message["msg_type"] == "stream":
            found.append((content["name"], content["text"]))
            if "interrupt me" in content["text"]:
                manager.interrupt_kernel()  # SIGINT
        elif message["msg_type"] == "execute_result":
            found.append(("result", content["data"]["text/plain"]))
        elif message["msg_type"] == "error":
            found.append(("error", content["ename"]))

    def run(source):
        found.clear()
        client.execute_interactive(source, output_hook=note, timeout=TIMEOUT_S)
        return list(found)

    run("import ract, time; ract.init(num_cpus=2)")
    yield run
    run("ract.shutdown()")
    client.stop_channels()
    manager.shutdown_kernel()


INTERRUPTED = """
@ract.remote
def slow(seconds):
    time.sleep(seconds)
    return "slept"

@ract.remote
class Actor:
    def slow(self, seconds):
        time.sleep(seconds)
        return "slept"

actor, ref = Actor.remote(), slow.remote(1)
print("interrupt me", flush=True)
"""


@pytest.mark.parametrize(
    "wait",
    [
        "ract.get(slow.remote(30))",
        "ract.wait([slow.remote(30)])",
        "ract.get(actor.slow.remote(3))",
    ],
)
def test_an_interrupted_cell_keeps_the_cluster(cell, wait):
    assert cell(INTERRUPTED + wait)[-1] == ("error", "KeyboardInterrupt")
    assert cell("ract.get(ref)")[-1] == ("result", "'slept'")
    assert cell("ract.get(actor.slow.remote(0))")[-1] == ("result", "'slept'")


def test_what_a_cell_defines_again_is_used_by_the_next_call(cell):
    define = "@ract.remote\ndef f(): return {0}\n@ract.remote\nclass A:\n def f(self): return {0}\n"
    call = "ract.get([f.remote(), A.remote().f.remote()])"
    assert cell(define.format(1) + call) == [("result", "[1, 1]")]
    assert cell(define.format(2) + call) == [("result", "[2, 2]")]


def test_a_cell_awaits_refs_and_shows_what_tasks_print(cell):
    define = "@ract.remote\ndef speak(x):\n    print('said', x)\n    return x\n"
    wait = "found = await speak.remote(7)\ntime.sleep(0.5)\nfound"
    printed, result = cell(define + wait)
    assert printed[0] == "stdout"
    assert "(speak pid=" in printed[1]
    assert printed[1].endswith("said 7\n")
    assert result == ("result", "7")
