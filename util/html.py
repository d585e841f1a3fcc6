"""Pieces of HTML for notebooks: what ``ray.widgets`` offers."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PLACE = re.compile(r"\{\{ (\w+) \}\}")
_TEMPLATES = {
    "title_data.html.j2": "<div><h3>{{ title }}</h3>{{ data }}</div>",
    "scrollableTable.html.j2": (
        '<div style="overflow-y: auto; max-height: {{ max_height }}">{{ table }}</div>'
    ),
}


class Template:
    """Text with places for values, ``{{ name }}``.

    Args:
        file: The path of a template, or the name of one of ract's own: "title_data.html.j2" and
            "scrollableTable.html.j2".

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, file: str) -> None:
        own = _TEMPLATES.get(file)
        self.template = Path(file).read_text(encoding="utf-8") if own is None else own

    def render(self, **kwargs: Any) -> str:
        """The text with values in their places, as they are. A name without a value stays."""
        return _PLACE.sub(lambda found: str(kwargs.get(found[1], found[0])), self.template)


def make_table_html_repr(obj: Any, title: str | None = None, max_height: str = "none") -> str:
    """HTML for an object: a table of its attributes, or of a mapping's items.

    Args:
        obj: The object, or a mapping.
        title: Stands above the table.
        max_height: In CSS; a higher table can be scrolled.

    Raises:
        TypeError: an object without attributes.
    """
    items = obj if isinstance(obj, Mapping) else vars(obj)
    cells = "".join(
        f'<tr><th style="text-align: left">{html.escape(str(name))}</th>'
        f'<td style="text-align: left">{html.escape(str(value))}</td></tr>'
        for name, value in items.items()
    )
    table = Template("scrollableTable.html.j2").render(
        max_height=html.escape(max_height), table=f"<table>{cells}</table>"
    )
    if not title:
        return table
    return Template("title_data.html.j2").render(title=html.escape(title), data=table)
