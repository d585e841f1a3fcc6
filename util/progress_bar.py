"""`progress`: watch refs become ready.

The module cannot be called ``progress``: importing it would put it in the place of the function
that `ract.util` offers under that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import ract
from ract.util.completion import as_completed, has_failed
from ract.util.tqdm import tqdm

DRAWN_EVERY_S = 0.1


def progress(
    refs: Iterable[Any], desc: str | None = None, *, yield_obj_refs: bool = False
) -> Iterator[Any]:
    """Yield the values of refs as they become ready, and show how many are, and how many failed.

    With it go the rate and the time that is left. In a terminal it is a bar on stderr, in a
    notebook one below the cell; where stderr is a file or a pipe, a line every ten seconds and at
    the end. To wait for all without their values:
    ``for _ in progress(refs, yield_obj_refs=True): pass``.

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
    failed = 0
    with tqdm(desc=desc, total=len(refs), flush_interval_s=DRAWN_EVERY_S) as bar:
        for ref in as_completed(refs, yield_obj_refs=True):
            if has_failed(ref):
                failed += 1
                bar.note = f"{failed} failed"
            bar.update()
            yield ref if yield_obj_refs else ract.get(ref)
