"""Bokeh documents: the pages that have plots, and each plot alone.

Import this lazily: it brings Bokeh.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import bokeh
from bokeh.core.templates import get_env
from bokeh.document import Document

from ract.dashboard import shell
from ract.dashboard.parts import Page
from ract.dashboard.plots import PLOTS
from ract.dashboard.plots.base import Drawing, Given
from ract.dashboard.source import Source

logger = logging.getLogger(__name__)

UPDATE_MS = 4000
COST_PART = 0.02
"""Of the scheduler's time that one plot of one viewer may take."""


def page_document(page: Page, source: Source, scheduler: Any, extra: Any, doc: Document) -> None:
    """Make the document of a page for one viewer."""
    given = Given(source, _arguments(doc))
    drawings = []
    for name in page.plots:
        drawing = PLOTS[name](given)
        drawing.view.name = name
        drawings.append(drawing)
        doc.add_root(drawing.view)
    doc.title = f"ract: {page.title}"
    doc.template = _template(page)
    _keep_fresh(doc, drawings)


def plot_document(name: str, source: Source, scheduler: Any, extra: Any, doc: Document) -> None:
    """Make the document of one plot, which fills its frame."""
    drawing = PLOTS[name](Given(source, _arguments(doc)))
    drawing.view.sizing_mode = "stretch_both"
    drawing.view.min_height = 120
    doc.template = _alone()
    doc.title = f"ract: {name}"
    doc.add_root(drawing.view)
    _keep_fresh(doc, [drawing])


def _template(page: Page) -> Any:
    """The page with places for Bokeh to fill; made once."""
    if page.name not in _TEMPLATES:
        places = {name: f"{{{{ embed(roots[{name!r}]) }}}}" for name in page.plots}
        # What a page says must not be read as a template.
        text = shell.document(
            page, {name: f"@@{name}@@" for name in places}, "@@head@@", "@@tail@@"
        )
        text = "{% raw %}" + text + "{% endraw %}"
        fills = {**places, "head": _bokeh(".."), "tail": "{{ plot_script }}"}
        for name, fill in fills.items():
            text = text.replace(f"@@{name}@@", "{% endraw %}" + fill + "{% raw %}")
        _TEMPLATES[page.name] = get_env().from_string("{% from macros import embed %}" + text)
    return _TEMPLATES[page.name]


_TEMPLATES: dict[str, Any] = {}


def _alone() -> Any:
    """A document of one plot, to be shown in a frame of somebody else's."""
    if "" not in _TEMPLATES:
        style = '<link rel="stylesheet" href="../assets/ract.css">'
        _TEMPLATES[""] = get_env().from_string(
            "{% from macros import embed %}<!DOCTYPE html>\n"
            '<html lang="en"><head><meta charset="utf-8"><title>{{ title | e }}</title>'
            f"<script>{shell.THEME_SCRIPT}</script>{style}{_bokeh('../..')}</head>"
            '<body class="alone" data-plot="">{% for doc in docs %}{% for root in doc.roots %}'
            "{{ embed(root) }}{% endfor %}{% endfor %}{{ plot_script }}"
            '<script src="../assets/ract.js"></script></body></html>'
        )
    return _TEMPLATES[""]


def _bokeh(root: str) -> str:
    """Bokeh's own script, without the parts that are not used here.

    By a relative address, so that it is found through proxies; that of Bokeh's own resources is
    only right for pages on the top level.
    """
    return f'<script src="{root}/static/js/bokeh.min.js?v={bokeh.__version__}"></script>'


def _arguments(doc: Document) -> dict[str, str]:
    """What stands in the address. For what is no id there, the id of nothing: tables say so."""
    context = doc.session_context
    found = context.request.arguments if context is not None and context.request else {}
    given = {name: each[-1].decode("utf-8", "replace") for name, each in found.items() if each}
    for name in _IDS.intersection(given):
        try:
            bytes.fromhex(given[name])
        except ValueError:
            given[name] = "00"
    return given


_IDS = frozenset({"id", "job_id"})


def _keep_fresh(doc: Document, drawings: list[Drawing]) -> None:
    """Update while somebody looks; what is slow to draw, less often."""
    due = [0.0] * len(drawings)

    def refresh() -> None:
        for i, drawing in enumerate(drawings):
            began = time.perf_counter()
            if began >= due[i]:
                _try(drawing.update)
                due[i] = began + (time.perf_counter() - began) / COST_PART

    doc.add_periodic_callback(refresh, UPDATE_MS)


def _try(update: Callable[[], None]) -> None:
    # One plot that cannot be drawn (the scheduler is ending) must not stop the others.
    try:
        update()
    except Exception:
        logger.warning("a plot could not be updated", exc_info=True)
