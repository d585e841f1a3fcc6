"""A stream that outlives its connections: everything arrives once and in order."""

import random

import pytest

from ract.core.reliable import ACK_EVERY, GapError, Link


def deliver(message, to):
    """The frames that are news to the other end."""
    to.acknowledged(message["ack"])
    return message["frames"] if "seq" in message and to.take(message["seq"]) else []


def test_what_is_not_acknowledged_is_kept_and_no_more():
    here, there = Link(), Link()
    for i in range(3):
        deliver(here.pack([b"%d" % i]), there)
    assert here.kept == 3
    deliver(there.ack(), here)
    assert here.kept == 0
    assert there.ack() is None


def test_an_answer_acknowledges_too():
    here, there = Link(), Link()
    deliver(here.pack([b"question"]), there)
    deliver(there.pack([b"answer"]), here)
    assert here.kept == 0
    assert there.ack() is None


def test_an_acknowledgement_of_its_own_waits_until_there_is_enough_of_it():
    here, there = Link(), Link()
    for _ in range(ACK_EVERY - 1):
        deliver(here.pack([b"x"]), there)
    assert there.ack(ACK_EVERY) is None
    deliver(here.pack([b"x"]), there)
    assert there.ack(ACK_EVERY)["ack"] == ACK_EVERY


def test_a_batch_that_came_before_is_dropped():
    here, there = Link(), Link()
    message = here.pack([b"once"])
    assert deliver(message, there) == [b"once"]
    assert deliver(message, there) == []


def test_a_batch_that_comes_too_early_is_an_error():
    here, there = Link(), Link()
    here.pack([b"lost"])
    with pytest.raises(GapError, match="batch 2 came after batch 0"):
        deliver(here.pack([b"too early"]), there)


def test_an_end_that_has_forgotten_something_is_noticed():
    here, there = Link(), Link()
    for _ in range(5):
        deliver(here.pack([b"x"]), there)
    deliver(there.ack(), here)
    with pytest.raises(GapError, match="batch 5 is asked for again"):
        here.resume(4)  # it had acknowledged 5
    with pytest.raises(GapError, match="6 is acknowledged, of 5"):
        here.resume(6)  # it has got what was never sent


@pytest.mark.parametrize("seed", range(20))
def test_everything_arrives_once_and_in_order_over_connections_that_break(seed):
    rng = random.Random(seed)
    ends = [Link(), Link()]
    got = [[], []]
    made = [0, 0]
    wires = [[], []]  # to each end
    for _ in range(2000):
        side = rng.randrange(2)
        other = 1 - side
        dice = rng.random()
        if dice < 0.4:
            made[side] += 1
            wires[other].append(ends[side].pack([made[side].to_bytes(4, "big")]))
        elif dice < 0.9 and wires[side]:
            got[side] += deliver(wires[side].pop(0), ends[side])
            wires[other] += filter(None, [ends[side].ack(rng.randint(1, 5))])
        elif dice > 0.98:
            received = [end.received for end in ends]
            wires = [ends[1].resume(received[0]), ends[0].resume(received[1])]
    for _ in range(2):
        for side in range(2):
            for message in wires[side]:
                got[side] += deliver(message, ends[side])
            wires[side] = []
            wires[1 - side] += filter(None, [ends[side].ack()])
    for side in range(2):
        assert got[side] == [n.to_bytes(4, "big") for n in range(1, made[1 - side] + 1)]
        assert ends[side].kept == 0
