"""The IO thread: it ticks while there is work, naps while there will be, and sleeps otherwise."""

import threading

import pytest

from ract.client.process.reactor import TICKS_IDLE_MAX, Reactor


class Work:
    """Ticks of a reactor, which find what they are told to find."""

    def __init__(self):
        self.reactor = Reactor(self.tick)
        self.is_busy = False
        self.at_tick = lambda count: None
        self.count = 0
        self.ticked, self.slept = threading.Semaphore(0), threading.Semaphore(0)
        self._looks, self.reactor._finds_work = self.reactor._finds_work, self.finds_work

    def tick(self):
        self.count += 1
        self.at_tick(self.count)
        self.ticked.release()
        return self.is_busy

    def await_ticks(self, n):
        for _ in range(n):
            assert self.ticked.acquire(timeout=30)

    def finds_work(self):
        found = self._looks()
        if not found:
            self.slept.release()
        return found

    def await_sleep(self):
        """Return once it has looked for the last time and found nothing."""
        assert self.slept.acquire(timeout=30)


@pytest.fixture
def work():
    work = Work()
    yield work
    work.reactor.close()


def test_it_is_dormant_once_there_is_nothing_to_do_until_it_is_woken(work):
    work.reactor.start()
    work.await_sleep()
    assert work.reactor.is_asleep
    assert work.reactor.is_dormant
    before = work.count
    work.reactor.wake()
    work.await_ticks(before + 1)


def test_it_naps_while_something_is_to_be_done_some_time(work):
    work.reactor.nap_s = 0.001
    work.reactor.start()
    work.await_sleep()
    assert work.reactor.is_asleep
    assert not work.reactor.is_dormant
    work.await_ticks(work.count + 20)
    assert work.reactor.is_asleep


@pytest.mark.parametrize("is_woken", [False, True])
def test_what_comes_while_it_looks_for_the_last_time_is_not_forgotten(work, is_woken):
    """It comes before the look, or after it and wakes."""
    looks = []

    def look(count):
        is_last = work.reactor.is_asleep and not looks
        if is_last:
            looks.append(count)
            if is_woken:
                work.reactor.wake()
        work.is_busy = is_last and not is_woken

    work.at_tick = look
    work.reactor.start()
    work.await_ticks(TICKS_IDLE_MAX + 1)
    assert looks == [TICKS_IDLE_MAX + 1]
    work.await_ticks(1)
