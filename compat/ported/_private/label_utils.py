"""``ray._private.label_utils``: labels and label selectors as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ract.core.labels import RESERVED

__all__ = [
    "parse_node_labels_from_yaml_file",
    "parse_node_labels_json",
    "parse_node_labels_string",
    "validate_fallback_strategy",
    "validate_label_key",
    "validate_label_selector",
    "validate_label_selector_value",
    "validate_label_value",
    "validate_node_label_syntax",
    "validate_node_labels",
]

PREFIX_CHARACTERS_MAX = 253
_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL = re.compile(_NAME)
_PREFIX = re.compile(rf"(?:{_NAME})?(?:\.(?:{_NAME})?)*")
_SELECTOR = re.compile(rf"!?(?:{_NAME})?|!?in\({_NAME}(?:, ?{_NAME})*\)")
_RULE = "at most 63 letters, digits, '-', '_', '.', the first and last a letter or digit"


def parse_node_labels_string(labels_str: str) -> dict[str, str]:
    """Labels written as ``k=v,k=v``. Raises ValueError."""
    labels = {}
    for pair in labels_str.split(",") if labels_str else []:
        parts = [part.strip() for part in pair.split("=")]
        if len(parts) != 2:
            raise ValueError("Label string is not a key-value pair.")
        labels[parts[0]] = parts[1]
    validate_node_label_syntax(labels)
    return labels


def parse_node_labels_json(labels_json: str) -> dict[str, str]:
    """Labels written as a JSON object. Raises ValueError."""
    labels = json.loads(labels_json)
    if not isinstance(labels, dict):
        raise ValueError("The format after deserialization is not a key-value pair map")
    for key, value in labels.items():
        if not isinstance(value, str):
            raise ValueError(f'The value of the "{key}" is not string type')
    validate_node_labels(labels)
    return labels


def parse_node_labels_from_yaml_file(path: str) -> dict[str, str]:
    """Labels written as a mapping in a YAML file. Raises ValueError."""
    import yaml  # type: ignore[import-untyped]

    if not path:
        return {}
    with open(path) as file:
        labels = yaml.safe_load(file)
    if not isinstance(labels, dict):
        raise ValueError("The format after deserialization is not a key-value pair map.")
    for key, value in labels.items():
        if not isinstance(key, str):
            raise ValueError("The key is not string type.")
        if not isinstance(value, str):
            raise ValueError(f'The value of "{key}" is not string type.')
    validate_node_label_syntax(labels)
    return labels


def validate_node_labels(labels: Mapping[str, str] | None) -> None:
    """Check that no label has the reserved prefix. Raises ValueError."""
    for key in labels or {}:
        if key.startswith(RESERVED):
            raise ValueError(
                f"Custom label keys `{key}` cannot start with the prefix `{RESERVED}`: "
                "it is for labels that are set by themselves."
            )


def validate_node_label_syntax(labels: Mapping[str, str] | None) -> None:
    """Check keys and values. Raises ValueError."""
    for key, value in (labels or {}).items():
        if wrong := validate_label_key(key):
            raise ValueError(wrong)
        validate_label_value(value)


def validate_label_key(key: str) -> str | None:
    """What is wrong with a key, or None."""
    prefix, _, name = key.rpartition("/")
    if len(prefix) > PREFIX_CHARACTERS_MAX or not _PREFIX.fullmatch(prefix):
        return f"Invalid label key prefix `{prefix}`: DNS labels, at most 253 characters in all."
    if not _LABEL.fullmatch(name):
        return f"Invalid label key name `{name}`: {_RULE}."
    return None


def validate_label_value(value: str) -> None:
    """Check a value. Raises ValueError."""
    if value and not _LABEL.fullmatch(value):
        raise ValueError(f"Invalid label key value `{value}`: {_RULE}.")


def validate_label_selector(label_selector: Mapping[str, str] | None) -> str | None:
    """What is wrong with a selector, or None."""
    for key, value in (label_selector or {}).items():
        if wrong := validate_label_key(key) or validate_label_selector_value(value):
            return wrong
    return None


def validate_label_selector_value(selector: str) -> str | None:
    """What is wrong with what a selector has for a key, or None."""
    if selector != "!" and _SELECTOR.fullmatch(selector):
        return None
    return f"Invalid label selector value `{selector}`: v, !v, in(v,...) or !in(v,...); v: {_RULE}."


def validate_fallback_strategy(fallback_strategy: Any) -> str | None:
    """What is wrong with a fallback strategy, or None."""
    for each in fallback_strategy or []:
        if not isinstance(each, dict):
            return "Each element in fallback_strategy must be a dictionary."
        if not each:
            return "Empty dictionary found in `fallback_strategy`."
        for name in each:
            if name != "label_selector":
                return f"Unsupported option found: '{name}'. Only ['label_selector'] is supported."
        if wrong := validate_label_selector(each["label_selector"]):
            return wrong
    return None
