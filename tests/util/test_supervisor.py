"""Actors that are started again when they die."""

from __future__ import annotations

import os
import sys
import time

import pytest

import ract
from ract.util.supervisor import Child, Intensity, RestartsExceededError, Supervisor, affected

NAMES = ["a", "b", "c"]
WAIT_S = 30


# --------------------------------------------------------------------------- who, and how often


@pytest.mark.parametrize(
    ("strategy", "concerned"),
    [("one_for_one", ["b"]), ("one_for_all", NAMES), ("rest_for_one", ["b", "c"])],
)
def test_the_strategy_says_whom_a_death_concerns(strategy, concerned):
    assert affected(strategy, NAMES, "b") == concerned


def test_so_many_restarts_are_allowed_within_so_many_seconds():
    intensity = Intensity(2, 10.0)
    assert [intensity.allows(now) for now in (0.0, 9.0, 9.5)] == [True, True, False]


def test_a_restart_counts_no_longer_after_that_time():
    intensity = Intensity(2, 10.0)
    assert [intensity.allows(now) for now in (0.0, 9.0, 10.0, 18.0, 19.0)] == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_an_intensity_of_none_allows_no_restart():
    assert not Intensity(0, 1.0).allows(0.0)


# --------------------------------------------------------------------------- real actors


@ract.remote(num_cpus=0)
class Log:
    """What children write as they start and end, in order."""

    def __init__(self):
        self.lines = []

    def add(self, line):
        self.lines.append(line)

    def read(self):
        return self.lines


@ract.remote(num_cpus=0)
class Worker:
    def __init__(self, name="w", log=None, fails_at=None):
        import atexit

        self.name, self.log, self.n = name, log, 0
        if fails_at is not None:
            with open(fails_at, "a") as file:
                file.write("x")
            if os.path.getsize(fails_at) > 1:
                raise ValueError("it cannot start again")
        if log is not None:
            ract.get(log.add.remote(f"+{name}"))
            atexit.register(lambda: ract.get(log.add.remote(f"-{name}")))

    def add(self):
        self.n += 1
        return self.n

    def pid(self):
        return os.getpid()

    def exit(self, code):
        if code:
            os._exit(code)
        sys.exit(0)

    def sleep(self, seconds):
        time.sleep(seconds)

    def several(self):
        return 1, 2


@pytest.fixture(scope="module")
def started(ract_module):
    return ract_module


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # what is waited for happens in other processes
    return found


def call(child, method="add"):
    """Call a child; again if it died meanwhile."""

    def result():
        try:
            return ract.get(getattr(child, method).remote(), timeout=WAIT_S)
        except ract.exceptions.ActorDiedError:
            return None

    return until(result)


def restarts(supervisor):
    return [each.restarts for each in supervisor.children()]


def workers(log=None, **options):
    return [Child(name, Worker, (name, log), **options) for name in NAMES]


def test_children_run_when_the_supervisor_is_there(started):
    supervisor = Supervisor(workers())
    infos = supervisor.children()
    assert [each.name for each in infos] == NAMES
    assert {(each.state, each.restarts, each.last_error) for each in infos} == {("RUNNING", 0, "")}
    assert ract.get(supervisor.child("b").add.remote()) == 1


@pytest.mark.parametrize("how", ["kill", "exit", "crash"])
def test_a_child_that_died_is_started_again(how, started):
    supervisor = Supervisor(workers())
    child = supervisor.child("b")
    before = call(child, "pid")
    if how == "kill":
        ract.kill(child.actor())
    else:
        child.exit.remote(3 if how == "crash" else 0)
    until(lambda: restarts(supervisor) == [0, 1, 0])
    assert call(child, "pid") != before
    [error] = [each.last_error for each in supervisor.children() if each.last_error]
    assert {"kill": "ract.kill", "exit": "exit request", "crash": "exit code 3"}[how] in error


@pytest.mark.parametrize(
    ("strategy", "counts"), [("one_for_all", [1, 1, 1]), ("rest_for_one", [0, 1, 1])]
)
def test_others_are_stopped_and_started_in_order(strategy, counts, started):
    log = Log.remote()
    supervisor = Supervisor(workers(log), strategy=strategy)
    ract.kill(supervisor.child("b").actor())
    until(lambda: restarts(supervisor) == counts and call(supervisor.child("c")))
    lines = ract.get(log.read.remote())
    if strategy == "one_for_all":
        assert lines == ["+a", "+b", "+c", "-c", "-a", "+a", "+b", "+c"]
    else:
        assert lines == ["+a", "+b", "+c", "-c", "+b", "+c"]


def test_stopping_ends_the_children_in_the_opposite_order(started):
    log = Log.remote()
    supervisor = Supervisor(workers(log))
    child = supervisor.child("a")
    supervisor.stop()
    assert ract.get(log.read.remote()) == ["+a", "+b", "+c", "-c", "-b", "-a"]
    with pytest.raises(ract.exceptions.ActorDiedError):
        ract.get(child.add.remote(), timeout=WAIT_S)


def test_a_child_that_does_not_end_in_time_is_killed(started):
    supervisor = Supervisor([Child("a", Worker, stop_s=0.1)])
    running = supervisor.child("a").sleep.remote(WAIT_S)
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < WAIT_S / 2
    with pytest.raises(ract.exceptions.ActorDiedError):
        ract.get(running)


def test_too_many_restarts_end_all_children_with_a_typed_error(started):
    supervisor = Supervisor(workers(stop_s=0), max_restarts=1, within_s=60)
    child, other = supervisor.child("a"), supervisor.child("c").actor()
    ract.kill(child.actor())
    until(lambda: restarts(supervisor) == [1, 0, 0])
    until(lambda: child.actor() and call(child))
    ract.kill(child.actor())
    with pytest.raises(RestartsExceededError, match=r"more than 1 restarts in 60 s.*'a'.*kill"):
        supervisor.wait(timeout=WAIT_S)
    with pytest.raises(RestartsExceededError):
        supervisor.children()
    with pytest.raises(RestartsExceededError):
        until(lambda: child.actor() and None)
    with pytest.raises(ract.exceptions.ActorDiedError):
        ract.get(other.add.remote(), timeout=WAIT_S)


def test_a_child_that_cannot_start_again_uses_up_the_restarts(started, tmp_path):
    child = Child("a", Worker, ("a",), {"fails_at": str(tmp_path / "starts")})
    supervisor = Supervisor([child], max_restarts=2, within_s=60)
    ract.kill(supervisor.child("a").actor())
    with pytest.raises(RestartsExceededError, match="it cannot start again"):
        supervisor.wait(timeout=WAIT_S)
    assert (tmp_path / "starts").read_text() == "xxx"


def test_a_child_that_cannot_start_at_first_is_the_callers_error(started, tmp_path):
    (tmp_path / "starts").write_text("x")
    log = Log.remote()
    bad = Child("b", Worker, ("b",), {"fails_at": str(tmp_path / "starts")})
    with pytest.raises(ract.exceptions.ActorDiedError, match="it cannot start again"):
        Supervisor([Child("a", Worker, ("a", log)), bad])
    assert ract.get(log.read.remote()) == ["+a", "-a"]


def test_a_child_that_ended_as_it_should_may_stay_so(started):
    supervisor = Supervisor([Child("a", Worker, restart="on_failure"), Child("b", Worker)])
    child = supervisor.child("a")
    child.exit.remote(3)
    until(lambda: restarts(supervisor) == [1, 0])
    assert call(child) == 1
    child.exit.remote(0)
    until(lambda: supervisor.children()[0].state == "ENDED")
    with pytest.raises(ract.exceptions.ActorHandleNotFoundError, match="has ended"):
        until(lambda: child.actor() and None)
    assert restarts(supervisor) == [1, 0]


def test_a_supervisor_may_have_supervisors(started):
    def team(names):
        return Supervisor([Child(name, Worker, (name,)) for name in names], max_restarts=0)

    top = Supervisor([Child("team", team, (NAMES,)), Child("other", Worker)])
    child = top.child("team", "b")
    assert call(child) == 1
    before = top.children()[0].actor_id
    ract.kill(child.actor())  # more than the team may stand: it is made anew
    until(lambda: restarts(top) == [1, 0] and top.children()[0].state == "RUNNING")
    assert top.children()[0].actor_id != before
    until(lambda: call(child) == 1)
    with pytest.raises(ract.exceptions.ActorHandleNotFoundError, match="is no supervisor"):
        top.child("other", "x").actor()
    top.stop()


def test_children_can_be_made_by_a_function_and_have_options(started):
    named = {"name": "the one", "namespace": "supervised"}
    supervisor = Supervisor(
        [Child("f", lambda n: Worker.remote(n), ("x",)), Child("o", Worker, options=named)]
    )
    assert call(supervisor.child("f")) == 1
    first = ract.get_actor(**named)
    assert first == supervisor.child("o").actor()
    ract.kill(first)
    until(lambda: restarts(supervisor) == [0, 1])
    assert ract.get_actor(**named) == supervisor.child("o").actor()


def test_handles_can_be_passed_on_and_take_options(started):
    supervisor = Supervisor(workers())
    child = supervisor.child("a")

    @ract.remote
    def use(child):
        return ract.get(child.add.remote())

    @ract.remote
    class Async:
        async def use(self, child):
            return await (await child.actor_async()).add.remote()

    assert ract.get(use.remote(child), timeout=WAIT_S) == 1
    assert ract.get(Async.remote().use.remote(child), timeout=WAIT_S) == 2
    assert ract.get(child.several.options(num_returns=2).remote()) == [1, 2]


def test_all_end_when_nobody_has_the_supervisor(started):
    supervisor = Supervisor(workers())
    pids = [call(supervisor.child(name), "pid") for name in NAMES]
    del supervisor
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"children": [Child("a", Worker), Child("a", Worker)]}, "two children"),
        ({"children": [Child("a", Worker, restart="never")]}, "restart must be"),
        ({"children": [], "strategy": "all"}, "strategy must be"),
        ({"children": [], "max_restarts": -1}, "max_restarts"),
        ({"children": [], "within_s": 0}, "within_s"),
        ({"children": [Child("a", lambda: None, options={"num_cpus": 1})]}, "options of 'a'"),
    ],
)
def test_bad_arguments_raise_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Supervisor(**arguments)


def test_a_child_must_be_an_actor(started):
    with pytest.raises(TypeError, match="'a' makes int, not an actor"):
        Supervisor([Child("a", lambda: 1)])
    with pytest.raises(TypeError, match="no actor class"):
        Supervisor([Child("a", 1)])
    with pytest.raises(ract.exceptions.ActorHandleNotFoundError, match=r"'z'; \['a'\] are"):
        Supervisor([Child("a", Worker)]).child("z").actor()
