"""Counters, gauges and histograms of a program: as in `ray.util.metrics`.

They can be made anywhere, in a driver, a task or an actor, as often as you like: metrics of one
name are one metric. The cluster sums them up and shows them on its ``/metrics`` page, under
``ract_<name>``; see ``docs/metrics.md``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from ract.client.process.metrics import recorder
from ract.core.metrics import COUNTER, GAUGE, HISTOGRAM

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_forms: dict[str, tuple[str, tuple[float, ...]]] = {}


class Metric:
    """What the three kinds have in common; not to be used itself.

    Args:
        name: Letters, digits, ``_`` and ``:``, not a digit first. Other names are allowed with a
            warning; what is counted under them is not shown anywhere.
        description: For people.
        tag_keys: Which tags each value has.

    Raises:
        ValueError: an empty name.
        TypeError: the name or description is no text, or ``tag_keys`` no tuple of texts.
    """

    _kind = ""
    _boundaries: tuple[float, ...] = ()

    def __init__(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None
    ) -> None:
        for what, text in (("name", name), ("description", description)):
            if not isinstance(text, str):
                raise TypeError(f"{what} must be a str, got {type(text).__name__}")
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        if tag_keys is not None and not isinstance(tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple of str, got: {type(tag_keys).__name__}")
        for key in tag_keys or ():
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key).__name__}.")
        self._is_shown = _NAME.fullmatch(name) is not None
        if not self._is_shown:
            warnings.warn(
                f"Invalid metric name: {name}. What it counts will not be shown. Names consist of "
                "letters, digits, _ and :, and do not begin with a digit.",
                stacklevel=3,
            )
        form = (self._kind, self._boundaries)
        if _forms.setdefault(name, form) != form:
            warnings.warn(
                f"{name!r} is another metric already, a {_forms[name][0]} with the boundaries "
                f"{list(_forms[name][1])}: what this {self._kind} counts will not be shown",
                stacklevel=3,
            )
        self._name = name
        self._description = description
        self._tag_keys = tag_keys or ()
        self._default_tags: dict[str, str] = {}

    def set_default_tags(self, default_tags: dict[str, str]) -> Metric:
        """Tags of values that are given none of that key; returns this metric.

        Raises:
            ValueError: a key that is not one of ``tag_keys``.
            TypeError: a value that is no text.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            _check_tag(key, value)
        self._default_tags = dict(default_tags)
        return self

    @property
    def info(self) -> dict[str, Any]:
        """Its name, description, tag_keys and default_tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def _record(self, value: float, tags: dict[str, str] | None) -> None:
        if not isinstance(value, (int, float)):
            raise TypeError(f"value must be int or float, got {type(value).__name__}.")
        labels = self._labels(tags)
        if self._is_shown:
            head = (self._name, self._kind, self._description, self._boundaries)
            recorder.record(head, labels, float(value))

    def _labels(self, tags: dict[str, str] | None) -> tuple[str, ...]:
        given = self._default_tags
        if tags:
            for key, value in tags.items():
                _check_tag(key, value)
                if key not in self._tag_keys:
                    raise ValueError(
                        f"Unrecognized tag key {key}: the metric {self._name!r} was declared with "
                        f"tag_keys={self._tag_keys}."
                    )
            given = {**given, **tags}
        labels: tuple[str, ...] = ()
        missing = []
        for key in self._tag_keys:
            tag = given.get(key)
            if tag is None:
                missing.append(key)
            else:
                labels += (key, tag)
        if missing:
            raise ValueError(
                f"Missing value for tag key(s): {','.join(missing)}. Give them to this call, or "
                f"to set_default_tags() of {self._name!r}."
            )
        return labels


class Counter(Metric):
    """Goes up only: requests, bytes, errors. The sum over all processes that there ever were.

    Args:
        name: Shown as ``ract_<name>_total``.
        description: For people.
        tag_keys: Which tags each value has.

    Raises:
        ValueError, TypeError: as `Metric`.
    """

    _kind = COUNTER

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Count ``value`` more.

        Raises:
            ValueError: ``value`` is not more than 0, or a tag is missing.
            TypeError: ``value`` is no number, or a tag's value no text.
        """
        if isinstance(value, (int, float)) and not value > 0:
            raise ValueError(f"value must be >0, got {value}")
        self._record(value, tags)


class Gauge(Metric):
    """A value that goes up and down, one per process: queue lengths, temperatures, learning rates.

    Args:
        name: Shown as ``ract_<name>``.
        description: For people.
        tag_keys: Which tags each value has.

    Raises:
        ValueError, TypeError: as `Metric`.
    """

    _kind = GAUGE

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """It is ``value`` now, in this process and until the process ends; None is ignored.

        Raises:
            ValueError: a tag is missing.
            TypeError: ``value`` is no number, or a tag's value no text.
        """
        if value is not None:
            self._record(value, tags)


class Histogram(Metric):
    """How values are distributed: latencies, sizes.

    Args:
        name: Shown as ``ract_<name>_bucket``, ``_count`` and ``_sum``.
        description: For people.
        boundaries: Upper ends of the buckets, more than 0; sorted here.
        tag_keys: Which tags each value has.

    Raises:
        ValueError: no boundaries, or one that is not more than 0; else as `Metric`.
        TypeError: as `Metric`.
    """

    _kind = HISTOGRAM

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        if not boundaries:
            raise ValueError(
                "boundaries argument should be provided when using the Histogram class. "
                'e.g., Histogram("name", boundaries=[1.0, 2.0])'
            )
        for i, boundary in enumerate(boundaries):
            if not boundary > 0:
                raise ValueError(
                    f"Invalid `boundaries` argument at index {i}, {boundaries}. Use positive "
                    "values for the arguments."
                )
        self.boundaries = boundaries
        self._boundaries = tuple(sorted({float(each) for each in boundaries}))
        super().__init__(name, description, tag_keys)

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """There was a value.

        Raises:
            ValueError: a tag is missing.
            TypeError: ``value`` is no number, or a tag's value no text.
        """
        self._record(value, tags)

    @property
    def info(self) -> dict[str, Any]:
        """Its name, description, tag_keys, default_tags and boundaries."""
        return {**super().info, "boundaries": self.boundaries}


def _check_tag(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"Tag values must be str, got {type(value).__name__} for {key!r}.")
