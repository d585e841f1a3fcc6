"""Results in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ract
from ract.client.objects.refs import ERROR, STORED


def as_completed(
    refs: Sequence[Any], *, chunk_size: int = 10, yield_obj_refs: bool = False, **wait_kwargs: Any
) -> Iterator[Any]:
    """Yield the values of refs as they become ready.

    A result is yielded as soon as it is there; several that are there already come in the order of
    ``refs``.

    Args:
        refs: Without duplicates.
        chunk_size: Fetch at most so many at once, of those that are ready.
        yield_obj_refs: Yield the refs, also of calls that failed, in place of the values.
        wait_kwargs: Further arguments for `ract.wait`. A ``timeout`` limits one wait, after which
            there is another.

    Raises:
        ValueError: ``chunk_size`` below 1, ``num_returns`` given, or duplicates.
        RactTaskError: when it is the turn of a call that failed.
    """
    _check(chunk_size, wait_kwargs)
    return _completed(list(refs), chunk_size, yield_obj_refs, wait_kwargs)


def has_failed(ref: Any) -> bool:
    """Whether ``get`` of a ref that is ready raises. The value is not fetched."""
    if ref._state == STORED:
        return bool(ref._value[4])
    return bool(ref._state == ERROR)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **wait_kwargs: Any,
) -> Iterator[Any]:
    """Call a remote function, or an actor's method, for every item; yield results as they come.

    Args:
        fn: Has ``.remote``, which is called with one item.
        items: Read only as far as calls are submitted.
        backpressure_size: At most so many calls are submitted whose results were not yielded;
            None for no limit.
        chunk_size: Fetch at most so many at once, of those that are ready.
        yield_obj_refs: Yield refs in place of values.
        wait_kwargs: Further arguments for `ract.wait`.

    Raises:
        ValueError: a ``backpressure_size`` or ``chunk_size`` below 1, or ``num_returns`` given.
        TypeError: ``fn`` has no ``.remote``.
        RactTaskError: when it is the turn of a call that failed.
    """
    _check(chunk_size, wait_kwargs)
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError(f"backpressure_size must be positive, got {backpressure_size}")
    if not hasattr(fn, "remote"):
        raise TypeError(
            f"map_unordered() takes a remote function or an actor's method, not "
            f"{type(fn).__name__}; ract.remote(fn) makes one"
        )
    return _mapped(fn, iter(items), backpressure_size, chunk_size, yield_obj_refs, wait_kwargs)


def _check(chunk_size: int, wait_kwargs: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if "num_returns" in wait_kwargs:
        raise ValueError("give chunk_size in place of num_returns")


def _completed(
    pending: list[Any], chunk_size: int, yield_obj_refs: bool, wait_kwargs: dict[str, Any]
) -> Iterator[Any]:
    while pending:
        ready, pending = _ready(pending, chunk_size, wait_kwargs)
        yield from _results(ready, yield_obj_refs)


def _mapped(
    fn: Any,
    items: Iterator[Any],
    backpressure_size: int | None,
    chunk_size: int,
    yield_obj_refs: bool,
    wait_kwargs: dict[str, Any],
) -> Iterator[Any]:
    pending: list[Any] = []
    is_more = True
    while is_more or pending:
        while is_more and (backpressure_size is None or len(pending) < backpressure_size):
            try:
                item = next(items)
            except StopIteration:
                is_more = False
            else:
                pending.append(fn.remote(item))
        if pending:
            ready, pending = _ready(pending, chunk_size, wait_kwargs)
            yield from _results(ready, yield_obj_refs)


def _ready(
    pending: list[Any], chunk_size: int, wait_kwargs: dict[str, Any]
) -> tuple[list[Any], list[Any]]:
    """(those that are ready, up to ``chunk_size``, the others); waits only if there is none."""
    count = min(chunk_size, len(pending))
    ready, rest = ract.wait(pending, num_returns=count, **{**wait_kwargs, "timeout": 0})
    if ready:
        return ready, rest
    return ract.wait(pending, num_returns=1, **wait_kwargs)


def _results(ready: list[Any], yield_obj_refs: bool) -> Iterator[Any]:
    for ref in ready:
        yield ref if yield_obj_refs else ract.get(ref)
