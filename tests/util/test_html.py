"""Pieces of HTML for notebooks."""

from types import SimpleNamespace

import pytest

from ract.compat.ported.widgets import Template, make_table_html_repr


def test_a_table_shows_the_attributes_of_an_object_and_the_items_of_a_mapping():
    of_object = make_table_html_repr(SimpleNamespace(name="<b>", size=3))
    assert of_object == make_table_html_repr({"name": "<b>", "size": 3})
    assert "&lt;b&gt;</td>" in of_object
    assert "<b>" not in of_object
    with pytest.raises(TypeError):
        make_table_html_repr(3)


def test_a_table_may_have_a_title_and_a_height():
    made = make_table_html_repr({"a": 1}, title="T & U", max_height="10em")
    assert "<h3>T &amp; U</h3>" in made
    assert "max-height: 10em" in made


def test_a_value_that_looks_like_a_place_is_left_alone():
    assert "{{ title }}" in make_table_html_repr({"a": "{{ title }}"}, title="T")


def test_templates_are_files_with_places(tmp_path):
    file = tmp_path / "own.j2"
    file.write_text("{{ a }} and {{ b }}")
    assert Template(str(file)).render(a=1) == "1 and {{ b }}"
    with pytest.raises(FileNotFoundError):
        Template("nope.j2")
