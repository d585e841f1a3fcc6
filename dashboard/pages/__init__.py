"""The pages, one module each: `PAGES` by the last part of their address."""

from __future__ import annotations

from ract.dashboard.pages import (
    actors,
    groups,
    jobs,
    logs,
    memory,
    nodes,
    overview,
    tasks,
)
from ract.dashboard.parts import Page

PAGES: dict[str, Page] = {
    page.name: page
    for page in (
        overview.PAGE,
        *nodes.PAGES,
        *actors.PAGES,
        *tasks.PAGES,
        *memory.PAGES,
        *groups.PAGES,
        *jobs.PAGES,
        logs.PAGE,
    )
}
NAVIGATION = [page for page in PAGES.values() if not page.under]
