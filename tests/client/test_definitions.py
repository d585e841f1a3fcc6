"""What can be made a remote function or class, when it is pickled, and what travels with it."""

import functools
import operator
import os
import threading

import pytest

import ract
from ract.client.api import remote_function
from ract.exceptions import RactTaskError
from ract.testing import error_messages, wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


class Base:
    def inherited(self):
        return "inherited"


@ract.remote(num_cpus=0)
class Actor(Base):
    not_a_method = 3

    @staticmethod
    def static(x):
        return x

    @classmethod
    def of_the_class(cls):
        return cls.__name__

    def _private(self):
        return "private"

    def __call__(self, x):
        return "called", x

    def any(self, *args, key=None, **more):
        return args, key, more


def test_every_kind_of_method_can_be_called():
    actor = Actor.remote()
    calls = [actor.inherited, actor.static, actor.of_the_class, actor._private, actor.__call__]
    args = [(), (1,), (), (), (2,)]
    refs = [call.remote(*given) for call, given in zip(calls, args, strict=True)]
    assert ract.get(refs) == ["inherited", 1, "Actor", "private", ("called", 2)]
    assert ract.get(actor.any.remote(1, *[2], key=3, **{"z": 4})) == ((1, 2), 3, {"z": 4})
    assert {"inherited", "static", "_private", "__ray_ready__"} <= set(dir(actor))
    with pytest.raises(AttributeError, match="not_a_method"):
        _ = actor.not_a_method


def test_hidden_methods_are_on_every_handle():
    actor = Actor.remote()
    assert ract.get(actor.__ray_ready__.remote()) is True

    def combine(self, x, y=0):
        return type(self).__name__, x, y

    assert ract.get(actor.__ray_call__.remote(combine, 1, y=2)) == ("Actor", 1, 2)


def test_arguments_may_come_in_containers():
    @ract.remote
    def add(a, b=10):
        return a + b

    assert ract.get(add._remote(args=[1], kwargs={"b": 2}, num_cpus=0)) == 3
    actor = Actor._remote(args=[], kwargs={}, num_cpus=0)
    assert ract.get(actor.static._remote(args=[4])) == 4


def test_whatever_can_be_called_can_be_remote():
    assert ract.get(ract.remote(len).remote([1, 2])) == 2
    assert ract.get(ract.remote(functools.partial(operator.add, 1)).remote(2)) == 3
    assert ract.get(ract.remote(lambda x: x + 1).remote(2)) == 3


def test_coroutine_functions_are_for_actors():
    async def coroutine():
        pass

    async def generator():
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(ValueError, match=r"asyncio\.run"):
            ract.remote(function)


def test_what_cannot_be_remote_is_refused():
    for wrong in (3, "f", object()):
        with pytest.raises(TypeError):
            ract.remote(wrong)
        with pytest.raises(TypeError):
            ract.remote(num_cpus=1)(wrong)
    with pytest.raises(TypeError, match="parentheses"):
        ract.remote()


def test_a_function_is_pickled_at_its_first_call():
    kept = {"value": "at the definition"}

    @ract.remote
    def read():
        return kept["value"]

    kept["value"] = "at the first call"
    assert ract.get(read.remote()) == "at the first call"
    kept["value"] = "later"
    assert ract.get(read.remote()) == "at the first call"


def test_functions_of_one_name_are_different_functions():
    refs = []
    for i in range(3):

        @ract.remote
        def same(i=i):
            return i

        refs.append(same.remote())
    assert ract.get(refs) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["function", "class"])
def test_large_definitions_are_warned_of_and_huge_ones_refused(kind, monkeypatch):
    monkeypatch.setattr(remote_function, "FUNCTION_BYTES_WARN", 10_000)
    monkeypatch.setattr(remote_function, "FUNCTION_BYTES_MAX", 1_000_000)
    data = os.urandom(20_000)

    def make():
        def size():
            return len(data)

        class Size:
            def size(self):
                return len(data)

        return ract.remote(size if kind == "function" else Size)

    made = make().remote()
    wait_for_condition(lambda: error_messages()[-1]["type"] == "pickling_large_object")
    assert "MiB pickled" in error_messages()[-1]["message"]
    assert ract.get(made if kind == "function" else made.size.remote()) == 20_000
    data = os.urandom(1_000_000)
    with pytest.raises(ValueError, match=r"too large.*ract\.put"):
        make().remote()


def test_what_cannot_travel_is_named():
    lock = threading.Lock()

    class Locked:
        def ask(self):
            return lock

    for wrong in (ract.remote(lambda: lock), ract.remote(Locked)):
        with pytest.raises(TypeError, match="lock"):
            wrong.remote()


def test_no_return_is_no_ref_and_a_tuple_is_one_value():
    @ract.remote
    def pair():
        return 1, 2

    assert ract.get(pair.remote()) == (1, 2)
    assert ract.get(pair.options(num_returns=2).remote()) == [1, 2]
    assert pair.options(num_returns=0).remote() is None


def test_items_that_a_generator_of_fixed_length_does_not_yield_are_errors():
    @ract.remote(num_returns=2)
    def items(n):
        yield from range(n)

    assert ract.get(items.remote(2)) == [0, 1]
    first, second = items.remote(1)
    assert ract.get(first) == 0
    with pytest.raises(RactTaskError):
        ract.get(second)


def test_groups_of_exceptions_are_caught_by_their_parts():
    @ract.remote
    def fail():
        raise ExceptionGroup("both", [ValueError(1), KeyError(2)])

    caught = []
    try:
        ract.get(fail.remote())
    except* ValueError as group:
        caught.append(len(group.exceptions))
    except* KeyError as group:
        caught.append(len(group.exceptions))
    assert caught == [1, 1]


def test_the_chain_of_causes_and_notes_are_in_the_text():
    @ract.remote
    def fail():
        try:
            1 / 0
        except ZeroDivisionError as error:
            outer = RuntimeError("outer")
            outer.add_note("a note")
            raise outer from error

    with pytest.raises(RuntimeError) as caught:
        ract.get(fail.remote())
    for text in ("ZeroDivisionError", "direct cause", "outer", "a note"):
        assert text in str(caught.value)
    assert caught.value.__notes__ == ["a note"]


def test_an_exception_may_be_a_value():
    @ract.remote
    def give():
        return ValueError("given")

    assert ract.get(give.remote()).args == ("given",)


def test_code_that_runs_while_a_function_is_pickled_may_call_it_from_another_thread():
    class Chatty:
        has_called = False

        def __reduce__(self):
            if not self.has_called:
                self.has_called = True
                found = []
                thread = threading.Thread(target=lambda: found.append(ract.get(f.remote())))
                thread.start()
                thread.join(60)
                assert found == [7]
            return int, (7,)

    captured = Chatty()

    @ract.remote(num_cpus=0)
    def f():
        return captured

    assert ract.get(f.remote()) == 7
