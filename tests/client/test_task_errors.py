"""Tasks that fail: their errors, crashes and retries, on a real embedded cluster."""

import os
import pickle
import time

import cloudpickle
import psutil
import pytest

import ract
from ract.exceptions import (
    RactError,
    RactTaskError,
    WorkerCrashedError,
)


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def echo(value):
    return value


@ract.remote
def fail(message):
    raise KeyError(message)


class Gate:
    """A file that tasks wait for, so that tests decide when they go on."""

    def __init__(self, path):
        self.path = str(path)

    def open(self):
        open(self.path, "w").close()

    def wait(self):
        while not os.path.exists(self.path):
            time.sleep(0.005)


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path / "gate")
    yield made
    made.open()


@ract.remote
def after(gate, value=None):
    gate.wait()
    return value


def test_error_is_both_the_users_type_and_a_task_error():
    with pytest.raises(KeyError) as caught:
        ract.get(fail.remote("lost"))
    assert isinstance(caught.value, RactTaskError)
    assert isinstance(caught.value, RactError)
    assert "fail" in str(caught.value)
    assert "raise KeyError(message)" in str(caught.value)
    assert isinstance(caught.value.cause, KeyError)


def test_error_of_an_argument_reaches_whoever_gets_the_result():
    with pytest.raises(KeyError):
        ract.get(echo.remote(fail.remote("first")))


def test_crashed_task_is_an_error_that_says_so():
    @ract.remote(max_retries=0)
    def crash():
        os._exit(3)

    with pytest.raises(WorkerCrashedError, match="crash"):
        ract.get(crash.remote(), timeout=60)


@pytest.mark.parametrize("how", ["os._exit(1)", "os.kill(os.getpid(), 9)", "ctypes.string_at(0)"])
def test_a_crash_is_the_fault_of_the_task_that_ran(how):
    @ract.remote(max_retries=0)
    def innocent(i):
        return i

    @ract.remote(max_retries=0)
    def crash():
        import ctypes

        exec(how, {"os": os, "ctypes": ctypes})

    for _ in range(3):
        before = [innocent.remote(i) for i in range(10)]
        crashed = crash.remote()
        after = [innocent.remote(i) for i in range(10)]
        assert ract.get(after) == list(range(10))
        assert ract.get(before) == list(range(10))
        with pytest.raises(WorkerCrashedError):
            ract.get(crashed)


def test_max_calls_costs_no_retries():
    @ract.remote(max_calls=2, max_retries=0)
    def pid(i):
        return i, os.getpid()

    found = ract.get([pid.remote(i) for i in range(20)], timeout=60)
    assert [i for i, _ in found] == list(range(20))
    assert len({process for _, process in found}) >= 10


def test_crashed_task_is_retried(tmp_path):
    path = tmp_path / "runs"

    @ract.remote(max_retries=2)
    def crash_twice():
        with open(path, "a") as file:
            file.write("x")
        if path.stat().st_size < 3:
            os._exit(1)
        return "done"

    assert ract.get(crash_twice.remote(), timeout=60) == "done"
    assert path.read_text() == "xxx"


def test_retry_exceptions(tmp_path):
    path = tmp_path / "runs"

    @ract.remote(max_retries=3, retry_exceptions=[ZeroDivisionError])
    def flaky():
        with open(path, "a") as file:
            file.write("x")
        if path.stat().st_size < 3:
            raise ZeroDivisionError
        raise KeyError("not retried")

    with pytest.raises(KeyError):
        ract.get(flaky.remote(), timeout=60)
    assert path.read_text() == "xxx"


def test_unpicklable_argument_names_the_culprit():
    class Holder:
        def __init__(self):
            self.inner = {"lock": __import__("threading").Lock()}

    with pytest.raises(TypeError, match="inner"):
        echo.remote(Holder())


def test_unpicklable_result_names_the_culprit():
    @ract.remote
    def bad():
        import threading

        return {"deep": [threading.Lock()]}

    with pytest.raises(TypeError, match="deep"):
        ract.get(bad.remote())


def test_custom_exceptions_with_odd_constructors():
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a}-{b}")
            self.a = a

    @ract.remote
    def odd():
        raise Odd(1, 2)

    with pytest.raises(Odd) as caught:
        ract.get(odd.remote())
    assert caught.value.a == 1


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (FileNotFoundError(2, "no", "file"), ["errno", "strerror", "filename"]),
        (UnicodeDecodeError("utf-8", b"ab", 0, 1, "why"), ["encoding", "start", "end", "reason"]),
        (ImportError("no", name="n", path="p"), ["name", "path", "msg"]),
        (StopIteration(3), ["value"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_builtin_errors_keep_their_attributes(error, names):
    @ract.remote
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        ract.get(fail.remote())
    for name in names:
        assert getattr(caught.value, name) == getattr(error, name)


def test_names_of_nested_functions_are_short_in_errors_titles_and_the_context():
    @ract.remote
    def names():
        context = ract.get_runtime_context()
        title = psutil.Process().cmdline()[0].split()[0]
        return context.get_task_name(), context.get_task_function_name(), title

    assert ract.get(names.remote()) == ("names", "names", "ract::names")
    assert ract.get(names.options(name="n").remote()) == ("n", "names", "ract::n")
    with pytest.raises(ZeroDivisionError, match=r"ract::<lambda>\(\)"):
        ract.get(ract.remote(lambda: 1 / 0).remote())


def test_exceptions_with_odd_constructors_keep_their_type_however_far_they_go():
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a}-{b}")
            self.a = a

    @ract.remote
    def odd():
        raise Odd(1, 2)

    @ract.remote
    def ask():
        return ract.get(odd.remote())

    for ref in (ask.remote(), echo.remote(odd.remote()), echo.remote(ask.remote())):
        with pytest.raises(Odd, match="1-2") as caught:
            ract.get(ref)
        assert caught.value.a == 1
        again = pickle.loads(cloudpickle.dumps(caught.value))
        assert isinstance(again, Odd)
        assert isinstance(again, RactTaskError)
        assert again.cause.args == ("1-2",)
