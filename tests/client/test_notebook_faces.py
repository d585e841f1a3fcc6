"""What people see of ract's objects, and whose calls are recorded."""

import pytest

import ract
from ract.client.runtime import current_runtime
from ract.client.start.membership import membership
from ract.testing import wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def named():
    return 1


@ract.remote(enable_task_events=False)
class Quiet:
    def silent(self):
        return 1

    def loud(self):
        return 2


def test_the_context_is_a_card_in_a_notebook():
    context = membership.context
    card = context._repr_html_()
    assert context["address"] in card
    assert "1 node, 2 CPU" in card
    assert current_runtime().namespace in card
    assert f'href="{context.dashboard_url}"' in card


def test_refs_handles_functions_and_classes_say_what_they_are():
    quiet = Quiet.remote()
    assert repr(named) == "RemoteFunction(named)"
    assert repr(Quiet) == "ActorClass(Quiet)"
    assert repr(quiet) == f"Actor(Quiet, {quiet._actor_id.hex()})"
    ref = named.remote()
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert "loud" in repr(quiet.loud)
    assert {"loud", "silent"} <= set(dir(quiet))


def test_calls_are_recorded_unless_the_actor_or_the_call_says_otherwise():
    quiet = Quiet.remote()
    ract.get([quiet.silent.remote(), quiet.loud.options(enable_task_events=True).remote()])
    ract.get(named.options(name="marked").remote())
    ract.get(named.options(name="unmarked", enable_task_events=False).remote())

    def names():
        return current_runtime().link.request("summary_tasks")["summary"]

    wait_for_condition(lambda: {"Quiet.loud", "marked"} <= set(names()))
    assert not {"Quiet.silent", "unmarked"} & set(names())
