"""Progress bars: of refs, of tasks, and what draws them."""

import builtins
import contextlib
import io
import json
import subprocess
import sys
import threading

import pytest
from rich.console import Console

import ract
from ract.core.session import child_environment
from ract.testing import SignalActor, wait_for_condition
from ract.util import bars, progress
from ract.util import tqdm as bar_module
from ract.util.plain_bars import LINES_EVERY_S, HtmlScreen, LineScreen
from ract.util.tqdm import BarManager, handle_line, safe_print, tqdm


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


class FakeScreen:
    """Notes what would be drawn: (description, n, total) by key; notes; and what was closed."""

    def __init__(self):
        self.bars = {}
        self.notes = {}
        self.closed = []
        self.entered = 0
        self.hidden = False

    def open(self, desc, total, unit):
        self.bars[len(self.bars)] = (desc, 0, total)
        return len(self.bars) - 1

    def set(self, key, desc, n, total, note=""):
        self.bars[key] = (desc, n, total)
        self.notes[key] = note

    def close(self, key):
        assert key not in self.closed
        self.closed.append(key)

    @contextlib.contextmanager
    def above(self):
        self.entered += 1
        yield

    def hide(self):
        self.hidden = True

    def show(self):
        self.hidden = False


@pytest.fixture
def screen(monkeypatch):
    """What the bars of this process are drawn on."""
    screen = FakeScreen()
    manager = BarManager(screen)
    monkeypatch.setattr(bar_module, "_instance", manager)
    yield screen
    manager.close_all()
    assert builtins.print is not safe_print


def message(**changes):
    state = {"id": "1", "owner": "work pid=7", "desc": "x", "n": 1, "total": 3, "unit": "it"}
    return bar_module.MARK + json.dumps({**state, "is_closed": False, **changes})


# --------------------------------------------------------------------------- progress


@ract.remote(num_cpus=0)
def after(signal, x):
    ract.get(signal.wait.remote())
    return x


@ract.remote(num_cpus=0)
def fail():
    raise KeyError("failed")


def test_values_come_in_the_order_of_completion_and_move_the_bar(screen):
    gates = [SignalActor.remote() for _ in range(2)]
    results = progress([after.remote(gate, i) for i, gate in enumerate(gates)], "waiting")
    assert screen.bars == {}
    for i in (1, 0):
        ract.get(gates[i].send.remote())
        assert next(results) == i
    assert screen.closed == []
    assert list(results) == []
    assert screen.bars == {0: ("waiting", 2, 2)}
    assert screen.closed == [0]


def test_refs_can_be_had_in_place_of_values(screen):
    refs = [fail.remote(), ract.put(1)]
    assert set(progress(refs, yield_obj_refs=True)) == set(refs)
    assert screen.bars == {0: ("", 2, 2)}
    assert screen.notes == {0: "1 failed"}


def test_all_kinds_of_failures_are_counted_without_fetching_values(screen):
    @ract.remote(num_cpus=0)
    def large(fails):
        import numpy as np

        if fails:
            raise ValueError(np.zeros(2**20))
        return np.zeros(2**20)

    @ract.remote(num_cpus=0)
    def elsewhere():
        return [large.remote(True)]

    [borrowed] = ract.get(elsewhere.remote())
    refs = [large.remote(True), large.remote(False), large.remote(True), borrowed, fail.remote()]
    for _ in progress(refs, "all", yield_obj_refs=True):
        pass
    assert screen.bars == {0: ("all", 5, 5)}
    assert screen.notes == {0: "4 failed"}


def test_error_closes_the_bar(screen):
    with pytest.raises(KeyError):
        list(progress(iter([fail.remote()])))
    assert screen.closed == [0]
    assert screen.notes == {0: "1 failed"}


def test_leaving_the_loop_closes_the_bar(screen):
    for _ in progress([ract.put(1), ract.put(2)]):
        break
    assert screen.closed == [0]


# --------------------------------------------------------------------------- tqdm


def test_iterating_moves_and_closes_the_bar(screen):
    seen = [(x, screen.bars[0][1]) for x in tqdm("abc", desc="letters", flush_interval_s=0)]
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    assert screen.bars == {0: ("letters", 3, 3)}
    assert screen.closed == [0]


def test_iterables_without_a_length_have_no_total(screen):
    assert list(tqdm(iter("ab"))) == ["a", "b"]
    assert list(tqdm(iter("ab"), total=2)) == ["a", "b"]
    assert [total for _, _, total in screen.bars.values()] == [None, 2]


def test_bar_is_moved_by_hand(screen):
    bar = tqdm(desc="a", total=10, unit="B", position=3, flush_interval_s=0)
    bar.update(4)
    bar.update(2)
    assert screen.bars[0] == ("a", 6, 10)
    bar.set_description("b")
    assert screen.bars[0] == ("b", 6, 10)
    bar.n, bar.total = 1, 20
    bar.refresh()
    assert screen.bars[0] == ("b", 1, 20)
    bar.close()
    bar.close()
    bar.refresh()
    assert screen.closed == [0]
    with pytest.raises(ValueError, match="iterable"):
        next(iter(tqdm()))


def test_updates_within_the_interval_are_not_drawn_but_the_last_state_is(screen):
    with tqdm(total=10, flush_interval_s=1000) as bar:
        bar.update(5)
        assert screen.bars[0][1] == 0
    assert screen.bars[0][1] == 5


def test_bar_that_is_dropped_is_closed(screen):
    bar = tqdm(total=3)
    del bar
    assert screen.closed == [0]


def test_bars_of_tasks_are_drawn_by_the_driver_and_their_lines_not_shown(screen, capsys):
    @ract.remote(num_cpus=0)
    def work(n):
        for _ in tqdm(range(n), desc=f"count to {n}", unit="step"):
            pass
        print(f"counted to {n}")

    ract.get([work.remote(3), work.remote(5)])
    wait_for_condition(lambda: sorted(screen.closed) == [0, 1])
    assert not handle_line("counted to 3")
    shown = capsys.readouterr()
    assert "__ract_tqdm__" not in shown.out + shown.err
    [three, five] = sorted(screen.bars.values(), key=lambda bar: bar[1])
    assert three[1:] == (3, 3)
    assert five[1:] == (5, 5)
    assert three[0].startswith("(work pid=")
    assert three[0].endswith("count to 3")


# --------------------------------------------------------------------------- lines


def test_lines_open_move_and_close_a_bar(screen):
    assert handle_line(message())
    assert handle_line(message(n=2, desc="y"))
    assert handle_line(message(id="2"))
    assert screen.bars == {0: ("(work pid=7) y", 2, 3), 1: ("(work pid=7) x", 1, 3)}
    assert handle_line(message(n=3, is_closed=True))
    assert screen.closed == [0]
    assert not bar_module.instance().is_empty()


def test_other_lines_are_left_alone(screen):
    for text in ("hello", "", bar_module.MARK, bar_module.MARK + "{}", bar_module.MARK + "[1]"):
        assert not handle_line(text)
    assert not handle_line(message(n="much"))
    assert not handle_line(message(surplus=1))
    assert not handle_line(message(note=1))
    assert screen.bars == {}


def test_a_line_that_was_begun_before_is_shown(screen, capsys):
    assert handle_line("begun" + message())
    assert capsys.readouterr().out == "begun\n"
    assert len(screen.bars) == 1


def test_bars_of_processes_that_are_gone_can_be_closed(screen):
    handle_line(message())
    handle_line(message(id="2"))
    bar_module.instance().close_all()
    assert sorted(screen.closed) == [0, 1]
    assert bar_module.instance().is_empty()


# --------------------------------------------------------------------------- print


def test_print_goes_above_the_bars_while_there_are_any(screen, capsys):
    before = builtins.print
    print("no bar")
    assert screen.entered == 0
    with tqdm(total=1):
        assert builtins.print is safe_print
        print("above", "the bar", sep=" ")
        safe_print("too")
    assert builtins.print is before
    assert screen.entered == 2
    assert capsys.readouterr().out == "no bar\nabove the bar\ntoo\n"


def test_print_is_left_alone_if_so_set(screen, monkeypatch):
    monkeypatch.setenv("RAY_TQDM_PATCH_PRINT", "0")
    before = builtins.print
    with tqdm(total=1):
        assert builtins.print is before


def test_bars_are_hidden_until_the_last_who_hid_them_shows_them(screen):
    manager = bar_module.instance()
    manager.hide_bars()
    manager.hide_bars()
    manager.unhide_bars()
    assert screen.hidden
    manager.unhide_bars()
    manager.unhide_bars()
    assert not screen.hidden


# --------------------------------------------------------------------------- screens


def drawn(is_terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=100)
    screen = bars.RichScreen(console)
    first = screen.open("[first]", 10, "B")
    second = screen.open("second", None, "it")
    screen.set(first, "[renamed]", 4, 10)
    screen.set(second, "second", 7, None, "2 failed")
    screen.hide()
    screen.show()
    screen.close(first)
    screen.set(first, "[too late]", 9, 10)
    screen.close(first)
    screen.close(second)
    return file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_rich_draws_bars_and_leaves_nothing_running(is_terminal):
    threads = threading.active_count()
    text = drawn(is_terminal)
    wait_for_condition(lambda: threading.active_count() == threads)
    last = text[text.rindex("[renamed]") :]
    assert "4/10 B" in last
    assert "7 it, 2 failed" in last
    assert "too late" not in text


class FakeTqdm:
    """The part of tqdm's interface that is used."""

    made: list = []

    def __init__(self, desc, total, unit, mininterval):
        self.desc, self.total, self.unit, self.n = desc and desc + ": ", total, unit, 0
        self.log = []
        FakeTqdm.made.append(self)

    def set_description(self, desc, refresh):
        self.desc = desc + ": "

    def set_postfix_str(self, text, refresh):
        self.postfix = text

    def update(self, n):
        self.n += n

    def refresh(self):
        self.log.append("refresh")

    def clear(self):
        self.log.append("clear")

    def close(self):
        self.log.append("close")

    @classmethod
    @contextlib.contextmanager
    def external_write_mode(cls):
        yield


def test_tqdm_draws_bars():
    screen = bars.TqdmScreen(FakeTqdm)
    key = screen.open("a", 10, "")
    [bar] = FakeTqdm.made
    screen.set(key, "b", 4, 20)
    screen.set(key, "b", 3, 20, "1 failed")
    assert bar.postfix == "1 failed"
    assert (bar.desc, bar.n, bar.total, bar.unit) == ("b: ", 3, 20, "it")
    screen.hide()
    screen.show()
    with screen.above():
        pass
    screen.close(key)
    screen.close(key)
    screen.set(key, "b", 9, 20)
    assert bar.n == 3
    assert bar.log == ["clear", "refresh", "refresh", "close"]


def test_each_kind_of_output_has_its_screen():
    def kind(is_notebook, is_terminal, *modules):
        return type(bars.choose(is_notebook, is_terminal, modules.__contains__)).__name__

    assert kind(False, True) == "RichScreen"
    assert kind(False, False) == kind(False, False, "tqdm.auto") == "LineScreen"
    assert kind(True, False) == kind(True, False, "ipywidgets") == "HtmlScreen"
    assert not bars.is_in_notebook()


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_lines_come_now_and_then_and_at_the_end():
    clock, file = Clock(), io.StringIO()
    screen = LineScreen(file, clock)
    key = screen.open("work", 100, "it")
    for n in (10, 40):
        clock.now += 0.5 * LINES_EVERY_S
        screen.set(key, "work", n, 100, "2 failed" if n == 40 else "")
    clock.now += LINES_EVERY_S
    screen.set(key, "work", 40, 100)  # it has not moved
    screen.hide()
    screen.set(key, "work", 50, 100)
    screen.show()
    clock.now += 3600
    screen.set(key, "work", 100, 100)
    screen.close(key)
    screen.close(key)
    assert file.getvalue().splitlines() == [
        "work: 40/100 it, 2 failed, 4 it/s, 0:15 left",
        "work: 100/100 it, 0.0276 it/s, in 1:00:20",
        "work: 100/100 it, 0.0276 it/s, in 1:00:20",
    ]


def test_a_bar_of_unknown_length_and_without_a_name_is_told_in_words():
    clock, file = Clock(), io.StringIO()
    screen = LineScreen(file, clock)
    key = screen.open("", None, "B")
    screen.close(screen.open("nothing", 0, "it"))
    clock.now += 2
    screen.set(key, "", 7, None)
    screen.close(key)
    assert file.getvalue() == "nothing: 0/0 it\n7 B, 3.5 B/s, in 0:02\n"


def test_notebooks_get_html_that_changes():
    clock, shown = Clock(), []

    def display(text):
        shown.append([text])
        return shown[-1].append

    screen = HtmlScreen(display, clock)
    key = screen.open("<b>", 4, "it")
    screen.set(key, "<b>", 1, 4)  # too soon to be drawn
    clock.now += 1
    screen.set(key, "<b>", 2, 4, "1 failed")
    screen.set(key, "<b>", 3, 4)
    screen.close(key)
    [[first, second, last]] = shown
    assert "<b>" not in first
    assert "&lt;b&gt;: 0/4 it" in first
    assert 'value="0.5000"' in second
    assert "2/4 it, 1 failed, 2 it/s, 0:01 left" in second
    assert "3/4 it" in last
    screen.close(screen.open("", None, "it"))
    assert " value" not in shown[1][-1]


def test_a_program_whose_output_goes_to_a_file_gets_lines():
    code = """
import ract
from ract.util import progress
ract.init(num_cpus=2)
f = ract.remote(lambda x: 1 // x)
for _ in progress([f.remote(x) for x in range(5)], "dividing", yield_obj_refs=True):
    pass
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line for line in done.stderr.splitlines() if "dividing" in line]
    assert len(lines) == 1
    assert lines[0].startswith("dividing: 5/5 it, 1 failed, ")
    assert "\r" not in done.stderr


def test_a_notebook_shows_a_bar_that_ends_full():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    cell = """
import ract
from ract.util import progress
ract.init(num_cpus=2)
f = ract.remote(lambda x: x)
total = sum(progress([f.remote(x) for x in range(20)], "adding"))
ract.shutdown()
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=60).execute(env=child_environment())
    [shown] = [each for each in notebook.cells[0].outputs if each.output_type == "display_data"]
    assert 'value="1.0000"' in shown.data["text/html"]
    assert "adding: 20/20 it" in shown.data["text/html"]
