"""What a node tells of executors that cannot speak for themselves."""

import asyncio
import os
import sys

import pytest

from ract.worker.host import answers

PID = 4711


@pytest.fixture
def py_spy(tmp_path, monkeypatch):
    """Install a program of that name, which does as it is told; it notes its arguments."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(does):
        program = tmp_path / "py-spy"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\n{does}\n')
        program.chmod(0o755)
        return program

    install.args = tmp_path / "args"
    return install


def asked():
    return asyncio.run(answers._from_outside(PID))


def test_stack_comes_from_py_spy(py_spy):
    py_spy("echo 'Thread 4711 (active)'; echo '    hold (program.py:8)'")
    said = asked()
    assert "did not answer within 2 s" in said
    assert said.endswith("\nThread 4711 (active)\n    hold (program.py:8)\n")
    assert py_spy.args.read_text() == f"dump --pid {PID}\n"


def test_py_spy_of_the_nodes_own_environment_comes_first(py_spy, tmp_path, monkeypatch):
    py_spy("echo its own")
    other = tmp_path / "other"
    other.mkdir()
    (other / "py-spy").write_text("#!/bin/sh\necho from the path\n")
    (other / "py-spy").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")
    assert asked().endswith("its own\n")
    os.unlink(tmp_path / "py-spy")
    assert asked().endswith("from the path\n")


def test_who_has_no_py_spy_is_told_what_it_is_for(py_spy):
    assert "with py-spy installed it would be asked from outside" in asked()


def test_who_lacks_the_right_to_trace_is_told_so(py_spy):
    py_spy("echo 'Permission Denied: Try running again' >&2; exit 1")
    said = asked()
    assert "py-spy cannot look into it (exit code 1)" in said
    assert "CAP_SYS_PTRACE" in said
    assert said.endswith("Permission Denied: Try running again\n")


def test_py_spy_that_hangs_is_ended(py_spy, monkeypatch):
    monkeypatch.setattr(answers, "PY_SPY_TIMEOUT_S", 0.05)
    py_spy("exec sleep 60")
    assert "py-spy did not answer either" in asked()


def test_py_spy_that_cannot_be_run_does_not_spoil_the_others(py_spy):
    py_spy("").write_bytes(b"\x7fELF of another machine")
    assert "py-spy cannot be run: " in asked()
