"""What a call carries on its way to an executor."""

import threading
import types

import ract
from ract.client.calls.call import Call, extra_of, next_attempt
from ract.client.calls.cancelling import SWEEP_MIN, Cancelling
from ract.client.process import current


def test_a_call_without_extras_says_nothing_more():
    assert extra_of(Call(1, b"f", None, "f")) is None


def test_only_what_is_set_is_sent_under_its_name_on_the_wire():
    call = Call(1, b"f", None, "f")
    call.more().label = "x"
    call.more().hold([b"a"])
    call.more().hold([b"b"])
    next_attempt(call)
    next_attempt(call)
    assert extra_of(call) == {"name": "x", "refs": [(b"a", 1), (b"b", 1)], "attempt": 2}


def test_a_captured_ref_and_large_arguments_are_both_held_for_the_executor(ract_start, monkeypatch):
    captured = ract.put([1, 2, 3])

    @ract.remote
    def length(data):
        return len(data) + len(ract.get(captured))

    handed = []
    table = current.runtime.table
    real = table.hand_over
    monkeypatch.setattr(table, "hand_over", lambda *a: (handed.extend(a[0]), real(*a)))
    assert ract.get(length.remote([bytes(1)] * 200_000)) == 200_003
    assert captured.binary() in [id for id, _ in handed]
    assert len(handed) == 2


def test_timeouts_of_calls_that_have_ended_are_forgotten_long_before_their_time():
    held = types.SimpleNamespace(lock=threading.RLock())
    cancelling = Cancelling(None, held, lambda: None, None, list)
    kept = []
    for i in range(10 * SWEEP_MIN):
        call = Call(i, b"f", None, "f")
        call.is_over = i % 100 > 0
        kept.append(call)
        cancelling.set_timeout(call, 3600)
    assert len(cancelling.timeouts) < 2 * SWEEP_MIN
    waiting = {known().number for *_, known in cancelling.timeouts}
    assert waiting >= {call.number for call in kept if not call.is_over}
