"""Errors of tasks that nobody has read: their last ref is gone."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import Any

from ract.client.process import user_code
from ract.core import naming, serialization
from ract.core.session import setting

logger = logging.getLogger(__name__)

KEPT_MAX = 1000


class Unread:
    """Tells of them, and keeps the newest.

    Attributes:
        errors: The newest, oldest first.
    """

    def __init__(self) -> None:
        self.errors: deque[BaseException] = deque(maxlen=KEPT_MAX)

    def tell(self, value: tuple[bytes, list[bytes], list[Any]]) -> None:
        """Log an error that is pickled, as refs have it, from another thread."""
        user_code.run(partial(self._log, value))

    def _log(self, value: tuple[bytes, list[bytes], list[Any]]) -> None:
        error = serialization.unpack(value[0], value[1])
        self.errors.append(error)
        if setting("IGNORE_UNHANDLED_ERRORS", "0") != "1":
            variable = f"{naming.program.upper()}_IGNORE_UNHANDLED_ERRORS=1"
            logger.error("Unhandled error (suppress with '%s'): %s", variable, error)
