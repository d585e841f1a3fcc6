"""Where objects go that have no room: what may be said, and what becomes of it."""

import json

import pytest

from ract.core.system_config import as_environment
from ract.worker.files import spill_places
from ract.worker.files.spill_places import Urls, chosen, parse
from ract.worker.hardware.options import check

FILES = {"type": "filesystem", "params": {"directory_path": ["/a", "/b"]}}
ONE = {"type": "filesystem", "params": {"directory_path": "/a"}}
PLAYED = {"type": "mock_distributed_fs", "params": {"directory_path": "/a"}}
STORE = {"type": "smart_open", "params": {"uri": "s3://bucket/path"}}


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ("/a", ["/a"]),
        ("/a, /b", ["/a", "/b"]),
        (["/a", "/b"], ["/a", "/b"]),
        ("s3://bucket/path", ["s3://bucket/path"]),
        ("file:///a,/b", ["file:///a", "/b"]),
        (FILES, ["/a", "/b"]),
        (json.dumps(ONE), ["/a"]),
        (PLAYED, ["/a"]),
        (json.dumps(STORE), ["s3://bucket/path"]),
    ],
)
def test_places_may_be_said_in_these_ways(value, places):
    assert parse(value) == places


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not JSON"),
        ({"type": "tape", "params": {}}, "must be"),
        ({"type": "filesystem", "params": {"uri": "s3://b"}}, "must be"),
        (["/a", 7], "folders or URLs"),
        (7, "folders or URLs"),
        (" , ", "names nothing"),
        ("/a,s3://bucket", "mixes"),
    ],
)
def test_anything_else_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        parse(value)


def test_what_is_given_counts_more_than_the_environment():
    environ = {"RAY_object_spilling_config": json.dumps(ONE)}
    assert chosen(None, environ) == ["/a"]
    assert chosen("/b", environ) == ["/b"]
    assert chosen(None, {"RACT_object_spilling_directory": "/c,/d"}) == ["/c", "/d"]
    assert chosen(None, {}) == []


def test_the_environment_is_checked_before_a_node_starts():
    with pytest.raises(ValueError, match="absolute path of a folder"):
        check({}, {"RACT_object_spilling_directory": "relative"})


def test_a_heads_system_config_names_the_place_for_all_nodes():
    config = {"object_spilling_config": ONE}
    assert chosen(None, as_environment(config)) == ["/a"]
    assert chosen("/b", as_environment(config)) == ["/b"]


def test_a_store_that_fails_is_passed_over(tmp_path):
    segment = tmp_path / "segment"
    segment.write_bytes(b"x" * 1000)
    (tmp_path / "broken").touch()
    urls = Urls([f"local://{tmp_path}/broken", "memory://works"], "/session")
    for number in range(4):
        urls.upload(str(segment), number)
        assert urls.read(number, 10, 20) == b"x" * 10
    urls.close()
    with pytest.raises(OSError, match="FileNotFoundError"):
        urls.read(0, 0, 1)


def test_a_segment_that_is_short_is_not_taken_for_whole(tmp_path):
    segment = tmp_path / "segment"
    segment.write_bytes(b"x" * 1000)
    urls = Urls(["memory://short"], "/session")
    urls.upload(str(segment), 1)
    with pytest.raises(OSError, match="1 bytes short"):
        urls.restore(str(tmp_path / "back"), 1, 1001)
    assert not (tmp_path / "back").exists()
    urls.restore(str(tmp_path / "back"), 1, 1000)
    assert (tmp_path / "back").read_bytes() == segment.read_bytes()
    urls.close()


def test_what_a_killed_node_left_is_found_by_its_note(tmp_path):
    session = tmp_path / "session"
    session.mkdir()
    spill_places.remove_left(str(session))  # there is no note, and nothing to do
    url = f"local://{tmp_path}/there"
    spill_places.note_places(str(session), [url], "here")
    segment = tmp_path / "segment"
    segment.write_bytes(b"x")
    urls = Urls([url], "here")
    urls.probe()
    urls.upload(str(segment), 1)
    assert len(list((tmp_path / "there").rglob("1"))) == 1
    spill_places.remove_left(str(session))
    assert list((tmp_path / "there").iterdir()) == []


def test_of_a_killed_node_goes_what_it_was_just_copying_to_a_folder(tmp_path):
    session = tmp_path / "session"
    session.mkdir()
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "7").write_bytes(b"half")
    spill_places.note_places(str(session), [f"file://{tmp_path}"], "here")
    spill_places.remove_left(str(session))
    assert not folder.exists()
