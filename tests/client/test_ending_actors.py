"""How actors end: by their handles, by kill, by themselves; and what becomes of names and calls."""

import os
import signal
import sys

import pytest

import ract
from ract.exceptions import ActorDiedError, ActorUnavailableError, RactActorError
from ract.testing import SignalActor, wait_for_condition
from ract.util import list_named_actors


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote(num_cpus=0)
class Actor:
    def __init__(self, farewell=None):
        import atexit

        if farewell is not None:
            atexit.register(lambda: open(farewell, "w").close())

    def pid(self):
        return os.getpid()

    def end(self, how):
        if how == "sys.exit(0)":
            sys.exit(0)
        if how == "sys.exit(1)":
            sys.exit(1)
        if how == "os._exit(0)":
            os._exit(0)
        ract.actor.exit_actor()


def has_no_name(name):
    try:
        ract.get_actor(name)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("how", ["handles", "terminate", "exit_actor"])
def test_exit_handlers_run_at_a_graceful_end(how, tmp_path):
    path = tmp_path / "farewell"
    actor = Actor.remote(str(path))
    ract.get(actor.__ray_ready__.remote())
    if how == "handles":
        del actor
    elif how == "terminate":
        actor.__ray_terminate__.remote()
    else:
        actor.end.remote(how)
    wait_for_condition(path.exists)


def test_exit_handlers_do_not_run_at_a_kill(tmp_path):
    actor = Actor.remote(str(tmp_path / "farewell"))
    pid = ract.get(actor.pid.remote())
    ract.kill(actor)
    wait_for_condition(lambda: not os.path.exists(f"/proc/{pid}"))
    assert not (tmp_path / "farewell").exists()
    ract.kill(actor)  # the second time does nothing
    with pytest.raises(ActorDiedError, match="killed"):
        ract.get(actor.pid.remote(), timeout=30)


@pytest.mark.parametrize("how", ["sys.exit(0)", "exit_actor"])
def test_an_intended_exit_is_not_restarted(how):
    actor = Actor.options(max_restarts=3).remote()
    for ref in (actor.end.remote(how), actor.pid.remote()):
        with pytest.raises(ActorDiedError, match="exit"):
            ract.get(ref, timeout=30)


@pytest.mark.parametrize("how", ["sys.exit(1)", "os._exit(0)"])
def test_any_other_exit_is_a_crash_and_is_restarted(how):
    actor = Actor.options(max_restarts=1).remote()
    with pytest.raises(ActorUnavailableError):
        ract.get(actor.end.remote(how), timeout=30)
    retried = actor.pid.options(max_task_retries=-1)
    assert ract.get(retried.remote(), timeout=30) > 0
    with pytest.raises(ActorDiedError):
        ract.get(actor.end.remote(how), timeout=30)


def test_a_kill_that_lets_it_restart_costs_a_restart():
    actor = Actor.options(max_restarts=1).remote()
    first = ract.get(actor.pid.remote())
    ract.kill(actor, no_restart=False)
    retried = actor.pid.options(max_task_retries=-1)
    wait_for_condition(lambda: ract.get(retried.remote(), timeout=30) != first)
    ract.kill(actor, no_restart=False)
    wait_for_condition(lambda: _is_dead(actor))


def _is_dead(actor):
    try:
        ract.get(actor.pid.remote(), timeout=30)
    except ActorDiedError:
        return True
    except RactActorError:
        pass
    return False


def test_an_actor_that_waits_for_resources_can_be_killed():
    actor = Actor.options(resources={"absent": 1}).remote()
    ref = actor.pid.remote()
    ract.kill(actor)
    for call in (ref, actor.pid.remote()):
        with pytest.raises(ActorDiedError):
            ract.get(call, timeout=30)


@pytest.mark.parametrize("how", ["kill", "handles", "exit_actor"])
def test_a_name_is_free_again_after_the_end(how):
    actor = Actor.options(name=f"reused by {how}").remote()
    ract.get(actor.__ray_ready__.remote())
    if how == "kill":
        ract.kill(actor)
    elif how == "exit_actor":
        actor.end.remote(how)
    else:
        del actor
    wait_for_condition(lambda: has_no_name(f"reused by {how}"))
    again = Actor.options(name=f"reused by {how}").remote()
    assert ract.get(again.pid.remote()) > 0


def test_a_handle_by_name_does_not_keep_the_actor():
    actor = Actor.options(name="weak").remote()
    weak = ract.get_actor("weak")
    assert ract.get(weak.pid.remote()) == ract.get(actor.pid.remote())
    del actor
    wait_for_condition(lambda: _is_dead(weak))


def test_a_detached_actor_is_kept_by_nobody_and_restarts():
    Actor.options(name="kept", lifetime="detached", max_restarts=1).remote()
    kept = ract.get_actor("kept")
    first = ract.get(kept.pid.remote())
    with pytest.raises(ActorUnavailableError):
        ract.get(kept.end.remote("os._exit(0)"), timeout=30)
    assert not has_no_name("kept")
    assert ract.get(kept.pid.options(max_task_retries=-1).remote(), timeout=30) != first
    ract.kill(kept)
    wait_for_condition(lambda: has_no_name("kept"))


def test_exactly_one_of_many_creates_a_named_actor():
    @ract.remote(num_cpus=0)
    def get_or_create():
        options = {"name": "one", "get_if_exists": True, "lifetime": "detached"}
        return ract.get(Actor.options(**options).remote().pid.remote())

    assert len(set(ract.get([get_or_create.remote() for _ in range(10)]))) == 1
    ract.kill(ract.get_actor("one"))


def test_a_name_is_one_of_its_namespace():
    here = Actor.options(name="same").remote()
    there = Actor.options(name="same", namespace="elsewhere").remote()
    assert ract.get_actor("same") == here
    assert ract.get_actor("same", namespace="elsewhere") == there
    assert {"name": "same", "namespace": "elsewhere"} in list_named_actors(all_namespaces=True)
    with pytest.raises(ValueError, match="same"):
        ract.get_actor("same", namespace="nowhere")
    with pytest.raises(ValueError, match="same"):
        Actor.options(name="same").remote()


def test_an_owner_takes_its_actors_along_and_they_say_so():
    @ract.remote(num_cpus=0)
    class Owner:
        def make(self):
            self.child = Actor.remote()
            return self.child

    owner = Owner.remote()
    child = ract.get(owner.make.remote())
    ract.get(child.pid.remote())
    ract.kill(owner)
    wait_for_condition(lambda: _is_dead(child))
    with pytest.raises(ActorDiedError, match="owner"):
        ract.get(child.pid.remote(), timeout=30)


def test_the_limit_of_pending_calls_is_for_unfinished_ones():
    @ract.remote(num_cpus=0, max_pending_calls=2)
    class Limited:
        def wait(self, signal):
            ract.get(signal.wait.remote())

    signal, limited = SignalActor.options(num_cpus=0).remote(), Limited.remote()
    pending = [limited.wait.remote(signal) for _ in range(2)]
    with pytest.raises(ract.exceptions.PendingCallsLimitExceeded):
        limited.wait.remote(signal)
    ract.get([signal.send.remote(), *pending])
    ract.get(limited.wait.remote(signal))


class Ending:
    def same(self, x):
        return x

    def end(self, how):
        if how == "sys.exit(3)":
            sys.exit(3)
        if how == "os._exit(3)":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)


class AsyncEnding(Ending):
    async def same(self, x):
        return x


@pytest.mark.parametrize("how", ["sys.exit(3)", "os._exit(3)", "os.kill"])
@pytest.mark.parametrize(
    ("cls", "options"),
    [(Ending, {}), (Ending, {"max_concurrency": 1, "mailbox_size": 9}), (AsyncEnding, {})],
    ids=["plain", "one thread", "async"],
)
def test_calls_that_had_ended_are_answered_before_the_actor_ends_its_process(cls, options, how):
    actor = ract.remote(num_cpus=0, **options)(cls).remote()
    ract.get(actor.__ray_ready__.remote())
    ended = [actor.same.remote(i) for i in range(5)]
    last = actor.end.remote(how)
    assert ract.get(ended, timeout=30) == list(range(5))
    with pytest.raises(ActorDiedError):
        ract.get(last, timeout=30)
