"""Which printed lines a driver shows (pure)."""

import re

import pytest

from ract.client.people.log_lines import LINES_PER_S_MAX, LineFilter, Settings


@pytest.fixture
def lines():
    return LineFilter()


def feed(lines, now, source, text):
    return [shown for _, shown in lines.line(now, source, f"(f pid={source})", text, False)]


def test_the_first_line_is_shown_at_once_and_the_same_of_others_once(lines):
    assert feed(lines, 0, "1", "epoch 1 of 10") == ["(f pid=1) epoch 1 of 10"]
    for source in "2345":
        assert feed(lines, 1, source, f"epoch {source} of 10") == []
    assert lines.due(4.9) == []
    ((_, shown),) = lines.due(5)
    assert shown.startswith("(f pid=5) epoch 5 of 10 [repeated 4x across cluster")
    assert not lines.is_waiting


def test_what_one_worker_repeats_is_shown(lines):
    assert [feed(lines, i, "1", f"step {i}") for i in range(3)] == [
        [f"(f pid=1) step {i}"] for i in range(3)
    ]


def test_a_line_held_back_alone_is_shown_as_it_is(lines):
    feed(lines, 0, "1", "hello")
    feed(lines, 0, "2", "hello")
    assert lines.rest() == [(False, "(f pid=2) hello")]


def test_the_time_of_a_line_begins_anew_when_it_is_over(lines):
    feed(lines, 0, "1", "hello")
    assert feed(lines, 6, "2", "hello") == ["(f pid=2) hello"]


def test_other_lines_are_other_lines(lines):
    assert feed(lines, 0, "1", "one")
    assert feed(lines, 0, "2", "two")


def test_it_can_be_turned_off_and_told_what_to_show():
    off = LineFilter(Settings(is_on=False))
    assert feed(off, 0, "1", "a")
    assert feed(off, 0, "2", "a")
    told = LineFilter(Settings(always=re.compile("loss"), never=re.compile("debug")))
    assert feed(told, 0, "1", "loss 1")
    assert feed(told, 0, "2", "loss 2")
    assert feed(told, 0, "1", "debug") == []


def test_settings_come_from_the_environment_under_both_names(monkeypatch):
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    monkeypatch.setenv("RACT_DEDUP_LOGS_AGG_WINDOW_S", "2")
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", "x+")
    found = Settings.from_environment()
    assert (found.is_on, found.window_s, found.always) == (False, 2.0, None)
    assert found.never.search("axxb")


def test_a_flood_is_cut_and_that_is_said(lines):
    shown = [feed(lines, 0.5, "1", f"{i} {'x' * i}"[:50]) for i in range(LINES_PER_S_MAX + 7)]
    assert sum(map(len, shown)) == LINES_PER_S_MAX
    first, then = feed(lines, 1.0, "1", "later")
    assert first.startswith("(ract) 7 lines are not shown")
    assert then == "(f pid=1) later"
