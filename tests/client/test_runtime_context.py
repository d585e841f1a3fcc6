"""What running code is told about itself."""

import pytest

import ract
from ract.testing import wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def ask(name):
    value = getattr(ract.get_runtime_context(), name)
    return value() if callable(value) else value


@ract.remote
class Actor:
    def ask(self, name):
        value = getattr(ract.get_runtime_context(), name)
        return value() if callable(value) else value


def test_ids_nest_and_are_those_of_refs_and_handles():
    context, actor = ract.get_runtime_context(), Actor.remote()
    task_ref, call_ref = ask.remote("get_task_id"), actor.ask.remote("get_task_id")
    assert ract.get(task_ref) == task_ref.task_id().hex()
    assert ract.get(call_ref) == call_ref.task_id().hex()
    assert call_ref.task_id().actor_id() == actor._actor_id
    assert ract.get(actor.ask.remote("get_actor_id")) == actor._actor_id.hex()
    assert ract.get(ask.remote("get_job_id")) == context.get_job_id() == task_ref.job_id().hex()
    assert ract.get(ask.remote("get_worker_id")) != context.get_worker_id()
    assert ract.get(actor.ask.remote("get_node_id")) == context.get_node_id()


def test_what_a_process_is_not_is_none():
    context = ract.get_runtime_context()
    for name in ("get_task_id", "get_actor_id", "get_actor_name", "get_placement_group_id"):
        assert getattr(context, name)() is None
    for name in ("get_actor_id", "get_actor_name", "get_placement_group_id"):
        assert ract.get(ask.remote(name)) is None
    with pytest.raises(RuntimeError):
        _ = context.current_actor


def test_names_of_actors_and_calls():
    plain, named = Actor.remote(), Actor.options(name="called").remote()
    assert ract.get(plain.ask.remote("get_actor_name")) == ""
    assert ract.get(named.ask.remote("get_actor_name")) == "called"
    assert ract.get(plain.ask.remote("get_task_name")) == "Actor.ask"
    assert ract.get(plain.ask.options(name="n").remote("get_task_name")) == "n"
    assert ract.get(plain.ask.options(name="n").remote("get_task_function_name")) == "Actor.ask"


def test_resources_are_those_that_were_asked_for():
    assert ract.get(ask.remote("get_assigned_resources")) == {"CPU": 1.0}
    assert ract.get(ask.options(num_cpus=0.5).remote("get_assigned_resources")) == {"CPU": 0.5}
    plain, half = Actor.remote(), Actor.options(num_cpus=0.5).remote()
    assert ract.get(plain.ask.remote("get_assigned_resources")) == {}
    assert ract.get(half.ask.remote("get_assigned_resources")) == {"CPU": 0.5}
    with pytest.raises(AssertionError):
        ract.get_runtime_context().get_assigned_resources()


def test_the_namespace_is_that_of_the_job():
    namespace = ract.get_runtime_context().namespace
    assert len(namespace) == 36  # a UUID, since none was given
    assert ract.get(ask.remote("namespace")) == namespace


def test_an_actor_knows_that_it_was_restarted():
    actor = Actor.options(max_restarts=1).remote()
    assert not ract.get(actor.ask.remote("was_current_actor_reconstructed"))
    ract.kill(actor, no_restart=False)
    retried = actor.ask.options(max_task_retries=-1)
    wait_for_condition(lambda: ract.get(retried.remote("was_current_actor_reconstructed")))
