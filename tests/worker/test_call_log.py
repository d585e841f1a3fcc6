"""What a durable actor remembers of calls: as long as they may come again, and no longer."""

from ract.core.ids import COUNTER_BITS
from ract.worker.executor.call_log import CALLERS_GONE_MAX, CallLog

CHANNEL, OTHER = "channel", "other channel"


def number(process, count):
    return process << COUNTER_BITS | count


def answered(log, count, seq, channel=CHANNEL, process=7, attempt=0):
    log.add(number(process, count), attempt, (f"answer {count}.{attempt}",))
    log.sent(channel, seq, number(process, count), attempt)


def test_a_call_that_comes_again_gets_the_answer_that_it_had():
    log = CallLog()
    answered(log, 1, seq=0)
    assert log.find(number(7, 1), 0) == ("answer 1.0",)
    assert log.find(number(7, 2), 0) is None
    assert log.find(number(8, 1), 0) is None


def test_answers_are_forgotten_when_the_caller_has_them():
    log = CallLog()
    for count in range(5):
        answered(log, count, seq=count)
    log.done(CHANNEL, 3)
    assert [log.find(number(7, count), 0) is None for count in range(5)] == [True] * 3 + [False] * 2
    log.done(OTHER, 99)
    assert len(log) == 2
    log.done(CHANNEL, 5)
    assert len(log) == 0
    assert log.answers == {}


def test_a_further_attempt_is_another_call_and_replaces_the_first():
    log = CallLog()
    answered(log, 1, seq=0)
    assert log.find(number(7, 1), 1) is None
    answered(log, 1, seq=1, attempt=1)
    assert log.find(number(7, 1), 0) is None
    assert log.find(number(7, 1), 1) == ("answer 1.1",)


def test_what_was_saved_is_known_to_the_next_process_and_answered_there():
    log = CallLog()
    for count in range(5):
        answered(log, count, seq=count)
    again = CallLog(log.answers)
    again.unfinished(7, [number(7, 3), number(7, 4), number(7, 5)])
    assert len(again) == 2
    again.sent(OTHER, 0, number(7, 3), 0)
    again.sent(OTHER, 1, number(7, 4), 0)
    again.done(OTHER, 1)
    assert again.find(number(7, 3), 0) is None
    assert again.find(number(7, 4), 0) == ("answer 4.0",)


def test_answers_of_callers_who_are_cut_off_are_kept_of_the_newest():
    log = CallLog()
    for process in range(1, CALLERS_GONE_MAX + 11):
        answered(log, 1, seq=0, channel=process, process=process)
        log.left(process, process)
    assert len(log) == CALLERS_GONE_MAX
    assert log.find(number(10, 1), 0) is None
    assert log.find(number(11, 1), 0) is not None


def test_callers_who_do_not_come_again_after_a_restart_count_as_gone():
    log = CallLog({1: {(number(1, 1), 0): ("saved",)}})
    for process in range(2, CALLERS_GONE_MAX + 3):
        answered(log, 1, seq=0, channel=process, process=process)
        log.left(process, process)
    assert log.find(number(1, 1), 0) is None


def test_a_caller_who_comes_again_is_not_gone():
    log = CallLog({1: {(number(1, 1), 0): ("saved",)}})
    log.sent(CHANNEL, 0, number(1, 1), 0)
    for process in range(2, CALLERS_GONE_MAX + 3):
        answered(log, 1, seq=0, channel=process, process=process)
        log.left(process, process)
    assert log.find(number(1, 1), 0) == ("saved",)
