"""What is said of values that cannot be pickled."""

import pickle
import socket
import sys
import threading

import pytest

from ract.core.diagnose import PARTS_MAX, explain_unpicklable, find_unpicklable
from ract.core.serialization import (
    pack,
)


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("empty", "lock")

    def __init__(self):
        self.lock = threading.Lock()


class Hides(Holder):
    def __getstate__(self):
        return {}


class Refuses:
    def __reduce__(self):
        raise RuntimeError("I stay here")


def diagnosis(value):
    with pytest.raises(Exception) as raised:
        pack(value)
    return explain_unpicklable(value, "the argument 'x' of f()", raised.value)


LOCK = threading.Lock()


def uses_a_global():
    return LOCK


def with_default(x=LOCK):
    return x


def with_keyword_default(*, key=LOCK):
    return key


def closure_over(value):
    return lambda: value


class WithLockInInit:
    def __init__(self):
        self.lock = LOCK


class WithLockInMethod:
    def method(self):
        return LOCK


class WithLockAttribute:
    shared = LOCK


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (threading.Lock, ""),
        (lambda: [1, threading.Lock()], "[1]"),
        (lambda: {"a": {"b": (0, threading.Lock())}}, "['a']['b'][1]"),
        (lambda: Holder(one=1, lock=threading.Lock()), ".lock"),
        (lambda: [Holder(inner=Holder(lock=threading.Lock()))], "[0].inner.lock"),
        (Slotted, ".lock"),
        (lambda: closure_over(threading.Lock()), ".<closure>.value"),
        (lambda: closure_over([threading.Lock()]), ".<closure>.value[0]"),
        (lambda: uses_a_global, ".<global>.LOCK"),
        (lambda: with_default, ".<default>.x"),
        (lambda: with_keyword_default, ".<default>.key"),
        (lambda: Holder(lock=threading.Lock()).__init__, ".__self__.lock"),
        (lambda: WithLockInInit, ".__init__.<global>.LOCK"),
        (lambda: WithLockInMethod, ".method.<global>.LOCK"),
        (lambda: WithLockAttribute, ".shared"),
    ],
)
def test_the_path_to_the_part_that_cannot_be_pickled_is_found(make, path):
    value = make()
    text = diagnosis(value)
    assert find_unpicklable(value)[0] == path
    assert text.startswith("Could not serialize the argument 'x' of f(): lock object")
    assert f" at {path} cannot be pickled" in text or not path
    assert "inspect_serializability" in text


def test_sockets_files_generators_and_threads_are_named():
    with socket.socket() as sock, open(__file__, "rb") as file:
        for value, kind in [
            (sock, "socket"),
            (file, "BufferedReader"),
            ((i for i in ()), "generator"),
            (threading.Thread(), None),
            (sys._getframe(), "frame"),
        ]:
            text = diagnosis([value])
            assert (kind or "") in text
            assert "[0]" in text


def test_what_a_value_leaves_out_is_not_blamed():
    value = [Hides(lock=threading.Lock()), Refuses()]
    assert find_unpicklable(value) == ("[1]", value[1])
    text = diagnosis(value)
    assert "Refuses object at [1]" in text
    assert "RuntimeError: I stay here" in text


def test_a_value_that_can_be_pickled_has_no_such_part():
    value = [1, Holder(a=2)]
    assert find_unpicklable(value) == ("", value)


def test_empty_closure_cells_do_not_disturb_the_diagnosis():
    lock = threading.Lock()

    def f():
        return later, lock  # noqa: F821

    assert find_unpicklable(f) == (".<closure>.lock", lock)
    later = None
    del later


class BadRepr:
    def __hash__(self):
        return 1

    def __repr__(self):
        raise RuntimeError("no words")


def test_keys_are_told_in_few_words_whatever_they_are():
    assert "BadRepr" in diagnosis({BadRepr(): threading.Lock()})
    assert len(diagnosis({"k" * 10_000: threading.Lock()})) < 400


def test_errors_without_words_do_not_disturb_the_diagnosis():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    assert "Mute" in explain_unpicklable([threading.Lock()], "x", Mute())


def test_a_diagnosis_takes_bounded_time():
    tried = []

    class Counts:
        def __reduce__(self):
            tried.append(self)
            return int, ()

    value = [Counts() for _ in range(PARTS_MAX * 3)] + [threading.Lock()]
    assert find_unpicklable(value) == ("", value)
    assert len(tried) <= PARTS_MAX


def test_deep_and_endless_values_are_diagnosed_to_some_depth():
    lock = threading.Lock()
    value = lock
    for _ in range(20):
        value = [value]
    path, part = find_unpicklable(value)
    assert path.startswith("[0][0]")
    assert isinstance(part, list)
    loop = [threading.Lock()]
    loop.insert(0, loop)
    assert find_unpicklable(loop)[0]


def test_pickle_errors_of_deep_values_are_errors_not_crashes():
    value = None
    for _ in range(100_000):
        value = [value]
    with pytest.raises((RecursionError, pickle.PicklingError)):
        pack(value)
    while value is not None:  # take it apart, or freeing it recurses
        value = value[0]
