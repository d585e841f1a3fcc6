"""Process titles: what ``ps`` and ``top`` show an executor to be doing."""

from __future__ import annotations

from ract.core import naming

try:
    from setproctitle import setproctitle
except ImportError:  # no wheel for this platform: titles are a convenience
    setproctitle = None

_shown = ""


def set_title(name: str) -> None:
    """Show ``ract::name`` (`naming.title`); costs nothing if it is shown already."""
    global _shown
    if name != _shown and setproctitle is not None:
        _shown = name
        setproctitle(naming.title(name))
