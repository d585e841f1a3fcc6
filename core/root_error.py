"""The root of ract's exceptions, apart from them so that `ract.core.task_error` needs no others."""

from __future__ import annotations

import pickle
from typing import Any


class RactError(Exception):
    """Root of all errors that ract raises on its own account."""

    def to_bytes(self) -> bytes:
        """The pickled error."""
        return pickle.dumps(self, 5)

    @staticmethod
    def from_bytes(data: bytes) -> BaseException:
        """The inverse of `to_bytes`."""
        return pickle.loads(data)

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructors differ in their arguments: restore args and attributes, call no __init__.
        return _restore, (type(self), self.args, dict(self.__dict__))


def _restore(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
