"""Values to bytes and back, and what they cost in copies."""

import collections
import dataclasses
import enum
import mmap
import sys
import threading
import types

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ract.core import pickle_trace, serialization
from ract.core.serialization import (
    ALIGNMENT,
    block_size,
    collecting,
    is_plain,
    pack,
    pack_by_value,
    read_block,
    unpack,
    write_block,
    write_block_to,
)


def round_trip(value):
    packed = pack(value)
    return unpack(packed.head, packed.copied_buffers())


# --------------------------------------------------------------------------- values of many kinds

Point = collections.namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Record:
    name: str
    array: np.ndarray


class Counter:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        2**100,
        "text",
        "",
        b"bytes",
        b"x" * 2**20,
        bytearray(b"array"),
        1j,
        [1, [2, [3]]],
        {"a": {1, 2}, (1, 2): None},
        range(3),
        Ellipsis,
        int,
        len,
        collections.OrderedDict(a=1),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_builtin_values_go_round(value):
    found = round_trip(value)
    assert found == value
    assert type(found) is type(value)


def test_lambdas_closures_generator_functions_and_local_classes_go_round():
    factor = 3

    class Local:
        def times(self, x):
            return factor * x

    def count():
        yield from range(factor)

    assert round_trip(lambda x: factor * x)(2) == 6
    assert list(round_trip(count)()) == [0, 1, 2]
    assert round_trip(Local)().times(5) == 15
    assert round_trip([Local()])[0].times(5) == 15


def test_named_tuples_enums_dataclasses_and_bound_methods_go_round():
    assert round_trip(Point(1, 2)) == Point(1, 2)
    assert round_trip(Colour.RED).value == 1
    record = round_trip(Record("a", np.arange(3)))
    assert record.name == "a"
    assert record.array.tolist() == [0, 1, 2]
    add = round_trip(Counter().add)
    assert (add(), add()) == (1, 2)


def test_a_value_that_contains_itself_goes_round():
    loop = []
    loop.append(loop)
    found = round_trip(loop)
    assert found[0] is found


def test_one_object_met_twice_is_one_object_afterwards():
    array = np.arange(1000)
    packed = pack([array, array])
    assert len(packed.buffers) == 1
    one, other = unpack(packed.head, packed.copied_buffers())
    assert one is other


# --------------------------------------------------------------------------- which pickler ran


def test_functions_of_importable_modules_travel_by_reference():
    packed = pack(mmap.mmap)
    assert len(packed.head) < 60
    assert unpack(packed.head) is mmap.mmap


def test_classes_of_the_main_module_travel_by_value(monkeypatch):
    main = types.ModuleType("__main__")
    exec("class Mine:\n    answer = 42\n\ndef f(): return Mine.answer", main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    packed = pack([main.Mine(), main.f])
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    mine, f = unpack(packed.head)
    assert mine.answer == f() == 42


def test_modules_registered_by_value_are_noticed_at_once_and_forgotten_again(monkeypatch):
    module = types.ModuleType("my_helpers")
    exec("class Mine:\n    answer = 42", module.__dict__)
    monkeypatch.setitem(sys.modules, "my_helpers", module)
    by_reference = pack(module.Mine()).head
    cloudpickle.register_pickle_by_value(module)
    try:
        by_value = pack(module.Mine()).head
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert pack(module.Mine()).head == by_reference
    monkeypatch.delitem(sys.modules, "my_helpers")
    assert unpack(by_value).answer == 42
    with pytest.raises(ModuleNotFoundError):
        unpack(by_reference)


def test_the_slow_pickler_is_left_alone_for_plain_data(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("cloudpickle ran")

    monkeypatch.setattr(serialization.cloudpickle, "dumps", never)
    assert pack({"a": np.arange(3), "b": [1, "text"]}).buffers
    with pytest.raises(AssertionError, match="cloudpickle ran"):
        pack(lambda: None)


def test_buffers_are_not_listed_twice_when_the_second_pickler_runs():
    array = np.arange(1000)
    packed = pack([array, lambda: None])
    assert [b.nbytes for b in packed.buffers] == [8000]
    assert unpack(packed.head, packed.buffers)[0].tolist() == array.tolist()


def test_functions_are_packed_by_value_in_one_piece():
    data = np.arange(1000)
    packed = pack_by_value(lambda: data.sum())
    assert packed.buffers == []
    assert unpack(packed.head)() == data.sum()


# --------------------------------------------------------------------------- arrays without copies


def address(array):
    return array.__array_interface__["data"][0]


def test_arrays_are_handed_over_without_a_copy():
    array = np.arange(100_000)
    packed = pack({"nested": [array]})
    assert len(packed.head) < 300
    (buffer,) = packed.buffers
    assert address(np.frombuffer(buffer, np.int64)) == address(array)
    found = unpack(packed.head, packed.buffers)["nested"][0]
    assert address(found) == address(array)


def test_copied_buffers_do_not_follow_later_changes():
    array = np.zeros(10)
    packed = pack(array)
    copies = packed.copied_buffers()
    array[:] = 7
    assert unpack(packed.head, copies).sum() == 0
    assert unpack(packed.head, packed.buffers).sum() == 70


def test_arrays_are_read_only_when_their_buffers_are():
    packed = pack([np.zeros(10), Record("a", np.zeros(3))])
    first, record = unpack(packed.head, packed.copied_buffers())
    for array in (first, record.array):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        array.copy()[0] = 1


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.float32(2.5),
        np.array(5),
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.arange(12)[::-1],
        np.zeros((0, 5)),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.array(["2020-01-01", "NaT"], "datetime64[D]"),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.zeros(3, [("x", "i4"), ("y", "f8", 2)]),
        np.arange(4, dtype=">i4"),
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
        np.ma.masked_array([1, 2], [True, False]),
    ],
    ids=lambda a: f"{type(a).__name__}-{a.dtype}-{a.shape}",
)
def test_arrays_of_every_kind_go_round(array):
    found = round_trip(array)
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_arrays_of_objects_are_copied_and_writable():
    array = np.array([1, "a", None], object)
    packed = pack(array)
    assert packed.buffers == []
    found = unpack(packed.head)
    found[0] = 2
    assert found.tolist() == [2, "a", None]


def test_two_dimensional_buffers_are_flat_bytes():
    packed = pack(np.zeros((3, 4), order="F"))
    (buffer,) = packed.buffers
    assert (buffer.ndim, buffer.format, buffer.nbytes) == (1, "B", 96)


# --------------------------------------------------------------------------- refs met on the way


class Ref:
    """Announces itself as object refs do."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        found = collecting()
        if found is not None:
            found.append(self)
        return Ref, (self.name,)


def test_refs_are_listed_in_order_with_repetitions():
    a, b = Ref("a"), Ref("b")
    packed = pack([a, {"k": b}, Ref("a")])
    assert [ref.name for ref in packed.refs] == ["a", "b", "a"]


def test_refs_are_listed_once_though_two_pickler_runs_met_them():
    packed = pack([Ref("a"), lambda: None])
    assert [ref.name for ref in packed.refs] == ["a"]
    captured = Ref("b")
    assert [ref.name for ref in pack(lambda: captured).refs] == ["b"]
    assert [ref.name for ref in pack_by_value(lambda: captured).refs] == ["b"]


def test_nobody_collects_outside_of_pack():
    assert collecting() is None
    pack(Ref("a"))
    assert collecting() is None
    with pytest.raises(TypeError):
        pack([Ref("a"), threading.Lock()])
    assert collecting() is None


class Packs:
    """Packs another value while it is pickled itself."""

    def __reduce__(self):
        inner = pack(Ref("inner"))
        return unpack, (inner.head,)


def test_a_pack_inside_a_pack_collects_for_itself():
    packed = pack([Ref("a"), Packs(), Ref("b")])
    assert [ref.name for ref in packed.refs] == ["a", "b"]
    assert unpack(packed.head)[1].name == "inner"


def test_threads_collect_apart():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(collecting()))

    class Starts:
        def __reduce__(self):
            assert collecting() == []
            if thread.ident is None:
                thread.start()
                thread.join(20)
            return int, ()

    pack(Starts())
    assert seen == [None]


# --------------------------------------------------------------------------- plain values


@pytest.mark.parametrize(
    "value", [1, 2.5, True, None, "a", b"a", 1j, (), (1, ("a", None)), "x" * 4096, b"x" * 4096]
)
def test_immutable_builtins_are_plain(value):
    assert is_plain(value)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        set(),
        bytearray(),
        ([],),
        (1, ({},)),
        "x" * 4097,
        b"x" * 4097,
        tuple(range(17)),
        Point(1, 2),
        np.float64(1),
        np.bool_(True),
        Colour.RED,
        frozenset(),
        object(),
        int,
    ],
    ids=lambda v: repr(v)[:20],
)
def test_what_may_change_is_large_or_not_builtin_is_not_plain(value):
    assert not is_plain(value)


# --------------------------------------------------------------------------- blocks

ARRAYS = st.lists(st.integers(0, 300).map(lambda n: np.arange(n, dtype=np.uint8)), max_size=5)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(ARRAYS, st.text(max_size=80), st.integers(0, 70))
def test_a_block_holds_the_value_in_exactly_its_size(arrays, text, more):
    packed = pack([text, *arrays])
    memory = bytearray(b"\xee" * (packed.size + more))
    write_block(packed, memoryview(memory))
    assert memory[packed.size :] == b"\xee" * more
    head, buffers = read_block(memoryview(bytes(memory)))
    found = unpack(head, buffers)
    assert found[0] == text
    assert [a.tolist() for a in found[1:]] == [a.tolist() for a in arrays]
    assert packed.size == block_size(len(packed.head), [b.nbytes for b in packed.buffers])


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(ARRAYS, st.integers(1, 100))
def test_writing_in_short_pieces_gives_the_same_block(arrays, most):
    packed = pack(arrays)
    expected = bytearray(packed.size)
    write_block(packed, memoryview(expected))
    written = bytearray(packed.size)

    def pwrite(data, offset):
        n = min(most, len(data))
        written[offset : offset + n] = data[:n]
        return n

    write_block_to(packed, pwrite)
    assert written == expected


def test_buffers_in_a_block_are_aligned_views_of_it():
    arrays = [np.arange(5.0), np.arange(7, dtype=np.uint8), np.arange(3)]
    packed = pack(arrays)
    with mmap.mmap(-1, packed.size) as memory:
        write_block(packed, memoryview(memory))
        head, buffers = read_block(memoryview(memory))
        found = unpack(head, buffers)
        base = address(np.frombuffer(memory, np.uint8))
        assert [(address(a) - base) % ALIGNMENT for a in found] == [0, 0, 0]
        assert all(a.flags.writeable for a in found)
        assert not unpack(head, [b.toreadonly() for b in buffers])[0].flags.writeable
        found[0][0] = 99
        assert unpack(head, buffers)[0][0] == 99
        del found, head, buffers


def test_a_block_without_buffers_is_a_header_and_the_head():
    packed = pack("text")
    memory = bytearray(packed.size)
    write_block(packed, memoryview(memory))
    assert bytes(memory[8:]) == packed.head
    assert read_block(memoryview(memory))[1] == []


# --------------------------------------------------------------------------- telling


@pytest.mark.parametrize("level", [1, 2])
def test_what_is_pickled_is_told(monkeypatch, capsys, level):
    monkeypatch.setattr(pickle_trace, "level", level)
    value = {"numbers": np.arange(100), "names": ["one", lambda: 2]}
    packed = pack(value)
    told = capsys.readouterr().err
    assert "ract pickles builtins.dict" in told
    assert "numpy.ndarray" in told
    assert "and 1 buffers" in told
    assert ("builtins.str  'one'" in told) == (level == 2)
    assert unpack(packed.head, packed.copied_buffers())["names"][1]() == 2
    with pytest.raises(TypeError, match="lock"):
        pack([threading.Lock()])
    assert "_thread.lock" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given_level", "found"), [("1", 1), ("2", 2), ("7", 2), ("yes", 1), ("0", 0)]
)
def test_the_level_is_a_setting(monkeypatch, given_level, found):
    monkeypatch.setenv("RAY_PICKLE_VERBOSE_DEBUG", given_level)
    assert pickle_trace._level() == found
