"""What an executor has made for others lives on when the process that it works for ends."""

import pytest

import ract
from ract.testing import wait_for_condition


@ract.remote(num_cpus=0)
class Made:
    def ping(self):
        return "pong"


@ract.remote(num_cpus=1)
def make_actor():
    return Made.remote()


@ract.remote(num_cpus=1)
def forever(started):
    ract.get(started.set.remote())
    while True:
        pass


@ract.remote(num_cpus=0)
class Event:
    def __init__(self):
        self.is_set_ = False

    def set(self):
        self.is_set_ = True

    def is_set(self):
        return self.is_set_


@ract.remote(num_cpus=0)
class Submitter:
    def submit(self, started):
        self.ref = forever.remote(started)


@pytest.mark.parametrize("ract_start", [{"num_cpus": 1}], indirect=True)
def test_an_actor_made_by_an_executor_survives_the_next_process_that_uses_it(ract_start):
    made = ract.get(make_actor.remote())
    assert ract.get(made.ping.remote()) == "pong"
    started = Event.remote()
    submitter = Submitter.remote()
    ract.get(submitter.submit.remote(started))
    wait_for_condition(lambda: ract.get(started.is_set.remote()))
    ract.kill(submitter)
    wait_for_condition(lambda: ract.available_resources().get("CPU") == 1)
    assert ract.get(made.ping.remote()) == "pong"
