"""Labels of nodes."""

import pytest

from ract.core.labels import check_labels, parse_labels


def test_labels_are_written_as_pairs():
    assert parse_labels("") == {}
    assert parse_labels("zone=a, my.org/tier=gpu-1,empty=") == {
        "zone": "a",
        "my.org/tier": "gpu-1",
        "empty": "",
    }


@pytest.mark.parametrize("text", ["zone", "=a", "a=b,c", "a=b c", "a b=c", "ray.io/x=1", "a=-"])
def test_what_is_no_label_is_refused(text):
    with pytest.raises(ValueError, match=r"label|not k=v"):
        parse_labels(text)


@pytest.mark.parametrize("labels", [["a"], "a=b", {"a": 1}, {1: "a"}, {"a": None}], ids=str)
def test_labels_are_strings(labels):
    with pytest.raises(TypeError, match="string"):
        check_labels(labels)
