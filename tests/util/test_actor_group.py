"""`ract.util.actor_group.ActorGroup`."""

import pytest

import ract
from ract.exceptions import RactActorError
from ract.testing import wait_for_condition
from ract.util.actor_group import ActorGroup
from ract.util.annotations import RayDeprecationWarning

pytestmark = pytest.mark.filterwarnings("ignore::ract.util.annotations.RayDeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


class Adder:
    def __init__(self, start=0, *, step=1):
        self.sum = start
        self.step = step

    def add(self, n=1):
        self.sum += self.step * n
        return self.sum


@pytest.fixture
def group(cluster):
    group = ActorGroup(Adder, 2, num_cpus_per_actor=0, init_args=[10], init_kwargs={"step": 2})
    yield group
    group.shutdown(patience_s=0)


def test_it_is_deprecated():
    with pytest.warns(RayDeprecationWarning, match="ActorPool"), pytest.raises(ValueError):
        ActorGroup(Adder, 0)
    assert "DEPRECATED" in ActorGroup.__doc__


def test_methods_are_called_on_every_member(group):
    assert ract.get(group.add.remote(3)) == [16, 16]
    assert ract.get(group.add.remote(n=1)) == [18, 18]


def test_members_have_places(group):
    assert len(group) == 2
    assert ract.get(group[0].actor.add.remote()) == 12
    assert ract.get(group[1].actor.add.remote(0)) == 10
    assert group[-1].actor == group.actors[1]
    assert [member.actor for member in group] == group.actors
    assert group.actor_metadata == [None, None]
    with pytest.raises(IndexError):
        group[2]


def test_members_come_and_go(group):
    first, second = group.actors
    group.add_actors(1)
    assert len(group) == 3
    with pytest.raises(IndexError):
        group.remove_actors([0, 3])
    group.remove_actors([0, -1])
    assert group.actors == [second]
    assert ract.get(first.add.remote()) == 12


def test_shutdown_ends_all_and_start_makes_new_ones(group):
    old = group.actors
    ract.get(group.add.remote())
    with pytest.raises(RuntimeError, match="started already"):
        group.start()
    group.shutdown()
    assert len(group) == 0
    with pytest.raises(RuntimeError, match="shut down"):
        group.add.remote()
    for actor in old:
        with pytest.raises(RactActorError):
            ract.get(actor.add.remote())
    group.start()
    assert ract.get(group.add.remote()) == [12, 12]


def test_members_hold_what_was_asked_for():
    group = ActorGroup(Adder, num_cpus_per_actor=2)
    assert ract.get(group.add.remote()) == [1]
    wait_for_condition(lambda: "CPU" not in ract.available_resources())
    group.shutdown(patience_s=0)
    wait_for_condition(lambda: ract.available_resources().get("CPU") == 2)


def test_mistakes_are_told_at_once(group):
    with pytest.raises(AttributeError, match="no method 'subtract'"):
        group.subtract
    with pytest.raises(TypeError, match=r"group.add.remote"):
        group.add()
    with pytest.raises(ValueError, match="negative"):
        ActorGroup(Adder, 1, num_cpus_per_actor=-1)
    with pytest.raises(TypeError):
        ActorGroup(Adder, 1, init_args=3)
    with pytest.raises(TypeError):
        ActorGroup(ract.remote(Adder), 1)
