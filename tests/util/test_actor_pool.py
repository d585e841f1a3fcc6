"""`ract.util.ActorPool`."""

import pytest

import ract
from ract.testing import SignalActor, wait_for_condition
from ract.util import ActorPool


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote(num_cpus=0)
class Doubler:
    def double(self, x):
        if x == "bad":
            raise KeyError(x)
        return 2 * x

    def after(self, signal, x):
        ract.get(signal.wait.remote())
        return 2 * x

    @ract.method(num_returns=2)
    def both(self, x):
        return x, -x


@pytest.fixture(scope="module")
def actors(cluster):
    return [Doubler.remote() for _ in range(2)]


@pytest.fixture
def pool(actors):
    return ActorPool(actors)


@pytest.fixture
def gate(cluster):
    """Opened at the end, so that the actors that the tests share are free again."""
    signal = SignalActor.remote()
    yield signal
    ract.get(signal.send.remote())


def double(actor, x):
    return actor.double.remote(x)


def after(gate):
    return lambda actor, x: actor.after.remote(gate, x)


def gated(gate):
    """Doubles; those under 10 only when the gate is open."""
    return lambda actor, x: actor.after.remote(gate, x) if x < 10 else actor.double.remote(x)


def test_map_yields_in_the_order_of_the_values(pool, gate):
    results = pool.map(gated(gate), [1, 10, 11, 12])
    ract.get(gate.send.remote())
    assert list(results) == [2, 20, 22, 24]


def test_map_submits_at_once_and_waits_when_asked(pool, gate):
    results = pool.map(after(gate), iter([1, 2, 3]))
    wait_for_condition(lambda: ract.get(gate.cur_num_waiters.remote()) == 2)
    ract.get(gate.send.remote())
    assert list(results) == [2, 4, 6]


def test_map_unordered_yields_what_is_complete(pool, gate):
    results = pool.map_unordered(gated(gate), [1, 10, 11, 12])
    assert [next(results) for _ in range(3)] == [20, 22, 24]
    ract.get(gate.send.remote())
    assert list(results) == [2]


def test_map_discards_what_was_submitted_before(pool):
    for value in range(100, 105):
        pool.submit(double, value)
    assert list(pool.map(double, [1, 2])) == [2, 4]
    pool.submit(double, 100)
    assert list(pool.map_unordered(double, [3])) == [6]
    assert not pool.has_next()


def test_map_of_nothing(pool):
    assert list(pool.map(double, [])) == []


def test_get_next_returns_in_the_order_of_submission(pool):
    for value in range(6):
        pool.submit(double, value)
    found = []
    while pool.has_next():
        found.append(pool.get_next())
    assert found == [0, 2, 4, 6, 8, 10]


def test_a_slow_call_does_not_hold_up_what_is_queued(pool, gate):
    pool.submit(after(gate), 1)
    for value in (10, 11, 12):
        pool.submit(double, value)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.2)
    pool.submit(
        lambda actor, signal: actor.double.remote(ract.get(signal.send.remote()) or 7), gate
    )
    assert [pool.get_next() for _ in range(5)] == [2, 20, 22, 24, 14]


def test_results_that_came_while_waiting_for_another_can_be_taken_unordered(pool, gate):
    pool.submit(after(gate), 1)
    for value in (10, 11, 12):
        pool.submit(double, value)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.2)
    assert [pool.get_next_unordered() for _ in range(3)] == [20, 22, 24]
    ract.get(gate.send.remote())
    assert pool.get_next_unordered() == 2


def test_nothing_left_to_get(pool):
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_timeout_leaves_the_result_for_later(pool, gate):
    pool.submit(after(gate), 1)
    for get in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(TimeoutError):
            get(timeout=0.01)
    ract.get(gate.send.remote())
    assert pool.get_next(timeout=20) == 2


def test_timeout_with_ignore_gives_the_result_up(pool, gate):
    pool.submit(after(gate), 1)
    pool.submit(double, 2)
    with pytest.raises(TimeoutError, match="given up"):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    assert pool.get_next() == 4
    assert not pool.has_next()
    assert pool.has_free()


def test_unordered_timeout_with_ignore_gives_the_oldest_up(actors, gate):
    pool = ActorPool(actors[:1])
    pool.submit(after(gate), 1)
    pool.submit(double, 2)
    with pytest.raises(TimeoutError, match="given up"):
        pool.get_next_unordered(timeout=0.01, ignore_if_timedout=True)
    ract.get(gate.send.remote())
    assert pool.get_next_unordered() == 4


def test_get_next_after_get_next_unordered_is_refused_while_results_are_left(pool):
    pool.submit(double, 1)
    pool.submit(double, 2)
    pool.get_next_unordered()
    with pytest.raises(ValueError, match="after get_next_unordered"):
        pool.get_next()
    pool.get_next_unordered()
    pool.submit(double, 3)
    assert pool.get_next() == 6


def test_error_of_a_call_is_its_result_and_frees_the_actor(pool):
    for value in ("bad", 2, 3):
        pool.submit(double, value)
    with pytest.raises(KeyError):
        pool.get_next()
    assert [pool.get_next(), pool.get_next()] == [4, 6]
    assert pool.pop_idle() is not None
    assert pool.pop_idle() is not None


def test_actor_is_free_when_its_result_was_fetched(pool):
    assert pool.has_free()
    pool.submit(double, 1)
    assert pool.has_free()
    pool.submit(double, 2)
    assert not pool.has_free()
    assert pool.pop_idle() is None
    pool.get_next()
    assert pool.has_free()


def test_idle_actors_are_popped_once_each(pool, actors):
    assert {pool.pop_idle(), pool.pop_idle()} == set(actors)
    assert pool.pop_idle() is None


def test_pushed_actor_takes_up_queued_work(actors):
    pool = ActorPool([])
    pool.submit(double, 4)
    assert not pool.has_next()
    assert not pool.has_free()
    pool.push(actors[0])
    assert pool.get_next() == 8


def test_pushing_a_member_is_refused(pool, actors):
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(actors[0])
    pool.submit(double, 1)
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(actors[0])
    pool.get_next()
    taken = pool.pop_idle()
    pool.push(taken)


def test_calls_with_several_returns_give_lists(pool):
    assert list(pool.map(lambda actor, x: actor.both.remote(x), [1, 2])) == [[1, -1], [2, -2]]


def test_function_that_makes_no_call_leaves_the_pool_as_it_is(pool):
    with pytest.raises(TypeError, match=r"actor\.method\.remote"):
        pool.submit(lambda actor, x: x, 1)
    with pytest.raises(AttributeError):
        pool.submit(lambda actor, x: actor.nothing.remote(), 1)
    assert not pool.has_next()
    assert list(pool.map(double, [1, 2, 3])) == [2, 4, 6]
