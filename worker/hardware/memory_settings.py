"""How a node watches its memory. Drivers that start a cluster import this: it imports little."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ract.core.session import setting


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node watches its memory; read from its environment, as ``RACT_...`` or ``RAY_...``.

    Attributes:
        period_s: ``memory_monitor_refresh_ms``, 250; 0: not at all.
        threshold: ``memory_usage_threshold``, 0.95 of the memory.
        share_bytes: ``NODE_MEMORY_BYTES``; 0: all that the machine, or a control group, has.
    """

    period_s: float
    threshold: float
    share_bytes: int = 0

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings of this process.

        Raises:
            ValueError: one of them is no number, or out of range.
        """
        period = _number("memory_monitor_refresh_ms", "250", environ)
        threshold = _number("memory_usage_threshold", "0.95", environ)
        share = _number("NODE_MEMORY_BYTES", "0", environ)
        if threshold > 1:
            raise ValueError(f"RACT_memory_usage_threshold must be 0 to 1, got {threshold}")
        return cls(period / 1000, threshold, int(share))


def _number(name: str, default: str, environ: Mapping[str, str]) -> float:
    text = setting(name, default, environ) or default
    with contextlib.suppress(ValueError):
        if (number := float(text)) >= 0:
            return number
    raise ValueError(f"RACT_{name} must be a number of at least 0, got {text!r}")
