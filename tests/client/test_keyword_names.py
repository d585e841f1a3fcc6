"""A parameter may have any name, also one that a part of ract has for something of its own."""

import pytest

import ract
from ract.dag import InputNode

NAMES = ("self", "args", "kwargs", "call", "method", "function", "options", "handle", "name", "cls")
GIVEN = {name: i for i, name in enumerate(NAMES)}


@ract.remote
def plain(**given):
    return given


@ract.remote
def first(self, args, kwargs):
    return [self, args, kwargs]


@ract.remote
def items(**given):
    yield given


class Sync:
    def __init__(this, **given):
        this.given = given

    def constructed(this):
        return this.given

    def method(this, **given):
        return given

    def items(this, **given):
        yield given


class Async(Sync):
    async def coroutine(this):
        return None


CLASSES = {
    "sync": ract.remote(num_cpus=0)(Sync),
    "threaded": ract.remote(num_cpus=0, max_concurrency=2)(Sync),
    "async": ract.remote(num_cpus=0)(Async),
}


@pytest.fixture(scope="module", params=["cluster", "local"])
def either(request):
    ract.shutdown()
    ract.init(num_cpus=2, local_mode=request.param == "local")
    yield request.param
    ract.shutdown()


def test_of_functions(either):
    assert ract.get(plain.remote(**GIVEN)) == GIVEN
    assert ract.get(plain.options(num_cpus=1).remote(**GIVEN)) == GIVEN
    assert ract.get(first.remote(self=1, kwargs=3, args=2)) == [1, 2, 3]
    assert ract.get(plain._remote(kwargs=GIVEN)) == GIVEN
    assert [ract.get(ref) for ref in items.remote(**GIVEN)] == [GIVEN]


def test_of_methods_and_constructors(either):
    kinds = [kind for kind in CLASSES if (either, kind) != ("local", "async")]  # which is refused
    for kind in kinds:
        actor = CLASSES[kind].remote(**GIVEN)
        assert ract.get(actor.constructed.remote()) == GIVEN
        assert ract.get(actor.method.remote(**GIVEN)) == GIVEN
        assert ract.get(actor.method.options(name="x").remote(**GIVEN)) == GIVEN
        assert [ract.get(ref) for ref in actor.items.remote(**GIVEN)] == [GIVEN]
        made = CLASSES[kind].options(num_cpus=0).remote(**GIVEN)
        assert ract.get(made.constructed.remote()) == GIVEN


def test_of_calls_with_the_instance(either):
    actor = CLASSES["sync"].remote()
    found = actor.__ray_call__.remote(lambda instance, **given: given, **GIVEN)
    assert ract.get(found) == GIVEN


def test_of_graphs(either):
    assert ract.get(plain.bind(**GIVEN).execute()) == GIVEN
    actor = CLASSES["sync"].bind(**GIVEN)
    assert ract.get(actor.constructed.bind().execute()) == GIVEN
    assert ract.get(actor.method.bind(**GIVEN).execute()) == GIVEN
    with InputNode() as given:
        graph = plain.bind(self=given["self"], args=given["args"])
    assert ract.get(graph.execute(self=1, args=2)) == {"self": 1, "args": 2}
