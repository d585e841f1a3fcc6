"""What the cluster pushes to a driver: printed lines of tasks and actors, errors, warnings."""

from __future__ import annotations

import logging
import sys
from typing import Any

from ract.core.messages import Pushed

logger = logging.getLogger("ract")


class DriverOutput:
    """Prints pushed messages in the driver.

    Args:
        to_driver: Whether printed lines of tasks and actors are shown.
    """

    def __init__(self, to_driver: bool) -> None:
        self._to_driver = to_driver

    def handle(self, message: Any) -> None:
        """Take one message that the runtime does not handle itself (on the IO thread)."""
        if not isinstance(message, Pushed):
            return
        if message.kind == "log":
            self._log(message.data)
        else:
            kind = message.data.get("type", "error")
            print(f"(ract {kind}) {message.data.get('message', '')}", file=sys.stderr)

    def _log(self, data: dict[str, Any]) -> None:
        if not self._to_driver:
            return
        stream = sys.stderr if data.get("is_err") else sys.stdout
        prefix = f"({data.get('name') or 'ract'} pid={data.get('pid')})"
        for line in data.get("lines", ()):
            print(prefix, line, file=stream)
        stream.flush()
