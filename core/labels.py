"""Labels of nodes: what they may look like, and how they are written on a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

RESERVED = "ray.io/"
"""Labels that begin like this are set by the node itself, under Ray's names."""

NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
KEY = re.compile(rf"({NAME}(\.{NAME})*/)?{NAME}")
_VALUE = re.compile(rf"({NAME})?")


def check_labels(labels: Any) -> dict[str, str]:
    """Check the labels that a user gives a node.

    Raises:
        TypeError: not a mapping of strings. ValueError: a key with the reserved prefix, or one that
            no label selector could name.
    """
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels must be a dict of strings, not {type(labels).__name__}")
    for key, value in labels.items():
        for text in (key, value):
            if not isinstance(text, str):
                raise TypeError(f"label {key!r}: {text!r} is not a string")
        if key.startswith(RESERVED):
            raise ValueError(f"label {key!r}: the prefix {RESERVED!r} is for labels that ract sets")
        if not KEY.fullmatch(key):
            raise ValueError(f"label {key!r}: only letters, digits, '-', '_', '.', and a 'prefix/'")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"label {key!r}: {value!r} is not of letters, digits, '-', '_', '.'")
    return dict(labels)


def parse_labels(text: str) -> dict[str, str]:
    """Labels written as ``k=v,k=v``.

    Raises:
        ValueError: something else, or see `check_labels`.
    """
    labels = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"{part!r} is not k=v")
        labels[key.strip()] = value.strip()
    return check_labels(labels)
