"""Every interleaving of the IO thread that goes to sleep and of threads that have work for it."""

import select

import frontrun
import pytest

from ract.client.process.reactor import Reactor


class World:
    """The IO thread looks for work for the last time; whether it then sleeps is noted."""

    def __init__(self):
        self.reactor = Reactor(self.tick)
        self.work = []
        self.posted = []
        self.sleeps = False

    def tick(self):
        found, self.work = self.work, []
        return bool(found)

    def look(self):
        self.sleeps = not self.reactor._finds_work()

    def bring(self):
        self.work.append("work")
        self.reactor.wake()

    def bring_if_dormant(self):
        """As an executor does, for what its tick sees to in time."""
        self.work.append("work")
        if self.reactor.is_dormant:
            self.reactor.wake()

    def post(self):
        self.reactor.post(lambda: self.posted.append("job"))

    def close(self):
        self.reactor.close()

    def is_woken(self):
        poll = select.poll()
        poll.register(self.reactor._wake_fd, select.POLLIN)
        return bool(poll.poll(0))

    def sees_all_work(self):
        return not (self.work and self.sleeps) or self.is_woken()

    def hears_of_jobs_and_the_end(self):
        return self.is_woken()


LOOK = World.look


@pytest.mark.parametrize(
    "workers",
    [
        [LOOK, World.bring],
        [LOOK, World.bring, World.bring],
        [LOOK, World.bring_if_dormant],
        [LOOK, World.bring_if_dormant, World.bring],
    ],
)
def test_no_work_is_overslept(workers):
    frontrun.explore(setup=World, workers=workers, invariant=World.sees_all_work).assert_holds()


@pytest.mark.parametrize("worker", [World.post, World.close])
def test_a_job_and_the_end_wake_it_whatever_it_does(worker):
    frontrun.explore(
        setup=World, workers=[LOOK, worker], invariant=World.hears_of_jobs_and_the_end
    ).assert_holds()
