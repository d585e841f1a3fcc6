"""Frames of direct channels: whole, in pieces, many at once, too large."""

import pickle
import random
import struct
from itertools import pairwise

import pytest

from ract.core import calls
from ract.core.calls import FrameReader, Slot, frame


def some_items():
    return [
        [(calls.HELLO, 7, b"job1", b"n" * 28, b"", None)],
        [(calls.CALL, 1, 2**40, b"key", (1, "two", None), None, 0)],
        [],
        [(calls.CALL, i, i, "method", (), {"deps": [b"d" * 1000]}, 7) for i in range(50)],
        (0.25, [(1, "value"), (2, calls.INLINE, b"head", [b"buffer"], [])]),
    ]


def feed_in_pieces(reader, data, sizes):
    """Feed as a socket would: every piece in the same buffer, overwritten by the next."""
    received = bytearray(len(data))
    frames, start = [], 0
    for size in sizes:
        received[:size] = data[start : start + size]
        frames += reader.feed(memoryview(received)[:size])
        received[:] = b"\xee" * len(received)
        start += size
    assert start == len(data)
    return frames


def test_a_frame_is_its_length_and_one_pickle():
    data = frame([1, "a"])
    assert struct.unpack("<I", data[:4]) == (len(data) - 4,)
    assert pickle.loads(data[4:]) == [1, "a"]


@pytest.mark.parametrize("items", some_items(), ids=range(5))
def test_a_whole_frame_comes_out_at_once(items):
    reader = FrameReader()
    assert reader.feed(memoryview(frame(items))) == [items]
    assert reader.feed(memoryview(frame(items))) == [items]


def test_a_frame_outlives_the_buffer_that_it_was_received_in():
    data = bytearray(frame([b"x" * 100_000, "text"]))
    (items,) = FrameReader().feed(memoryview(data))
    data[:] = bytes(len(data))
    assert items == [b"x" * 100_000, "text"]


def test_many_frames_in_one_receive_come_out_in_order():
    data = b"".join(map(frame, some_items()))
    assert FrameReader().feed(memoryview(data)) == some_items()


def test_two_frames_cut_at_every_place_come_out_the_same():
    first, second = [(1, "one")], (0.5, [(2, b"two")])
    data = frame(first) + frame(second)
    for cut in range(len(data) + 1):
        reader = FrameReader()
        assert feed_in_pieces(reader, data, [cut, len(data) - cut]) == [first, second]
        assert reader.feed(memoryview(frame(first))) == [first]


def test_frames_fed_byte_by_byte_come_out_when_they_are_complete():
    reader, data = FrameReader(), frame([1]) + frame([2])
    counts = [len(reader.feed(memoryview(data)[i : i + 1])) for i in range(len(data))]
    assert [i for i, n in enumerate(counts) if n] == [len(frame([1])) - 1, len(data) - 1]


def test_frames_cut_at_random_come_out_the_same():
    rng = random.Random(3)
    for _ in range(200):
        sent = [rng.choice(some_items()) for _ in range(rng.randrange(1, 8))]
        data = b"".join(map(frame, sent))
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(12)))
        bounds = [0, *cuts, len(data)]
        sizes = [b - a for a, b in pairwise(bounds)]
        assert feed_in_pieces(FrameReader(), data, sizes) == sent


def test_nothing_received_completes_nothing():
    reader = FrameReader()
    assert reader.feed(memoryview(b"")) == []
    reader.feed(memoryview(frame([1])[:6]))
    assert reader.feed(memoryview(b"")) == []
    assert reader.feed(memoryview(frame([1])[6:])) == [[1]]


@pytest.mark.parametrize("size", [calls.FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_an_oversize_frame_is_refused_by_its_length_alone(size):
    reader = FrameReader()
    with pytest.raises(ValueError, match=f"frame of {size} bytes"):
        reader.feed(memoryview(struct.pack("<I", size) + b"x"))


def test_the_largest_frame_allowed_is_waited_for():
    reader = FrameReader()
    assert reader.feed(memoryview(struct.pack("<I", calls.FRAME_BYTES_MAX) + b"x")) == []


def test_an_oversize_frame_is_refused_behind_a_good_one_and_in_pieces(monkeypatch):
    data = frame([1]) + frame([b"x" * 100])
    monkeypatch.setattr(calls, "FRAME_BYTES_MAX", 50)
    reader = FrameReader()
    assert reader.feed(memoryview(frame([1]))) == [[1]]
    with pytest.raises(ValueError, match="on a direct channel"):
        feed_in_pieces(reader, data, [10, len(data) - 10])


def test_a_frame_that_the_reader_would_refuse_is_not_made(monkeypatch):
    monkeypatch.setattr(calls, "FRAME_BYTES_MAX", 50)
    with pytest.raises(ValueError, match="on a direct channel"):
        frame([b"x" * 100])
    assert FrameReader().feed(memoryview(frame([b"x" * 20]))) == [[b"x" * 20]]


def test_a_broken_stream_stays_broken():
    """What is behind an error cannot be trusted to begin with a length."""
    reader = FrameReader()
    for _ in range(2):
        with pytest.raises(ValueError, match="on a direct channel"):
            reader.feed(memoryview(b"\xff" * 8))
    with pytest.raises(ValueError, match="on a direct channel"):
        reader.feed(memoryview(frame([1])))


def test_slots_keep_their_index_through_pickle():
    (slot,) = FrameReader().feed(memoryview(frame([Slot(3)])))[0]
    assert type(slot) is Slot
    assert slot.index == 3


def test_op_codes_and_statuses_differ():
    ops = [calls.HELLO, calls.USE_LEASE, calls.DEFINE, calls.CALL, calls.CREDIT, calls.ASK]
    assert len(set(ops)) == 6
    statuses = [
        calls.PLAIN,
        calls.INLINE,
        calls.ERROR,
        calls.STORED,
        calls.SEVERAL,
        calls.RETURNED,
        calls.CANCELLED,
        calls.ITEM,
        calls.END,
        calls.BLOCKED,
        calls.UNBLOCKED,
    ]
    assert len(set(statuses)) == 11
