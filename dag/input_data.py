"""The arguments that a graph is executed with."""

from __future__ import annotations

from typing import Any


class DAGInputData:
    """The arguments of an execution that had not exactly one: by number and by name."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        self._args = args
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        """Raises IndexError, KeyError: no such argument. ValueError: another kind of key."""
        if isinstance(key, int):
            return self._args[key]
        if isinstance(key, str):
            return self._kwargs[key]
        raise ValueError(f"an argument of a graph has a number or a name, not {key!r}")

    def __repr__(self) -> str:
        return f"DAGInputData(args={self._args!r}, kwargs={self._kwargs!r})"


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the `InputNode` stands for in an execution with these arguments."""
    return args[0] if len(args) == 1 and not kwargs else DAGInputData(*args, **kwargs)
