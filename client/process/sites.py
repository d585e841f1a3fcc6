"""Where in a program calls and refs are made: recorded only if asked for, since it costs.

``RACT_record_task_actor_creation_sites=1`` is for calls and actors,
``RACT_record_ref_creation_sites=1`` for what `put` makes.
"""

from __future__ import annotations

import os
import sys

from ract.core.session import setting

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _is_on(name: str) -> bool:
    return setting(name, "0") not in ("0", "false", "False", "")


of_calls = _is_on("record_task_actor_creation_sites")
of_refs = _is_on("record_ref_creation_sites")


def of_caller() -> str:
    """``file:line function`` of the innermost frame that is not ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"


def _is_ours(path: str) -> bool:
    return path.startswith(_OURS) and not path.startswith((_OURS + "tests", _OURS + "benchmarks"))
