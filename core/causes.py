"""Why something ended, in one line."""

from __future__ import annotations

from ract.core.messages import ExitCause


def text_of(cause: ExitCause | None) -> str:
    """The kind of an end and its detail, exit code or signal; "" if there was none."""
    if cause is None:
        return ""
    how = cause.detail
    if not how and cause.exit_code is not None:
        how = f"exit code {cause.exit_code}"
    if not how and cause.signal is not None:
        how = f"signal {cause.signal}"
    return f"{cause.kind}: {how}" if how else cause.kind
