"""What is told when the last handle of an actor goes, and what of the actor stays behind."""

import gc
import os
import sys
import weakref

import pytest

import ract
from ract.client.actors.client import ActorClient
from ract.client.process import current
from ract.core.messages import ActorChanged, ExitCause


def test_an_actor_of_a_dropped_handle_is_not_found_by_name(ract_module):
    @ract.remote(num_cpus=0)
    class Named:
        def f(self):
            return os.getpid()

    for _ in range(30):
        named = Named.options(name="dropped", get_if_exists=True).remote()
        assert ract.get(named.f.remote())  # an actor that is about to end would not answer
        del named
    for _ in range(10):
        named = Named.options(name="dropped").remote()  # the name is free
        ract.get(named.f.remote())
        del named
        with pytest.raises(ValueError, match="Failed to look up actor"):
            ract.get_actor("dropped")


def test_get_if_exists_keeps_the_actor_when_the_first_handle_goes(ract_module):
    @ract.remote(num_cpus=0)
    class Kept:
        def f(self):
            return os.getpid()

    first = Kept.options(name="kept", get_if_exists=True).remote()
    pid = ract.get(first.f.remote())
    second = Kept.options(name="kept", get_if_exists=True).remote()
    del first
    gc.collect()
    assert ract.get(ract.get_actor("kept").f.remote()) == pid
    assert ract.get(second.f.remote()) == pid


def test_dead_actors_are_not_looked_at_and_are_forgotten_with_their_handles(ract_module):
    runtime = current.runtime
    before = len(runtime.actors.all)
    handles = []
    for i in range(10_000):
        client = runtime.actor(i.to_bytes(16, "big"))
        handles.append(client.adopt(0))
        cause = ExitCause("crashed")
        client.changed(ActorChanged(runtime.process, client.actor_id, "DEAD", 1, cause=cause))
    assert len(runtime.actors.all) <= before
    ticked = []

    def trace(frame, event, arg):
        if event == "call" and frame.f_code is ActorClient.tick.__code__:
            ticked.append(frame)

    sys.setprofile(trace)
    try:
        runtime.actors.tick()
    finally:
        sys.setprofile(None)
    assert not ticked
    late = runtime.actor(handles[5]._client.actor_id)
    assert late is handles[5]._client  # found while somebody has a handle
    known = weakref.ref(late)
    del late, client
    handles.clear()
    gc.collect()
    runtime.actors.settle()
    gc.collect()
    assert known() is None
