"""Where the files of a user's nodes are, and the settings that come from outside a program."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SYSTEM_CONFIG = "RACT_SYSTEM_CONFIG"
"""The variable in which processes of a cluster find what its head was given: JSON."""

_given: dict[str, Any] = json.loads(os.environ.get(SYSTEM_CONFIG) or "{}")


def root_folder() -> Path:
    """``$RACT_TMPDIR`` or ``/tmp/ract-<uid>``, made with mode 0700.

    Raises:
        PermissionError: it is somebody else's, so nothing in it can be trusted.
    """
    given = os.environ.get("RACT_TMPDIR")
    folder = Path(given) if given else Path(tempfile.gettempdir(), f"ract-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user; set RACT_TMPDIR")
    return folder


def setting(
    name: str, default: str | None = None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """A setting: of the cluster, or the environment variable ``RACT_<name>`` or ``RAY_<name>``.

    Args:
        name: As Ray has it.
        default: If it is not set.
        environ: Another process' environment; then the cluster's settings do not count.
    """
    if environ is os.environ and name in _given:
        return as_text(_given[name])
    return environ.get(f"RACT_{name}", environ.get(f"RAY_{name}", default))


def as_text(value: Any) -> str:
    """A setting as an environment variable has it."""
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(int(value)) if isinstance(value, bool) else str(value)


def system_config() -> dict[str, Any]:
    """What the head of this process' cluster was given as ``_system_config``."""
    return dict(_given)


def use_system_config(given: Mapping[str, Any]) -> None:
    """This process is in a cluster with these settings from now on; in none, with none."""
    _given.clear()
    _given.update(given)


def seconds(name: str, default: float, environ: Mapping[str, str] = os.environ) -> float:
    """A time in seconds; the setting ``name`` has it in milliseconds.

    Raises:
        ValueError: it is set, and no positive number.
    """
    text = setting(name, environ=environ)
    if not text:
        return default
    try:
        found = float(text) / 1000
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"RACT_{name} must be a positive number of milliseconds, got {text!r}")
    return found


def set_switch_interval() -> None:
    """Have threads of this process take turns as often as the setting ``SWITCH_INTERVAL_S`` says.

    With a microsecond instead of Python's five milliseconds, threads overlap in ways that are rare
    otherwise: ``make stress`` sets it for all processes of a cluster.
    """
    given = setting("SWITCH_INTERVAL_S")
    if given:
        sys.setswitchinterval(float(given))


def child_environment(**more: str) -> dict[str, str]:
    """Environment for a Python process of ours: it finds this package where we did."""
    env = {**os.environ, **more}
    above = str(Path(__file__).parents[2])
    if above in sys.path:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [above, env.get("PYTHONPATH")]))
    return env
