"""`progress`: watch refs become ready.

The module cannot be called ``progress``: importing it would put it in the place of the function
that `ract.util` offers under that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ract.util.completion import as_completed
from ract.util.tqdm import tqdm

DRAWN_EVERY_S = 0.1


def progress(
    refs: Iterable[Any], desc: str | None = None, *, yield_obj_refs: bool = False
) -> Iterator[Any]:
    """Yield the values of refs as they become ready, and show a bar of how many are.

    The bar is drawn on stderr, or in the notebook, with tqdm if it is installed.

    Args:
        refs: Without duplicates.
        desc: Shown before the bar.
        yield_obj_refs: Yield the refs, also of calls that failed, in place of the values.

    Raises:
        ValueError: duplicates.
        RactTaskError: when it is the turn of a call that failed.
    """
    return _progress(list(refs), desc, yield_obj_refs)


def _progress(refs: list[Any], desc: str | None, yield_obj_refs: bool) -> Iterator[Any]:
    with tqdm(desc=desc, total=len(refs), flush_interval_s=DRAWN_EVERY_S) as bar:
        for result in as_completed(refs, yield_obj_refs=yield_obj_refs):
            bar.update()
            yield result
