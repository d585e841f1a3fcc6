"""The HTML around every page: navigation, theme, and places for the parts.

The document is the same for pages with and without plots; for those with plots it is a template of
Bokeh's, whose places are passed in.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping

from ract.dashboard.pages import NAVIGATION
from ract.dashboard.parts import Page, Plot

# Before anything is drawn: else a dark page would begin with a white flash.
THEME_SCRIPT = (
    "(function(){var t=null;try{t=localStorage.getItem('ract-theme')}catch(e){}"
    "if(t==='light'||t==='dark')document.documentElement.dataset.theme=t})()"
)


def document(
    page: Page, plots: Mapping[str, str] | None = None, head: str = "", tail: str = ""
) -> str:
    """The whole page.

    Args:
        page: What it shows.
        plots: By name, the HTML that a plot is put into.
        head: Further HTML for the head.
        tail: Further HTML for the end of the body.
    """
    described = json.dumps(page.described()).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ract: {html.escape(page.title)}</title>
<script>{THEME_SCRIPT}</script>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="assets/ract.css">
{head}
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
{_bar(page)}
<main id="main" data-page="{page.name}">
{_places(page, plots or {})}
</main>
<script type="application/json" id="page">{described}</script>
<script src="assets/ract.js"></script>
{tail}
</body>
</html>
"""


def _bar(page: Page) -> str:
    current = page.under or page.name
    links = "".join(
        f'<a href="{each.name}"{_mark(each.name == current)}>{html.escape(each.title)}</a>'
        for each in NAVIGATION
    )
    return f"""<header class="bar">
<a class="brand" href="overview">ract</a>
<nav aria-label="Pages">{links}</nav>
<span class="grow"></span>
<span id="trouble" role="status"></span>
<a class="quiet" href="/status" title="Dask's own pages of the same scheduler">Dask&nbsp;↗</a>
<button id="theme" type="button" title="Light, dark, or as the system says">Theme</button>
</header>"""


def _mark(is_current: bool) -> str:
    return ' class="here" aria-current="page"' if is_current else ""


def _places(page: Page, plots: Mapping[str, str]) -> str:
    """One place per part; the script fills those that are not plots."""
    found = []
    for i, part in enumerate(page.parts):
        if isinstance(part, Plot):
            note = f"<p>{html.escape(part.note)}</p>" if part.note else ""
            wide = " wide" if part.wide else ""
            found.append(
                f'<section class="panel plot{wide}" data-plot="{part.name}">'
                f"<h2>{html.escape(part.title)}</h2>{note}{plots.get(part.name, '')}</section>"
            )
        else:
            found.append(f'<section class="panel {part.type}" data-part="{i}"></section>')
    return "\n".join(found)
