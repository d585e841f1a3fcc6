"""What the pages ask the scheduler's machine: views, which read and change nothing.

A view is a function of the machine and the page's arguments (text, as they stand in a URL) that
returns plain data. Numbers are bytes, seconds or counts; times end in ``_ms`` since the epoch; the
browser writes them for people.
"""

from __future__ import annotations

from ract.dashboard.views import actors, memory, nodes, others, overview, stream, tasks
from ract.dashboard.views.table import View

VIEWS: dict[str, View] = {
    **overview.VIEWS,
    **nodes.VIEWS,
    **actors.VIEWS,
    **tasks.VIEWS,
    **stream.VIEWS,
    **memory.VIEWS,
    **others.VIEWS,
}
"""By name. The pages' tables ask for those that return rows."""
