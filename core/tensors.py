"""Tensors of PyTorch, pickled without a copy.

Theory of operation
-------------------
PyTorch pickles a tensor as a recipe around its *storage*, the bytes; tensors that look at the same
storage share it after unpickling, too. Only its way to pickle a storage is replaced: `save_storage`
hands the bytes over out of band, like those of an array. It is for picklers of ract only
(`reducers`), so that ``torch.save`` and ``pickle`` of the program stay as they are.

PyTorch knows no read-only tensors, and shared memory must not be written. So what is read from
there is mapped a second time, privately: a page that the program writes to becomes its own copy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def reducers() -> dict[type, Callable[[Any], Any]]:
    """How to reduce PyTorch's storages, by class; empty if this process has not imported it."""
    torch = sys.modules.get("torch")
    storage = getattr(torch, "UntypedStorage", None)
    typed = getattr(torch, "TypedStorage", None)
    if storage is None or typed is None:  # not there, or being imported
        return {}
    return {storage: save_storage, typed: save_typed_storage}


def save_typed_storage(storage: Any) -> Any:
    """Reduce a storage that knows the type of its items."""
    if storage._untyped_storage.device.type != "cpu":
        return storage.__reduce__()
    return make_typed_storage, (storage._untyped_storage, storage.dtype)


def make_typed_storage(storage: Any, dtype: Any) -> Any:
    """The inverse of `save_typed_storage`."""
    import torch

    return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def save_storage(storage: Any) -> Any:
    """Reduce a storage: its memory goes out of band, if it is the machine's own."""
    import torch

    if storage.device.type != "cpu":
        return storage.__reduce__()
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    return make_storage, (flat.numpy(),)


def make_storage(array: Any) -> Any:
    """A storage with the bytes of an array, which nobody else sees changes of.

    Args:
        array: Of uint8, flat, as pickle has made it: perhaps a view of shared memory.
    """
    import numpy as np
    import torch

    if not array.flags.writeable:
        base = array.base
        while isinstance(base, np.ndarray):
            base = base.base
        # A view of shared memory ends in a memoryview of what can map it privately.
        private_view = getattr(getattr(base, "obj", None), "private_view", None)
        array = array.copy() if private_view is None else private_view(array)
    return torch.from_numpy(array).untyped_storage()
