"""The plain functions of the demo: cut, merge, count, compare."""

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ract.util import demo_index

INDEXES = st.dictionaries(
    st.text("abcxyzß", min_size=2, max_size=6),
    st.dictionaries(st.integers(0, 50), st.integers(1, 99), min_size=1, max_size=5),
    max_size=30,
)


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "package" / "test").mkdir(parents=True)
    (tmp_path / "a.py").write_text("Alpha beta alpha\nbeta2 x\n")
    (tmp_path / "package" / "b.py").write_text("beta GAMMA_delta\n")
    (tmp_path / "package" / "latin.py").write_bytes(b"caf\xe9 beta\n")
    (tmp_path / "package" / "test" / "c.py").write_text("never")
    return tmp_path


def test_files_are_sorted_and_tests_left_out(sources):
    names = [p.relative_to(sources).as_posix() for p in demo_index.source_files(sources)]
    assert names == ["a.py", "package/b.py", "package/latin.py"]


def test_standard_library_has_enough_to_index():
    files = demo_index.source_files()
    assert len(files) > 100
    assert not [p for p in files if "site-packages" in p.parts]


def test_words_are_counted_per_file(sources):
    index, statistics = demo_index.index_files(enumerate(demo_index.source_files(sources)))
    assert index["alpha"] == {0: 2}
    assert index["beta"] == {0: 2, 1: 1, 2: 1}
    assert {"gamma", "delta", "caf"} <= index.keys()
    assert "x" not in index
    assert (statistics.files, statistics.lines, statistics.words) == (3, 4, 9)
    assert statistics.lengths.total() == statistics.words


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_chunks_hold_every_file_once(count):
    files = [Path(str(i)) for i in range(5)]
    dealt = demo_index.chunks(files, count)
    assert sorted(pair for chunk in dealt for pair in chunk) == list(enumerate(files))
    assert all(dealt)
    assert len(dealt) <= count


@given(INDEXES, st.integers(1, 7))
def test_shards_are_disjoint_and_merge_to_the_index(index, shards):
    parts = demo_index.cut(index, shards)
    assert len(parts) == shards
    assert sum(map(len, parts)) == len(index)
    merged = {}
    for part in parts:
        demo_index.merge(merged, part)
    assert merged == index


@pytest.mark.parametrize("count", [1, 2, 3])
def test_chunks_indexed_apart_merge_to_the_plain_result(sources, count):
    files = demo_index.source_files(sources)
    expected, expected_statistics = demo_index.index_files(enumerate(files))
    merged, total = {}, demo_index.Statistics()
    for chunk in demo_index.chunks(files, count):
        index, statistics = demo_index.index_files(chunk)
        for part in demo_index.cut(index, 3):
            demo_index.merge(merged, part)
        total += statistics
    assert merged == expected
    assert total == expected_statistics


def test_top_words_are_ranked_by_count_then_name():
    index = {"bb": {0: 2}, "aa": {0: 1, 1: 1}, "cccc": {1: 9}, "d": {0: 1}}
    assert demo_index.top_words(index, 3) == [("cccc", 9, 1), ("aa", 2, 2), ("bb", 2, 1)]
    assert demo_index.top_words(index, 3, longer_than=2) == [("cccc", 9, 1)]


@given(INDEXES.filter(bool))
def test_differences_name_the_word_that_differs(index):
    assert demo_index.differences(index, copy.deepcopy(index)) == []
    word = min(index)
    changed = copy.deepcopy(index)
    del changed[word]
    [line] = demo_index.differences(changed, index)
    assert line.startswith(f"{word!r}: missing")
