"""Tensors of PyTorch go through shared memory without a copy, and may be written to."""

import gc
import io
import pickle

import numpy as np
import pytest

import ract
from ract.core import serialization

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed (1 GB): pip install torch, and run this again"
)

N = 100_000

pytestmark = pytest.mark.filterwarnings("ignore:.*quantiz")


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def double(tensor):
    tensor *= 2  # its own copy
    return tensor


def through(value):
    return ract.get(ract.put(value))


def test_tensors_are_stored_once_and_equal():
    tensor = torch.arange(N, dtype=torch.float64)
    packed = serialization.pack(tensor)
    assert [buffer.nbytes for buffer in packed.buffers] == [tensor.nbytes]
    assert len(packed.head) < 1000
    assert torch.equal(through(tensor), tensor)
    assert torch.equal(ract.get(double.remote(tensor)), tensor * 2)


def test_who_writes_to_one_changes_nothing_for_others():
    ref = ract.put(torch.zeros(N))
    first, second = ract.get([ref, ref])
    first += 1
    assert second.sum() == 0
    assert ract.get(ref).sum() == 0
    assert first.sum() == N


def test_one_that_is_in_use_keeps_its_memory():
    ref = ract.put(torch.ones(N))
    tensor = ract.get(ref)
    del ref
    gc.collect()
    for _ in range(10):
        ract.put(torch.zeros(N))
    assert tensor.sum() == N


def test_tensors_that_share_memory_share_it_afterwards():
    base = torch.zeros(N)
    whole, square, part = through([base, base.view(100, -1), base[5:10]])
    square[0, 6] = 7
    assert whole[6] == 7
    assert part.tolist() == [0, 7, 0, 0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(0),
        lambda: torch.tensor(True),
        lambda: torch.tensor(2 + 3j),
        lambda: torch.arange(6).reshape(2, 3).t(),
        lambda: torch.ones(3, dtype=torch.bfloat16),
        lambda: torch.ones(N, requires_grad=True),
        lambda: torch.nn.Parameter(torch.ones(2)),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ],
)
def test_tensors_of_every_kind_go_round(make):
    value = make()
    found = through(value)
    assert type(found) is type(value)
    assert (found.dtype, found.shape, found.stride()) == (value.dtype, value.shape, value.stride())
    assert found.requires_grad == value.requires_grad
    assert torch.equal(found, value)


def test_sparse_tensors_and_modules_go_round():
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(through(sparse).to_dense(), torch.eye(3))
    module = torch.nn.Linear(300, 300)
    copy = through(module)
    x = torch.ones(300)
    assert torch.equal(copy(x), module(x))


def test_small_ones_are_copies():
    ref = ract.put(torch.zeros(3))
    first = ract.get(ref)
    first[0] = 1
    assert ract.get(ref).tolist() == [0, 0, 0]


def test_pickle_and_torch_save_stay_as_they_are():
    tensor = torch.arange(5)
    through(tensor)
    assert b"ract" not in pickle.dumps(tensor)
    file = io.BytesIO()
    torch.save(tensor, file)
    assert b"ract" not in file.getvalue()


def test_arrays_and_tensors_mix():
    array = np.arange(N)
    found = through({"a": array, "t": torch.from_numpy(array)})
    assert not found["a"].flags.writeable
    assert torch.equal(found["t"], torch.from_numpy(array))
