"""Sums of measurements on their way from a process to the scheduler."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ract.core.metrics import COUNTER, GAUGE, HISTOGRAM, WORKER, Table


def counter(value, *labels, name="c"):
    return [name, COUNTER, "", [], [[list(labels), value]]]


def gauge(value, *labels):
    return ["g", GAUGE, "", [], [[list(labels), value]]]


def series(table, name="c"):
    return table.families[name].series


def test_counters_are_summed_by_their_labels():
    table = Table()
    table.merge([counter(1, "a", "x"), counter(2, "a", "x")])
    table.merge([counter(5, "a", "y"), counter(7)])
    assert series(table) == {("a", "x"): 3, ("a", "y"): 5, (): 7}
    table.check()


def test_gauges_have_the_newest_value():
    table = Table()
    table.merge([gauge(1.5), gauge(0.5)])
    assert series(table, "g") == {(): 0.5}


def test_histograms_are_summed_bucket_by_bucket():
    table = Table()
    family = table.family("h", HISTOGRAM, "", [1, 10])
    for value in (0.5, 1, 5, 100):
        assert table.has_room(family, ())
        family.observe((), value)
    batch = table.take()
    assert batch == [["h", HISTOGRAM, "", [1, 10], [[[], [2, 1, 1, 106.5]]]]]
    table.merge(batch)
    table.merge(batch)
    assert series(table, "h") == {(): [4, 2, 2, 213.0]}


def test_what_was_taken_is_not_there_any_more():
    table = Table()
    table.merge([counter(1)])
    assert len(table.take()) == 1
    assert table.take() == []
    table.merge([counter(2)])
    assert series(table) == {(): 2}
    table.check()


def test_labels_of_where_it_was_take_the_place_of_the_programs_own():
    table = Table()
    table.merge([counter(1, "JobId", "mine", "a", "x")], ("JobId", "01"), (WORKER, "w"))
    table.merge([gauge(1)], ("JobId", "01"), (WORKER, "w"))
    assert series(table) == {("a", "x", "JobId", "01"): 1}
    assert series(table, "g") == {("JobId", "01", WORKER, "w"): 1}


def test_gauges_go_with_their_process_and_counters_stay():
    table = Table()
    for worker in "vw":
        table.merge([gauge(1), counter(1)], (), (WORKER, worker))
    table.forget("w")
    table.forget("w")
    assert series(table, "g") == {(WORKER, "v"): 1}
    assert series(table) == {(): 2}
    table.check()


def test_further_series_are_refused_and_counted():
    table = Table(series_max=2)
    table.merge([counter(1, "a", str(i)) for i in range(5)])
    table.merge([counter(1, "a", "0")])
    assert series(table) == {("a", "0"): 2, ("a", "1"): 1}
    assert table.refused == 3
    table.merge([counter(1, name=f"n{i}") for i in range(5)])
    assert list(table.families) == ["c"]
    assert table.refused == 8
    table.check()


def test_another_kind_of_the_same_name_is_refused():
    table = Table()
    table.merge([counter(1), ["c", GAUGE, "", [], [[[], 1], [["a", "b"], 1]]]])
    table.merge([["h", HISTOGRAM, "", [1], [[[], [1, 0, 1]]]]])
    table.merge([["h", HISTOGRAM, "", [2], [[[], [1, 0, 1]]]]])
    assert series(table) == {(): 1}
    assert table.refused == 3


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        [],
        "text",
        ["c", COUNTER, "", [], None],
        ["c", COUNTER, "", [], [1]],
        ["c", COUNTER, "", [], [[[], "1"]]],
        ["c", COUNTER, "", [], [[[], True]]],
        ["c", COUNTER, "", [], [["ab", 1]]],
        ["c", COUNTER, "", [], [[["a"], 1]]],
        ["c", COUNTER, "", [], [[["a", 1], 1]]],
        ["c", COUNTER, None, [], [[[], 1]]],
        ["c", COUNTER, "", ["1"], [[[], 1]]],
        ["c", "kind", "", [], [[[], 1]]],
        ["", COUNTER, "", [], [[[], 1]]],
        [1, COUNTER, "", [], [[[], 1]]],
        ["h", HISTOGRAM, "", [1], [[[], [1, 1]]]],
        ["h", HISTOGRAM, "", [1], [[[], [1, 1, "x"]]]],
    ],
)
def test_malformed_parts_are_refused_and_the_rest_is_taken(malformed):
    table = Table()
    table.merge([malformed, counter(1, name="good")])
    assert series(table, "good") == {(): 1}
    assert table.refused == 1
    assert table.count == 1
    table.check()


amounts = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 100)))


@given(st.lists(st.lists(amounts, max_size=3), max_size=3))
def test_nothing_is_lost_or_counted_twice_on_the_way(nodes):
    """Processes count, nodes sum up their processes, the scheduler its nodes."""
    top = Table()
    for processes in nodes:
        node = Table()
        for amounts in processes:
            process = Table()
            for i, (tag, n) in enumerate(amounts):
                process.merge([counter(n, "tag", tag)])
                if i % 3 == 2:
                    node.merge(process.take())
            node.merge(process.take())
            top.merge(node.take())
    expected: dict = {}
    for tag, n in [each for processes in nodes for amounts in processes for each in amounts]:
        expected["tag", tag] = expected.get(("tag", tag), 0) + n
    assert (series(top) if expected else {}) == expected
