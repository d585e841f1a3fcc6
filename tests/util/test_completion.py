"""`ract.util.as_completed` and `ract.util.map_unordered`."""

import pytest

import ract
from ract.testing import SignalActor
from ract.util import as_completed, map_unordered


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote(num_cpus=0)
def echo(x):
    return x


@ract.remote(num_cpus=0)
def after(signal, x):
    ract.get(signal.wait.remote())
    return x


@ract.remote(num_cpus=0)
def fail(x):
    raise KeyError(x)


@pytest.fixture
def gates(cluster):
    return [SignalActor.remote() for _ in range(3)]


@pytest.mark.parametrize("chunk_size", [1, 10])
def test_results_come_when_they_are_complete(gates, chunk_size):
    refs = [after.remote(gate, i) for i, gate in enumerate(gates)]
    results = as_completed(refs, chunk_size=chunk_size)
    for i in (2, 0, 1):
        ract.get(gates[i].send.remote())
        assert next(results) == i
    assert list(results) == []


def test_refs_in_place_of_values():
    good, bad = echo.remote(1), fail.remote(2)
    assert set(as_completed([good, bad], yield_obj_refs=True)) == {good, bad}


def test_error_is_raised_at_its_turn():
    ract.wait([good := echo.remote(1)])
    ract.wait([bad := fail.remote(2)])
    results = as_completed([good, bad])
    assert next(results) == 1
    with pytest.raises(KeyError):
        next(results)


def test_many_refs_and_none():
    assert sorted(as_completed([echo.remote(i) for i in range(100)])) == list(range(100))
    assert list(as_completed([])) == []


def test_timeout_limits_one_wait_only(gates):
    ref = after.remote(gates[0], 1)
    results = as_completed([ref, gates[1].wait.remote()], timeout=0.01)
    ract.get(gates[0].send.remote())
    assert next(results) == 1


def test_bad_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="chunk_size"):
        as_completed([], chunk_size=0)
    with pytest.raises(ValueError, match="num_returns"):
        as_completed([], num_returns=1)
    with pytest.raises(ValueError, match="chunk_size"):
        map_unordered(echo, [], chunk_size=0)
    with pytest.raises(ValueError, match="num_returns"):
        map_unordered(echo, [], num_returns=1)
    for size in (0, -1):
        with pytest.raises(ValueError, match="backpressure_size"):
            map_unordered(echo, [], backpressure_size=size)
    with pytest.raises(TypeError, match="remote function"):
        map_unordered(abs, [])
    ref = echo.remote(1)
    with pytest.raises(ValueError, match="duplicates"):
        list(as_completed([ref, ref]))


@pytest.mark.parametrize("size", [1, 3, 100, None])
def test_map_gives_every_result(size):
    assert sorted(map_unordered(echo, range(20), backpressure_size=size)) == list(range(20))
    assert list(map_unordered(echo, [], backpressure_size=size)) == []


def test_map_calls_methods_of_actors():
    @ract.remote(num_cpus=0)
    class Adder:
        def add(self, x):
            return x + 1

    assert sorted(map_unordered(Adder.remote().add, [1, 2])) == [2, 3]


def test_map_yields_in_the_order_of_completion(gates):
    @ract.remote(num_cpus=0)
    def numbered(item):
        i, gate = item
        ract.get(gate.wait.remote())
        return i

    results = map_unordered(numbered, enumerate(gates))
    for i in (1, 2, 0):
        ract.get(gates[i].send.remote())
        assert next(results) == i


@pytest.mark.parametrize("chunk_size", [1, 10])
def test_map_never_has_more_in_flight_than_it_may(chunk_size):
    taken = yielded = 0

    def items():
        nonlocal taken
        for i in range(20):
            taken += 1
            assert taken - yielded <= 3
            yield i

    for _ in map_unordered(echo, items(), backpressure_size=3, chunk_size=chunk_size):
        yielded += 1
    assert (taken, yielded) == (20, 20)


def test_map_starts_nothing_before_it_is_asked_and_reads_endless_items():
    def forever():
        while True:
            yield 5

    results = map_unordered(echo, forever(), backpressure_size=2)
    assert [next(results) for _ in range(5)] == [5] * 5


def test_map_raises_the_error_of_a_call():
    with pytest.raises(KeyError):
        list(map_unordered(fail, [1]))
    [ref] = map_unordered(fail, [1], yield_obj_refs=True)
    with pytest.raises(KeyError):
        ract.get(ref)
