"""The runtime of this process.

This is the only global of the client. All else is handed what it uses.
"""

from __future__ import annotations

from typing import Any

from ract.client.process import context

runtime: Any = None
"""The `ract.client.runtime.Runtime` of this process; None before init and after shutdown.

It is typed here as Any, since this folder knows nothing of what it is made of.
"""

home: Any = None
"""What new refs belong to: the ``home`` of the runtime (`ract.client.objects.refs.Home`)."""

scope: object = object()
"""Another object whenever calls may go elsewhere: remote functions look up their pools again."""


def install(installed: Any) -> None:
    """Make a runtime (or None) the one of this process."""
    global runtime, home
    runtime = installed
    home = installed.home if installed is not None else None
    renew_scope()


def renew_scope() -> None:
    """Remote functions look up their pools again."""
    global scope
    scope = object()


def enter_group(group: tuple[bytes, bool]) -> None:
    """This process runs in a placement group from now on (`ProcessContext.group`)."""
    if context.process.group != group:
        context.process.group = group
        renew_scope()
