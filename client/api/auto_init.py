"""The runtime that public functions use: the current one, or an embedded cluster started now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ract.client.process import current
from ract.core.session import setting

if TYPE_CHECKING:
    from ract.client.runtime import Runtime


def runtime() -> Runtime:
    """The runtime of this process; without one, `ract.init` is called.

    Of several threads that need one at a time, one calls it and the others wait for its end.

    Raises:
        RuntimeError: not initialized, and ``RACT_ENABLE_AUTO_CONNECT=0``, or the interpreter ends.
    """
    found: Runtime | None = current.runtime
    if found is not None and not found.closed:
        return found
    if setting("ENABLE_AUTO_CONNECT", "1") == "0":
        raise RuntimeError("ract is not initialized: call ract.init() first")
    from ract.client.start.init import joined

    return joined()


def runtime_without_init(what: str) -> Runtime:
    """The runtime of this process, for functions that never start a cluster.

    Raises:
        RuntimeError: not initialized.
    """
    found: Runtime | None = current.runtime
    if found is None or found.closed:
        raise RuntimeError(f"{what} needs a cluster: ract is not initialized, call ract.init()")
    return found
