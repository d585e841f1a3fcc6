"""The codec of control messages: what goes round, and what is refused and how."""

import dataclasses
import functools
import pickle
import random
import types
import typing

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ract.core import messages, wire
from ract.core.messages import (
    ActorChanged,
    Blob,
    Blocked,
    Contained,
    ExitCause,
    Hello,
    Hold,
    HoldsChanged,
    LeasesWanted,
    LogLines,
    ObjectHere,
    ObjectLocated,
    ObjectsFreed,
    Reply,
    Request,
    Shape,
)
from ract.core.wire import ProtocolError

CLASSES = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
]

# --------------------------------------------------------------------------- values by annotation

INTS = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | INTS | st.floats(allow_nan=False) | TEXT | st.binary()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
BY_TYPE = {
    int: INTS,
    str: TEXT,
    bytes: st.binary(max_size=40),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}


def values(hint):
    """A strategy for what the annotation allows."""
    if hint is typing.Any:
        return PLAIN
    if isinstance(hint, types.UnionType):
        return st.one_of(*map(values, typing.get_args(hint)))
    arguments = [values(argument) for argument in typing.get_args(hint)]
    if typing.get_origin(hint) is list:
        return st.lists(*arguments, max_size=3)
    if typing.get_origin(hint) is dict:
        return st.dictionaries(*arguments, max_size=3)
    return instances(hint) if hint in CLASSES else BY_TYPE[hint]


@functools.cache
def instances(kind):
    """A strategy for messages of a class."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, *(values(hints[field.name]) for field in dataclasses.fields(kind)))


# --------------------------------------------------------------------------- round trips


def test_the_vocabulary_is_all_there():
    assert len(CLASSES) > 60
    assert {Blob, Hold, Hello, ActorChanged} <= set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_message_goes_round(kind):
    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(instances(kind))
    def goes_round(message):
        data = wire.encode(message)
        assert wire.decode(data) == message
        assert wire.decode(memoryview(data)) == message
        assert msgpack.unpackb(data, strict_map_key=False)[0] == kind.__name__

    goes_round()


def test_a_message_cannot_be_changed_and_can_be_pickled():
    hold = Hold(b"x", 7, -1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        hold.change = 2
    assert pickle.loads(pickle.dumps(hold)) == hold
    assert len({hold, Hold(b"x", 7, -1)}) == 1


def test_defaults_are_not_shared_between_messages():
    one, other = Shape({}, b"j"), Shape({}, b"j")
    assert one.strategy is not other.strategy


def test_a_whole_number_is_a_float_but_a_bool_is_no_int():
    assert wire.decode(msgpack.packb(["ExitCause", *plain_cause(at=3)])).at == 3
    with pytest.raises(ProtocolError, match=r"Blocked\.process: unexpected bool"):
        wire.decode(msgpack.packb(["Blocked", True]))


def plain_cause(**changes):
    return list(dataclasses.asdict(dataclasses.replace(ExitCause("crashed"), **changes)).values())


# --------------------------------------------------------------------------- refused by encode


@pytest.mark.parametrize(
    "message",
    [
        Reply(1, 2, object()),
        Reply(1, 2, {1, 2}),
        Reply(1, 2, 2**64),
        Reply(1, 2, "\udc80"),
        Blocked(2**70),
        HoldsChanged(1, [b"no message"]),
        ObjectHere(1, b"o", blob=b"no message"),
        ["Blocked", 1],
        {"process": 1},
        3,
        None,
        Blocked,
    ],
)
def test_what_is_no_message_or_not_plain_cannot_be_encoded(message):
    with pytest.raises(ProtocolError):
        wire.encode(message)


def test_a_value_that_contains_itself_cannot_be_encoded():
    loop = []
    loop.append(loop)
    with pytest.raises(ProtocolError):
        wire.encode(Reply(1, 2, loop))


def test_a_dataclass_that_is_no_message_is_named():
    @dataclasses.dataclass
    class Stranger:
        process: int

    with pytest.raises(ProtocolError, match="Stranger"):
        wire.encode(Stranger(1))


# --------------------------------------------------------------------------- refused by decode


def refused(plain):
    with pytest.raises(ProtocolError) as raised:
        wire.decode(plain if isinstance(plain, bytes) else msgpack.packb(plain))
    return str(raised.value)


@pytest.mark.parametrize(
    "plain", [None, 1, "Blocked", b"Blocked", [], {}, [1], [[]], [["Blocked"]]]
)
def test_what_does_not_begin_with_a_tag_is_refused(plain):
    assert "not a control message" in refused(plain)


@pytest.mark.parametrize("tag", ["", "Nothing", "blocked", "object", "__class__", "x" * 10_000])
def test_an_unknown_tag_is_refused_in_few_words(tag):
    text = refused([tag, 1])
    assert "unknown message" in text
    assert len(text) < 200


@pytest.mark.parametrize(
    "plain", [["Blocked"], ["Blocked", 1, 2], ["Blocked", [1]], ["Blocked", None]]
)
def test_wrong_number_or_type_of_fields_is_refused(plain):
    assert "Blocked" in refused(plain)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_field_refuses_what_its_annotation_does_not_allow(kind):
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    for i, name in enumerate(fields):
        if hints[name] is not typing.Any:
            good = [plainest(hints[other]) for other in fields]
            assert wire.decode(msgpack.packb([kind.__name__, *good])) is not None
            wrong = [*good[:i], msgpack.Timestamp(5), *good[i + 1 :]]
            assert f"{kind.__name__}.{name}: unexpected Timestamp" in refused(
                [kind.__name__, *wrong]
            )


def plainest(hint):
    """The smallest value that the annotation allows, as it is on the wire."""
    if hint in CLASSES:
        hints = typing.get_type_hints(hint)
        fields = dataclasses.fields(hint)
        return [hint.__name__, *(plainest(hints[field.name]) for field in fields)]
    if hint is typing.Any or isinstance(hint, types.UnionType):
        return None
    return (typing.get_origin(hint) or hint)()


@pytest.mark.parametrize(
    "plain",
    [
        ["HoldsChanged", 1, 5],
        ["HoldsChanged", 1, None],
        ["HoldsChanged", 1, "text"],
        ["HoldsChanged", 1, {"a": 1}],
        ["HoldsChanged", 1, [5]],
        ["HoldsChanged", 1, [None]],
        ["HoldsChanged", 1, [["Hold", b"x", 1]]],
        ["HoldsChanged", 1, [["Hold", b"x", 1, "one"]]],
        ["HoldsChanged", 1, ["Hold", b"x", 1, 1]],
        ["HoldsChanged", 1, [["Contained", b"x", 1]]],
        ["ObjectLocated", b"o", ["Hold", b"x", 1, 1], [], [], 0, False],
        ["ObjectLocated", b"o", [["Blob", b"", [], False]], [], [], 0, False],
        ["ObjectLocated", b"o", 7, [], [], 0, False],
        ["EndNode", None],
        ["EndNode", ["Blocked", 1]],
    ],
    ids=repr,
)
def test_a_field_for_messages_takes_only_those_of_its_class(plain):
    refused(plain)


@pytest.mark.parametrize(
    "plain",
    [
        ["ObjectsFreed", 1, ["text"]],
        ["ObjectsFreed", 1, [b"good", 5]],
        ["ObjectLocated", b"o", None, [b"n"], [b"not text"], 0, False],
        ["NodesChanged", {"a": 1}],
        ["NodesChanged", {1: "a"}],
        ["Blob", b"head", ["text"], False],
        ["Shape", {"CPU": "many"}, b"j", "", {}, {}],
        ["Shape", {"CPU": 1.5}, b"j", "", {}, {}],
        ["Shape", {"CPU": True}, b"j", "", {}, {}],
        ["Shape", {b"CPU": 1}, b"j", "", {}, {}],
        ["Shape", {"CPU": 1}, b"j", "", {3: "key"}, {}],
        ["Shape", {"CPU": 1}, b"j", "", {}, {"region": None}],
        ["Request", 1, 2, "op", {5: "key"}],
        ["LogLines", b"n", 1, b"j", 1, "name", False, [b"line"]],
    ],
    ids=repr,
)
def test_what_lists_and_dicts_hold_is_checked_too(plain):
    refused(plain)


def test_what_lists_and_dicts_may_hold_is_accepted():
    for message in (
        ObjectsFreed(1, [b"a", b"b"]),
        Request(1, 2, "op", {"key": [1, {2: None}]}),
        LogLines(b"n", 1, b"j", 1, "name", False, ["line"]),
        ObjectLocated(b"o", Blob(b"h", [b"b"]), [b"n"], ["tls://x"], 3),
        LeasesWanted(1, 2, Shape({"CPU": 10_000}, b"j", "", {"kind": "SPREAD"}, {"a": "b"}), 1),
    ):
        assert wire.decode(wire.encode(message)) == message


# --------------------------------------------------------------------------- bytes of any kind


def some_messages():
    cause = ExitCause("crashed", "detail", 1, None, "tail", b"n" * 28, 5, 1.5)
    return [
        Hello("driver", 5, metadata={"a": "b"}),
        HoldsChanged(3, [Hold(b"x" * 28, 3, 1), Hold(b"y" * 28, 4, -1)]),
        ActorChanged(1, b"a" * 16, "DEAD", 2, cause=cause, error=Blob(b"head", [b"buffer"])),
        Request(1, 2, "op", {"list": [1, 2.5, None, {"b": b"bytes"}]}),
        ObjectLocated(b"o" * 28, None, [b"n" * 28], ["tls://host:1"], 5),
        Contained(b"o" * 28, 2),
    ]


@pytest.mark.parametrize("message", some_messages(), ids=lambda m: type(m).__name__)
def test_every_truncated_or_extended_frame_is_refused(message):
    data = wire.encode(message)
    for end in range(len(data)):
        refused(data[:end])
    refused(data + b"\x00")
    refused(data + data)


def test_random_bytes_are_refused():
    rng = random.Random(7)
    for _ in range(3000):
        refused(rng.randbytes(rng.randrange(60)))


@pytest.mark.parametrize("message", some_messages(), ids=lambda m: type(m).__name__)
def test_damaged_frames_are_refused_or_are_another_message(message):
    rng = random.Random(8)
    data = wire.encode(message)
    refusals = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            assert type(wire.decode(bytes(damaged))) in CLASSES
        except ProtocolError:
            refusals += 1
    assert refusals > 100


def test_random_trees_with_good_tags_are_refused_or_are_that_message():
    rng = random.Random(9)
    names = [kind.__name__ for kind in CLASSES]

    def tree(depth):
        choice = rng.randrange(9)
        if depth and choice < 2:
            return [tree(depth - 1) for _ in range(rng.randrange(5))]
        if depth and choice == 2:
            return {rng.choice(["a", 1, b"c"]): tree(depth - 1) for _ in range(rng.randrange(3))}
        if depth and choice == 3:
            return [rng.choice(names), *(tree(depth - 1) for _ in range(rng.randrange(5)))]
        return rng.choice([None, True, 0, -1, 1.5, "", "text", b"", b"x" * 28])

    accepted = 0
    for _ in range(4000):
        name = rng.choice(names)
        data = msgpack.packb([name, *(tree(3) for _ in range(rng.randrange(1, 6)))])
        try:
            assert type(wire.decode(data)).__name__ == name
            accepted += 1
        except ProtocolError:
            pass
    assert 0 < accepted < 2000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xffx",
        b"\xc6\xff\xff\xff\xffx",
        b"\x91\xa1\xff",
        b"\x92\xa7Blocked\x81\x90\x01",
        b"\x91" * 100_000,
        b"\x81\x01" * 100_000,
        b"\x93\xacHoldsChanged\x01" + b"\x91" * 900 + b"\x01",
        pickle.dumps(["Blocked", 1]),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_bytes_made_to_hurt_are_refused(data):
    refused(data)


@pytest.mark.parametrize("depth", [2, 100, 240])
def test_messages_nested_where_they_do_not_belong_are_refused_at_the_first(depth):
    plain = ["Blocked", 1]
    for _ in range(depth):
        plain = ["CreateActor", 1, plain, 0, {}, ""]
    assert "CreateActor.spec" in refused(plain)
    lists = [["Hold", b"x", 1, 1]]
    for _ in range(depth):
        lists = [["HoldsChanged", 1, lists, 0, 0]]
    assert "HoldsChanged.holds" in refused(["HoldsChanged", 1, lists, 0, 0])


def test_a_deep_value_in_a_field_for_anything_is_a_value_or_refused():
    deep = None
    for _ in range(300):
        deep = [deep]
    assert wire.decode(wire.encode(Reply(1, 2, deep))) == Reply(1, 2, deep)
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(ProtocolError):
        wire.encode(Reply(1, 2, deep))
