"""The runtime that public functions use: the current one, or an embedded cluster started now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ract.client.objects import refs
from ract.core.session import setting

if TYPE_CHECKING:
    from ract.client.runtime import Runtime


def runtime() -> Runtime:
    """The runtime of this process; without one, `ract.init` is called.

    Raises:
        RuntimeError: not initialized, and ``RACT_ENABLE_AUTO_CONNECT=0``.
    """
    current = refs._runtime
    if current is not None and not current.closed:
        return current
    if setting("ENABLE_AUTO_CONNECT", "1") == "0":
        raise RuntimeError("ract is not initialized: call ract.init() first")
    from ract.client.start.bootstrap import init

    init()
    assert refs._runtime is not None
    return refs._runtime


def runtime_without_init(what: str) -> Runtime:
    """The runtime of this process, for functions that never start a cluster.

    Raises:
        RuntimeError: not initialized.
    """
    current = refs._runtime
    if current is None or current.closed:
        raise RuntimeError(f"{what} needs a cluster: ract is not initialized, call ract.init()")
    return current
