"""How a driver shows what tasks and actors print."""

import io
import sys

import pytest

from ract.client.people.driver_output import DriverOutput
from ract.client.process import user_code
from ract.core.messages import Pushed


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Notebook(io.StringIO):
    """Stands in for what ipykernel puts in the place of `sys.stdout`."""


Notebook.__module__ = "ipykernel.iostream"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("RACT_COLOR_PREFIX", "RAY_COLOR_PREFIX", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def shown(monkeypatch, stream, pid=7, is_err=False):
    monkeypatch.setattr(sys, "stderr" if is_err else "stdout", stream)
    data = {"name": "f", "pid": pid, "lines": ["hello"], "is_err": is_err}
    DriverOutput(True).receive(Pushed(0, "log", data))
    assert user_code.flush()
    return stream.getvalue()


@pytest.mark.parametrize("kind", [Terminal, Notebook])
@pytest.mark.parametrize("is_err", [False, True])
def test_who_printed_is_in_colour_where_colours_are_seen(monkeypatch, kind, is_err):
    assert shown(monkeypatch, kind(), is_err=is_err) == "\x1b[36m(f pid=7)\x1b[0m hello\n"


def test_files_and_pipes_have_no_colours(monkeypatch):
    assert shown(monkeypatch, io.StringIO()) == "(f pid=7) hello\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_COLOR_PREFIX", "0"), ("NO_COLOR", "1"), ("TERM", "dumb")],
)
def test_colours_can_be_turned_off(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert shown(monkeypatch, Terminal()) == "(f pid=7) hello\n"


def test_each_process_may_have_a_colour_of_its_own(monkeypatch):
    monkeypatch.setenv("RAY_COLOR_PREFIX", "1")
    first, second, again = (shown(monkeypatch, Terminal(), pid) for pid in (7, 8, 7))
    assert first == again
    assert first.split("m(")[0] != second.split("m(")[0]
