"""Where the files of a user's nodes are."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path


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
    """The environment variable ``RACT_<name>``, else ``RAY_<name>``, for ported programs."""
    return environ.get(f"RACT_{name}", environ.get(f"RAY_{name}", default))


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


def child_environment(**more: str) -> dict[str, str]:
    """Environment for a Python process of ours: it finds this package where we did."""
    env = {**os.environ, **more}
    above = str(Path(__file__).parents[2])
    if above in sys.path:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [above, env.get("PYTHONPATH")]))
    return env
