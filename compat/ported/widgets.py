"""Pieces of HTML for notebooks."""

from ract.util.html import Template, make_table_html_repr

__all__ = ["Template", "make_table_html_repr"]
