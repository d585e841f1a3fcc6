"""Places for saved states: one step at a time, one incarnation at a time."""

import os

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ract.core.errors import DurableStateError
from ract.worker.files.state_files import FolderPlace, SupersededError, UrlPlace, place_of

CLUSTER, ACTOR = b"c" * 16, b"a" * 16


class Bucket(MemoryFileSystem):
    """A store of objects, as S3 is one: there are no empty folders."""

    protocol = "bucket"
    store = {}
    pseudo_dirs = [""]

    def makedirs(self, path, exist_ok=False):
        pass


fsspec.register_implementation("bucket", Bucket)


@pytest.fixture(params=["folder", "url", "atomic url", "bucket"])
def place(request, tmp_path):
    """Makes the place as a new process would see it."""
    if request.param == "folder":
        yield lambda: place_of(str(tmp_path), CLUSTER, ACTOR)
        return
    if request.param == "atomic url":
        yield lambda: place_of(f"local://{tmp_path}", CLUSTER, ACTOR)
        return
    url = f"{'bucket' if request.param == 'bucket' else 'memory'}://durable/test"
    yield lambda: place_of(url, CLUSTER, ACTOR)
    place_of(url, CLUSTER, ACTOR).remove()


def test_kinds_of_places(tmp_path):
    assert isinstance(place_of(str(tmp_path), CLUSTER, ACTOR), FolderPlace)
    assert isinstance(place_of(f"file://{tmp_path}", CLUSTER, ACTOR), FolderPlace)
    assert isinstance(place_of(f"local://{tmp_path}", CLUSTER, ACTOR), UrlPlace)


def test_the_newest_state_is_found_by_the_next_incarnation(place):
    first = place()
    assert first.claim(1) is None
    first.save(b"one")
    first.save(b"two")
    second = place()
    assert second.claim(2) == b"two"
    second.save(b"three")
    assert place().claim(5) == b"three", "some incarnations may not have come that far"


def test_an_incarnation_that_was_succeeded_can_save_no_more(place):
    first, second = place(), place()
    first.claim(1)
    first.save(b"one")
    assert second.claim(2) == b"one"
    with pytest.raises(SupersededError):
        first.save(b"late")
    second.save(b"two")
    with pytest.raises(SupersededError):
        first.claim(1)
    assert place().claim(3) == b"two"


def test_states_of_different_actors_are_apart(place, tmp_path):
    one, other = (place_of(str(tmp_path), CLUSTER, each * 16) for each in (b"1", b"2"))
    one.claim(1)
    one.save(b"of one")
    assert other.claim(2) is None
    other.remove()
    assert place_of(str(tmp_path), CLUSTER, b"1" * 16).claim(2) == b"of one"


def test_nothing_is_left_after_removal(place, tmp_path):
    first = place()
    first.claim(1)
    first.save(b"one")
    place().remove()
    place().remove()
    assert list(tmp_path.iterdir()) == []
    assert place().claim(2) is None


def test_only_this_user_may_read_it(tmp_path):
    place = place_of(str(tmp_path / "new"), CLUSTER, ACTOR)
    place.claim(1)
    place.save(b"secret")
    [file] = list(tmp_path.rglob("state"))
    assert os.stat(file).st_mode & 0o077 == 0


def test_without_a_path_it_is_below_the_home_of_ract_or_where_the_environment_says(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("RACT_HOME", str(tmp_path))
    assert str(place_of("", CLUSTER, ACTOR)).startswith(f"{tmp_path}/durable/")
    monkeypatch.setenv("RACT_durable_path", str(tmp_path / "there"))
    assert str(place_of("", CLUSTER, ACTOR)).startswith(f"{tmp_path}/there/")


def test_a_url_without_a_driver_is_said():
    with pytest.raises(DurableStateError, match=r"nonsense://there.* cannot be opened"):
        place_of("nonsense://there", CLUSTER, ACTOR)
