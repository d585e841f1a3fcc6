"""Colours of what a driver prints before the lines of tasks and actors."""

from __future__ import annotations

import os
import sys
from typing import Any

from ract.core.session import setting

_USUAL = 36  # cyan; see ECMA-48, "Select Graphic Rendition"
_SEVERAL = (36, 35, 32, 33, 34, 95, 94, 92)


def prefix(text: str, pid: Any, is_err: bool) -> str:
    """A prefix as it is to be printed.

    ``RACT_COLOR_PREFIX`` says how: "0" plain, "1" in a colour of each process, else in the usual
    one. Where colours would not be seen, it stays plain.
    """
    wanted = setting("COLOR_PREFIX")
    if wanted == "0" or not _shows_colors(sys.stderr if is_err else sys.stdout):
        return text
    color = _USUAL
    if wanted == "1" and isinstance(pid, int):
        color = _SEVERAL[pid % len(_SEVERAL)]
    return f"\x1b[{color}m{text}\x1b[0m"


def _shows_colors(stream: Any) -> bool:
    """Whether it is a terminal that knows colours, or a notebook."""
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        return False
    if type(stream).__module__.startswith("ipykernel"):
        return True
    try:
        return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except (AttributeError, ValueError):  # no file, or closed
        return False
