"""Settings under the names that Ray's ``_system_config`` has for them.

Each may also be an environment variable, ``RACT_<name>`` or ``RAY_<name>``; what is given to the
head in ``_system_config`` counts more, and for all processes of the cluster
(`ract.core.session.setting`). Ray has hundreds of such names; those that say how its own parts work
are ignored. Here are those of the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ract.core.session import as_text, setting

NAMES = {
    "scheduler_spread_threshold": ("pack_below", 0.0, 1.0),
    "gcs_rpc_server_reconnect_timeout_s": ("reconnect_s", 1.0, 86_400.0),
}
"""What ``Settings`` of `ract.scheduler.books.turn` calls them, the least and the most."""


def as_environment(given: Mapping[str, Any] | None) -> dict[str, str]:
    """``_system_config`` as environment variables, to check what they are for."""
    return {f"RACT_{name}": as_text(value) for name, value in (given or {}).items()}


def settings(given: Mapping[str, Any] | None, environ: Mapping[str, str]) -> dict[str, float]:
    """The scheduler's settings by its own names, those that are said.

    Args:
        given: ``_system_config``.
        environ: The scheduler's environment.

    Raises:
        TypeError: ``_system_config`` is no dict.
        ValueError: no number, or too small or large; the message names what was set.
    """
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"_system_config must be a dict, not {type(given).__name__}")
    found = {}
    for name, (ours, least, most) in NAMES.items():
        text = (given or {}).get(name, setting(name, environ=environ))
        if text is None:
            continue
        try:
            value = float(text)
        except (TypeError, ValueError):
            value = float("nan")
        if not least <= value <= most:
            raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {text!r}")
        found[ours] = value
    return found
