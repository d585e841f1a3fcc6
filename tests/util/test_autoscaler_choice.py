"""Which nodes an autoscaler adds."""

import pytest

from ract.autoscaler.choice import NodeType, to_add
from ract.core.resources import to_units

SMALL = NodeType("small", {"CPU": 2}, {"size": "s"}, 0, 10)
LARGE = NodeType("large", {"CPU": 8, "memory": 1000}, {"size": "l"}, 0, 10)
GPUS = NodeType("gpus", {"CPU": 8, "GPU": 4}, {}, 0, 2)
TYPES = [SMALL, LARGE, GPUS]


def units(resources):
    return {name: to_units(name, n) for name, n in resources.items()}


def ask(count=1, selector=None, **resources):
    return [units(resources), [selector or {}], count]


def view(*waiting, apart=False, requested=(), nodes=()):
    return {
        "nodes": {
            str(i): {"free": units(free), "total": units(total), "labels": {}}
            for i, (free, total) in enumerate(nodes)
        },
        "waiting": [{"apart": apart, "asks": list(waiting)}],
        "requested": list(requested),
        "removable": [],
    }


def added(view, types=TYPES, counts=None, most=100):
    return [kind.name for kind in to_add(view, types, counts or {}, most)]


@pytest.mark.parametrize(
    ("waiting", "names"),
    [
        ([], []),
        ([ask(3, CPU=1)], ["small", "small"]),
        ([ask(CPU=4)], ["large"]),
        ([ask(CPU=1, memory=10)], ["large"]),
        ([ask(3, GPU=2)], ["gpus", "gpus"]),
        ([ask(CPU=9)], []),
        ([ask(CPU=9), ask(CPU=1)], ["small"]),
        ([ask(CPU=1, selector={"size": "l"})], ["large"]),
        ([ask(CPU=1, selector={"size": "!s"})], ["large"]),
        ([ask(CPU=1, selector={"size": "huge"})], []),
        ([ask(CPU=4), ask(4, CPU=1)], ["large"]),
    ],
)
def test_first_type_that_fits_what_waits_is_added(waiting, names):
    assert added(view(*waiting)) == names


def test_any_of_several_selectors_will_do():
    one = [units({"CPU": 1}), [{"size": "huge"}, {"size": "l"}], 1]
    assert added(view(one)) == ["large"]


def test_free_room_is_used_first():
    nodes = [({"CPU": 3}, {"CPU": 8})]
    assert added(view(ask(3, CPU=1), nodes=nodes)) == []
    assert added(view(ask(4, CPU=1), nodes=nodes)) == ["small"]


def test_bundles_that_are_to_be_apart_get_a_node_each():
    assert added(view(ask(3, CPU=1), apart=True)) == ["small"] * 3
    free = [({"CPU": 2}, {"CPU": 2})]
    assert added(view(ask(3, CPU=1), apart=True, nodes=free)) == ["small"] * 2


def test_what_was_asked_for_in_advance_fits_all_there_is():
    busy = [({}, {"CPU": 2})]
    assert added(view(requested=[ask(CPU=2)], nodes=busy)) == []
    assert added(view(requested=[ask(CPU=2)] * 2, nodes=busy)) == ["small"]
    assert added(view(ask(CPU=1), requested=[ask(CPU=2)] * 2, nodes=busy)) == ["small"]


def test_there_are_never_more_or_fewer_than_said():
    few = NodeType("few", {"CPU": 1}, {}, 1, 2)
    assert added(view(), [few, SMALL]) == ["few"]
    assert added(view(ask(5, CPU=1)), [few]) == ["few"] * 2
    assert added(view(ask(5, CPU=1)), [few], {"few": 2}) == []
    assert added(view(ask(5, CPU=1)), [few, SMALL], {"few": 1}) == ["few", "small", "small"]
    assert added(view(ask(5, CPU=1)), [few, SMALL], {"few": 1, "small": 1}, 3) == ["few"]
