"""Whether this process speaks of ract or, for a ported program, of Ray.

It is what process titles and prefixes of printed lines begin with (``ract::f``). A program that
imports `ract.compat.ray` chooses for its job.
"""

from __future__ import annotations

import os

VARIABLE = "RACT_RAY_NAMES"

program = "ray" if os.environ.get(VARIABLE) == "1" else "ract"


def speak_of_ray() -> None:
    """From here on, in this process and those that it starts."""
    global program
    program = "ray"
    os.environ[VARIABLE] = "1"


def title(name: str) -> str:
    """The process title while ``name`` runs."""
    return f"{program}::{name}"
